//! What outlier detection orders: ejections, trials of half-open circuits, and readmissions.
//!
//! Invariant F, "outlier detection never takes the last usable backend", is held in two places:
//! `eject` refuses to take it, and every snapshot that would have no usable backend although ejected
//! ones could serve readmits those (`Control::readmit`, called by `publish`). The second is needed
//! because the others may leave by other ways: by their checks, by an operator, by a reload.
//!
//! All decisions are made under the control lock against the current snapshot, so that two layers that
//! eject two backends at the same moment cannot take both of the last two.

use tokio::time::Instant;

use super::{
    Backend, Circuit, EventKind, HealthStatus, Pool, Reason, Source, Transition, control::Control,
    journal, transition::Cause,
};
#[cfg(test)]
use crate::mutation::{self, Mutation};

impl Pool {
    /// Ejects a backend for failures of live traffic: opens its circuit, and takes it out of
    /// service until it is readmitted. The pool refuses to eject the last usable backend (invariant
    /// F), and more backends than `max_share` (0.0 to 1.0) of the members; one backend may always be
    /// ejected.
    ///
    /// `streak` is the number of consecutive failures, for the event. Nothing readmits the backend
    /// by itself but the departure of every other one: the caller calls
    /// [`begin_trial`](Self::begin_trial) or [`readmit`](Self::readmit) in time.
    ///
    /// # Example
    ///
    /// An ejection, a trial that passes, and what the pool refuses:
    ///
    /// ```
    /// use evenkeel::{Backend, Pool, pool::{Circuit, Ejection, Lease, Reason}};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// let pool = Pool::new([
    ///     Backend::new("a", "http://127.0.0.1:9001")?,
    ///     Backend::new("b", "http://127.0.0.1:9002")?,
    /// ])?;
    /// let all = pool.snapshot().backends().to_vec();
    /// let (a, b) = (&all[0], &all[1]);
    /// let why = || Reason::new("TRAFFIC", "three resets in a row");
    /// assert_eq!(pool.eject(a, why(), 3, 0.5), Ejection::Ejected);
    /// assert_eq!(pool.eject(b, why(), 3, 1.0), Ejection::LastUsable);
    ///
    /// assert!(pool.begin_trial(a));
    /// let trial = Lease::acquire_trial(a).expect("no trial runs");
    /// assert!(Lease::acquire_trial(a).is_none(), "one request at a time");
    /// drop(trial);
    /// assert!(pool.readmit(a, Reason::new("TRAFFIC", "a trial passed")));
    /// assert_eq!(a.circuit(), Circuit::Closed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn eject(
        &self,
        backend: &Backend,
        reason: Reason,
        streak: u32,
        max_share: f64,
    ) -> Ejection {
        let mut control = self.control();
        let snapshot = self.snapshot();
        let Some(member) = snapshot.members().current(backend).cloned() else {
            return Ejection::NotAMember;
        };
        if member.is_ejected() {
            return Ejection::AlreadyEjected;
        }
        // In panic mode an unhealthy member is usable, too, but not counted in `usable_by_health`.
        let counts = member.is_usable() && member.health() != HealthStatus::Unhealthy;
        let last = snapshot.usable_by_health() <= usize::from(counts);
        #[cfg(test)]
        let last = last && !mutation::is(Mutation::LastIsEjected);
        if last {
            return Ejection::LastUsable;
        }
        // A guard that is held across the swap below would have to be paid for there with a counted
        // reference.
        drop(snapshot);
        // Of all members, those that are down for other reasons included: the share is of the pool.
        let out = control.members.iter().filter(|b| b.is_ejected()).count() + 1;
        // A share of a small pool may be less than one backend.
        if out > 1 && out as f64 > control.members.len() as f64 * max_share {
            return Ejection::ShareExceeded;
        }
        let from = member.health();
        // Before the circuit opens: a request that is refused at once must not log first.
        journal::ejected(&member, &reason, streak);
        member.state().set_circuit(Circuit::Open);
        member.state().count_ejection();
        let cause = Cause {
            streak,
            ..Cause::new(Source::Passive, reason)
        };
        let change = self.publish_change(&mut control, &member, from, cause);
        drop(control);
        self.announce_change(&member, change);
        Ejection::Ejected
    }

    /// Ends an ejection: closes the circuit, whether open or half open. Returns false if the backend
    /// is not ejected or no longer a member.
    pub fn readmit(&self, backend: &Backend, reason: Reason) -> bool {
        let mut control = self.control();
        let Some(member) = self.snapshot().members().current(backend).cloned() else {
            return false;
        };
        if !member.is_ejected() {
            return false;
        }
        let from = member.health();
        journal::readmitted(&member, &reason);
        member.state().set_circuit(Circuit::Closed);
        let cause = Cause::new(Source::Passive, reason);
        let change = self.publish_change(&mut control, &member, from, cause);
        drop(control);
        self.announce_change(&member, change);
        true
    }

    /// Begins trials of an ejected backend: its circuit is half open from now on. Returns false if
    /// the circuit is not open or the backend is no longer a member.
    ///
    /// The balance layer then sends the backend one idempotent request at a time. The caller judges
    /// their results and calls [`readmit`](Self::readmit) or [`end_trial`](Self::end_trial).
    pub fn begin_trial(&self, backend: &Backend) -> bool {
        self.begin_trial_and(backend, || {})
    }

    /// As [`begin_trial`](Self::begin_trial); calls `log` first if the trials begin, before a request
    /// can log what it found.
    pub(crate) fn begin_trial_and(&self, backend: &Backend, log: impl FnOnce()) -> bool {
        self.change_circuit(backend, Circuit::Open, Circuit::HalfOpen, log)
    }

    /// Opens a half-open circuit again, after a trial that failed. Returns false if the circuit is
    /// not half open or the backend is no longer a member.
    pub fn end_trial(&self, backend: &Backend) -> bool {
        self.end_trial_and(backend, || {})
    }

    /// As [`end_trial`](Self::end_trial); calls `log` first if the trials end.
    pub(crate) fn end_trial_and(&self, backend: &Backend, log: impl FnOnce()) -> bool {
        self.change_circuit(backend, Circuit::HalfOpen, Circuit::Open, log)
    }

    /// Moves a circuit from one state to another, and does nothing if it is in a third: two tasks that
    /// both found the time of a trial come begin one. The snapshot is published because it lists the
    /// trials.
    fn change_circuit(
        &self,
        backend: &Backend,
        from: Circuit,
        to: Circuit,
        log: impl FnOnce(),
    ) -> bool {
        let mut control = self.control();
        let Some(member) = self.snapshot().members().current(backend).cloned() else {
            return false;
        };
        // Another task, or a readmission, was faster.
        if member.circuit() != from {
            return false;
        }
        log();
        member.state().set_circuit(to);
        let readmitted = self.publish(&mut control, false);
        drop(control);
        self.emit(&member, EventKind::Circuit { from, to });
        self.announce_readmissions(readmitted);
        true
    }

    /// Announces readmissions that a published snapshot shows. The caller holds no lock: an
    /// attachment that is notified may call the pool.
    pub(super) fn announce_readmissions(&self, readmitted: Readmissions) {
        for (backend, change) in readmitted.0 {
            tracing::warn!(
                target: "evenkeel::pool",
                backend = backend.id(), "the backend is readmitted: no other one is usable"
            );
            backend.state().notify_readmitted();
            self.emit(&backend, EventKind::Health(change));
        }
    }
}

impl Control {
    /// Ends the ejections of these backends, which leave no backend usable: outlier detection never
    /// takes the last one (invariant F). It ends all of them, because only traffic can show which
    /// one serves best; those that fail again can be ejected again.
    pub(super) fn readmit(&mut self, ejected: &[Backend]) -> Readmissions {
        let mut readmitted = Vec::new();
        #[cfg(test)]
        if mutation::is(Mutation::LastIsEjected) {
            return Readmissions(readmitted);
        }
        let now = Instant::now();
        for member in ejected {
            let from = member.health();
            member.state().set_circuit(Circuit::Closed);
            // It comes back cold, like one that recovered by itself.
            self.update_slow_start(member, from, now);
            let reason = Reason::new("LAST", "no other backend is usable");
            let cause = Cause::new(Source::Passive, reason);
            let change = cause.transition(member, from, now);
            readmitted.extend(change.map(|change| (member.clone(), change)));
        }
        Readmissions(readmitted)
    }
}

/// The members that a snapshot readmits because no other one is usable.
#[must_use]
pub(super) struct Readmissions(Vec<(Backend, Transition)>);

impl Readmissions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What became of a call of [`Pool::eject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ejection {
    /// The backend was ejected before; nothing changed.
    AlreadyEjected,
    /// The backend is ejected now.
    Ejected,
    /// The backend stays in service because no other one is usable.
    LastUsable,
    /// The backend is no longer a member.
    NotAMember,
    /// The backend stays in service because too many members are ejected.
    ShareExceeded,
}
