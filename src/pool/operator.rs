//! What an operator orders: drains, maintenance and evacuations.
//!
//! Orders and measured health are kept apart, so that neither ends the other: a backend in maintenance
//! that becomes healthy stays out, and one that is marked ready while its checks fail stays out as
//! well.
//!
//! A drain has three ends, and a task that awaits [`Draining`] sees one of them; the mode itself stays
//! `Draining` until another order comes. `tick` closes idle connections at the deadline whether or not
//! a task waits.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::{Backend, EventKind, Locality, Mode, Pool, UnknownBackend, control::Control, journal};

impl Pool {
    /// Drains a backend: it gets no new traffic, its sticky sessions stay until the deadline (a time
    /// from now), and its idle connections are closed. [`mark_ready`](Self::mark_ready) undoes the
    /// drain.
    ///
    /// The returned [`Draining`] may be awaited, to learn that no request is in flight any more.
    /// Dropping it changes nothing: the drain goes on.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use evenkeel::{Backend, Pool, pool::Drained};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
    /// if pool.drain("a", Duration::from_secs(300))?.await == Drained::Empty {
    ///     pool.remove("a")?;
    /// }
    /// assert!(pool.snapshot().backends().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error if no member has this id.
    pub fn drain(&self, id: &str, deadline: Duration) -> Result<Draining, UnknownBackend> {
        let now = Instant::now();
        // The clock cannot hold every duration; a century is as good as a later deadline.
        let until = now.checked_add(deadline).unwrap_or(now + CENTURY);
        let backend = self.set_mode(id, Mode::Draining { until })?;
        Ok(Draining { backend, until })
    }

    /// Puts a backend into maintenance: it gets no traffic at all, sticky sessions move to other
    /// backends, and its idle connections are closed. Requests in flight end by themselves.
    ///
    /// # Errors
    ///
    /// Returns an error if no member has this id.
    pub fn start_maintenance(&self, id: &str) -> Result<(), UnknownBackend> {
        self.set_mode(id, Mode::Maintenance).map(drop)
    }

    /// Ends a drain or maintenance: the backend gets traffic again if its health allows it, at once
    /// with its whole share unless
    /// [`Routing::slow_start_when_ready`](super::Routing::slow_start_when_ready) is set.
    ///
    /// # Errors
    ///
    /// Returns an error if no member has this id.
    pub fn mark_ready(&self, id: &str) -> Result<(), UnknownBackend> {
        self.set_mode(id, Mode::Ready).map(drop)
    }

    /// Takes all backends in this region, zone or rack out of service: they get no new traffic, sticky
    /// sessions move, and idle connections are closed. Requests in flight end by themselves.
    ///
    /// The evacuation holds for backends that join later, too, and until it is
    /// [restored](Self::restore). Returns the number of members in the locality. An evacuated
    /// backend whose own [`Mode`] is another one keeps that mode.
    ///
    /// # Example
    ///
    /// ```
    /// use evenkeel::{Backend, Pool, pool::Locality};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// let pool = Pool::new([
    ///     Backend::new("a", "http://10.0.0.1:80")?.locality(Locality::new("eu/1a")?),
    ///     Backend::new("b", "http://10.1.0.1:80")?.locality(Locality::new("eu/1b")?),
    /// ])?;
    /// let zone = Locality::new("eu/1a")?;
    /// assert_eq!(pool.evacuate(&zone), 1, "one backend is there");
    /// assert_eq!(pool.snapshot().usable(), 1);
    /// assert_eq!(pool.evacuated(), [zone.clone()]);
    ///
    /// pool.restore(&zone);
    /// assert_eq!(pool.snapshot().usable(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn evacuate(&self, prefix: &Locality) -> usize {
        let mut control = self.control();
        let is_new = !control.evacuated.contains(prefix);
        // An order that repeats another changes nothing, and is not logged twice.
        if is_new {
            control.evacuated.push(prefix.clone());
        }
        self.apply_evacuation(control, prefix, is_new.then_some(true))
    }

    /// Ends the evacuation of exactly this region, zone or rack: its backends get traffic again if
    /// their health allows it. Returns the number of members in the locality. To restore a rack of an
    /// evacuated zone, restore the zone.
    pub fn restore(&self, prefix: &Locality) -> usize {
        let mut control = self.control();
        let before = control.evacuated.len();
        control.evacuated.retain(|evacuated| evacuated != prefix);
        let is_new = control.evacuated.len() < before;
        self.apply_evacuation(control, prefix, is_new.then_some(false))
    }

    /// Returns the evacuated regions, zones and racks.
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
        let is_within = |b: &&Backend| b.configured_locality().is_some_and(|l| l.is_within(prefix));
        let members: Vec<_> = control.members.iter().filter(is_within).cloned().collect();
        // By the state of each: a larger evacuation may cover some of them already.
        let before: Vec<_> = members.iter().map(Backend::is_evacuated).collect();
        if let Some(evacuated) = ordered {
            journal::evacuation_changed(prefix, members.len(), evacuated);
        }
        let readmitted = self.publish(&mut control, false);
        drop(control);
        for (backend, before) in members.iter().zip(before) {
            let now = backend.is_evacuated();
            // Only those that this order took out: the others were retired when theirs was given.
            if now && !before {
                backend.state().retire();
            }
            if now != before {
                self.emit(backend, EventKind::Evacuated(now));
            }
        }
        self.announce_readmissions(readmitted);
        members.len()
    }

    /// Changes the mode of a member as [`drain`](Self::drain) and its like do, if the member is still
    /// the one that the caller saw, in the mode that the caller saw. Returns false otherwise: an order
    /// that was given meanwhile is not overwritten.
    pub(crate) fn take_over_mode(&self, seen: &Backend, seen_mode: Mode, to: Mode) -> bool {
        let allows = |now: &Backend| now.is_same(seen) && now.mode() == seen_mode;
        self.change_mode(seen.id(), to, allows).is_some()
    }

    fn set_mode(&self, id: &str, to: Mode) -> Result<Backend, UnknownBackend> {
        let changed = self.change_mode(id, to, |_| true);
        changed.ok_or_else(|| UnknownBackend::new(id))
    }

    /// Returns `None` if there is no such member, or `allows` refuses it.
    fn change_mode(
        &self,
        id: &str,
        to: Mode,
        allows: impl FnOnce(&Backend) -> bool,
    ) -> Option<Backend> {
        let mut control = self.control();
        // Under the lock the snapshot is the newest: only holders of the lock publish.
        let backend = self.snapshot().get(id).cloned();
        let backend = backend.filter(allows)?;
        let from = backend.mode();
        if from == to {
            return Some(backend);
        }
        backend.state().set_mode(to);
        journal::mode_changed(&backend, from, to);
        // Each order ends a former drain: at most one deadline waits for each member.
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
        Some(backend)
    }
}

/// A drain under way, made by [`Pool::drain`]. A future of it ends with the last request in flight,
/// at the deadline, or when another order replaces the drain.
pub struct Draining {
    backend: Backend,
    until: Instant,
}

impl Draining {
    async fn wait(self) -> Drained {
        let state = &self.backend.state();
        let watch = state.watch_drain();
        loop {
            // Registered before the look, so that a change in between is not missed.
            let changed = watch.changed();
            // A drain with another deadline is another order, which replaces this one.
            if state.mode() != (Mode::Draining { until: self.until }) {
                return Drained::Undone;
            }
            if watch.is_empty() {
                // Requests of sticky sessions have left idle connections since the drain began.
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
    /// The deadline passed while requests were in flight. The backend still gets no traffic.
    Deadline,
    /// No request is in flight any more, and idle connections are closed. Requests of sticky
    /// sessions may still come until the deadline.
    Empty,
    /// Another order replaced the drain: maintenance, another deadline, or ready.
    Undone,
}

const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
