//! [`Invariants`]: what must hold for every request, whatever fails.
//!
//! The observer has no part in what it checks: it reads the record of each request and the events of
//! the pool, as a user's program could. A backend that comes up is found by its event, as the snapshot
//! shows only the last state; a request that was lost is found because its end was never reported.
//!
//! Limits: an event that the channel dropped (more than 1,024 behind) is not seen, so that events are
//! read at each request. A readmission by outlier detection counts as checked, since traffic is its
//! check.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    context::{Exchange, Outcome},
    pool::{Backend, EventKind, Events, HealthStatus, Pool, Source},
};

/// Observes requests and the events of a pool, and checks four promises: every request ends, no
/// request has two complete responses, every lease is returned, and no backend that was down comes
/// up without a passed check.
///
/// ```
/// use evenkeel::{Backend, Pool, chaos::Invariants, context::Exchange};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let invariants = Invariants::new(&pool);
/// let exchange = Exchange::new(); // insert it into the extensions of the request
/// let number = invariants.begin(&exchange);
/// // Send the request, and read its response to the end or drop it; then:
/// invariants.end(number);
/// assert_eq!(invariants.check(&pool), Ok(()));
/// # Ok(())
/// # }
/// ```
///
/// Clones share what they have observed. As a [`Layer`](tower_layer::Layer) around the outermost
/// service of a stack, it observes every request. It keeps each request in memory for good: use it
/// in tests and experiments only.
#[derive(Clone)]
pub struct Invariants {
    observed: Arc<Mutex<Observed>>,
}

struct Observed {
    events: Events,
    requests: Vec<ObservedRequest>,
    /// A handle of each backend that was ever a member of the pool.
    backends: Vec<Backend>,
    found: Vec<Violation>,
}

struct ObservedRequest {
    exchange: Exchange,
    ends: usize,
}

impl Invariants {
    /// Begins to observe a pool. Call it before the first change to the pool: earlier events are
    /// missed.
    #[must_use]
    pub fn new(pool: &Pool) -> Self {
        let events = pool.subscribe();
        let backends = pool.snapshot().backends().to_vec();
        Self {
            observed: Arc::new(Mutex::new(Observed {
                events,
                requests: Vec::new(),
                backends,
                found: Vec::new(),
            })),
        }
    }

    /// Records that a request with this exchange begins, and returns its number, counted from 0.
    pub fn begin(&self, exchange: &Exchange) -> usize {
        let mut observed = self.observed();
        observed.read_events();
        observed.requests.push(ObservedRequest {
            exchange: exchange.clone(),
            ends: 0,
        });
        observed.requests.len() - 1
    }

    /// Records that the request with this number is over: it failed, or its response was read to
    /// the end or dropped.
    pub fn end(&self, number: usize) {
        if let Some(request) = self.observed().requests.get_mut(number) {
            request.ends += 1;
        }
    }

    /// Checks all requests and events so far. Call it while no request is in flight: such a request
    /// counts as lost.
    ///
    /// # Errors
    ///
    /// Every [`Violation`]: first those of backends that came up, then those of requests by their
    /// number, then the leases.
    pub fn check(&self, pool: &Pool) -> Result<(), Vec<Violation>> {
        let mut observed = self.observed();
        observed.read_events();
        for backend in pool.snapshot().backends() {
            observed.record_backend(backend);
        }
        let mut found = observed.found.clone();
        for (number, request) in observed.requests.iter().enumerate() {
            found.extend(request.violation().map(|wrong| wrong(number)));
        }
        let holding = observed.backends.iter().filter(|b| b.in_flight() > 0);
        found.extend(holding.map(|backend| Violation::LeaseHeld {
            backend: backend.id().into(),
            leases: backend.in_flight(),
        }));
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObservedRequest {
    fn violation(&self) -> Option<fn(usize) -> Violation> {
        let (whole, open) = self.exchange.attempts(|all| {
            let whole = all.iter().filter(|a| a.outcome == Some(Outcome::Ok));
            (whole.count(), all.iter().any(|a| a.outcome.is_none()))
        });
        match self.ends {
            0 => Some(Violation::Lost),
            1 if whole > 1 => Some(Violation::AnsweredTwice),
            // It is over while an attempt of it still runs.
            1 if open => Some(Violation::AttemptOpen),
            1 => None,
            _ => Some(Violation::AnsweredTwice),
        }
    }
}

impl Observed {
    /// Reads the events since the last call.
    fn read_events(&mut self) {
        while let Some(event) = self.events.try_next() {
            self.record_backend(&event.backend);
            if let EventKind::Health(change) = &event.kind {
                // Not from unknown: a backend that was never measured may be up.
                let up =
                    change.from == HealthStatus::Unhealthy && change.to == HealthStatus::Healthy;
                let checked = change.source == Source::Passive || change.streak > 0;
                if up && !checked {
                    let backend = event.backend.id().into();
                    self.found.push(Violation::UpUnchecked { backend });
                }
            }
        }
    }

    fn record_backend(&mut self, backend: &Backend) {
        match self.backends.iter_mut().find(|b| b.is_same(backend)) {
            // The newest handle: its state is the same, its settings may be others.
            Some(known) => *known = backend.clone(),
            None => self.backends.push(backend.clone()),
        }
    }
}

impl fmt::Debug for Invariants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let observed = self.observed();
        f.debug_struct("Invariants")
            .field("requests", &observed.requests.len())
            .field("found", &observed.found)
            .finish_non_exhaustive()
    }
}

/// A promise that was broken. Requests are identified by the number from [`Invariants::begin`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The request had more than one complete response, or ended twice.
    AnsweredTwice(usize),
    /// The request is over, but one of its attempts is not.
    AttemptOpen(usize),
    /// Leases of a backend were not returned.
    LeaseHeld {
        /// The id of the backend.
        backend: Box<str>,
        /// How many leases.
        leases: u32,
    },
    /// The request never ended.
    Lost(usize),
    /// A backend went from down to up although no check had passed.
    UpUnchecked {
        /// The id of the backend.
        backend: Box<str>,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnsweredTwice(number) => write!(f, "request {number} was answered twice"),
            Self::AttemptOpen(number) => {
                write!(
                    f,
                    "request {number} is over, but one of its attempts is not"
                )
            }
            Self::LeaseHeld { backend, leases } => {
                write!(f, "{leases} leases of backend {backend} were not returned")
            }
            Self::Lost(number) => write!(f, "request {number} never ended"),
            Self::UpUnchecked { backend } => {
                write!(f, "backend {backend} came up although no check had passed")
            }
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Lease, Measurement, Reason};

    #[test]
    fn each_violation_is_reported() {
        let pool = Pool::new([Backend::new("a", "http://127.0.0.1:1").unwrap()]).unwrap();
        let invariants = Invariants::new(&pool);
        let member = pool.snapshot().backends()[0].clone();
        let exchanges: Vec<_> = (0..5).map(|_| Exchange::new()).collect();
        for (number, exchange) in exchanges.iter().enumerate() {
            assert_eq!(invariants.begin(exchange), number);
        }
        // 0 ends well, 1 never, 2 twice, 3 with two answers, 4 with an attempt under way.
        for number in [0, 2, 2, 3, 4] {
            invariants.end(number);
        }
        for _ in 0..2 {
            let attempt = exchanges[3].begin_attempt(member.clone());
            exchanges[3].end_attempt(attempt, Outcome::Ok);
        }
        exchanges[4].begin_attempt(member.clone());
        let lease = Lease::acquire(&member).unwrap();
        for (health, streak) in [(HealthStatus::Unhealthy, 2), (HealthStatus::Healthy, 0)] {
            let reason = Reason::new("INI", "test");
            pool.measure(&member, Measurement::new(health, reason).streak(streak));
        }
        // The lease of a backend that left the pool must still be returned.
        pool.remove("a").unwrap();
        let found = invariants.check(&pool).unwrap_err();
        let wanted = [
            Violation::UpUnchecked {
                backend: "a".into(),
            },
            Violation::Lost(1),
            Violation::AnsweredTwice(2),
            Violation::AnsweredTwice(3),
            Violation::AttemptOpen(4),
            Violation::LeaseHeld {
                backend: "a".into(),
                leases: 1,
            },
        ];
        assert_eq!(found, wanted);
        drop(lease);
        assert_eq!(invariants.check(&pool).unwrap_err().len(), 5);
    }
}
