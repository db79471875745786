//! What checks and live traffic measured, and what follows for the pick.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    Backend, Circuit, Ejection, EventKind, HealthStatus, Pool, Reason, Snapshot, Source,
    Transition, control::Control, journal, routing::thousandths, slow_start::SlowStart,
    state::FULL,
};
#[cfg(test)]
use crate::sabotage::{self, Sabotage};

/// What active checks measured of a backend: the state that they now say it is in, and how they
/// came to it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Measurement {
    health: HealthStatus,
    reason: Reason,
    streak: u32,
    latency: Option<Duration>,
    status: Option<StatusCode>,
    flaps: u32,
    flapping: bool,
    capacity: u32,
    draining: bool,
}

impl Measurement {
    /// Makes a measurement of full capacity and no streak.
    pub fn new(health: HealthStatus, reason: Reason) -> Self {
        Self {
            health,
            reason,
            streak: 0,
            latency: None,
            status: None,
            flaps: 0,
            flapping: false,
            capacity: FULL,
            draining: false,
        }
    }

    /// Sets how many consecutive equal results led here.
    ///
    /// Default: 0, which no check is.
    pub fn streak(mut self, streak: u32) -> Self {
        self.streak = streak;
        self
    }

    /// Sets how long the result that tipped it took.
    ///
    /// Default: unknown.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// Sets the status that tipped it.
    ///
    /// Default: none, as of a check that is not HTTP.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets how often health changed lately.
    ///
    /// Default: 0.
    pub fn flaps(mut self, flaps: u32) -> Self {
        self.flaps = flaps;
        self
    }

    /// Sets whether changes come so often that they are damped.
    ///
    /// Default: they do not.
    pub fn flapping(mut self, flapping: bool) -> Self {
        self.flapping = flapping;
        self
    }

    /// Sets how much of itself the backend offers: 1.0 in full, a part where it is degraded, by
    /// which its weight is multiplied. What is not over 0.0 counts as a thousandth.
    ///
    /// Default: 1.0.
    pub fn capacity(mut self, capacity: f64) -> Self {
        self.capacity = thousandths(capacity);
        self
    }

    /// Sets whether the backend itself asks to be drained: no new traffic, sessions stay.
    ///
    /// Default: it does not.
    pub fn draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }
}

impl Pool {
    /// Writes what active checks measured; returns the transition of combined health, if it
    /// changed. Cheap where nothing changed. A result for a backend that is no longer a member, or
    /// that has another address than this handle, is ignored.
    pub fn measure(&self, backend: &Backend, measured: Measurement) -> Option<Transition> {
        let mut change = None;
        self.write([(backend, measured)], |transition| {
            change = Some(transition.clone());
        });
        change
    }

    /// As [`measure`](Self::measure), for many results that are there at the same time: one
    /// snapshot shows all of them, each is published, in order. Returns how many transitions there
    /// were.
    pub fn measure_all(&self, results: impl IntoIterator<Item = (Backend, Measurement)>) -> usize {
        let results: Vec<_> = results.into_iter().collect();
        let mut changes = 0;
        let each = results.iter().map(|(backend, m)| (backend, m.clone()));
        self.write(each, |_| changes += 1);
        changes
    }

    fn write<'a>(
        &self,
        results: impl IntoIterator<Item = (&'a Backend, Measurement)>,
        mut changed: impl FnMut(&Transition),
    ) {
        let now = Instant::now();
        let mut locked = None;
        let mut written = Vec::new();
        let mut publishes = false;
        for (backend, measured) in results {
            let state = backend.state();
            state.set_flaps(measured.flaps, measured.flapping);
            if says_the_same(backend, &measured) {
                continue;
            }
            let control = locked.get_or_insert_with(|| self.control());
            let Some(member) = self.snapshot().members().current(backend).cloned() else {
                continue;
            };
            // It has moved since this was measured: that says nothing about who is there now.
            if !member.same_address(backend) {
                continue;
            }
            // Ejected, and measured anew: it may be tried, or no longer; or it is the last that
            // would serve, and its ejection is over.
            publishes |= member.is_ejected();
            if let Some(published) = control.write(&member, measured, now) {
                publishes = true;
                written.push((member, published));
            }
        }
        let Some(mut control) = locked.filter(|_| publishes) else {
            return;
        };
        let readmitted = self.publish(&mut control, false);
        drop(control);
        for (member, published) in written {
            if published.retires {
                member.state().retire();
            }
            if let EventKind::Health(transition) = &published.kind {
                changed(transition);
            }
            self.emit(&member, published.kind);
        }
        self.announce_readmissions(readmitted);
    }

    /// Says that a backend stays in service although it fails, for all fail for this dependency;
    /// or that this is over.
    pub(crate) fn report_shared_failure(&self, backend: &Backend, dependency: Option<Arc<str>>) {
        self.emit(backend, EventKind::SharedFailure(dependency));
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
        let snapshot = self.snapshot();
        let Some(member) = snapshot.members().current(backend).cloned() else {
            return Ejection::NotAMember;
        };
        if member.is_ejected() {
            return Ejection::AlreadyEjected;
        }
        // In a panic those that are down get traffic, too: they are not what is counted on.
        let counts = member.is_usable() && member.health() != HealthStatus::Unhealthy;
        let last = snapshot.usable_by_health() <= usize::from(counts);
        #[cfg(test)]
        let last = last && !sabotage::is(Sabotage::LastIsEjected);
        if last {
            return Ejection::LastUsable;
        }
        drop(snapshot);
        let out = control.members.iter().filter(|b| b.is_ejected()).count() + 1;
        // One backend may always be out, whatever the share of a small pool says.
        if out > 1 && out as f64 > control.members.len() as f64 * max_share {
            return Ejection::ShareExceeded;
        }
        let from = member.health();
        journal::ejected(&member, &reason, streak);
        member.state().set_circuit(Circuit::Open);
        let change =
            self.publish_change(&mut control, &member, from, Cause::passive(reason, streak));
        drop(control);
        self.announce_change(&member, change);
        Ejection::Ejected
    }

    /// Ends an ejection: the circuit is closed, whatever it was. Returns false when the backend
    /// was not ejected or is no longer a member.
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
        let change = self.publish_change(&mut control, &member, from, Cause::passive(reason, 0));
        drop(control);
        self.announce_change(&member, change);
        true
    }

    /// Lets one request at a time try an ejected backend: its circuit is half open. Returns false
    /// where it was not open, or is no longer a member.
    ///
    /// Balance sends it one idempotent request after the other; who judges the results ends it
    /// with [`readmit`](Self::readmit) or [`end_trial`](Self::end_trial).
    pub fn begin_trial(&self, backend: &Backend) -> bool {
        self.begin_trial_and(backend, || {})
    }

    /// As [`begin_trial`](Self::begin_trial); says so before any request can show what it found.
    pub(crate) fn begin_trial_and(&self, backend: &Backend, say: impl FnOnce()) -> bool {
        self.change_circuit(backend, Circuit::Open, Circuit::HalfOpen, say)
    }

    /// Opens a half-open circuit again, after a trial that failed. Returns false where it was not
    /// half open, or the backend is no longer a member.
    pub fn end_trial(&self, backend: &Backend) -> bool {
        self.end_trial_and(backend, || {})
    }

    /// As [`end_trial`](Self::end_trial); says so before anything follows from it.
    pub(crate) fn end_trial_and(&self, backend: &Backend, say: impl FnOnce()) -> bool {
        self.change_circuit(backend, Circuit::HalfOpen, Circuit::Open, say)
    }

    fn change_circuit(
        &self,
        backend: &Backend,
        from: Circuit,
        to: Circuit,
        say: impl FnOnce(),
    ) -> bool {
        let mut control = self.control();
        let Some(member) = self.snapshot().members().current(backend).cloned() else {
            return false;
        };
        if member.circuit() != from {
            return false;
        }
        say();
        member.state().set_circuit(to);
        let readmitted = self.publish(&mut control, false);
        drop(control);
        self.emit(&member, EventKind::Circuit { from, to });
        self.announce_readmissions(readmitted);
        true
    }

    /// Publishes a change of the circuit or of restored health, and says what it means for
    /// combined health; `None` where that is as before.
    pub(super) fn publish_change(
        &self,
        control: &mut Control,
        member: &Backend,
        from: HealthStatus,
        change: Cause,
    ) -> PublishedChange {
        let now = Instant::now();
        let to = member.health();
        let previous = (from != to).then(|| member.state().begin_health_period(now));
        control.update_slow_start(member, from, now);
        let readmitted = self.publish(control, false);
        let (flaps, flapping) = member.state().flaps();
        let change = previous.map(|previous| Transition {
            from,
            to,
            source: change.source,
            reason: change.reason,
            streak: change.streak,
            latency: None,
            status: None,
            previous,
            flaps,
            flapping,
            capacity: member.capacity(),
        });
        PublishedChange { change, readmitted }
    }

    pub(super) fn announce_change(&self, member: &Backend, turned: PublishedChange) {
        if let Some(change) = turned.change {
            self.emit(member, EventKind::Health(change));
        }
        self.announce_readmissions(turned.readmitted);
    }

    /// Ends the ejections that alone leave nobody usable, however that came about: an outlier
    /// policy never takes the last (invariant F). Of several, who is the best of them shows once
    /// they get traffic, and the others can be ejected anew.
    pub(super) fn readmit_last(&self, control: &mut Control, next: &Snapshot) -> Readmissions {
        let mut readmitted = Vec::new();
        #[cfg(test)]
        if sabotage::is(Sabotage::LastIsEjected) {
            return Readmissions(readmitted);
        }
        let now = Instant::now();
        for member in next.ejected() {
            let from = member.health();
            member.state().set_circuit(Circuit::Closed);
            control.update_slow_start(member, from, now);
            let (flaps, flapping) = member.state().flaps();
            let change = Transition {
                from,
                to: member.health(),
                source: Source::Passive,
                reason: Reason::new("LAST", "no other backend is usable"),
                streak: 0,
                latency: None,
                status: None,
                previous: member.state().begin_health_period(now),
                flaps,
                flapping,
                capacity: member.capacity(),
            };
            readmitted.push((member.clone(), change));
        }
        Readmissions(readmitted)
    }

    /// Without the lock: what is told is a room's, and may ask the pool for something.
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

/// Whose ejection ended as nobody else was left.
#[must_use]
pub(super) struct Readmissions(pub(super) Vec<(Backend, Transition)>);

/// What a change of one backend led to.
#[must_use]
pub(super) struct PublishedChange {
    change: Option<Transition>,
    readmitted: Readmissions,
}

/// Why health changed, where it was not a check.
pub(super) struct Cause {
    pub(super) source: Source,
    pub(super) reason: Reason,
    pub(super) streak: u32,
}

impl Cause {
    fn passive(reason: Reason, streak: u32) -> Self {
        Self {
            source: Source::Passive,
            reason,
            streak,
        }
    }
}

/// What is to be told of a result once it can be seen.
struct Published {
    kind: EventKind,
    retires: bool,
}

impl Control {
    /// Writes one result; returns what that changed.
    fn write(
        &mut self,
        member: &Backend,
        measured: Measurement,
        now: Instant,
    ) -> Option<Published> {
        let state = member.state();
        let from = member.health();
        let offers = (state.capacity(), state.asks_to_drain());
        state.set_active(measured.health);
        state.set_capacity(measured.capacity);
        state.set_asks_to_drain(measured.draining);
        let to = member.health();
        if from == to && offers == (measured.capacity, measured.draining) {
            return None;
        }
        let previous = match from == to {
            true => Duration::ZERO,
            false => state.begin_health_period(now),
        };
        self.update_slow_start(member, from, now);
        let now_offers = (measured.capacity, measured.draining);
        // What fails offers nothing, and says nothing of it.
        if to != HealthStatus::Unhealthy {
            journal::offers(member, offers, now_offers, &measured.reason);
        }
        let kind = match from == to {
            true => EventKind::Capacity {
                capacity: member.capacity(),
                draining: measured.draining,
                reason: measured.reason,
            },
            false => EventKind::Health(Transition {
                from,
                to,
                source: Source::Active,
                reason: measured.reason,
                streak: measured.streak,
                latency: measured.latency,
                status: measured.status,
                previous,
                flaps: measured.flaps,
                flapping: measured.flapping,
                capacity: member.capacity(),
            }),
        };
        Some(Published {
            kind,
            retires: measured.draining && !offers.1,
        })
    }

    /// Begins a slow_start where a backend was down and is not any more; ends one where it is down.
    pub(super) fn update_slow_start(&mut self, member: &Backend, from: HealthStatus, now: Instant) {
        let to = member.health();
        if to == HealthStatus::Unhealthy {
            self.end_slow_start(member);
        } else if from == HealthStatus::Unhealthy {
            self.begin_slow_start(member, now);
        }
    }

    pub(super) fn begin_slow_start(&mut self, member: &Backend, now: Instant) {
        self.end_slow_start(member);
        // Where nobody ticks, it would never end.
        if !self.has_ticker {
            return;
        }
        let (time, from) = (self.routing.slow_start, self.routing.slow_start_from);
        let slow_start = SlowStart::new(now, time, from);
        if let (share, Some(due)) = slow_start.at(now) {
            member.state().set_slow_start_share(share);
            self.next_slow_start_step =
                Some(self.next_slow_start_step.map_or(due, |next| next.min(due)));
            self.slow_starts.push((member.clone(), slow_start));
        }
    }

    /// Ends all slow_starts, as nobody makes their steps any more; returns true if there was one.
    pub(super) fn end_slow_starts(&mut self) -> bool {
        self.has_ticker = false;
        self.next_slow_start_step = None;
        let slow_starts = std::mem::take(&mut self.slow_starts);
        slow_starts
            .iter()
            .for_each(|(backend, _)| backend.state().set_slow_start_share(FULL));
        !slow_starts.is_empty()
    }

    fn end_slow_start(&mut self, member: &Backend) {
        self.slow_starts
            .retain(|(backend, _)| !backend.is_same(member));
        member.state().set_slow_start_share(FULL);
    }
}

fn says_the_same(backend: &Backend, measured: &Measurement) -> bool {
    let state = backend.state();
    state.active() == measured.health
        && state.capacity() == measured.capacity
        && state.asks_to_drain() == measured.draining
}
