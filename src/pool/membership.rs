//! Changes of membership: backends join, leave, and get new settings.
//!
//! The rules for a backend whose id is a member's:
//!
//! | what changed | health | mode, counters, sessions | idle connections |
//! |---|---|---|---|
//! | nothing, weight, tier, locality, cap | stays | stay | stay |
//! | address | healthy becomes unknown, unhealthy stays | stay | closed |
//! | removed, added again later | unknown | new | closed |
//!
//! The second row is invariant A: a configuration that came with new state would turn a dead backend
//! healthy by a mere reload. `a_reconfiguration_never_makes_an_unhealthy_backend_healthy` holds it,
//! and mutations of the simulation prove that the simulation would notice.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::Notify;

use super::{Backend, EventKind, HealthStatus, Pool, UnknownBackend, journal, state::FULL};
use crate::error::ConfigError;
#[cfg(test)]
use crate::mutation::{self, Mutation};

impl Pool {
    /// Replaces the whole membership by `backends`, in one snapshot.
    ///
    /// A member whose id stays keeps its state: health, mode, counters, sticky sessions. Where its
    /// address changed, health that was measured at the old one is dropped: healthy becomes unknown,
    /// and unhealthy stays unhealthy until a check passes. Idle connections to an old address and to
    /// removed backends are closed.
    ///
    /// # Errors
    ///
    /// Returns an error that names `id` if two backends have the same id; nothing changes then.
    pub fn replace(&self, backends: impl IntoIterator<Item = Backend>) -> Result<(), ConfigError> {
        let backends: Vec<_> = backends.into_iter().collect();
        refuse_duplicates(&backends)?;
        let mut control = self.control();
        // A builder of a table may panic in `publish` below; the new list then stays, and the next
        // change shows it.
        let old = std::mem::take(&mut control.members);
        let mut stayed = HashSet::with_capacity(old.len());
        // A map: a list of 10,000 backends by discovery would cost 10^8 comparisons.
        let known: HashMap<_, _> = old.iter().map(|b| (b.id(), b)).collect();
        let mut adopted = Vec::new();
        let mut journal = journal::Membership::default();
        for backend in backends {
            let previous = known.get(backend.id()).copied();
            stayed.extend(previous.map(Backend::incarnation));
            let new = self.adopt(backend, previous, &mut journal);
            control.members.push(new.backend.clone());
            adopted.push(new);
        }
        control.retain_members(|b| stayed.contains(&b.incarnation()));
        let gone = || old.iter().filter(|b| !stayed.contains(&b.incarnation()));
        gone().for_each(|gone| journal.left(gone));
        // Before the snapshot shows them: a request at a new backend logs later.
        journal.log(control.members.len());
        let readmitted = self.publish(&mut control, true);
        drop(control);
        // Events come in a fixed order: removals, then the new order of the members.
        gone().for_each(|gone| self.dismiss(gone));
        adopted.iter().for_each(|new| self.announce_adopted(new));
        self.announce_readmissions(readmitted);
        Ok(())
    }

    /// Adds a backend, or replaces the settings of the member with its id, whose state stays; see
    /// [`replace`](Self::replace).
    pub fn upsert(&self, backend: Backend) {
        let mut control = self.control();
        let found = control.members.iter().position(|b| b.id() == backend.id());
        let previous = found.map(|i| control.members[i].clone());
        let mut journal = journal::Membership::default();
        let new = self.adopt(backend, previous.as_ref(), &mut journal);
        match found {
            Some(i) => control.members[i] = new.backend.clone(),
            None => control.members.push(new.backend.clone()),
        }
        journal.log(control.members.len());
        let readmitted = self.publish(&mut control, true);
        drop(control);
        self.announce_adopted(&new);
        self.announce_readmissions(readmitted);
    }

    /// Changes the weight of a member, from 0 to 1,000; see [`Backend::weight`]. Its other settings and
    /// its state stay. A later [`replace`](Self::replace) or [`upsert`](Self::upsert) brings its own
    /// weight.
    ///
    /// # Errors
    ///
    /// Returns an error that names `weight` if the weight is out of range, and one that names `id` if
    /// no member has this id. Nothing changes then.
    pub fn update_weight(&self, id: &str, weight: u32) -> Result<(), ConfigError> {
        let count = |member: &Backend| member.state().history.count_weight_order();
        match self.change_weight(id, weight, |_| true, count)? {
            true => Ok(()),
            false => Err(ConfigError::new("id", UnknownBackend::new(id).to_string())),
        }
    }

    /// Changes the weight of a member, if it is still the one that the caller saw, with the weight that
    /// the caller saw, and no call of [`update_weight`](Self::update_weight) came since. Returns false
    /// otherwise. The change does not count as one of [`Backend::weight_orders`].
    ///
    /// The weight is compared as well because a configuration that was read again brings its own
    /// without such a call. It is not read from `seen`, which is the handle of an older configuration.
    pub(crate) fn take_over_weight(
        &self,
        seen: &Backend,
        seen_orders: u32,
        seen_weight: u32,
        weight: u32,
    ) -> bool {
        let allows = |now: &Backend| {
            now.is_same(seen)
                && now.weight_orders() == seen_orders
                && now.configured_weight() == seen_weight
        };
        self.change_weight(seen.id(), weight, allows, |_| ())
            .unwrap_or(false)
    }

    /// Returns false if there is no such member, or `allows` refuses it.
    fn change_weight(
        &self,
        id: &str,
        weight: u32,
        allows: impl FnOnce(&Backend) -> bool,
        changing: impl FnOnce(&Backend),
    ) -> Result<bool, ConfigError> {
        let mut control = self.control();
        let found = control.members.iter().position(|b| b.id() == id);
        let Some(i) = found.filter(|i| allows(&control.members[*i])) else {
            return Ok(false);
        };
        let previous = control.members[i].clone();
        let new = previous.clone().ordered_weight(weight)?;
        changing(&previous);
        let mut journal = journal::Membership::default();
        let new = self.adopt(new, Some(&previous), &mut journal);
        // The weight is what it was: an order that repeats itself makes no snapshot and no event.
        if new.kind.is_none() {
            return Ok(true);
        }
        control.members[i] = new.backend.clone();
        journal.log(control.members.len());
        let readmitted = self.publish(&mut control, true);
        drop(control);
        self.announce_adopted(&new);
        self.announce_readmissions(readmitted);
        Ok(true)
    }

    /// Removes a backend. It gets no new requests, and its idle connections are closed; requests in
    /// flight end by themselves. To wait for those first, [`drain`](Self::drain) it.
    ///
    /// # Errors
    ///
    /// Returns an error if no member has this id.
    pub fn remove(&self, id: &str) -> Result<(), UnknownBackend> {
        let mut control = self.control();
        let Some(i) = control.members.iter().position(|b| b.id() == id) else {
            return Err(UnknownBackend::new(id));
        };
        let gone = control.members.remove(i);
        control.retain_members(|b| !b.is_same(&gone));
        let mut journal = journal::Membership::default();
        journal.left(&gone);
        journal.log(control.members.len());
        let readmitted = self.publish(&mut control, true);
        drop(control);
        self.dismiss(&gone);
        self.announce_readmissions(readmitted);
        Ok(())
    }

    /// Joins a new configuration to the state that belongs to its id.
    fn adopt(
        &self,
        new: Backend,
        previous: Option<&Backend>,
        journal: &mut journal::Membership,
    ) -> Adopted {
        let Some(previous) = previous else {
            let backend = into_member(new, &self.inner.retry_pick);
            journal.joined(&backend);
            return Adopted {
                backend,
                kind: Some(EventKind::Added),
                moved: false,
            };
        };
        journal.changed(&new, previous);
        let changed = !new.differs_in(previous).is_empty();
        let moved = !new.has_same_endpoint(previous);
        if moved {
            // Only this way round. An ejection stays as well: the circuit is ended by a trial at the
            // new address.
            if previous.state().active() == HealthStatus::Healthy {
                previous.state().set_active(HealthStatus::Unknown);
            }
            // A check that runs now was begun at the old address; its result is recognized by this
            // count.
            previous.state().count_address_change();
            previous.state().history.forget_check();
            // What the old address said of itself is not true of the new one.
            previous.state().set_capacity(FULL);
            previous.state().set_asks_to_drain(false);
        }
        #[cfg(test)]
        if mutation::is(Mutation::ReconfigurationRevives) {
            previous.state().set_active(HealthStatus::Healthy);
        }
        #[cfg(test)]
        if mutation::is(Mutation::ReconfigurationReadmits) {
            previous.state().set_circuit(super::Circuit::Closed);
        }
        Adopted {
            backend: new.with_state(previous.state().clone()),
            kind: changed.then_some(EventKind::Updated),
            moved,
        }
    }

    /// Announces a backend that joined or changed. The caller holds no lock: an attachment that is
    /// retired may call the pool.
    fn announce_adopted(&self, new: &Adopted) {
        if new.moved {
            new.backend.state().retire();
        }
        if let Some(kind) = &new.kind {
            self.emit(&new.backend, kind.clone());
        }
    }

    /// Announces a backend that left.
    ///
    /// The flag is written here because no later snapshot has the member. Requests that still hold a
    /// handle then see that the backend is out.
    fn dismiss(&self, gone: &Backend) {
        gone.state().set_usable(false);
        gone.state().retire();
        self.emit(gone, EventKind::Removed);
    }
}

/// A backend that joined, or a member with its new settings.
struct Adopted {
    backend: Backend,
    /// `None` if no setting changed.
    kind: Option<EventKind>,
    /// The address changed.
    moved: bool,
}

/// Makes a member of a configured backend. A handle whose state another pool or an earlier
/// membership uses gets a new state: a state notifies one pool only when a slot becomes free.
pub(super) fn into_member(new: Backend, retry_pick: &Arc<Notify>) -> Backend {
    match new.state().slot_freed.set(retry_pick.clone()) {
        Ok(()) => new,
        Err(_) => {
            let new = new.with_new_state();
            let _ = new.state().slot_freed.set(retry_pick.clone());
            new
        }
    }
}

pub(super) fn refuse_duplicates(backends: &[Backend]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    match backends.iter().find(|b| !seen.insert(b.id())) {
        Some(twice) => Err(ConfigError::new(
            "id",
            format!("{:?}: each backend needs an id of its own", twice.id()),
        )),
        None => Ok(()),
    }
}
