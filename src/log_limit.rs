//! Bounds how often one kind of event is logged.
//!
//! A client chooses how often a request is refused, a handshake fails or a connection is closed for
//! abuse. An event at WARN or ERROR for each of them would let the client fill the log, so such an
//! event passes a [`LogLimit`] first. The access log has a line for each of them all the same.
//!
//! The first event of a kind passes at once, and then one every ten seconds with the number of those
//! left out since. What was left out at the end of a burst is therefore counted in the first event of
//! the next: an exact count of events is a matter for metrics.
//!
//! Relaxed orderings suffice: the exchange of `next` lets one thread pass, and a count that another
//! adds at the same moment stands in the next event.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// Lets one event pass in [`INTERVAL`], and counts the others. One static for each kind of event.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// When the next event passes, in milliseconds.
    next: AtomicU64,
    left_out: AtomicU64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }

    /// Returns how many events were left out since the last one that passed; `None` if the caller must
    /// leave this one out as well.
    ///
    /// Reads the clock, so that a caller asks only where there is an event. Times are counted from the
    /// first call of the process, on tokio's clock: tests with a paused clock can move it.
    #[cold]
    pub(crate) fn pass(&self) -> Option<u64> {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let since = ORIGIN.get_or_init(Instant::now).elapsed();
        self.pass_at(since)
    }

    fn pass_at(&self, now: Duration) -> Option<u64> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // 0 at first, so that the first event passes whatever the time is.
        let next = self.next.load(Relaxed);
        let passes = millis(now) >= next
            && self
                .next
                .compare_exchange(next, millis(now + INTERVAL), Relaxed, Relaxed)
                .is_ok();
        if !passes {
            self.left_out.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Relaxed))
    }
}

/// Frequent enough to show that a problem persists; at most 2 MB of lines a day for each kind.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_in_an_interval_passes_and_counts_the_others() {
        let limit = LogLimit::new();
        for (millis, passed) in [
            (0, Some(0)),
            (0, None),
            (9_999, None),
            (10_000, Some(2)),
            (10_001, None),
            (50_000, Some(1)),
            (70_000, Some(0)),
        ] {
            let now = Duration::from_millis(millis);
            assert_eq!(limit.pass_at(now), passed, "after {now:?}");
        }
    }

    #[test]
    fn threads_do_not_pass_together() {
        let limit = LogLimit::new();
        let passed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..100).filter(|_| limit.pass().is_some()).count()))
                .collect();
            let passed = threads.into_iter().map(|thread| thread.join().unwrap());
            passed.sum::<usize>()
        });
        assert_eq!(passed, 1);
        assert_eq!(limit.left_out.load(Relaxed), 399);
    }
}
