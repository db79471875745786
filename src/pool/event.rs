//! What happened to a pool, told to whoever listens.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::broadcast;

use super::{Backend, Circuit, HealthStatus, Mode};

/// One change of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// The backend that it is about.
    pub backend: Backend,
    /// What changed.
    pub kind: EventKind,
}

/// What changed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// The backend joined.
    Added,
    /// What the backend offers of itself changed, while its health stayed as it is.
    Capacity {
        /// How much of itself it offers from now on: 1.0 in full, less where it is degraded.
        capacity: f64,
        /// Whether it asks to be drained.
        draining: bool,
        /// Why.
        reason: Reason,
    },
    /// The circuit changed otherwise than by an ejection or a readmission, which
    /// [`Health`](Self::Health) tells: a trial begins, or failed.
    Circuit {
        /// The circuit until now.
        from: Circuit,
        /// The circuit from now on.
        to: Circuit,
    },
    /// The place where the backend stands was evacuated, or restored.
    Evacuated(bool),
    /// Measured health changed.
    Health(Transition),
    /// An operator's order changed.
    Mode {
        /// The mode until now.
        from: Mode,
        /// The mode from now on.
        to: Mode,
    },
    /// The backend left.
    Removed,
    /// Its checks fail for a dependency, as those of all that answer do, and it stays in service
    /// for that: the name of the dependency, and `None` when that is over.
    SharedFailure(Option<Arc<str>>),
    /// Weight, address or another setting changed.
    Updated,
}

/// One change of measured health.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Transition {
    /// Combined health before.
    pub from: HealthStatus,
    /// Combined health after.
    pub to: HealthStatus,
    /// Who measured it.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// Consecutive equal results that led here.
    pub streak: u32,
    /// How long the result that tipped it took, where it was a check.
    pub latency: Option<Duration>,
    /// The status that tipped it, where there was an answer in HTTP.
    pub status: Option<StatusCode>,
    /// How long the state before lasted.
    pub previous: Duration,
    /// How often health changed lately, this change included where checks count it.
    pub flaps: u32,
    /// Changes come so often that they are damped.
    pub flapping: bool,
    /// How much of itself the backend offers: 1.0 in full, less where it is degraded.
    pub capacity: f64,
}

/// Who measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// An active check.
    Active,
    /// Live traffic.
    Passive,
}

/// Why health changed: a code in HAProxy's vocabulary (`L4CON`, `L4TOUT`, `L6RSP`, `L7STS`,
/// `L7TOUT`, `L7RSP`, `L7OK` …), and a detail for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The code.
    pub code: &'static str,
    /// A detail: a status, an error's text.
    pub detail: Cow<'static, str>,
}

impl Reason {
    /// Makes a reason.
    pub fn new(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() {
            f.write_str(self.code)
        } else {
            write!(f, "{} ({})", self.code, self.detail)
        }
    }
}

/// The changes of a pool from now on; see [`Pool::subscribe`](super::Pool::subscribe).
#[derive(Debug)]
pub struct Events {
    pub(super) receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// Waits for the next change; `None` once the pool is gone. A subscriber that falls behind
    /// by more than 1,024 changes misses the oldest, and a warning says how many.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(target: "evenkeel::pool", missed, "a subscriber missed changes");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the next change that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => return None,
            }
        }
    }
}
