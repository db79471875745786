//! How many of the last requests failed.
//!
//! ```text
//!   tick:         n−9  …  n−2   n−1    n          ten buckets of a tenth of the window
//!   failures:      0       3     0     2
//!   from:                  ▲ successes when this bucket began
//!                          └── successes since then are set against the failures
//! ```
//!
//! Only a failure reads the clock. A success adds one to a counter that never goes back, so that
//! its cost is one addition. The price: successes before the window's first failure do not count,
//! so a share is too high rather than too low, and `volume` keeps a few failures alone from being a
//! share.
//!
//! Buckets are reused after ten ticks; the thread that wins the exchange begins the bucket.
//! `Relaxed` is enough elsewhere, as a count that is lost between two stores is one of many.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

/// Failures and successes within a window, without a lock. A success adds to one counter, and
/// reads no clock: what failed within the window is set against what succeeded since the oldest
/// of these failures.
#[derive(Debug, Default)]
pub(in crate::health) struct FailureWindow {
    /// Ever; it may wrap.
    successes: AtomicU64,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Debug, Default)]
struct Bucket {
    /// The tick that it counts, plus one; 0 for none.
    tick: AtomicU64,
    failures: AtomicU32,
    /// The successes when it began.
    from: AtomicU64,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::health) struct Count {
    pub(in crate::health) failures: u32,
    pub(in crate::health) total: u64,
}

impl FailureWindow {
    /// One addition, by any thread.
    pub(in crate::health) fn success(&self) {
        self.successes.fetch_add(1, Relaxed);
    }

    /// Takes a success back that turned out to be none.
    pub(in crate::health) fn undo_success(&self) {
        self.successes.fetch_sub(1, Relaxed);
    }

    /// Counts a failure, and what the window holds with it. A tick is a tenth of the window.
    pub(in crate::health) fn failure(&self, tick: u64) -> Count {
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let was = bucket.tick.load(Relaxed);
        if was != tick + 1 {
            let successes = self.successes.load(Relaxed);
            // One of those that fail now begins it; the others count on. One that comes between
            // these lines is lost, which a share of many does not feel.
            let begun = bucket.tick.compare_exchange(was, tick + 1, AcqRel, Relaxed);
            if begun.is_ok() {
                bucket.failures.store(0, Relaxed);
                bucket.from.store(successes, Relaxed);
            }
        }
        bucket.failures.fetch_add(1, Relaxed);
        self.count(tick)
    }

    /// Forgets everything: the counts begin at zero.
    pub(in crate::health) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.tick.store(0, Relaxed);
        }
    }

    fn count(&self, tick: u64) -> Count {
        let now = self.successes.load(Relaxed);
        let (mut failures, mut successes) = (0, 0);
        for bucket in &self.buckets {
            let of = bucket.tick.load(Relaxed);
            // Empty, written by a thread whose clock is ahead, or from before the window.
            if of == 0 || of > tick + 1 || of + BUCKETS <= tick + 1 {
                continue;
            }
            failures += bucket.failures.load(Relaxed);
            let since = now.wrapping_sub(bucket.from.load(Relaxed)) as i64;
            // A success that was taken back may be from before.
            successes = successes.max(since.max(0) as u64);
        }
        Count {
            failures,
            total: u64::from(failures) + successes,
        }
    }
}

/// Fine enough that a window ends softly.
pub(in crate::health) const BUCKETS: u64 = 10;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn count(failures: u32, total: u64) -> Count {
        Count { failures, total }
    }

    #[test]
    fn results_older_than_the_window_do_not_count() {
        let window = FailureWindow::default();
        window.success();
        assert_eq!(window.failure(7), count(1, 1), "the success was before");
        window.success();
        assert_eq!(window.failure(7), count(2, 3));
        assert_eq!(window.failure(16), count(3, 4), "the last tick of it");
        assert_eq!(window.failure(17), count(2, 2), "the first two are over");
        assert_eq!(window.failure(1_000), count(1, 1));
        window.clear();
        assert_eq!(window.failure(1_000), count(1, 1), "from zero");
    }

    #[test]
    fn a_success_taken_back_is_a_failure_alone() {
        let window = FailureWindow::default();
        window.failure(1);
        for _ in 0..10 {
            window.success();
            window.undo_success();
            window.failure(1);
        }
        assert_eq!(window.failure(1), count(12, 12));
        let window = FailureWindow::default();
        window.success();
        window.undo_success();
        window.undo_success();
        assert_eq!(window.failure(1), count(1, 1), "never below none");
    }

    #[test]
    fn many_threads_count_alike() {
        let window = Arc::new(FailureWindow::default());
        window.failure(5);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let window = window.clone();
                std::thread::spawn(move || {
                    for _ in 0..1_000 {
                        window.success();
                        window.failure(5);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(window.failure(5), count(4_002, 8_002));
    }

    proptest! {
        /// Against a model that remembers every result.
        #[test]
        fn it_counts_as_a_model_that_remembers_every_result(
            results in prop::collection::vec((0_u64..4, any::<bool>()), 1..300),
        ) {
            let window = FailureWindow::default();
            let mut tick = 0;
            let mut all = Vec::new();
            for (later, success) in results {
                tick += later;
                all.push((tick, success));
                if success {
                    window.success();
                    continue;
                }
                let within = all.iter().position(|(t, s)| !s && t + BUCKETS > tick).unwrap();
                let failures = all[within..].iter().filter(|(_, s)| !s).count();
                let counted = window.failure(tick);
                prop_assert_eq!(counted.failures as usize, failures);
                prop_assert_eq!(counted.total as usize, all.len() - within);
            }
        }
    }
}
