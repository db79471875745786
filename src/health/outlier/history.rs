//! What is remembered of a backend's failures: those in a row, and its ejections.
//!
//! An ejection lasts 30 s times the number of ejections, up to 300 s, as in Envoy. The number falls
//! by one for each 30 s in service: a backend that fails once a day is not treated like one that
//! fails each minute.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use super::Outliers;

/// Failures in a row. A success reads one word, and writes only where there was a failure.
#[derive(Debug, Default)]
pub(in crate::health) struct Streak {
    failures: AtomicU32,
}

impl Streak {
    /// A store only after a failure: in the usual case the cache line stays shared among the
    /// threads.
    pub(in crate::health) fn success(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Returns the failures in a row, this one included.
    pub(in crate::health) fn failure(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }
}

/// The ejections of one backend so far.
#[derive(Debug, Default)]
pub(in crate::health) struct EjectionHistory {
    ejections: u32,
    readmitted: Option<Instant>,
}

impl EjectionHistory {
    /// Counts an ejection; returns how long it lasts. Each time in service as long as the first
    /// ejection makes up for one. `chance` is how much of the jitter there is, from 0.0 to 1.0.
    pub(in crate::health) fn eject(
        &mut self,
        rules: &Outliers,
        now: Instant,
        chance: f64,
    ) -> Duration {
        // A trial that failed was no time in service.
        let served = self
            .readmitted
            .take()
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        // Rounded down: a backend that is in service for less than the first ejection is forgiven
        // nothing.
        let forgiven = (served.as_secs_f64() / rules.ejection.as_secs_f64()) as u32;
        self.ejections = self.ejections.saturating_sub(forgiven).saturating_add(1);
        let lasts = rules
            .ejection
            .saturating_mul(self.ejections)
            .min(rules.max_ejection);
        lasts.mul_f64(1.0 + rules.jitter * chance)
    }

    pub(in crate::health) fn readmit(&mut self, now: Instant) {
        self.readmitted = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::EJECTION, *};

    #[test]
    fn a_success_ends_a_streak() {
        let streak = Streak::default();
        assert_eq!([streak.failure(), streak.failure()], [1, 2]);
        streak.success();
        assert_eq!(streak.failure(), 1);
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let rules = Outliers::new();
        let mut now = Instant::now();
        let mut history = EjectionHistory::default();
        let mut lasts = Vec::new();
        for _ in 0..12 {
            let last = history.eject(&rules, now, 0.0);
            lasts.push(last.as_secs());
            now += last;
            history.readmit(now);
        }
        assert_eq!(
            lasts,
            [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
        );
        now += EJECTION * 100;
        assert_eq!(history.eject(&rules, now, 0.0), EJECTION);
        // A trial failed: it was not readmitted in between.
        assert_eq!(history.eject(&rules, now + EJECTION * 9, 0.0), EJECTION * 2);
        assert_eq!(
            history.eject(&rules, now + EJECTION * 9, 0.5),
            (EJECTION * 3).mul_f64(1.05),
            "half of the jitter"
        );
    }
}
