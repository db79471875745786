//! When a certificate is renewed: a pure policy. The time now, and what is random, are parameters.

use std::time::{Duration, SystemTime};

/// The time for which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

/// The window that the authority suggests for the renewal (RFC 9773 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
}

impl Validity {
    fn lifetime(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }

    /// Returns the time at which this share of the lifetime is over.
    fn at(&self, share: f64) -> SystemTime {
        self.from + self.lifetime().mul_f64(share)
    }

    /// Returns when the certificate is renewed. `position`, from 0 to 1, says where in the window, so
    /// that certificates of one age are not renewed at one moment.
    ///
    /// With a window, that is a time in it (RFC 9773 §4.2), which may be over. A window that ends before it
    /// begins is none. A window later than nine tenths of the lifetime is cut off there: a mistake of
    /// the authority must not let the certificate expire. Nor is it renewed right after it was obtained: a
    /// window that is always over must not use up the authority's limits.
    pub(super) fn renewal(
        &self,
        window: Option<Window>,
        position: f64,
        obtained: SystemTime,
    ) -> SystemTime {
        let position = position.clamp(0.0, 1.0);
        let suggested = window.and_then(|window| {
            let length = window.end.duration_since(window.start).ok()?;
            (!length.is_zero()).then(|| window.start + length.mul_f64(position))
        });
        let time = match suggested {
            Some(time) => time.min(self.at(LATEST)),
            None => self.at(BEGIN + JITTER * position),
        };
        let rest = self.lifetime().mul_f64(JITTER).min(MAX_REST);
        time.max(obtained + rest)
    }

    /// Returns true if so little of the lifetime is left that an operator should act.
    pub(super) fn is_urgent(&self, now: SystemTime) -> bool {
        now >= self.at(LATEST)
    }
}

/// Returns how long a suggestion of the authority is used before it is asked again: what it says, within
/// limits (RFC 9773 §4.3.2), or 6 h if it says nothing or could not be asked. `position`, from 0 to 1,
/// lengthens that by up to a tenth, so that certificates of one age do not ask at one moment.
pub(super) fn suggestion_lifetime(retry_after: Option<Duration>, position: f64) -> Duration {
    let lifetime = match retry_after {
        Some(time) => time.clamp(MIN_SUGGESTION, MAX_SUGGESTION),
        None => DEFAULT_SUGGESTION,
    };
    lifetime + lifetime.mul_f64(SUGGESTION_JITTER * position.clamp(0.0, 1.0))
}

/// Returns a number from 0 to 1 that a certificate keeps over restarts and at each instance: the first
/// bytes of its fingerprint.
pub(super) fn position(fingerprint: &[u8; 32]) -> f64 {
    let [a, b, c, d, ..] = *fingerprint;
    f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// The share of the lifetime after which a certificate is renewed, and the share within which it is.
pub(super) const BEGIN: f64 = 2.0 / 3.0;
pub(super) const JITTER: f64 = 1.0 / 30.0;
/// The longest time for which a new certificate is not renewed.
const MAX_REST: Duration = Duration::from_secs(3_600);
/// The share of the lifetime after which no renewal is put off.
pub(super) const LATEST: f64 = 0.9;
pub(super) const MIN_SUGGESTION: Duration = Duration::from_secs(60);
pub(super) const MAX_SUGGESTION: Duration = Duration::from_secs(24 * 3_600);
pub(super) const DEFAULT_SUGGESTION: Duration = Duration::from_secs(6 * 3_600);
pub(super) const SUGGESTION_JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn hours(n: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(n * 3_600)
    }

    #[test]
    fn without_a_window_a_third_of_the_lifetime_is_left() {
        // Days of the lifetime, position, hours after the begin.
        for (days, position, wanted) in [
            (90, 0.0, 1_440.0),
            (90, 0.5, 1_476.0),
            (90, 1.0, 1_512.0),
            (90, 7.0, 1_512.0),
            (90, -1.0, 1_440.0),
            (6, 0.0, 96.0),
            (6, 1.0, 100.8),
            (365, 0.0, 5_840.0),
            (0, 0.5, 0.0),
        ] {
            let validity = Validity {
                from: hours(1_000),
                until: hours(1_000 + days * 24),
            };
            let renewal = validity.renewal(None, position, hours(1_000));
            let off = match renewal
                .duration_since(hours(1_000) + Duration::from_secs_f64(wanted * 3_600.0))
            {
                Ok(late) => late,
                Err(early) => early.duration(),
            };
            assert!(
                off < Duration::from_secs(60),
                "{days} d at {position}: {off:?}"
            );
        }
    }

    #[test]
    fn a_window_of_the_authority_comes_first() {
        let validity = Validity {
            from: hours(0),
            until: hours(100),
        };
        for (start, end, position, wanted) in [
            (10, 20, 0.0, hours(10)),
            (10, 20, 0.5, hours(15)),
            (10, 20, 1.0, hours(20)),
            // Later than the certificate can wait.
            (80, 100, 0.0, hours(80)),
            (80, 100, 1.0, validity.at(LATEST)),
            (200, 300, 0.5, validity.at(LATEST)),
            // None.
            (20, 20, 0.0, validity.at(BEGIN)),
            (20, 10, 0.0, validity.at(BEGIN)),
        ] {
            let window = Window {
                start: hours(start),
                end: hours(end),
            };
            let renewal = validity.renewal(Some(window), position, hours(0));
            assert_eq!(renewal, wanted, "{start} to {end} at {position}");
        }
    }

    #[test]
    fn a_new_certificate_is_not_renewed_at_once() {
        let window = Window {
            start: hours(0),
            end: hours(1),
        };
        for (lifetime, obtained, wanted) in [
            // Issued an hour before, as some authorities write it.
            (2_160, 1_001, hours(1_002)),
            (144, 1_001, hours(1_002)),
            (3, 1_000, hours(1_000) + Duration::from_secs(360)),
        ] {
            let validity = Validity {
                from: hours(1_000),
                until: hours(1_000 + lifetime),
            };
            let renewal = validity.renewal(Some(window), 0.5, hours(obtained));
            assert_eq!(renewal, wanted, "{lifetime}");
        }
    }

    #[test]
    fn little_left_is_urgent() {
        let validity = Validity {
            from: hours(0),
            until: hours(100),
        };
        for (hour, urgent) in [
            (0, false),
            (89, false),
            (91, true),
            (100, true),
            (900, true),
        ] {
            assert_eq!(validity.is_urgent(hours(hour)), urgent, "{hour}");
        }
    }

    #[test]
    fn a_suggestion_is_used_for_as_long_as_it_says_within_limits() {
        let seconds = Duration::from_secs;
        for (said, used) in [
            (None, DEFAULT_SUGGESTION),
            (Some(seconds(0)), MIN_SUGGESTION),
            (Some(seconds(59)), MIN_SUGGESTION),
            (Some(seconds(21_600)), seconds(21_600)),
            (Some(seconds(1_000_000)), MAX_SUGGESTION),
        ] {
            assert_eq!(suggestion_lifetime(said, 0.0), used, "{said:?}");
            let longest = used + used / 10;
            assert_eq!(suggestion_lifetime(said, 1.0), longest, "{said:?}");
            let some = suggestion_lifetime(said, 0.3);
            assert!(used < some && some < longest, "{said:?}: {some:?}");
        }
    }

    #[test]
    fn fingerprints_spread_over_the_window() {
        assert!(position(&[0; 32]) < 0.001);
        assert!(position(&[255; 32]) > 0.999);
        let mut half = [0; 32];
        half[0] = 128;
        assert!((position(&half) - 0.5).abs() < 0.001);
    }
}
