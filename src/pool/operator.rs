//! What an operator orders: drain, maintenance, evacuation; and what time brings.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Backend, EventKind, Locality, Mode, Pool, control::Control, journal};
use crate::error::ConfigError;

impl Pool {
    /// Sends the backend no new traffic, and lets its sticky sessions stay until the deadline.
    /// Idle connections are closed. What it returns may be awaited: it ends when the last request
    /// in flight does, closing what sessions left idle, or at the deadline; dropping it changes
    /// nothing. [`mark_ready`](Self::mark_ready) undoes the drain.
    ///
    /// ```
    /// # use evenkeel::{Backend, Pool, pool::Drained};
    /// # async fn example(pool: Pool) -> Result<(), evenkeel::ConfigError> {
    /// if pool.drain("a", std::time::Duration::from_secs(300))?.await == Drained::Empty {
    ///     pool.remove("a");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn drain(&self, id: &str, deadline: Duration) -> Result<Draining, ConfigError> {
        let now = Instant::now();
        // A deadline beyond what the clock can hold is as good as a century.
        let until = now.checked_add(deadline).unwrap_or(now + CENTURY);
        let backend = self.set_mode(id, Mode::Draining { until })?;
        Ok(Draining { backend, until })
    }

    /// Sends the backend nothing at all.
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn start_maintenance(&self, id: &str) -> Result<(), ConfigError> {
        self.set_mode(id, Mode::Maintenance).map(drop)
    }

    /// Undoes a drain or maintenance; traffic comes back as health allows.
    ///
    /// # Errors
    ///
    /// When there is no member with this id.
    pub fn mark_ready(&self, id: &str) -> Result<(), ConfigError> {
        self.set_mode(id, Mode::Ready).map(drop)
    }

    /// Takes all backends within this region, zone or rack out of service: no new traffic, and
    /// sticky sessions move. Requests in flight end by themselves; idle connections are closed.
    /// Backends that join the place later are out, too, until it is
    /// [restored](Self::restore). Returns how many members stand there.
    pub fn evacuate(&self, prefix: &Locality) -> usize {
        let mut control = self.control();
        let is_new = !control.evacuated.contains(prefix);
        if is_new {
            control.evacuated.push(prefix.clone());
        }
        self.apply_evacuation(control, prefix, is_new.then_some(true))
    }

    /// Undoes an evacuation of exactly this place: traffic comes back as health allows. Returns
    /// how many members stand there.
    pub fn restore(&self, prefix: &Locality) -> usize {
        let mut control = self.control();
        let before = control.evacuated.len();
        control.evacuated.retain(|evacuated| evacuated != prefix);
        let is_new = control.evacuated.len() < before;
        self.apply_evacuation(control, prefix, is_new.then_some(false))
    }

    /// Returns the places that are evacuated.
    #[must_use]
    pub fn evacuated(&self) -> Vec<Locality> {
        self.control().evacuated.clone()
    }

    fn apply_evacuation(
        &self,
        mut control: std::sync::MutexGuard<'_, Control>,
        prefix: &Locality,
        ordered: Option<bool>,
    ) -> usize {
        let stands = |b: &&Backend| b.configured_locality().is_some_and(|p| p.is_within(prefix));
        let there: Vec<_> = control.members.iter().filter(stands).cloned().collect();
        let before: Vec<_> = there.iter().map(Backend::is_evacuated).collect();
        if let Some(evacuated) = ordered {
            journal::relocated(prefix, there.len(), evacuated);
        }
        let readmitted = self.publish(&mut control, false);
        drop(control);
        for (backend, before) in there.iter().zip(before) {
            let now = backend.is_evacuated();
            if now && !before {
                backend.state().retire();
            }
            if now != before {
                self.emit(backend, EventKind::Evacuated(now));
            }
        }
        self.announce_readmissions(readmitted);
        there.len()
    }

    fn set_mode(&self, id: &str, to: Mode) -> Result<Backend, ConfigError> {
        let mut control = self.control();
        let Some(backend) = self.snapshot().get(id).cloned() else {
            return Err(ConfigError::new(
                "id",
                format!("{id:?}: no backend of the pool has this id"),
            ));
        };
        let from = backend.mode();
        if from == to {
            return Ok(backend);
        }
        backend.state().set_mode(to);
        journal::ordered(&backend, from, to);
        control.drains.retain(|(other, _)| !other.is_same(&backend));
        match to {
            Mode::Draining { until } => control.drains.push((backend.clone(), until)),
            Mode::Ready if control.routing.slow_start_when_ready => {
                control.begin_slow_start(&backend, Instant::now());
            }
            Mode::Maintenance | Mode::Ready => {}
        }
        let readmitted = self.publish(&mut control, false);
        drop(control);
        if to != Mode::Ready {
            backend.state().retire();
        }
        self.emit(&backend, EventKind::Mode { from, to });
        self.announce_readmissions(readmitted);
        Ok(backend)
    }

    /// Moves on what time brings: steps of slow starts, and the end of drains, whose idle
    /// connections are closed then. Returns when there is something to do next; `None` until the
    /// pool changes. Called by the health layer's task; who has none calls it.
    ///
    /// Slow starts begin only once somebody ticks.
    pub fn tick(&self, now: Instant) -> Option<Instant> {
        let mut locked = self.control();
        let control = &mut *locked;
        control.has_ticker = true;
        if control.slow_starts.is_empty() && control.drains.is_empty() {
            return None;
        }
        let changed = control.advance_slow_starts(now);
        let mut ended = Vec::new();
        let mut next = control.next_slow_start_step;
        control.drains.retain(|(backend, until)| {
            if *until <= now {
                journal::drain_ended(backend);
                ended.push(backend.clone());
                return false;
            }
            next = Some(next.map_or(*until, |n| n.min(*until)));
            true
        });
        let readmitted = changed.then(|| self.publish(control, false));
        drop(locked);
        // Without the lock: what is retired is a room's, and may ask the pool for something.
        ended.iter().for_each(|backend| backend.state().retire());
        if let Some(readmitted) = readmitted {
            self.announce_readmissions(readmitted);
        }
        next
    }
}

impl Control {
    /// Makes the steps of slow starts that are due; returns true if there was one.
    fn advance_slow_starts(&mut self, now: Instant) -> bool {
        if self.slow_starts.is_empty() {
            self.next_slow_start_step = None;
        }
        if self.next_slow_start_step.is_none_or(|next| now < next) {
            return false;
        }
        let (mut next, mut changed) = (None, false);
        self.slow_starts.retain(|(backend, slow_start)| {
            let (share, due) = slow_start.at(now);
            if backend.state().slow_start_share() != share {
                backend.state().set_slow_start_share(share);
                changed = true;
            }
            next = [next, due].into_iter().flatten().min();
            due.is_some()
        });
        let pause = STEP_PAUSE * u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.next_slow_start_step = next.map(|next: Instant| next.max(now + pause));
        changed
    }
}

/// A drain under way, see [`Pool::drain`]; to be awaited, or not.
pub struct Draining {
    backend: Backend,
    until: Instant,
}

impl Draining {
    async fn wait(self) -> Drained {
        let state = &self.backend.state();
        let watch = state.watch_drain();
        loop {
            // Listens before it looks.
            let changed = watch.changed();
            // A drain with another deadline is another order.
            if state.mode() != (Mode::Draining { until: self.until }) {
                return Drained::Undone;
            }
            if watch.is_empty() {
                // Sessions that stayed left connections behind.
                state.retire();
                return Drained::Empty;
            }
            if timeout_at(self.until, changed).await.is_err() {
                return Drained::Deadline;
            }
        }
    }
}

impl IntoFuture for Draining {
    type Output = Drained;
    type IntoFuture = Pin<Box<dyn Future<Output = Drained> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.wait())
    }
}

impl fmt::Debug for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining")
            .field("backend", &self.backend)
            .finish()
    }
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Drained {
    /// The deadline came first; requests are in flight still.
    Deadline,
    /// Nothing is in flight any more.
    Empty,
    /// Another order took its place.
    Undone,
}

/// For each member: a snapshot costs up to half a microsecond for each, so that steps, of however
/// many that recover at moments of their own, cost a twentieth of a core at the most.
const STEP_PAUSE: Duration = Duration::from_micros(10);
const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
