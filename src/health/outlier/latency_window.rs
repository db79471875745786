//! Finds the backends that are far slower than the others.
//!
//! Off by default. A histogram and not a mean: one request of ten seconds among a thousand of one
//! millisecond makes a mean of 11 ms and leaves the median where it was. Buckets are quarters of an
//! octave, so a median is exact to 19 %, which is far below the factor of 1.5 that is accepted at
//! the least.
//!
//! `slow_backends` is pure; the prober calls it once a window with the medians of all backends.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// The latencies of one backend within a window: one addition a request.
#[derive(Debug)]
pub(in crate::health) struct LatencyWindow {
    buckets: [AtomicU32; BUCKETS],
}

/// The window of one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::health) struct MeasuredLatency {
    pub(in crate::health) requests: u32,
    pub(in crate::health) median: Duration,
}

impl LatencyWindow {
    pub(in crate::health) fn record(&self, took: Duration) {
        self.buckets[bucket(took)].fetch_add(1, Relaxed);
    }

    /// Returns what came together, and begins the next window.
    ///
    /// Each bucket is swapped on its own: a request that ends meanwhile counts in this window or in
    /// the next.
    pub(in crate::health) fn take(&self) -> MeasuredLatency {
        let counts = self.buckets.each_ref().map(|count| count.swap(0, Relaxed));
        let requests = counts.iter().sum();
        let mut left: u32 = requests / 2;
        let mut median = 0;
        for (i, count) in counts.iter().enumerate() {
            // The bucket of the request in the middle.
            if *count > left {
                median = i;
                break;
            }
            left -= count;
        }
        MeasuredLatency {
            requests,
            median: floor(median),
        }
    }
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

/// Returns the backends that are slower than `factor` times the pool's median, the slowest first, and
/// that median. At least three backends must have had `volume` requests: of two, neither is the
/// outlier.
pub(in crate::health) fn slow_backends<T>(
    measured: Vec<(T, MeasuredLatency)>,
    factor: f64,
    volume: u32,
) -> (Vec<(T, MeasuredLatency)>, Duration) {
    let mut known = measured;
    known.retain(|(_, m)| m.requests >= volume);
    if known.len() < FEWEST {
        return (Vec::new(), Duration::ZERO);
    }
    known.sort_by_key(|(_, m)| std::cmp::Reverse(m.median));
    // Of an even number the lower one: what is slow pulls the median up.
    let usual = known[known.len() / 2].1.median;
    // The absolute bound keeps a pool of very fast backends from ejecting one over microseconds.
    let bound = usual.mul_f64(factor).max(usual + LEAST);
    known.retain(|(_, m)| m.median > bound);
    (known, usual)
}

/// Four buckets an octave of microseconds: within 19 % of each other.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    let octave = micros.ilog2();
    // The two bits below the highest.
    let quarter = ((micros << 2) >> octave) & 3;
    (octave as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The least latency of a bucket.
fn floor(bucket: usize) -> Duration {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    Duration::from_micros(((4 + quarter) << octave) >> 2)
}

/// Up to a minute and more, in quarters of an octave.
const BUCKETS: usize = 108;
/// A smaller difference is within the distance between two zones.
const LEAST: Duration = Duration::from_millis(5);
const FEWEST: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn measured(medians: &[(u32, u64)]) -> Vec<(usize, MeasuredLatency)> {
        let each = medians.iter().map(|(requests, ms)| MeasuredLatency {
            requests: *requests,
            median: MS * *ms as u32,
        });
        each.enumerate().collect()
    }

    #[test]
    fn only_backends_far_above_the_median_are_slow() {
        // Requests and median of each, and the backends above three times the pool's median.
        for (medians, found) in [
            (&[(50, 10), (50, 11), (50, 12), (50, 100)][..], &[3][..]),
            (
                &[(50, 10), (50, 300), (50, 12), (50, 100), (50, 9)],
                &[1, 3],
            ),
            (&[(50, 10), (50, 11), (50, 29)], &[]),
            (&[(50, 10), (19, 11), (50, 100)], &[]),
            (&[(50, 10), (50, 100)], &[]),
            (&[(50, 1), (50, 1), (50, 5)], &[]),
            (&[(50, 100), (50, 100), (50, 100)], &[]),
            (&[], &[]),
        ] {
            let (slow, _) = slow_backends(measured(medians), 3.0, 20);
            let keys: Vec<_> = slow.iter().map(|(i, _)| *i).collect();
            assert_eq!(keys, found, "{medians:?}");
        }
    }

    #[test]
    fn a_window_begins_anew_when_it_is_taken() {
        let latency = LatencyWindow::default();
        for ms in [1, 2, 50, 60, 70] {
            latency.record(MS * ms);
        }
        let taken = latency.take();
        assert_eq!(taken.requests, 5);
        assert!(
            taken.median > MS * 40 && taken.median <= MS * 50,
            "{taken:?}"
        );
        assert_eq!(latency.take().requests, 0);
        latency.record(Duration::MAX);
        latency.record(Duration::ZERO);
        assert_eq!(latency.take().requests, 2);
    }

    proptest! {
        #[test]
        fn a_bucket_is_within_a_quarter_of_what_it_holds(micros in 4_u64..60_000_000) {
            let took = Duration::from_micros(micros);
            let floor = floor(bucket(took));
            prop_assert!(floor <= took, "{floor:?} of {took:?}");
            prop_assert!(took < floor.mul_f64(1.25) + Duration::from_micros(1), "{floor:?} of {took:?}");
        }
    }
}
