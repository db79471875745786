//! Backoff: how long a retry waits.
//!
//! Full jitter (a wait from 0 to the bound, evenly) and not a wait near the bound: requests that
//! failed in the same moment would otherwise come back in the same moment. The bound doubles from the
//! third attempt on; the random number is a parameter, so that the file is pure.

use std::time::Duration;

use crate::error::ConfigError;

/// The waits between attempts: full jitter under a bound that doubles.
///
/// # Why does the second attempt not wait?
///
/// It goes to another backend: a wait would cost the client time and relieve no backend. Before the
/// third attempt two backends have failed, so the cause is probably shared; requests that come back
/// at random moments give the pool room to recover.
///
/// # Example
///
/// ```
/// use std::{
///     sync::atomic::{AtomicUsize, Ordering::Relaxed},
///     time::Duration,
/// };
///
/// use bytes::Bytes;
/// use evenkeel::failover::{Backoff, FailoverLayer, ReplayBody};
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// static CALLS: AtomicUsize = AtomicUsize::new(0);
///
/// let ms = Duration::from_millis;
/// let backoff = Backoff::new().exponential(ms(10), ms(100))?.retry_after(ms(500))?;
/// let failover = FailoverLayer::new().max_attempts(3)?.retry_statuses([503])?.backoff(backoff);
/// let service = failover.layer(service_fn(|_: Request<ReplayBody<Empty<Bytes>>>| async {
///     CALLS.fetch_add(1, Relaxed);
///     Response::builder().status(503).header("retry-after", "60").body(())
/// }));
///
/// // The second attempt does not wait. Its backend asks for more than half a second, so there is no
/// // third, and the client gets the response.
/// let response = service.oneshot(Request::new(Empty::new())).await?;
/// assert_eq!((response.status().as_u16(), CALLS.load(Relaxed)), (503, 2));
///
/// let refused = Backoff::new().exponential(ms(100), ms(10)).unwrap_err();
/// assert_eq!(refused.field(), "backoff");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Backoff {
    base: Duration,
    max: Duration,
    retry_after: Duration,
}

impl Backoff {
    /// The bound of the wait before the third attempt, as in Envoy: a client does not notice it, and
    /// a backend that restarts its listener is back.
    pub const BASE: Duration = Duration::from_millis(25);
    /// The greatest bound that doubling reaches: ten times the base, as in Envoy.
    pub const MAX: Duration = Duration::from_millis(250);

    /// Waits up to 25 ms before the third attempt, up to twice as long before each further one, and
    /// 250 ms at most.
    pub fn new() -> Self {
        Self {
            base: Self::BASE,
            max: Self::MAX,
            retry_after: RETRY_AFTER,
        }
    }

    /// Sets the bound of the wait before the third attempt, and the greatest bound that doubling
    /// reaches. A base of 0 switches waits off, except for `Retry-After`.
    ///
    /// Default: 25 ms and 250 ms.
    ///
    /// # Errors
    ///
    /// If the base is greater than the maximum, or the maximum greater than 60 s.
    pub fn exponential(mut self, base: Duration, max: Duration) -> Result<Self, ConfigError> {
        if base > max || max > LONGEST {
            let message = format!(
                "{base:?} to {max:?}: a base up to the most, and that up to 60 s, is accepted"
            );
            return Err(ConfigError::new("backoff", message));
        }
        (self.base, self.max) = (base, max);
        Ok(self)
    }

    /// Sets the longest `Retry-After` of a backend that a request waits for. If a backend asks for
    /// more, its response goes to the client, `Retry-After` included. The second attempt goes to a
    /// backend that did not ask, and never waits.
    ///
    /// Default: 1 s.
    ///
    /// # Errors
    ///
    /// If it is greater than 60 s.
    pub fn retry_after(mut self, most: Duration) -> Result<Self, ConfigError> {
        if most > LONGEST {
            let message = format!("{most:?}: 0 s to 60 s is accepted");
            return Err(ConfigError::new("backoff.retry_after", message));
        }
        self.retry_after = most;
        Ok(self)
    }

    /// Returns the wait after this many attempts; `None` if the backend asks for too long a wait.
    /// `random` is within 0 to 1.
    pub(super) fn wait(
        &self,
        tries: u32,
        asked: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        // Whatever the first backend asked for: the second attempt goes to another one.
        if tries < 2 {
            return Some(Duration::ZERO);
        }
        let doubled = 2_u32.saturating_pow(tries - 2);
        let bound = self.base.saturating_mul(doubled).min(self.max);
        let wait = bound.mul_f64(random.clamp(0.0, 1.0));
        match asked {
            // The client gets the response with its `Retry-After`, and can wait better than a proxy
            // can.
            Some(asked) if asked > self.retry_after => None,
            Some(asked) => Some(wait.max(asked)),
            None => Some(wait),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

/// More is for the client to decide.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_with_full_jitter() {
        let ms = Duration::from_millis;
        let backoff = Backoff::new();
        for (tries, most) in [
            (1, 0),
            (2, 25),
            (3, 50),
            (4, 100),
            (5, 200),
            (6, 250),
            (40, 250),
        ] {
            assert_eq!(
                backoff.wait(tries, None, 1.0),
                Some(ms(most)),
                "after {tries}"
            );
            assert_eq!(backoff.wait(tries, None, 0.0), Some(ms(0)), "after {tries}");
            assert_eq!(
                backoff.wait(tries, None, 0.5),
                Some(ms(most) / 2),
                "after {tries}"
            );
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_bound() {
        let ms = Duration::from_millis;
        let backoff = Backoff::new();
        for (tries, asked, wait) in [
            (1, ms(60_000), Some(ms(0))),
            (2, ms(600), Some(ms(600))),
            (2, ms(1), Some(ms(25))),
            (2, ms(1_001), None),
        ] {
            let waited = backoff.wait(tries, Some(asked), 1.0);
            assert_eq!(waited, wait, "after {tries}, asked for {asked:?}");
        }
    }

    #[test]
    fn settings_out_of_range_are_refused_with_the_field_name() {
        let long = Duration::from_secs(61);
        let refused = |result: Result<Backoff, ConfigError>| result.unwrap_err().field().to_owned();
        assert_eq!(
            refused(Backoff::new().exponential(Backoff::MAX, Backoff::BASE)),
            "backoff"
        );
        assert_eq!(
            refused(Backoff::new().exponential(Backoff::BASE, long)),
            "backoff"
        );
        assert_eq!(
            refused(Backoff::new().retry_after(long)),
            "backoff.retry_after"
        );
    }
}
