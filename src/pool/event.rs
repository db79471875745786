//! The events of a pool: changes of membership, health, circuits and modes.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::broadcast;

use super::{Backend, Circuit, HealthStatus, Mode};

/// One change of a pool. The snapshot shows the change before its event comes.
///
/// Events are for onlookers, and come after the fact: a subscriber must not decide by them what a
/// request may do. They are sent outside the pool's lock: two changes that two threads make at the
/// same moment may come in either order.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Event {
    /// A handle of the backend that changed. Its getters show the present state, which may be a later
    /// one than the event's.
    pub backend: Backend,
    /// What changed.
    pub kind: EventKind,
}

/// What changed, with the values before and after where they matter.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventKind {
    /// The backend joined.
    Added,
    /// The capacity of the backend or its wish to be drained changed, while its health stayed.
    Capacity {
        /// The capacity from now on: 1.0 in full, less while the backend is degraded.
        capacity: f64,
        /// Whether the backend asks to be drained.
        draining: bool,
        /// Why the value changed.
        reason: Reason,
    },
    /// A trial of a half-open circuit began or failed. An ejection and a readmission come as
    /// [`Health`](Self::Health).
    Circuit {
        /// The circuit until now.
        from: Circuit,
        /// The circuit from now on.
        to: Circuit,
    },
    /// The backend's locality was evacuated (`true`) or restored (`false`).
    Evacuated(bool),
    /// Measured health changed, by active checks or by outlier detection.
    Health(Transition),
    /// An operator ordered another mode.
    Mode {
        /// The mode until now.
        from: Mode,
        /// The mode from now on.
        to: Mode,
    },
    /// The backend left.
    Removed,
    /// The backend's checks fail for a dependency for which those of all backends fail, and it stays
    /// in service: the name of the dependency, and `None` when that is over.
    SharedFailure(Option<Arc<str>>),
    /// Weight, address or another setting changed.
    Updated,
}

/// One change of measured health, with what led to it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Transition {
    /// Combined health before.
    pub from: HealthStatus,
    /// Combined health after.
    pub to: HealthStatus,
    /// Active checks or live traffic.
    pub source: Source,
    /// Why health changed.
    pub reason: Reason,
    /// The number of consecutive equal results that led to the change; 0 if it was no result.
    pub streak: u32,
    /// How long the check took that led to the change.
    pub latency: Option<Duration>,
    /// The HTTP status of the check that led to the change.
    pub status: Option<StatusCode>,
    /// How long the health before lasted.
    pub previous: Duration,
    /// How often health changed within the flap window of the checks, this change included.
    pub flaps: u32,
    /// Health changes so often that the checks damp further changes.
    pub flapping: bool,
    /// The backend's capacity: 1.0 in full, less while it is degraded.
    pub capacity: f64,
}

/// What measured a change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Active checks.
    Active,
    /// Outlier detection on live traffic.
    Passive,
}

/// Why health changed: a code of HAProxy's vocabulary and a detail for people.
///
/// Codes of checks: `L4CON` (connect failed), `L4TOUT` (connect timed out), `L6RSP` (TLS failed),
/// `L7OK`, `L7STS` (status), `L7RSP` (invalid response), `L7TOUT` (response timed out) and others.
/// Codes of the pool: `LAST` (readmitted because no other backend is usable), `UNK` (active checks
/// stopped), `TIME` (outlier detection stopped), `INI` (restored from a health snapshot).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The code.
    pub code: &'static str,
    /// The detail: a status, or the text of an error. May be empty.
    pub detail: Cow<'static, str>,
}

impl Reason {
    /// Makes a reason of a code and a detail.
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

/// The events of a pool from the moment of [`Pool::subscribe`](super::Pool::subscribe).
///
/// # Example
///
/// ```
/// use evenkeel::{Backend, Pool, pool::EventKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let mut events = pool.subscribe();
/// pool.remove("a")?;
/// let event = events.next().await.expect("the pool lives");
/// assert_eq!(event.backend.id(), "a");
/// assert!(matches!(event.kind, EventKind::Removed));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    pub(super) receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// Waits for the next event; returns `None` once the last handle of the pool is dropped. A
    /// subscriber that falls behind by more than 1,024 events misses the oldest, and a warning in the
    /// log says how many.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                // A subscriber that needs every change reads the snapshot again behind such a gap; the
                // events that remain are in order.
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(target: "evenkeel::pool", missed, "a subscriber fell behind and missed events");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the next event if there is one already.
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
