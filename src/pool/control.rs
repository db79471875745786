//! The pool's handle, and the control path: the one way in which a snapshot is made.
//!
//! Every change follows the same six steps, whichever file it is in:
//!
//! 1. Take the control lock.
//! 2. Look the member up, and refuse what does not fit.
//! 3. Write the log line, and the member's state or the list of members.
//! 4. `publish`: compute which members may get traffic, write the flags, build the snapshot, swap the
//!    pointer, wake requests that wait.
//! 5. Release the lock.
//! 6. Announce: retire attachments, emit events, then announce what the snapshot readmitted.
//!
//! The log line comes before step 4 because a reader of the log must find the cause before its effects
//! (`a_line_is_written_before_anything_follows_from_what_it_says`); step 6 is outside the lock because
//! attachments and subscribers may call the pool (`an_attachment_that_is_retired_may_call_the_pool`).
//!
//! Locks: the control lock comes first; a member's own locks (`rarely_used`, counters, history) are
//! taken inside it for a moment, and nothing is locked inside those. A panic in a table of a user
//! poisons the control lock, and the next caller goes on with it: all that was written is consistent
//! member by member, and the next snapshot shows it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, broadcast, futures::Notified},
    time::Instant,
};

use super::{
    Backend, Event, EventKind, Events, Locality, Routing, Snapshot, SnapshotGuard,
    derived::Builders,
    ejection::Readmissions,
    eligibility::Eligibility,
    journal::Supply,
    leader::Candidates,
    membership::{into_member, refuse_duplicates},
    roles::RoleCounts,
    slow_start::SlowStart,
    snapshot::Members,
};
use crate::error::ConfigError;
#[cfg(test)]
use crate::mutation;

/// A set of backends that requests are spread over.
///
/// A `Pool` is a handle: clones share the backends, and a clone costs one atomic addition. Every
/// change goes through a method of the pool, takes the pool's control lock, which no request takes,
/// and publishes a new [`Snapshot`] at a cost of O(backends): up to half a microsecond for each. A
/// method that changes the pool may be called from any thread, outside a runtime too.
#[derive(Clone)]
pub struct Pool {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) snapshot: ArcSwap<Snapshot>,
    control: Mutex<Control>,
    events: broadcast::Sender<Event>,
    /// Notified when a slot of a capped backend becomes free and when the snapshot changes.
    pub(super) retry_pick: Arc<Notify>,
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
    /// The slow starts under way.
    pub(super) slow_starts: Vec<(Backend, SlowStart)>,
    /// When the next step of a slow start is due.
    pub(super) next_slow_start_step: Option<Instant>,
    /// The drains under way, with their deadlines.
    pub(super) drains: Vec<(Backend, Instant)>,
    /// `Pool::tick` is called: a slow start that begins also ends.
    pub(super) has_ticker: bool,
    /// The current snapshot is in panic mode.
    pub(super) in_panic_mode: bool,
    /// What the log last said about usable backends.
    pub(super) supply: Supply,
    /// The program is about to end; see [`Pool::close`].
    pub(super) closed: bool,
}

impl Pool {
    /// Makes a pool of these backends. A handle that another pool gave out joins as a new backend
    /// with the same configuration; its state, such as health and requests in flight, stays with
    /// the other pool.
    ///
    /// A pool may be empty: requests fail then until a backend joins.
    ///
    /// # Errors
    ///
    /// Returns an error that names `id` if two backends have the same id.
    pub fn new(backends: impl IntoIterator<Item = Backend>) -> Result<Self, ConfigError> {
        let backends: Vec<_> = backends.into_iter().collect();
        refuse_duplicates(&backends)?;
        Ok(Self::of_distinct(backends))
    }

    /// Makes a pool of backends that have different ids, which the caller has checked.
    pub(crate) fn of_distinct(backends: Vec<Backend>) -> Self {
        let retry_pick = Arc::new(Notify::new());
        let members = backends
            .into_iter()
            .map(|new| into_member(new, &retry_pick));
        let mut control = Control {
            members: members.collect(),
            generation: 1,
            ..Control::default()
        };
        // As `publish` does, but for readmissions: no new member is ejected.
        let members = Arc::new(Members::build(&control));
        let eligibility = Eligibility::of(&control, &members);
        control.write_flags(&members, &eligibility);
        let snapshot = Snapshot::build(&control, members, eligibility);
        control.supply = Supply::of(&snapshot);
        Self {
            inner: Arc::new(Inner {
                snapshot: ArcSwap::from_pointee(snapshot),
                control: Mutex::new(control),
                events: broadcast::Sender::new(EVENTS_KEPT),
                retry_pick,
            }),
        }
    }

    /// Returns the current snapshot. The call is wait-free. Hold the guard within one synchronous
    /// step only: held across an await, it makes later calls slower and keeps an old snapshot alive.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotGuard {
        SnapshotGuard::new(self.inner.snapshot.load())
    }

    /// Returns true if both are handles of the same pool.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the changes of the pool from now on. A subscriber that falls behind by more than
    /// 1,024 events misses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        Events {
            receiver: self.inner.events.subscribe(),
        }
    }

    /// Sets how traffic follows health: overflow between tiers and localities, panic routing and
    /// slow start. Slow starts that are under way keep the time and share that they began with.
    pub fn update_routing(&self, routing: Routing) {
        let mut control = self.control();
        control.routing = routing;
        self.publish_and_announce(control, true);
    }

    /// Declares that the program is about to end. From now on, active checks and outlier detection
    /// that stop leave the health of the backends as it is, and neither an event nor a log line
    /// reports them. Without this call, each backend that was checked becomes unknown when the layers
    /// are dropped, which may raise an alert. All other methods work as before. It cannot be undone.
    pub fn close(&self) {
        self.control().closed = true;
    }

    /// Returns a future that ends when a slot of a capped backend becomes free or the snapshot
    /// changes, either of which is a reason for a waiting request to pick again.
    ///
    /// Notified with `notify_one` for a slot and with `notify_waiters` for a snapshot. A permit of the
    /// former that finds no waiting request stays: the next one to wait looks once more than needed.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.inner.retry_pick.notified()
    }

    /// Builds and publishes the next snapshot from what the caller changed in `control` and in the
    /// members' state. Where only ejections keep members out, it ends them (invariant F). The
    /// caller announces its own change first and the returned readmissions last, both without the
    /// lock.
    pub(super) fn publish(&self, control: &mut Control, members_changed: bool) -> Readmissions {
        // Counted before a builder can panic, so that no two snapshots share a number; numbers may
        // have gaps.
        control.generation += 1;
        // Here and not in a destructor: only the control path may change what the next snapshot holds.
        control.builders.drop_unused();
        let members = if members_changed {
            Arc::new(Members::build(control))
        } else {
            // A change of health shares the members and their tables with the snapshot before.
            self.inner.snapshot.load().members().clone()
        };
        let mut eligibility = Eligibility::of(control, &members);
        // Before the snapshot is built, not as a second one behind it: no request must see a pool
        // without a usable backend for a moment.
        let readmitted = control.readmit(eligibility.to_readmit());
        if !readmitted.is_empty() {
            eligibility = Eligibility::of(control, &members);
        }
        control.write_flags(&members, &eligibility);
        let next = Snapshot::build(control, members, eligibility);
        // A table of the user's may have panicked until here: then there is nothing to log yet.
        control.log_panic_mode(next.in_panic_mode());
        control.note_supply(&next);
        self.inner.snapshot.store(Arc::new(next));
        // Behind the swap: a request that is woken loads the new snapshot. A change that takes
        // backends away wakes as well, since a request that has nothing left to wait for must fail.
        self.inner.retry_pick.notify_waiters();
        #[cfg(test)]
        mutation::published();
        readmitted
    }

    /// Publishes a change that has no event of its own.
    pub(super) fn publish_and_announce(
        &self,
        mut control: MutexGuard<'_, Control>,
        members_changed: bool,
    ) {
        let readmitted = self.publish(&mut control, members_changed);
        drop(control);
        self.announce_readmissions(readmitted);
    }

    pub(super) fn emit(&self, backend: &Backend, kind: EventKind) {
        // Remembered before it is sent: a subscriber that looks finds it there.
        backend.state().history.remember(&kind);
        // The only error is that there is no subscriber.
        let _ = self.inner.events.send(Event {
            backend: backend.clone(),
            kind,
        });
    }

    /// Held while a snapshot is built, so up to half a microsecond a member. A lock that a panic
    /// poisoned is taken as it is.
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.inner
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    pub(super) fn is_evacuated(&self, locality: &Locality) -> bool {
        self.evacuated
            .iter()
            .any(|prefix| locality.is_within(prefix))
    }

    /// Drops the slow starts and drains of backends that are no longer members.
    pub(super) fn retain_members(&mut self, stays: impl Fn(&Backend) -> bool) {
        self.slow_starts.retain(|(backend, _)| stays(backend));
        self.drains.retain(|(backend, _)| stays(backend));
    }

    /// Writes what the next snapshot decides to the members' state, where handles read it.
    ///
    /// `members` are those that the flags were computed of. The list in `self` may be a newer one,
    /// where a table of the user's panicked before a snapshot could show it.
    fn write_flags(&self, members: &Members, eligibility: &Eligibility) {
        for (backend, flags) in members.backends.iter().zip(&eligibility.flags) {
            let state = backend.state();
            state.set_checked(self.roles.probers > 0);
            // In the state as well: a lease that is older than the cap must wake waiting requests,
            // too.
            state.set_capped(backend.configured_max_in_flight().is_some());
            state.set_evacuated(flags.evacuated);
            state.set_usable(flags.usable);
        }
    }

    fn log_panic_mode(&mut self, now: bool) {
        let before = std::mem::replace(&mut self.in_panic_mode, now);
        match (before, now) {
            (false, true) => tracing::warn!(
                target: "evenkeel::pool",
                "panic mode begins: too few backends are usable, and all get traffic whatever their health"
            ),
            (true, false) => tracing::info!(
                target: "evenkeel::pool",
                "panic mode ends: enough backends are usable, and only those get traffic"
            ),
            _ => {}
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("snapshot", &*self.snapshot())
            .finish()
    }
}

/// Enough for every backend of a large pool to change once while a subscriber is busy.
pub(super) const EVENTS_KEPT: usize = 1_024;
