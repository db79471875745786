//! Whether this instance should get traffic.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::json_response::quote;
use crate::pool::Pool;

/// Whether this instance should get traffic; a handle, shared by all who ask and tell.
#[derive(Clone)]
pub struct Readiness {
    pool: Pool,
    reasons: Arc<Mutex<Vec<String>>>,
}

impl Readiness {
    /// Is ready while the pool has a usable backend.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            reasons: Arc::default(),
        }
    }

    /// Adds a reason not to be ready: what a shutdown does first, so that whoever stands in front
    /// sends its traffic elsewhere before connections end.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut reasons = self.reasons();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// Takes a reason back.
    pub fn restore(&self, reason: &str) {
        self.reasons().retain(|r| r != reason);
    }

    /// Returns how things are now.
    #[must_use]
    pub fn check(&self) -> ReadinessReport {
        let snapshot = self.pool.snapshot();
        let mut reasons = self.reasons().clone();
        if snapshot.usable() == 0 {
            reasons.push(match snapshot.held() {
                0 => "no usable backend".into(),
                _ => "no backend has passed its first check".into(),
            });
        }
        ReadinessReport {
            usable: snapshot.usable(),
            backends: snapshot.backends().len(),
            reasons,
        }
    }

    fn reasons(&self) -> MutexGuard<'_, Vec<String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.check()).finish()
    }
}

/// Whether this instance should get traffic, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadinessReport {
    /// Backends that can take new traffic.
    pub usable: usize,
    /// All backends.
    pub backends: usize,
    /// Why not; empty when ready.
    pub reasons: Vec<String>,
}

impl ReadinessReport {
    /// Returns true if there is no reason against it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    pub(super) fn json(&self) -> String {
        let reasons: Vec<String> = self.reasons.iter().map(|r| quote(r)).collect();
        format!(
            "{{\"ready\":{},\"usable\":{},\"backends\":{},\"reasons\":[{}]}}\n",
            self.is_ready(),
            self.usable,
            self.backends,
            reasons.join(",")
        )
    }
}
