//! A percentile of the pool's latency over the last seconds, without a lock.
//!
//! ```text
//!          ◀── window before ──▶◀── current window ──▶ now
//! counts:  129 buckets           129 buckets            estimate = percentile over both
//! slices:  │  │  │  │  │  │  │  │  │  │  │  │           history → bound = 2 × lower quartile
//! ```
//!
//! A request with its time known adds one to a bucket. Every 32nd addition to a bucket computes the
//! estimate again (a few hundred loads), so that reading it costs a hedge one load. Turning a window,
//! and ending a slice, is done by the thread whose `compare_exchange` of the beginning succeeds; the
//! others go on with the former window, and a count that they write into a window that is being
//! cleared is lost, which a percentile bears.
//!
//! Under high load only a share of the times is recorded (`stride`), so that threads do not write to
//! the same buckets all the time.

use std::{
    array,
    sync::atomic::{
        AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::percentile_history::PercentileHistory;

/// Counts times to a response head in two windows of [`WINDOW`], and estimates a percentile of
/// what is in both, bounded by what it was in the last minutes. Threads that write while a window
/// turns lose a count at worst.
///
/// The bound is needed because the percentile feeds on itself: if a backend hangs, each request to
/// it takes as long as the estimate and a hedge together.
#[derive(Debug)]
pub(super) struct Latency {
    percentile: u64,
    epoch: Instant,
    windows: [Window; 2],
    current: AtomicUsize,
    /// Milliseconds since `epoch` when the current window began.
    window_began: AtomicU64,
    /// Microseconds; 0 while fewer than [`MIN_COUNT`] times are known.
    estimate: AtomicU64,
    /// One time in this many is counted; a power of two.
    stride: AtomicU32,
    history: PercentileHistory,
    /// The counts of the current window when the current slice of the history began.
    at_slice_start: Window,
    /// Milliseconds since `epoch` when that slice began.
    slice_began: AtomicU64,
    /// Microseconds; the greatest estimate that the history allows.
    bound: AtomicU64,
}

#[derive(Debug)]
struct Window([AtomicU32; BUCKETS]);

impl Latency {
    pub(super) fn new(percentile: u8, now: Instant) -> Self {
        Self {
            percentile: percentile.into(),
            epoch: now,
            windows: array::from_fn(|_| Window::new()),
            current: AtomicUsize::new(0),
            window_began: AtomicU64::new(0),
            estimate: AtomicU64::new(0),
            stride: AtomicU32::new(1),
            history: PercentileHistory::new(),
            at_slice_start: Window::new(),
            slice_began: AtomicU64::new(0),
            bound: AtomicU64::new(u64::MAX),
        }
    }

    /// Returns the percentile; `None` while fewer than [`MIN_COUNT`] times are known. Costs one load.
    pub(super) fn estimate(&self) -> Option<Duration> {
        let micros = self.estimate.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Returns true if the time of this request should be recorded: under high load, only a sample
    /// is.
    pub(super) fn samples(&self) -> bool {
        let stride = self.stride.load(Relaxed);
        stride == 1 || fastrand::u32(..) & (stride - 1) == 0
    }

    /// Records a time.
    pub(super) fn record(&self, took: Duration, now: Instant) {
        let current = self.current.load(Relaxed) & 1;
        let before = self.windows[current].0[bucket(took)].fetch_add(1, Relaxed);
        // The estimate is as fresh with sampling as without.
        let every = (REFRESH_EVERY / self.stride.load(Relaxed)).max(1);
        if before % every == every - 1 || self.estimate.load(Relaxed) == 0 {
            self.refresh(now);
        }
    }

    fn refresh(&self, now: Instant) {
        let at = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let window_began = self.window_began.load(Relaxed);
        let age = Duration::from_millis(at.saturating_sub(window_began));
        let current = self.current.load(Relaxed) & 1;
        // A quiet service turns its windows after 100 times or two minutes, whichever comes first.
        let count = self.windows[current].count();
        let came = count.saturating_mul(self.stride.load(Relaxed).into());
        let is_over = age >= WINDOW && (came >= MIN_WINDOW_COUNT || age >= WINDOW_MAX_AGE);
        // When the load rises, a window is full soon. It never turns at once, so that a thread that
        // reads while another turns the window does not turn it back.
        let is_full = age >= FULL_AFTER && count >= FULL_COUNT;
        self.end_slice(at, current, is_over || is_full);
        if (is_over || is_full)
            && self
                .window_began
                .compare_exchange(window_began, at, AcqRel, Relaxed)
                .is_ok()
        {
            let next = current ^ 1;
            // Before it is the current one: no thread but a late one writes to it.
            self.windows[next].clear();
            self.at_slice_start.clear();
            self.slice_began.store(at, Relaxed);
            self.current.store(next, Relaxed);
            let a_window = u128::from(came) * WINDOW.as_millis() / age.as_millis().max(1);
            // The rate of the window that ended decides how many of the next are counted.
            let stride = u32::try_from(a_window / TARGET_COUNT).unwrap_or(MAX_STRIDE);
            let stride = stride.clamp(1, MAX_STRIDE).next_power_of_two();
            self.stride.store(stride, Relaxed);
        }
        let [a, b] = &self.windows;
        let both = |at| u64::from(a.at(at)) + u64::from(b.at(at));
        let estimate = self.percentile(both).unwrap_or(0);
        self.estimate
            .store(estimate.min(self.bound.load(Relaxed)), Relaxed);
    }

    /// Adds the percentile of the times since the last slice to the history, once a slice is long
    /// enough. A window that is about to turn ends its slice sooner.
    fn end_slice(&self, at: u64, current: usize, window_ends: bool) {
        let slice_began = self.slice_began.load(Relaxed);
        let age = Duration::from_millis(at.saturating_sub(slice_began));
        let slice = self.history.slice();
        if age < if window_ends { slice / 2 } else { slice } {
            return;
        }
        let (now, before) = (&self.windows[current], &self.at_slice_start);
        let came = |at| u64::from(now.at(at).saturating_sub(before.at(at)));
        let Some(percentile) = self.percentile(came) else {
            return;
        };
        if self
            .slice_began
            .compare_exchange(slice_began, at, AcqRel, Relaxed)
            .is_ok()
        {
            let at = Duration::from_millis(at);
            self.history.add(at, percentile);
            let bound = self.history.bound(at).unwrap_or(u64::MAX);
            self.bound.store(bound, Relaxed);
            for (mark, count) in before.0.iter().zip(&now.0) {
                mark.store(count.load(Relaxed), Relaxed);
            }
        }
    }

    /// Returns the upper end of the bucket that the percentile falls in; `None` if there are fewer
    /// than [`MIN_COUNT`] times.
    fn percentile(&self, count: impl Fn(usize) -> u64) -> Option<u64> {
        let total: u64 = (0..BUCKETS).map(&count).sum();
        if total < MIN_COUNT {
            return None;
        }
        let rank = (total * self.percentile).div_ceil(100);
        let mut seen = 0;
        let found = (0..BUCKETS).find(|&at| {
            seen += count(at);
            seen >= rank
        });
        Some(upper(found.unwrap_or(BUCKETS - 1)))
    }
}

impl Window {
    fn new() -> Self {
        Self(array::from_fn(|_| AtomicU32::new(0)))
    }

    fn at(&self, bucket: usize) -> u32 {
        self.0[bucket].load(Relaxed)
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|n| u64::from(n.load(Relaxed))).sum()
    }

    fn clear(&self) {
        self.0.iter().for_each(|n| n.store(0, Relaxed));
    }
}

/// Returns the bucket of a time: eight for each doubling from 1 ms on, so that it is off by an eighth
/// at most.
fn bucket(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    if micros < FIRST_MICROS {
        return 0;
    }
    let exponent = micros.ilog2();
    let octave = (exponent - FIRST_MICROS.ilog2()) as usize;
    let part = (micros >> (exponent - PER_OCTAVE.ilog2())) as usize & (PER_OCTAVE - 1);
    (1 + octave * PER_OCTAVE + part).min(BUCKETS - 1)
}

/// Returns the upper end of a bucket, in microseconds.
fn upper(bucket: usize) -> u64 {
    let (octave, part) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    (FIRST_MICROS << octave) * (PER_OCTAVE + part) as u64 / PER_OCTAVE as u64
}

/// Long enough for a percentile, short enough to follow a change.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// A window with fewer times than this is kept for longer.
const MIN_WINDOW_COUNT: u64 = 100;
/// Times that are older than this say nothing about the present.
const WINDOW_MAX_AGE: Duration = Duration::from_secs(120);
/// With fewer, a 95th percentile is the slowest of all.
pub(super) const MIN_COUNT: u64 = 20;
/// A window with this many times is exact enough: of more, only a sample is recorded.
const TARGET_COUNT: u128 = 4_096;
/// A window with this many turns after this time.
const FULL_COUNT: u64 = 2 * TARGET_COUNT as u64;
const FULL_AFTER: Duration = Duration::from_millis(100);
const MAX_STRIDE: u32 = 64;
/// The estimate is computed again after this many times in one bucket.
const REFRESH_EVERY: u32 = 32;
/// Microseconds in the first bucket: no hedge begins sooner.
const FIRST_MICROS: u64 = 1_024;
const PER_OCTAVE: usize = 8;
/// 16 doublings: to 67 s.
const BUCKETS: usize = 1 + 16 * PER_OCTAVE;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(times: impl IntoIterator<Item = u64>) -> (Latency, Instant) {
        let now = Instant::now();
        let latency = Latency::new(95, now);
        for micros in times {
            latency.record(Duration::from_micros(micros), now);
        }
        (latency, now)
    }

    #[test]
    fn there_is_no_estimate_below_twenty_times() {
        let (latency, now) = filled((0..19).map(|_| 80_000));
        assert_eq!(latency.estimate(), None);
        latency.record(Duration::from_millis(80), now);
        assert!(latency.estimate().unwrap() >= Duration::from_millis(80));
    }

    #[test]
    fn a_percentile_is_that_of_both_windows_and_old_times_are_forgotten() {
        let (latency, mut now) = filled((0..1_000).map(|n| 1_000 * (n % 100)));
        let wanted = Duration::from_millis(95);
        let estimate = latency.estimate().unwrap();
        assert!(
            estimate >= wanted && estimate < wanted * 9 / 8,
            "{estimate:?}"
        );
        for _ in 0..3 {
            now += WINDOW;
            for _ in 0..1_000 {
                latency.record(Duration::from_millis(2), now);
            }
        }
        assert!(latency.estimate().unwrap() < Duration::from_millis(3));
    }

    #[test]
    fn a_quiet_service_keeps_what_it_knows_for_longer() {
        let (latency, mut now) = filled((0..50).map(|_| 100_000));
        for _ in 0..11 {
            now += WINDOW;
            latency.record(Duration::from_millis(100), now);
        }
        assert!(latency.estimate().unwrap() > Duration::from_millis(100));
        let held: u64 = latency.windows.iter().map(Window::count).sum();
        assert_eq!(held, 61, "too few came to forget the first");
    }

    #[test]
    fn under_load_a_share_is_counted() {
        let (latency, now) = filled((0..6_000).map(|_| 2_000));
        assert!(
            (0..100).all(|_| latency.samples()),
            "there is room for more"
        );
        for _ in 0..REFRESH_EVERY {
            latency.record(Duration::from_millis(2), now + WINDOW);
        }
        // 6,032 in ten seconds.
        let share = || (0..8_000).filter(|_| latency.samples()).count();
        assert_eq!(share(), 8_000);
        let now = now + WINDOW;
        for n in 0..FULL_COUNT {
            latency.record(Duration::from_millis(2), now + WINDOW * n as u32 / 40_000);
        }
        // 40,000 in ten seconds, of which two were enough to see it.
        let counted = share();
        // One in sixteen: 500, give or take.
        assert!((350..700).contains(&counted), "{counted} of 8,000");
        let estimate = latency.estimate().unwrap();
        assert!(estimate >= Duration::from_millis(2) && estimate < Duration::from_micros(2_250));
    }

    #[test]
    fn a_quiet_service_forgets_the_sampling_of_a_burst() {
        let (latency, mut now) = filled([]);
        for n in 0..2 * FULL_COUNT {
            now += Duration::from_micros(50);
            if latency.samples() {
                latency.record(Duration::from_millis(n % 100), now);
            }
        }
        assert!(latency.estimate().unwrap() > Duration::from_millis(80));
        assert_eq!(latency.stride.load(Relaxed), MAX_STRIDE);
        // Ten a second, for half a minute each way.
        for _ in 0..600 {
            now += Duration::from_millis(100);
            if latency.samples() {
                latency.record(Duration::from_millis(2), now);
            }
        }
        assert_eq!(latency.stride.load(Relaxed), 1);
        assert!(latency.estimate().unwrap() < Duration::from_millis(3));
    }

    /// Lets requests come at 500 a second, and returns the estimate at the end.
    fn under_load(
        latency: &Latency,
        now: &mut Instant,
        seconds: u64,
        took: impl Fn(u64, Duration) -> Duration,
    ) -> Duration {
        for n in 0..500 * seconds {
            *now += Duration::from_millis(2);
            let delay = latency.estimate().unwrap_or_default();
            latency.record(took(n, delay), *now);
        }
        latency.estimate().unwrap()
    }

    #[test]
    fn a_hung_backend_raises_the_estimate_to_twice_its_history_at_most() {
        let ms = Duration::from_millis;
        let (latency, mut now) = filled([]);
        let well = |n, _| ms(10 + n % 40);
        // A slow start is no past to follow.
        under_load(&latency, &mut now, 2, |_, _| ms(400));
        let before = under_load(&latency, &mut now, 8, well);
        assert!(before <= ms(110), "{before:?}");
        // One in four waits for a hedge, and for its answer.
        let hung = under_load(&latency, &mut now, 30, |n, delay| match n % 4 {
            0 => delay + ms(30),
            _ => well(n, delay),
        });
        assert!((ms(60)..ms(120)).contains(&hung), "{hung:?}");
        let after = under_load(&latency, &mut now, 30, well);
        assert!((ms(45)..ms(60)).contains(&after), "{after:?}");
    }

    #[test]
    fn the_estimate_follows_a_pool_that_stays_slower() {
        let ms = Duration::from_millis;
        let (latency, mut now) = filled([]);
        under_load(&latency, &mut now, 320, |_, _| ms(20));
        let soon = under_load(&latency, &mut now, 180, |_, _| ms(500));
        assert!((ms(40)..ms(50)).contains(&soon), "{soon:?}");
        let then = under_load(&latency, &mut now, 120, |_, _| ms(500));
        assert!(then > ms(500), "{then:?}");
        // One that always was slow is bounded by nothing.
        let (latency, mut now) = filled([]);
        let slow = under_load(&latency, &mut now, 30, |_, _| ms(500));
        assert!(slow > ms(500), "{slow:?}");
    }

    proptest! {
        #[test]
        fn a_bucket_is_an_eighth_wide_and_contains_its_times(micros in 0_u64..60_000_000) {
            let top = upper(bucket(Duration::from_micros(micros)));
            prop_assert!(micros < top, "{micros} under {top}");
            if micros > FIRST_MICROS {
                prop_assert!(top <= micros + micros / 8 + 1, "{top} is far over {micros}");
            }
        }

        #[test]
        fn a_longer_time_is_in_no_lower_bucket(a in any::<u64>(), b in any::<u64>()) {
            let (less, more) = (Duration::from_micros(a.min(b)), Duration::from_micros(a.max(b)));
            prop_assert!(bucket(less) <= bucket(more));
        }
    }
}
