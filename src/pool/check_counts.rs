//! What became of the active checks of a backend, and how often its health changed.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use super::{Backend, state::State};

/// The active checks of a backend since it joined. A check that was cancelled, or that failed for a
/// lack on this side such as of descriptors, is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckCounts {
    /// The checks that passed.
    pub passed: u64,
    /// The checks that failed.
    pub failed: u64,
    /// The sum of the time that all of them took.
    pub duration: Duration,
}

impl Backend {
    /// Returns the number of active checks, and the time that they took.
    #[must_use]
    pub fn checks(&self) -> CheckCounts {
        self.state().health_counters().checks
    }

    /// Records the result of an active check. The prober of this crate calls it; so does a program with
    /// checks of its own that wants them counted.
    pub fn count_check(&self, passed: bool, took: Duration) {
        self.state().health_counters().count_check(passed, took);
    }

    /// Returns how often measured health changed since the backend joined, by active checks or by
    /// outlier detection.
    #[must_use]
    pub fn transitions(&self) -> u64 {
        self.state().health_counters().transitions
    }

    /// Returns how often outlier detection took the backend out of service since it joined.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.state().health_counters().ejections
    }
}

/// Counters that the control path writes and onlookers read, behind a lock that no request takes.
///
/// One lock for all of them: a scrape reads them seldom, and a check is rare compared with a request.
/// The lock is taken alone or inside the control lock, never the other way round.
#[derive(Default)]
pub(super) struct HealthCounters {
    checks: CheckCounts,
    transitions: u64,
    ejections: u64,
}

impl HealthCounters {
    fn count_check(&mut self, passed: bool, took: Duration) {
        let checks = &mut self.checks;
        checks.passed += u64::from(passed);
        checks.failed += u64::from(!passed);
        checks.duration = checks.duration.saturating_add(took);
    }
}

impl State {
    pub(super) fn count_transition(&self) {
        self.health_counters().transitions += 1;
    }

    pub(super) fn count_ejection(&self) {
        self.health_counters().ejections += 1;
    }

    fn health_counters(&self) -> MutexGuard<'_, HealthCounters> {
        let counters = self.health_counters.lock();
        counters.unwrap_or_else(PoisonError::into_inner)
    }
}
