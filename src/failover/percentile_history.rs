//! The values of a percentile over the last minutes, so that a bad moment does not move it far.
//!
//! 64 slices of 5 s are 320 s. A slice and its end are one word, so that a reader never pairs the
//! value of one with the age of another; slices that two threads add at once take two indices. Nothing
//! orders them otherwise: the quartile does not depend on their order.

use std::{
    array,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// The percentile of each slice of the last minutes.
#[derive(Debug)]
pub(super) struct PercentileHistory {
    /// The second when a slice ended, and its percentile in microseconds; 0 where there is none.
    slices: [AtomicU64; SLICES],
    next: AtomicUsize,
}

impl PercentileHistory {
    pub(super) fn new() -> Self {
        Self {
            slices: array::from_fn(|_| AtomicU64::new(0)),
            next: AtomicUsize::new(0),
        }
    }

    /// Returns how long the current slice should last: at first a second, so that there is a history
    /// soon.
    pub(super) fn slice(&self) -> Duration {
        match self.next.load(Relaxed) < SHORT_SLICES {
            true => SHORT_SLICE,
            false => SLICE,
        }
    }

    /// Adds a slice that ended this long after the start.
    pub(super) fn add(&self, at: Duration, micros: u64) {
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        let slice = (at.as_secs() << 32) | u64::from(micros.max(1));
        let index = self.next.fetch_add(1, Relaxed) % SLICES;
        self.slices[index].store(slice, Relaxed);
    }

    /// Returns the greatest value that the percentile may have this long after the start, in
    /// microseconds. Reads the whole history, so it is not for the request path.
    pub(super) fn bound(&self, at: Duration) -> Option<u64> {
        let mut percentiles = [0; SLICES];
        let mut count = 0;
        for slice in &self.slices {
            let slice = slice.load(Relaxed);
            let age = at.as_secs().saturating_sub(slice >> 32);
            if slice > 0 && age <= MAX_AGE.as_secs() {
                percentiles[count] = slice & u64::from(u32::MAX);
                count += 1;
            }
        }
        let percentiles = &mut percentiles[..count];
        if percentiles.is_empty() {
            return None;
        }
        // With fewer than four slices it is the least of them.
        let (_, quartile, _) = percentiles.select_nth_unstable(count / 4);
        Some(*quartile * FACTOR)
    }
}

/// Over five minutes, where requests come steadily.
const SLICES: usize = 64;
pub(super) const SLICE: Duration = Duration::from_secs(5);
const SHORT_SLICES: usize = 8;
const SHORT_SLICE: Duration = Duration::from_secs(1);
/// Slices of a quiet service that are older than this say nothing about the present.
const MAX_AGE: Duration = Duration::from_secs(900);
/// The bound over the lower quartile: smaller variations pass. The lower quartile, because a busy or
/// starting machine makes a part of the history slow.
pub(super) const FACTOR: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets slices end one after the other, and returns when the last did.
    fn filled(slices: impl IntoIterator<Item = u64>) -> (PercentileHistory, Duration) {
        let (history, mut at) = (PercentileHistory::new(), Duration::ZERO);
        for micros in slices {
            at += history.slice();
            history.add(at, micros);
        }
        (history, at)
    }

    #[test]
    fn the_bound_is_twice_the_lower_quartile() {
        for (slices, bound) in [
            (&[][..], None),
            (&[80], Some(160)),
            (&[90, 10, 90, 90, 90], Some(180)),
            (&[90, 10, 20, 90, 90, 90, 90, 90], Some(180)),
            (&[90, 10, 20, 30, 90, 90, 90, 90], Some(60)),
        ] {
            let (history, at) = filled(slices.iter().copied());
            assert_eq!(history.bound(at), bound, "{slices:?}");
        }
    }

    #[test]
    fn a_slow_minute_leaves_the_bound_and_a_lasting_change_moves_it() {
        let (history, mut at) = filled((0..100).map(|_| 50));
        assert!((0..SHORT_SLICES as u64).all(|_| history.slice() == SLICE));
        let mut slow = |slices: usize| {
            for _ in 0..slices {
                at += SLICE;
                history.add(at, 400);
            }
            history.bound(at).unwrap()
        };
        assert_eq!(slow(12), 100, "after a minute");
        assert_eq!(slow(35), 100, "after nearly four");
        assert_eq!(slow(2), 800, "after four");
        history.add(at, 50);
        assert_eq!(history.bound(at + MAX_AGE * 2), None, "forgotten");
    }
}
