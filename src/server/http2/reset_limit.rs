//! The limit on streams that a client resets.
//!
//! A stream that is opened and reset costs the client about 30 bytes, and the server a request: often
//! a connection to a backend, which is closed with the cancelled request. The limit on streams at once
//! does not prevent this, since a reset stream is not open any more (CVE-2023-44487).
//!
//! ```text
//!   bucket: 500 ──(each reset: −1)──▶ below 0: ENHANCE_YOUR_CALM
//!             ▲ + 1 for each stream that was answered, + 10 a second, never above 500
//! ```
//!
//! A count of resets alone would end a long connection of an honest client sooner or later; a rate
//! alone would cut a browser that leaves a page with a hundred images. Answered streams refill the
//! bucket, since a client that lets half of its requests finish costs no more than one that sends
//! as many. A stream that is still open does not: a client could reset it later.
//!
//! Pure: the clock is a parameter, which is read only if there was a reset. The counters wrap;
//! differences are taken with wrapping arithmetic.

/// The resets that a connection has left: a token bucket, which answered streams and time refill.
#[derive(Debug)]
pub(super) struct ResetLimit {
    left: f64,
    /// When the bucket was last refilled, in milliseconds.
    at: u64,
    /// The most that was seen: a stream that ends on another thread may leave one count before it is
    /// in the other.
    answered: u32,
    reset: u32,
}

impl ResetLimit {
    pub(super) fn new() -> Self {
        Self {
            left: RESET_BURST,
            at: 0,
            answered: 0,
            reset: 0,
        }
    }

    /// Updates the bucket with the numbers of streams answered and reset so far; returns false once there
    /// were too many resets.
    ///
    /// Costs one comparison unless there were resets since the last call.
    #[inline]
    pub(super) fn allow(
        &mut self,
        now: impl FnOnce() -> u64,
        answered: impl FnOnce() -> u32,
        reset: u32,
    ) -> bool {
        self.reset == reset || self.count(now(), answered(), reset)
    }

    #[cold]
    fn count(&mut self, now: u64, answered: u32, reset: u32) -> bool {
        let new = reset.wrapping_sub(self.reset);
        // Negative while a stream is in one count and not in the other.
        let more = answered.wrapping_sub(self.answered).cast_signed();
        if more > 0 {
            self.answered = answered;
        }
        let passed = now.saturating_sub(self.at) as f64 / 1_000.0;
        let earned = f64::from(more.max(0)) + passed * RESETS_PER_SECOND;
        self.left = (self.left + earned).min(RESET_BURST) - f64::from(new);
        (self.at, self.reset) = (now, reset);
        self.left >= 0.0
    }
}

/// Resets at once: a browser that leaves two pages resets all their streams. Envoy allows 500; nginx
/// closes a connection after 1,000 requests of any kind.
pub(in crate::server) const RESET_BURST: f64 = 500.0;
/// Resets a second: more than a client that seeks in a video, or cancels calls, makes.
pub(in crate::server) const RESETS_PER_SECOND: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens so many streams a second and resets some of them; returns how many resets passed
    /// within ten minutes, `None` if all did.
    fn passed(opened: u32, reset: u32) -> Option<u32> {
        let mut resets = ResetLimit::new();
        for second in 1..=600 {
            let now = 1_000 * u64::from(second);
            if !resets.allow(|| now, || second * (opened - reset), second * reset) {
                return Some((second - 1) * reset);
            }
        }
        None
    }

    #[test]
    fn what_is_answered_and_time_make_up_for_resets() {
        for (opened, reset, end) in [
            (10, 10, None),
            (11, 11, Some(5_390)),
            (100, 100, Some(500)),
            (1_000, 1_000, Some(0)),
            // As many are answered.
            (1_000, 500, None),
            (100, 60, Some(2_700)),
        ] {
            let passed = passed(opened, reset);
            assert_eq!(passed, end, "{reset} of {opened} a second");
        }
    }

    #[test]
    fn all_streams_of_two_pages_may_be_reset_at_once() {
        let mut resets = ResetLimit::new();
        assert!(resets.allow(|| 0, || 0, 500));
        assert!(!resets.allow(|| 0, || 0, 501));
    }

    #[test]
    fn a_stream_that_ends_on_another_thread_refills_the_bucket_once() {
        let mut resets = ResetLimit::new();
        assert!(resets.allow(|| 0, || 0, 400));
        assert!(resets.allow(|| 0, || 3, 450));
        // Its reset is counted, and it is still among the open ones.
        assert!(resets.allow(|| 0, || 2, 460));
        assert!(resets.allow(|| 0, || 3, 503));
        assert!(!resets.allow(|| 0, || 3, 504));
    }

    #[test]
    fn counts_may_pass_their_largest_number() {
        let mut resets = ResetLimit {
            answered: u32::MAX,
            reset: u32::MAX - 1,
            ..ResetLimit::new()
        };
        assert!(resets.allow(|| 0, || 100, 50));
        assert_eq!(resets.answered, 100);
    }
}
