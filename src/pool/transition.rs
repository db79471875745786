//! How a change of one backend's health becomes a [`Transition`] and an event.
//!
//! A transition is about combined health: checks that fail while the backend is ejected change nothing
//! that a request could see, and make no event. How long the period before lasted is kept by the
//! state, and begins again with each transition, so that each is counted exactly once.

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::{
    Backend, EventKind, HealthStatus, Pool, Reason, Source, Transition, control::Control,
    ejection::Readmissions,
};

impl Pool {
    /// Publishes a change of a member's circuit or health that the caller has written to its
    /// state; `from` is the health before. The caller releases the lock, then calls
    /// [`announce_change`](Self::announce_change).
    pub(super) fn publish_change(
        &self,
        control: &mut Control,
        member: &Backend,
        from: HealthStatus,
        cause: Cause,
    ) -> PublishedChange {
        let now = Instant::now();
        // Computed before the snapshot is built: a readmission in `publish` is a transition of its
        // own.
        let change = cause.transition(member, from, now);
        control.update_slow_start(member, from, now);
        PublishedChange {
            change,
            readmitted: self.publish(control, false),
        }
    }

    /// Emits the events of a published change. The caller holds no lock: an attachment that is
    /// notified may call the pool.
    pub(super) fn announce_change(&self, member: &Backend, published: PublishedChange) {
        if let Some(change) = published.change {
            self.emit(member, EventKind::Health(change));
        }
        self.announce_readmissions(published.readmitted);
    }
}

/// A change that the snapshot shows and that no event has announced yet.
#[must_use]
pub(super) struct PublishedChange {
    /// `None` where combined health is as before.
    change: Option<Transition>,
    readmitted: Readmissions,
}

/// Why health changed.
pub(super) struct Cause {
    pub(super) source: Source,
    pub(super) reason: Reason,
    pub(super) streak: u32,
    pub(super) latency: Option<Duration>,
    pub(super) status: Option<StatusCode>,
}

impl Cause {
    /// A cause that is no result of a check.
    pub(super) fn new(source: Source, reason: Reason) -> Self {
        Self {
            source,
            reason,
            streak: 0,
            latency: None,
            status: None,
        }
    }

    /// Returns the transition from `from` to the member's health now and begins a period of that
    /// health; `None` where both are the same.
    pub(super) fn transition(
        self,
        member: &Backend,
        from: HealthStatus,
        now: Instant,
    ) -> Option<Transition> {
        let to = member.health();
        if from == to {
            return None;
        }
        let (flaps, flapping) = member.state().flaps();
        Some(Transition {
            from,
            to,
            source: self.source,
            reason: self.reason,
            streak: self.streak,
            latency: self.latency,
            status: self.status,
            previous: member.state().begin_health_period(now),
            flaps,
            flapping,
            capacity: member.capacity(),
        })
    }
}
