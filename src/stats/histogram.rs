//! Histograms of durations with fixed buckets.

use std::time::Duration;

use super::shard::{Counter, Writer};

/// The counters of one histogram, of one thread.
#[derive(Default)]
pub(super) struct HistogramCounters {
    buckets: [Counter; BUCKETS],
    nanos: Counter,
}

/// A duration and its bucket, for all histograms that record it.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    bucket: usize,
    nanos: u64,
}

impl Sample {
    #[inline]
    pub(super) fn of(nanos: u64) -> Self {
        Self {
            // As many comparisons for each duration: 16 bounds take four.
            bucket: BOUNDS_IN_NANOS.partition_point(|bound| *bound < nanos),
            nanos,
        }
    }
}

impl HistogramCounters {
    #[inline]
    pub(super) fn record(&self, writer: Writer, sample: Sample) {
        if let Some(bucket) = self.buckets.get(sample.bucket) {
            bucket.add(writer, 1);
        }
        self.nanos.add(writer, sample.nanos);
    }

    /// Adds what this thread recorded.
    pub(super) fn add_to(&self, sum: &mut HistogramSnapshot) {
        for (total, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.load();
        }
        sum.nanos = sum.nanos.wrapping_add(self.nanos.load());
    }
}

/// A histogram of durations as it was at one moment.
///
/// The buckets are the same in every histogram: their upper bounds are [`BOUNDS`](Self::BOUNDS), and
/// the last bucket has none. A duration that equals a bound is in the bucket below it.
///
/// # Example
///
/// ```
/// use evenkeel::{Pool, stats::Stats};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let stats = Stats::new(Pool::new([])?);
/// for listener in stats.snapshot().listeners {
///     println!("{}: p99 {:?}", listener.name, listener.duration.quantile(0.99));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    buckets: [u64; BUCKETS],
    nanos: u64,
}

impl HistogramSnapshot {
    /// The upper bounds of the buckets, in ascending order: 0.5 ms to 60 s, each about twice the one
    /// before.
    pub const BOUNDS: [Duration; BUCKETS - 1] = {
        let mut bounds = [Duration::ZERO; BUCKETS - 1];
        let mut at = 0;
        while at < bounds.len() {
            bounds[at] = Duration::from_nanos(BOUNDS_IN_NANOS[at]);
            at += 1;
        }
        bounds
    };

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Returns the buckets in ascending order: the upper bound, and the number of durations that are
    /// not greater. The last one has no bound, and its number is [`count`](Self::count).
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bounds = Self::BOUNDS.into_iter().map(Some).chain([None]);
        bounds.zip(&self.buckets).scan(0, |sum, (bound, number)| {
            *sum += number;
            Some((bound, *sum))
        })
    }

    /// Returns the duration that this share of the durations does not exceed, such as 0.99, or `None`
    /// without a duration. It is interpolated within its bucket, as Prometheus does; a value beyond the
    /// last bound is that bound. A share below 0 or above 1 counts as 0 or 1.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 || share.is_nan() {
            return None;
        }
        let rank = (share.clamp(0.0, 1.0) * count as f64).max(1.0);
        let (mut below, mut lower) = (0, Duration::ZERO);
        for (number, upper) in self.buckets.iter().zip(Self::BOUNDS) {
            let at_most = below + number;
            if at_most as f64 >= rank {
                let part = (rank - below as f64) / (*number).max(1) as f64;
                return Some(lower + (upper - lower).mul_f64(part));
            }
            (below, lower) = (at_most, upper);
        }
        Some(lower)
    }

    /// Adds what another histogram recorded, such as that of another backend.
    pub fn merge(&mut self, other: &Self) {
        for (total, more) in self.buckets.iter_mut().zip(other.buckets) {
            *total += more;
        }
        self.nanos = self.nanos.wrapping_add(other.nanos);
    }

    /// Returns what was recorded between an earlier snapshot of the same histogram and this one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (later, before) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *later = later.saturating_sub(*before);
        }
        since.nanos = since.nanos.saturating_sub(earlier.nanos);
        since
    }
}

/// The 1-2.5-5 series of Prometheus' clients, from half a millisecond, below which a network hides the
/// difference, to a minute, beyond which no client waits. Fewer buckets would make quantiles coarser;
/// each costs a series a backend.
const BOUNDS_IN_NANOS: [u64; BUCKETS - 1] = {
    const MICRO: u64 = 1_000;
    const MILLI: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    [
        500 * MICRO,
        MILLI,
        2_500 * MICRO,
        5 * MILLI,
        10 * MILLI,
        25 * MILLI,
        50 * MILLI,
        100 * MILLI,
        250 * MILLI,
        500 * MILLI,
        SECOND,
        2_500 * MILLI,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        60 * SECOND,
    ]
};
/// The bounds, and the bucket beyond the last.
const BUCKETS: usize = 17;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations: &[Duration]) -> HistogramSnapshot {
        let counters = HistogramCounters::default();
        let mut sum = HistogramSnapshot::default();
        for duration in durations {
            let nanos = duration.as_nanos().try_into().unwrap();
            counters.record(Writer::current(), Sample::of(nanos));
        }
        counters.add_to(&mut sum);
        sum
    }

    /// The bounds of the bucket that a duration is in.
    fn bucket(duration: Duration) -> (Duration, Duration) {
        let bounds = HistogramSnapshot::BOUNDS;
        let at = bounds.partition_point(|bound| *bound < duration);
        let lower = at.checked_sub(1).map_or(Duration::ZERO, |at| bounds[at]);
        (lower, bounds.get(at).copied().unwrap_or(bounds[15]))
    }

    #[test]
    fn a_duration_at_a_bound_is_below_it() {
        for (nanos, bucket) in [
            (0, 0),
            (500_000, 0),
            (500_001, 1),
            (1_000_000, 1),
            (60_000_000_000, 15),
            (60_000_000_001, 16),
            (u64::MAX, 16),
        ] {
            let histogram = of(&[Duration::from_nanos(nanos)]);
            assert_eq!(histogram.buckets[bucket], 1, "{nanos}");
            assert_eq!(histogram.count(), 1, "{nanos}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(of(&[]).quantile(0.5), None);
        assert_eq!(of(&[Duration::ZERO]).quantile(f64::NAN), None);
        let beyond = of(&[Duration::from_secs(100)]);
        assert_eq!(beyond.quantile(0.5), Some(Duration::from_secs(60)));
    }

    proptest! {
        #[test]
        fn a_quantile_is_in_the_bucket_of_the_duration_that_it_names(
            mut millis in prop::collection::vec(0_u64..90_000, 1..60),
            share in 0.0_f64..=1.0,
        ) {
            let durations: Vec<_> = millis.iter().map(|m| Duration::from_millis(*m)).collect();
            let histogram = of(&durations);
            prop_assert_eq!(histogram.count(), durations.len() as u64);
            prop_assert_eq!(histogram.sum(), durations.iter().sum::<Duration>());
            millis.sort_unstable();
            let rank = (share * millis.len() as f64).max(1.0).ceil() as usize;
            let (lower, upper) = bucket(Duration::from_millis(millis[rank - 1]));
            let quantile = histogram.quantile(share).unwrap();
            prop_assert!(lower <= quantile && quantile <= upper, "{quantile:?} is not within {lower:?} and {upper:?}");
        }

        #[test]
        fn a_difference_has_what_came_in_between(
            before in prop::collection::vec(0_u64..90_000, 0..20),
            after in prop::collection::vec(0_u64..90_000, 0..20),
        ) {
            let millis = |all: &[u64]| all.iter().map(|m| Duration::from_millis(*m)).collect::<Vec<_>>();
            let both = [millis(&before), millis(&after)].concat();
            prop_assert_eq!(of(&both).since(&of(&millis(&before))), of(&millis(&after)));
            let mut merged = of(&millis(&before));
            merged.merge(&of(&millis(&after)));
            prop_assert_eq!(of(&both), merged);
        }
    }
}
