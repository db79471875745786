//! What active checks measure of a backend, and how the pool takes it over.
//!
//! Results of a large pool come in bursts: `measure_all` writes them under one lock and publishes one
//! snapshot. Of the results of a healthy pool nearly all say the same as before; these cost the
//! comparison in `says_the_same`, without the lock. That comparison may race with another writer, and
//! then the result is written under the lock or is as old as the other one: both are measurements of
//! that moment.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    Backend, EventKind, HealthStatus, Pool, Reason, Source, Transition, control::Control, journal,
    routing::thousandths, state::FULL, transition::Cause,
};

/// What active checks say about a backend: its health after their rise and fall thresholds, and
/// details for events and logs.
///
/// The pool applies no thresholds of its own: each measurement is the verdict.
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, Pool, pool::{HealthStatus, Measurement, Reason}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let backend = pool.snapshot().backends()[0].clone();
/// let failed = Measurement::new(HealthStatus::Unhealthy, Reason::new("L4CON", "refused"));
/// let transition = pool.measure(&backend, failed.streak(2)).expect("health changed");
/// assert_eq!(transition.to, HealthStatus::Unhealthy);
/// assert_eq!(pool.snapshot().usable(), 0);
/// # Ok(())
/// # }
/// ```
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
    /// Makes a measurement of full capacity and without details.
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

    /// Sets the number of consecutive equal results that led to this health.
    ///
    /// Default: 0, for a measurement that is no result of a check.
    pub fn streak(mut self, streak: u32) -> Self {
        self.streak = streak;
        self
    }

    /// Sets how long the last of these checks took.
    ///
    /// Default: unknown.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// Sets the HTTP status of the last of these checks.
    ///
    /// Default: none, for a check that got no HTTP response.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Sets how often health changed within the flap window.
    ///
    /// Default: 0.
    pub fn flaps(mut self, flaps: u32) -> Self {
        self.flaps = flaps;
        self
    }

    /// Sets whether health changes so often that the checks damp further changes.
    ///
    /// Default: false.
    pub fn flapping(mut self, flapping: bool) -> Self {
        self.flapping = flapping;
        self
    }

    /// Sets the backend's capacity, by which its weight is multiplied: 1.0 in full, less while it is
    /// degraded. The pool rounds it to thousandths, from 0.001 to 1.0.
    ///
    /// Default: 1.0.
    pub fn capacity(mut self, capacity: f64) -> Self {
        self.capacity = thousandths(capacity);
        self
    }

    /// Sets whether the backend asks to be drained: it gets no new traffic, and its sticky sessions
    /// stay.
    ///
    /// Default: false.
    pub fn draining(mut self, draining: bool) -> Self {
        self.draining = draining;
        self
    }

    fn cause(self) -> Cause {
        Cause {
            streak: self.streak,
            latency: self.latency,
            status: self.status,
            ..Cause::new(Source::Active, self.reason)
        }
    }
}

impl Pool {
    /// Takes over what active checks measured, and returns the transition of combined health if
    /// there is one. A measurement that changes nothing costs a few loads and publishes no snapshot.
    ///
    /// The pool ignores a result for a backend that is no longer a member, or whose address is
    /// another one than this handle has: the result says nothing about the new endpoint.
    pub fn measure(&self, backend: &Backend, measured: Measurement) -> Option<Transition> {
        let mut change = None;
        self.write([(backend, measured)], |transition| {
            change = Some(transition.clone());
        });
        change
    }

    /// Takes over many results as [`measure`](Self::measure) does, with one snapshot for all of
    /// them. The events come in the order of the results. Returns the number of transitions.
    ///
    /// ```
    /// use evenkeel::{Backend, Pool, pool::{HealthStatus, Measurement, Reason}};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// let pool = Pool::new([
    ///     Backend::new("a", "http://127.0.0.1:9001")?,
    ///     Backend::new("b", "http://127.0.0.1:9002")?,
    /// ])?;
    /// let before = pool.snapshot().generation();
    /// let members = pool.snapshot().backends().to_vec();
    /// let failed = || Measurement::new(HealthStatus::Unhealthy, Reason::new("L4TOUT", ""));
    /// assert_eq!(pool.measure_all(members.into_iter().map(|b| (b, failed()))), 2);
    /// assert_eq!(pool.snapshot().generation(), before + 1, "one snapshot for both");
    /// # Ok(())
    /// # }
    /// ```
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
            // Written even if nothing else changes: the flap window moves on without a change of
            // health. Only onlookers read it.
            state.set_flaps(measured.flaps, measured.flapping);
            if says_the_same(backend, &measured) {
                continue;
            }
            // The first result that changes something takes the lock, and keeps it for the rest: all
            // of them are one snapshot.
            let control = locked.get_or_insert_with(|| self.control());
            // The handle may be older than the member's present settings, and its member may have left
            // and joined again while the check ran: such a result is about another backend.
            let Some(member) = self.snapshot().members().current(backend).cloned() else {
                continue;
            };
            // The result was measured at an address that the member has left.
            if !member.has_same_endpoint(backend) {
                continue;
            }
            // A result decides whether an ejected member may be tried, or readmitted as the last.
            publishes |= member.is_ejected();
            if let Some(published) = control.write(&member, measured, now) {
                publishes = true;
                written.push((member, published));
            }
        }
        // Nothing to show, such as a pass of a healthy backend whose capacity another thread has just
        // written.
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

    /// Emits that a backend stays in service although its checks fail, because those of all backends
    /// fail for this dependency; `None` says that this is over.
    pub(crate) fn report_shared_failure(&self, backend: &Backend, dependency: Option<Arc<str>>) {
        self.emit(backend, EventKind::SharedFailure(dependency));
    }
}

/// The event of a result, to emit once the snapshot shows the result.
struct Published {
    kind: EventKind,
    /// The backend began to ask to be drained: its idle connections are closed.
    retires: bool,
}

impl Control {
    /// Writes one result to the member's state; returns its event, or `None` if nothing changed.
    fn write(
        &mut self,
        member: &Backend,
        measured: Measurement,
        now: Instant,
    ) -> Option<Published> {
        let state = member.state();
        let from = member.health();
        // All that was there before is read before the first write.
        let (capacity, draining) = (state.capacity(), state.asks_to_drain());
        state.set_active(measured.health);
        state.set_capacity(measured.capacity);
        state.set_asks_to_drain(measured.draining);
        let is_same = (capacity, draining) == (measured.capacity, measured.draining);
        if is_same && from == member.health() {
            return None;
        }
        let retires = measured.draining && !draining;
        self.update_slow_start(member, from, now);
        // The capacity of an unhealthy backend has no effect.
        if member.health() != HealthStatus::Unhealthy {
            let new = (measured.capacity, measured.draining);
            journal::capacity_changed(member, (capacity, draining), new, &measured.reason);
        }
        // Combined health: checks of an ejected member change its capacity at most.
        let kind = match from == member.health() {
            true => EventKind::Capacity {
                capacity: member.capacity(),
                draining: measured.draining,
                reason: measured.reason,
            },
            false => EventKind::Health(measured.cause().transition(member, from, now)?),
        };
        Some(Published { kind, retires })
    }
}

/// Returns true if the measurement would change nothing.
fn says_the_same(backend: &Backend, measured: &Measurement) -> bool {
    let state = backend.state();
    state.active() == measured.health
        && state.capacity() == measured.capacity
        && state.asks_to_drain() == measured.draining
}
