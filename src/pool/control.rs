//! The handle, and the one control path that makes snapshots.

use std::{
    any::TypeId,
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use tokio::{
    sync::{Notify, broadcast, futures::Notified},
    time::Instant,
};

use super::{
    Backend, Derived, DerivedGroups, Event, EventKind, Events, Group, HealthStatus, Locality,
    Routing, Snapshot,
    derived::{Builders, Table},
    journal::{self, Supply},
    leader::Candidates,
    measurement::Readmissions,
    roles::RoleCounts,
    slow_start::SlowStart,
    snapshot::Members,
    state::FULL,
};
use crate::error::ConfigError;
#[cfg(test)]
use crate::sabotage::{self, Sabotage};

/// A set of backends that requests are spread over. A cheap handle: clones share it.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    snapshot: ArcSwap<Snapshot>,
    control: Mutex<Control>,
    events: broadcast::Sender<Event>,
    /// A slot became free, or the snapshot changed.
    retry_pick: Arc<Notify>,
}

/// What only the control path reads and writes, under a lock that no request takes.
#[derive(Default)]
pub(super) struct Control {
    pub(super) members: Vec<Backend>,
    pub(super) builders: Builders,
    pub(super) roles: RoleCounts,
    pub(super) candidates: Candidates,
    pub(super) generation: u64,
    pub(super) routing: Routing,
    pub(super) evacuated: Vec<Locality>,
    /// Those that are warmed up.
    pub(super) slow_starts: Vec<(Backend, SlowStart)>,
    /// When the next step of these is due.
    pub(super) next_slow_start_step: Option<Instant>,
    /// Those that drain, and until when.
    pub(super) drains: Vec<(Backend, Instant)>,
    /// Somebody calls `tick`.
    pub(super) has_ticker: bool,
    /// The last snapshot in_panic_mode.
    pub(super) in_panic_mode: bool,
    /// Whether there was a backend for new requests, as the log has it.
    pub(super) supply: Supply,
    /// The program is about to end.
    pub(super) closed: bool,
}

impl Pool {
    /// Makes a pool of these backends. One that is, or was, a member of another pool is a backend
    /// of its own here: what is known of it there, its requests in flight included, stays there.
    ///
    /// # Errors
    ///
    /// When two have the same id.
    pub fn new(backends: impl IntoIterator<Item = Backend>) -> Result<Self, ConfigError> {
        let backends: Vec<_> = backends.into_iter().collect();
        refuse_duplicates(&backends)?;
        let retry_pick = Arc::new(Notify::new());
        let members: Vec<_> = backends
            .into_iter()
            .map(|new| into_member(new, &retry_pick))
            .collect();
        for backend in &members {
            let is_capped = backend.configured_max_in_flight().is_some();
            backend.state().set_capped(is_capped);
        }
        let mut control = Control {
            members,
            generation: 1,
            ..Control::default()
        };
        let members = Arc::new(Members::build(&control));
        let snapshot = Snapshot::build(&control, members);
        control.supply = Supply::of(&snapshot);
        Ok(Self {
            inner: Arc::new(Inner {
                snapshot: ArcSwap::from_pointee(snapshot),
                control: Mutex::new(control),
                events: broadcast::Sender::new(EVENTS_KEPT),
                retry_pick,
            }),
        })
    }

    /// Returns the current snapshot. Wait-free; hold it only within one synchronous step.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotGuard {
        SnapshotGuard {
            guard: self.inner.snapshot.load(),
        }
    }

    /// Returns true if both are handles of one pool.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        Events {
            receiver: self.inner.events.subscribe(),
        }
    }

    /// Returns a future that ends when a slot of a capped backend becomes free or the snapshot
    /// changes: a reason to pick again.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.inner.retry_pick.notified()
    }

    /// Hangs a table over all members on every snapshot, rebuilt when membership or settings
    /// change. The closure runs on the control path, never on a request's, while other changes of
    /// the pool wait: it must not change the pool itself. The table is let go of some time after
    /// the last clone of what this returns.
    pub fn derive<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&[Backend]) -> T + Send + 'static,
    ) -> Derived<T> {
        let mut control = self.control();
        let make = move |backends: &[Backend]| -> Table { Arc::new(make(backends)) };
        let key = control.builders.members.add(Box::new(make));
        self.publish_and_notify(control, true);
        Derived::new(key)
    }

    /// Hangs a table over the usable backends of each group on every snapshot. The closure runs
    /// on the control path at every change of health, too, and must not change the pool itself.
    /// The table is let go of some time after the last clone of what this returns.
    pub fn derive_groups<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&Group) -> T + Send + 'static,
    ) -> DerivedGroups<T> {
        let mut control = self.control();
        let make = move |group: &Group| -> Table { Arc::new(make(group)) };
        let key = control.builders.groups.add(Box::new(make));
        self.publish_and_notify(control, false);
        DerivedGroups::new(key)
    }

    /// As [`derive`](Self::derive), for a table that is a function of the members alone and that
    /// is told by its type: made once, however many ask for it.
    pub(crate) fn derive_once<T: Send + Sync + 'static>(
        &self,
        make: fn(&[Backend]) -> T,
    ) -> Derived<T> {
        let mut control = self.control();
        let kind = TypeId::of::<T>();
        if let Some(known) = control.builders.members.find_by_type(kind) {
            return Derived::new(known);
        }
        let make = move |backends: &[Backend]| -> Table { Arc::new(make(backends)) };
        let key = control.builders.members.add(Box::new(make));
        control.builders.members.register_type(kind, &key);
        self.publish_and_notify(control, true);
        Derived::new(key)
    }

    /// As [`derive_groups`](Self::derive_groups), for a table that is a function of the group
    /// alone and that is told by its type: made once, however many strategies (one a worker) ask
    /// for it.
    pub(crate) fn derive_groups_once<T: Send + Sync + 'static>(
        &self,
        make: fn(&Group) -> T,
    ) -> DerivedGroups<T> {
        let mut control = self.control();
        let kind = TypeId::of::<T>();
        if let Some(known) = control.builders.groups.find_by_type(kind) {
            return DerivedGroups::new(known);
        }
        let make = move |group: &Group| -> Table { Arc::new(make(group)) };
        let key = control.builders.groups.add(Box::new(make));
        control.builders.groups.register_type(kind, &key);
        self.publish_and_notify(control, false);
        DerivedGroups::new(key)
    }

    /// Makes `backends` the whole membership. Members that stay keep their state: health, mode,
    /// counters. A changed address makes healthy unknown, never unhealthy healthy.
    ///
    /// # Errors
    ///
    /// When two have the same id; nothing changes then.
    pub fn replace(&self, backends: impl IntoIterator<Item = Backend>) -> Result<(), ConfigError> {
        let backends: Vec<_> = backends.into_iter().collect();
        refuse_duplicates(&backends)?;
        let mut control = self.control();
        let old = std::mem::take(&mut control.members);
        let mut stayed = HashSet::with_capacity(old.len());
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
        journal.log(control.members.len());
        let readmitted = self.publish(&mut control, true);
        drop(control);
        // In their order, as subscribers may compare.
        gone().for_each(|gone| self.dismiss(gone));
        adopted.iter().for_each(|new| self.adopted(new));
        self.announce_readmissions(readmitted);
        Ok(())
    }

    /// Adds a backend, or replaces the settings of the one with its id, whose state stays.
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
        self.adopted(&new);
        self.announce_readmissions(readmitted);
    }

    /// Removes a backend: no new traffic, idle connections closed; requests in flight end by
    /// themselves. Returns false when there is none with this id.
    pub fn remove(&self, id: &str) -> bool {
        let mut control = self.control();
        let Some(i) = control.members.iter().position(|b| b.id() == id) else {
            return false;
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
        true
    }

    /// Sets how traffic follows health.
    pub fn update_routing(&self, routing: Routing) {
        let mut control = self.control();
        control.routing = routing;
        self.publish_and_notify(control, true);
    }

    /// Says that the program is about to end. From now on, checks and outlier detection that stop
    /// leave the backends as they are, and neither an event nor a line of the log says so; without
    /// it, each backend that was measured becomes unknown when the layers are dropped, which an
    /// alert may take for news. All else goes on as before. There is no way back.
    pub fn close(&self) {
        self.control().closed = true;
    }

    /// Joins new settings to the state that belongs to the id.
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
        let moved = !new.same_address(previous);
        if moved {
            if previous.state().active() == HealthStatus::Healthy {
                previous.state().set_active(HealthStatus::Unknown);
            }
            previous.state().count_address_change();
            previous.state().set_capacity(FULL);
            previous.state().set_asks_to_drain(false);
        }
        #[cfg(test)]
        if sabotage::is(Sabotage::ReconfigurationRevives) {
            previous.state().set_active(HealthStatus::Healthy);
        }
        #[cfg(test)]
        if sabotage::is(Sabotage::ReconfigurationReadmits) {
            previous.state().set_circuit(super::Circuit::Closed);
        }
        Adopted {
            backend: new.with_state(previous.state().clone()),
            kind: changed.then_some(EventKind::Updated),
            moved,
        }
    }

    /// Without the lock: what is retired is a room's, and may ask the pool for something.
    fn adopted(&self, new: &Adopted) {
        if new.moved {
            new.backend.state().retire();
        }
        if let Some(kind) = &new.kind {
            self.emit(&new.backend, kind.clone());
        }
    }

    fn dismiss(&self, gone: &Backend) {
        gone.state().set_usable(false);
        gone.state().retire();
        self.emit(gone, EventKind::Removed);
    }

    /// Makes the next snapshot. Returns whose ejection that ended, to be told once the lock is
    /// free, and after what made it.
    pub(super) fn publish(&self, control: &mut Control, members_changed: bool) -> Readmissions {
        control.generation += 1;
        control.builders.members.drop_unused();
        control.builders.groups.drop_unused();
        let members = if members_changed {
            Arc::new(Members::build(control))
        } else {
            self.inner.snapshot.load().members().clone()
        };
        for backend in &control.members {
            backend.state().set_checked(control.roles.probers > 0);
            backend
                .state()
                .set_capped(backend.configured_max_in_flight().is_some());
        }
        let mut next = Snapshot::build(control, members.clone());
        let readmitted = self.readmit_last(control, &next);
        if !readmitted.0.is_empty() {
            next = Snapshot::build(control, members);
        }
        let in_panic_mode = next.in_panic_mode();
        control.note_supply(&next);
        self.inner.snapshot.store(Arc::new(next));
        self.inner.retry_pick.notify_waiters();
        if std::mem::replace(&mut control.in_panic_mode, in_panic_mode) != in_panic_mode {
            if in_panic_mode {
                tracing::warn!(
                    target: "evenkeel::pool",
                    "too few backends are usable: all get traffic, whatever their health"
                );
            } else {
                tracing::info!(target: "evenkeel::pool", "health is followed again");
            }
        }
        #[cfg(test)]
        sabotage::published();
        readmitted
    }

    /// As [`publish`](Self::publish), where nothing else is to be told.
    pub(super) fn publish_and_notify(
        &self,
        mut control: MutexGuard<'_, Control>,
        members_changed: bool,
    ) {
        let readmitted = self.publish(&mut control, members_changed);
        drop(control);
        self.announce_readmissions(readmitted);
    }

    pub(super) fn emit(&self, backend: &Backend, kind: EventKind) {
        // No receiver is fine: nobody asked.
        let _ = self.inner.events.send(Event {
            backend: backend.clone(),
            kind,
        });
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.inner
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that joined, or new settings of a member.
struct Adopted {
    backend: Backend,
    /// None where nothing changed.
    kind: Option<EventKind>,
    /// The address changed.
    moved: bool,
}

impl Control {
    pub(super) fn is_evacuated(&self, locality: &Locality) -> bool {
        self.evacuated
            .iter()
            .any(|prefix| locality.is_within(prefix))
    }

    /// Forgets what is under way for who is no longer a member.
    fn retain_members(&mut self, stays: impl Fn(&Backend) -> bool) {
        self.slow_starts.retain(|(backend, _)| stays(backend));
        self.drains.retain(|(backend, _)| stays(backend));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("snapshot", &*self.snapshot())
            .finish()
    }
}

/// The current snapshot, borrowed without a lock; see [`Pool::snapshot`].
#[derive(Debug)]
pub struct SnapshotGuard {
    guard: Guard<Arc<Snapshot>>,
}

impl std::ops::Deref for SnapshotGuard {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.guard
    }
}

/// Makes a member of a backend. One whose state another pool or an earlier membership used starts
/// anew: what that pool is told of a slot that becomes free, this one would not hear.
fn into_member(new: Backend, retry_pick: &Arc<Notify>) -> Backend {
    match new.state().slot_freed.set(retry_pick.clone()) {
        Ok(()) => new,
        Err(_) => {
            let state = Arc::new(super::state::State::new());
            let _ = state.slot_freed.set(retry_pick.clone());
            new.with_state(state)
        }
    }
}

fn refuse_duplicates(backends: &[Backend]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    match backends.iter().find(|b| !seen.insert(b.id())) {
        Some(twice) => Err(ConfigError::new(
            "id",
            format!("{:?}: each backend needs an id of its own", twice.id()),
        )),
        None => Ok(()),
    }
}

/// Enough for every backend of a large pool to change once while a subscriber is busy.
const EVENTS_KEPT: usize = 1_024;
