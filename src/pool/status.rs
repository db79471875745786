//! The values that a backend's state can have: health status, circuit and mode.
//!
//! The three are apart because three parties set them: active checks the health, outlier detection
//! the circuit, and an operator the mode. None of them overwrites what another one set.

use tokio::time::Instant;

/// Measured health.
///
/// A backend of health `Unknown` gets traffic unless active checks run for the pool
/// ([`Pool::attach_prober`](super::Pool::attach_prober)): then it is held until its first check
/// passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealthStatus {
    /// Active checks pass, and the circuit is closed.
    Healthy,
    /// Active checks fail, or outlier detection ejected the backend.
    Unhealthy,
    /// No check has said anything yet.
    #[default]
    Unknown,
}

impl HealthStatus {
    /// Returns the stable name for logs and metrics: `healthy`, `unhealthy` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }
}

/// The circuit of a backend, which outlier detection opens and closes.
///
/// ```text
///            eject                     begin_trial
///  Closed ──────────────────▶ Open ──────────────────▶ HalfOpen
///    ▲                        │  ▲                      │   │
///    └──────── readmit ───────┘  └────── end_trial ─────┘   │
///    └──────────────────────── readmit ─────────────────────┘
/// ```
///
/// The transitions are methods of [`Pool`](super::Pool).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Circuit {
    /// Traffic passes.
    #[default]
    Closed,
    /// One request at a time passes, as a trial.
    HalfOpen,
    /// The backend is ejected: no request passes.
    Open,
}

impl Circuit {
    /// Returns the stable name for logs and metrics: `closed`, `half_open` or `open`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// What an operator ordered, apart from measured health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// The backend gets no new traffic; its sticky sessions stay until the deadline.
    Draining {
        /// The deadline, from which on sessions move to other backends.
        until: Instant,
    },
    /// The backend gets no traffic at all.
    Maintenance,
    /// The backend gets traffic if its health allows it.
    #[default]
    Ready,
}

impl Mode {
    /// Returns the stable name for logs and metrics: `draining`, `maintenance` or `ready`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining { .. } => "draining",
            Self::Maintenance => "maintenance",
            Self::Ready => "ready",
        }
    }
}
