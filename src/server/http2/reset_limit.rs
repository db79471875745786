//! How many streams a client may reset.
//!
//! A stream that is opened and reset costs the client some 30 bytes, and this side a request: often
//! a connection to a backend, which is closed as the request is cancelled. The bound on streams at
//! once does not hold this back, as a reset stream is not open any more (CVE-2023-44487).

/// What a connection has left of the resets that are forgiven.
#[derive(Debug)]
pub(super) struct ResetLimit {
    left: f64,
    /// The last look, in milliseconds.
    at: u64,
    streams_begun: u32,
    reset: u32,
}

impl ResetLimit {
    pub(super) fn new() -> Self {
        Self {
            left: RESET_BURST,
            at: 0,
            streams_begun: 0,
            reset: 0,
        }
    }

    /// Looks at the counts of streams begun and reset; returns false once there are too many
    /// resets.
    #[inline]
    pub(super) fn allow(
        &mut self,
        now: impl FnOnce() -> u64,
        streams_begun: u32,
        reset: u32,
    ) -> bool {
        self.reset == reset || self.count(now(), streams_begun, reset)
    }

    #[cold]
    fn count(&mut self, now: u64, streams_begun: u32, reset: u32) -> bool {
        let new = reset.wrapping_sub(self.reset);
        let answered = streams_begun
            .wrapping_sub(self.streams_begun)
            .saturating_sub(new);
        let passed = now.saturating_sub(self.at) as f64 / 1_000.0;
        let earned = f64::from(answered) + passed * RESETS_PER_SECOND;
        self.left = (self.left + earned).min(RESET_BURST) - f64::from(new);
        (self.at, self.streams_begun, self.reset) = (now, streams_begun, reset);
        self.left >= 0.0
    }
}

/// A browser that leaves two pages at once resets up to all their streams. Envoy has 500, nginx
/// closes a connection after 1,000 requests of any kind.
pub(in crate::server) const RESET_BURST: f64 = 500.0;
/// A client that seeks in a video, or whose calls end early, resets this many at the most.
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
            if !resets.allow(|| now, second * opened, second * reset) {
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
        assert!(resets.allow(|| 0, 500, 500));
        assert!(!resets.allow(|| 0, 501, 501));
    }

    #[test]
    fn counts_may_pass_their_largest_number() {
        let mut resets = ResetLimit {
            streams_begun: u32::MAX,
            reset: u32::MAX - 1,
            ..ResetLimit::new()
        };
        assert!(resets.allow(|| 0, 100, 50));
    }
}
