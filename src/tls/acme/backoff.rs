//! When a failed order is tried again: a pure policy, within the limits of public authorities.
//!
//! The narrowest limit is that of Let's Encrypt: 5 failed validations of a name in an hour, for each
//! account. So at most 4 attempts that end in a validation fit into an hour.

use std::time::Duration;

/// Why an order failed, as far as the next attempt depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The authority could not be reached, or has a fault of its own: no limit counts that.
    Unreachable,
    /// The authority could not validate a name, or did not like what it found.
    Validation,
    /// A limit of the authority is used up.
    RateLimited,
    /// The authority does not issue what is asked for: only an operator can change that.
    Refused,
}

/// Returns the wait after the nth failure in a row. `retry_after` is what the authority asked for; the
/// wait is never shorter, up to a week. `position`, from 0 to 1, lengthens it by up to a tenth.
pub(super) fn wait(
    failure: Failure,
    nth: u32,
    retry_after: Option<Duration>,
    position: f64,
) -> Duration {
    let waits: &[u64] = match failure {
        Failure::Unreachable => &UNREACHABLE,
        Failure::Validation => &VALIDATION,
        Failure::RateLimited | Failure::Refused => &REFUSED,
    };
    let at = usize::try_from(nth.saturating_sub(1)).unwrap_or(usize::MAX);
    let seconds = waits
        .get(at)
        .or_else(|| waits.last())
        .copied()
        .unwrap_or_default();
    let own = Duration::from_secs(seconds);
    let wait = match (failure, retry_after) {
        // The authority knows when its limit ends.
        (Failure::RateLimited, Some(asked)) => asked.clamp(MIN_RATE_LIMIT, MAX_RETRY_AFTER),
        (_, Some(asked)) => own.max(asked.min(MAX_RETRY_AFTER)),
        (_, None) => own,
    };
    wait + wait.mul_f64(position.clamp(0.0, 1.0) / 10.0)
}

/// In seconds.
pub(super) const UNREACHABLE: [u64; 8] = [10, 20, 40, 80, 160, 320, 640, 1_800];
pub(super) const VALIDATION: [u64; 7] = [120, 600, 1_800, 3_600, 7_200, 14_400, 21_600];
pub(super) const REFUSED: [u64; 5] = [3_600, 7_200, 14_400, 43_200, 86_400];
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(7 * 24 * 3_600);
const MIN_RATE_LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Failure; 4] = [
        Failure::Unreachable,
        Failure::Validation,
        Failure::RateLimited,
        Failure::Refused,
    ];

    #[test]
    fn waits_follow_the_table() {
        let seconds = Duration::from_secs;
        for (failure, nth, retry_after, wanted) in [
            (Failure::Unreachable, 1, None, 10),
            (Failure::Unreachable, 2, None, 20),
            (Failure::Unreachable, 8, None, 1_800),
            (Failure::Unreachable, 900, None, 1_800),
            (Failure::Unreachable, 1, Some(300), 300),
            (Failure::Unreachable, 8, Some(300), 1_800),
            (Failure::Validation, 0, None, 120),
            (Failure::Validation, 1, None, 120),
            (Failure::Validation, u32::MAX, None, 21_600),
            (Failure::Validation, 1, Some(3_000), 3_000),
            (Failure::RateLimited, 1, None, 3_600),
            (Failure::RateLimited, 3, Some(60), 60),
            (Failure::RateLimited, 1, Some(0), 10),
            (Failure::RateLimited, 1, Some(122_400), 122_400),
            (Failure::RateLimited, 1, Some(9_000_000), 604_800),
            (Failure::Refused, 1, None, 3_600),
            (Failure::Refused, 9, None, 86_400),
        ] {
            let waited = wait(failure, nth, retry_after.map(seconds), 0.0);
            assert_eq!(waited, seconds(wanted), "{failure:?} {nth} {retry_after:?}");
            let longer = wait(failure, nth, retry_after.map(seconds), 1.0);
            assert_eq!(longer, seconds(wanted).mul_f64(1.1));
        }
    }

    #[test]
    fn validations_stay_within_five_an_hour() {
        let mut times = vec![Duration::ZERO];
        for nth in 1..20 {
            let last = times[times.len() - 1];
            times.push(last + wait(Failure::Validation, nth, None, 0.0));
        }
        for begin in &times {
            let end = *begin + Duration::from_secs(3_600);
            let within = times.iter().filter(|time| *time >= begin && **time < end);
            assert!(within.count() < 5, "from {begin:?}");
        }
    }

    #[test]
    fn no_wait_is_shorter_than_the_one_before_or_than_what_was_asked_for() {
        for failure in KINDS {
            for nth in 1..20 {
                let one = wait(failure, nth, None, 0.0);
                assert!(
                    wait(failure, nth + 1, None, 0.0) >= one,
                    "{failure:?} {nth}"
                );
                let asked = Duration::from_secs(5_000);
                assert!(wait(failure, nth, Some(asked), 0.0) >= asked);
            }
        }
    }
}
