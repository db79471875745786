//! The handle, and the one control path that makes snapshots.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use tokio::{
    sync::{Notify, broadcast, futures::Notified},
    time::Instant,
};

use super::{
    Backend, Derived, DerivedGroups, Event, EventKind, Events, Group, Health, Mode, Reason,
    Snapshot, Source, Transition, derived::Builders, snapshot::Members,
};
use crate::error::ConfigError;

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
    room: Arc<Notify>,
}

struct Control {
    members: Vec<Backend>,
    builders: Builders,
    probers: usize,
    generation: u64,
}

impl Pool {
    /// Makes a pool of these backends.
    ///
    /// # Errors
    ///
    /// When two have the same id.
    pub fn new(backends: impl IntoIterator<Item = Backend>) -> Result<Self, ConfigError> {
        let backends: Vec<_> = backends.into_iter().collect();
        refuse_duplicates(&backends)?;
        let builders = Builders::default();
        let room = Arc::new(Notify::new());
        for backend in &backends {
            let _ = backend.state.released.set(room.clone());
        }
        let members = Arc::new(Members::build(&backends, &builders));
        let snapshot = Snapshot::build(1, members, &builders, false);
        Ok(Self {
            inner: Arc::new(Inner {
                snapshot: ArcSwap::from_pointee(snapshot),
                control: Mutex::new(Control {
                    members: backends,
                    builders,
                    probers: 0,
                    generation: 1,
                }),
                events: broadcast::Sender::new(EVENTS_KEPT),
                room,
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
        self.inner.room.notified()
    }

    /// Hangs a table over all members on every snapshot, rebuilt when membership or settings
    /// change. The closure runs on the control path, never on a request's.
    pub fn derive<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&[Backend]) -> T + Send + 'static,
    ) -> Derived<T> {
        let mut control = self.control();
        control
            .builders
            .members
            .push(Box::new(move |backends| Arc::new(make(backends))));
        let slot = control.builders.members.len() - 1;
        self.publish(&mut control, true);
        Derived::new(slot)
    }

    /// Hangs a table over the usable backends of each group on every snapshot. The closure runs
    /// on the control path at every change of health, too.
    pub fn derive_groups<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&Group) -> T + Send + 'static,
    ) -> DerivedGroups<T> {
        let mut control = self.control();
        control
            .builders
            .groups
            .push(Box::new(move |group| Arc::new(make(group))));
        let slot = control.builders.groups.len() - 1;
        self.publish(&mut control, false);
        DerivedGroups::new(slot)
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
        let mut events = Vec::new();
        for backend in backends {
            let previous = known.get(backend.id()).copied();
            stayed.extend(previous.map(Backend::incarnation));
            let (backend, kind) = self.adopt(backend, previous);
            events.push((backend.clone(), kind));
            control.members.push(backend);
        }
        self.publish(&mut control, true);
        drop(control);
        // In their order, as subscribers may compare.
        for gone in old.iter().filter(|b| !stayed.contains(&b.incarnation())) {
            self.dismiss(gone);
        }
        for (backend, kind) in events {
            self.tell(&backend, kind);
        }
        Ok(())
    }

    /// Adds a backend, or replaces the settings of the one with its id, whose state stays.
    pub fn upsert(&self, backend: Backend) {
        let mut control = self.control();
        let found = control.members.iter().position(|b| b.id() == backend.id());
        let previous = found.map(|i| control.members[i].clone());
        let (backend, kind) = self.adopt(backend, previous.as_ref());
        match found {
            Some(i) => control.members[i] = backend.clone(),
            None => control.members.push(backend.clone()),
        }
        self.publish(&mut control, true);
        drop(control);
        self.tell(&backend, kind);
    }

    /// Removes a backend: no new traffic, idle connections closed; requests in flight end by
    /// themselves. Returns false when there is none with this id.
    pub fn remove(&self, id: &str) -> bool {
        let mut control = self.control();
        let Some(i) = control.members.iter().position(|b| b.id() == id) else {
            return false;
        };
        let gone = control.members.remove(i);
        self.publish(&mut control, true);
        drop(control);
        self.dismiss(&gone);
        true
    }

    /// Sends the backend no new traffic, and lets its sticky sessions stay until the deadline.
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn drain(&self, id: &str, deadline: Duration) -> Result<(), ConfigError> {
        let now = Instant::now();
        // A deadline beyond what the clock can hold is as good as a century.
        let until = now.checked_add(deadline).unwrap_or(now + CENTURY);
        self.order(id, Mode::Draining { until })
    }

    /// Sends the backend nothing at all.
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn maintenance(&self, id: &str) -> Result<(), ConfigError> {
        self.order(id, Mode::Maintenance)
    }

    /// Undoes a drain or maintenance; traffic comes back as health allows.
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn ready(&self, id: &str) -> Result<(), ConfigError> {
        self.order(id, Mode::Ready)
    }

    /// Says that somebody checks the backends: from now on those not measured yet are held until
    /// their first check passes. Undone when the last guard is dropped.
    pub fn attach_prober(&self) -> ProberGuard {
        let mut control = self.control();
        control.probers += 1;
        if control.probers == 1 {
            self.publish(&mut control, false);
        }
        drop(control);
        ProberGuard { pool: self.clone() }
    }

    /// Writes what active checks measured; returns the transition of combined health, if it
    /// changed. A result for a backend that is no longer a member is ignored.
    pub fn report_active(
        &self,
        backend: &Backend,
        health: Health,
        reason: Reason,
        streak: u32,
        latency: Option<Duration>,
    ) -> Option<Transition> {
        let mut control = self.control();
        let member = control.member(backend)?;
        let from = member.health();
        if member.state.active() == health {
            return None;
        }
        member.state.set_active(health);
        let to = member.health();
        if from == to {
            return None;
        }
        self.publish(&mut control, false);
        drop(control);
        let transition = Transition {
            from,
            to,
            source: Source::Active,
            reason,
            streak,
            latency,
        };
        self.tell(&member, EventKind::Health(transition.clone()));
        Some(transition)
    }

    /// Takes a backend out for what live traffic showed, unless it is the last usable one
    /// (invariant F) or more than `max_share` (0.0 to 1.0) of the members would be out so.
    pub fn eject(
        &self,
        backend: &Backend,
        reason: Reason,
        streak: u32,
        max_share: f64,
    ) -> Ejection {
        let mut control = self.control();
        let Some(member) = control.member(backend) else {
            return Ejection::Gone;
        };
        if member.is_ejected() {
            return Ejection::Already;
        }
        let snapshot = self.inner.snapshot.load();
        if snapshot.usable() <= usize::from(member.is_usable()) {
            return Ejection::Last;
        }
        let out = control.members.iter().filter(|b| b.is_ejected()).count() + 1;
        // One backend may always be out, whatever the share of a small pool says.
        if out > 1 && out as f64 > control.members.len() as f64 * max_share {
            return Ejection::Share;
        }
        let from = member.health();
        member.state.set_ejected(true);
        self.publish(&mut control, false);
        drop(control);
        self.tell_health(&member, from, Source::Passive, reason, streak);
        Ejection::Ejected
    }

    /// Ends an ejection. Returns false when the backend was not ejected or is no longer a member.
    pub fn readmit(&self, backend: &Backend, reason: Reason) -> bool {
        let mut control = self.control();
        let Some(member) = control.member(backend) else {
            return false;
        };
        if !member.is_ejected() {
            return false;
        }
        let from = member.health();
        member.state.set_ejected(false);
        self.publish(&mut control, false);
        drop(control);
        self.tell_health(&member, from, Source::Passive, reason, 0);
        true
    }

    fn tell_health(
        &self,
        backend: &Backend,
        from: Health,
        source: Source,
        reason: Reason,
        streak: u32,
    ) {
        let to = backend.health();
        if from != to {
            let transition = Transition {
                from,
                to,
                source,
                reason,
                streak,
                latency: None,
            };
            self.tell(backend, EventKind::Health(transition));
        }
    }

    fn order(&self, id: &str, to: Mode) -> Result<(), ConfigError> {
        let mut control = self.control();
        let Some(backend) = control.members.iter().find(|b| b.id() == id).cloned() else {
            return Err(ConfigError::new(
                "id",
                format!("{id:?}: no backend of the pool has this id"),
            ));
        };
        let from = backend.mode();
        if from == to {
            return Ok(());
        }
        backend.state.set_mode(to);
        self.publish(&mut control, false);
        drop(control);
        if to != Mode::Ready {
            backend.state.retire();
        }
        self.tell(&backend, EventKind::Mode { from, to });
        Ok(())
    }

    /// Joins new settings to the state that belongs to the id.
    fn adopt(&self, new: Backend, previous: Option<&Backend>) -> (Backend, EventKind) {
        let Some(previous) = previous else {
            // A handle whose state another pool or an earlier membership used starts anew.
            let fresh = match new.state.released.set(self.inner.room.clone()) {
                Ok(()) => new,
                Err(_) => {
                    let state = Arc::new(super::state::State::new());
                    let _ = state.released.set(self.inner.room.clone());
                    new.with_state(state)
                }
            };
            return (fresh, EventKind::Added);
        };
        if !new.same_address(previous) {
            if previous.state.active() == Health::Healthy {
                previous.state.set_active(Health::Unknown);
            }
            previous.state.retire();
        }
        (new.with_state(previous.state.clone()), EventKind::Updated)
    }

    fn dismiss(&self, gone: &Backend) {
        gone.state.set_usable(false);
        gone.state.retire();
        self.tell(gone, EventKind::Removed);
    }

    fn publish(&self, control: &mut Control, members_changed: bool) {
        control.generation += 1;
        let old = self.inner.snapshot.load();
        let members = if members_changed {
            Arc::new(Members::build(&control.members, &control.builders))
        } else {
            old.members().clone()
        };
        let next = Snapshot::build(
            control.generation,
            members,
            &control.builders,
            control.probers > 0,
        );
        self.inner.snapshot.store(Arc::new(next));
        self.inner.room.notify_waiters();
    }

    fn tell(&self, backend: &Backend, kind: EventKind) {
        // No receiver is fine: nobody asked.
        let _ = self.inner.events.send(Event {
            backend: backend.clone(),
            kind,
        });
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.inner
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    fn member(&self, backend: &Backend) -> Option<Backend> {
        self.members.iter().find(|b| b.is_same(backend)).cloned()
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

/// What became of an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ejection {
    /// It was out already.
    Already,
    /// It is out now.
    Ejected,
    /// It is no longer a member.
    Gone,
    /// It stays: it is the last usable one.
    Last,
    /// It stays: the share of ejected members is used up.
    Share,
}

/// While it lives, backends that were not measured yet are held.
#[derive(Debug)]
#[must_use]
pub struct ProberGuard {
    pool: Pool,
}

impl Drop for ProberGuard {
    fn drop(&mut self) {
        let mut control = self.pool.control();
        control.probers -= 1;
        if control.probers == 0 {
            self.pool.publish(&mut control, false);
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
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
