//! When a second attempt begins beside a slow first one.

use std::time::Duration;

use http::Method;

use super::latency::Latency;
use crate::error::ConfigError;

/// When a second attempt, on another backend, begins beside a slow first one. The first response
/// wins.
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
/// use evenkeel::{
///     Error,
///     failover::{FailoverLayer, Hedge, ReplayBody},
/// };
/// use http::{Method, Request, Response};
/// use http_body_util::Empty;
/// use tokio::time::sleep;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// static CALLS: AtomicUsize = AtomicUsize::new(0);
///
/// let hedge = Hedge::new().percentile(99)?.at_least(Duration::from_millis(20))?;
/// let service = FailoverLayer::new().hedge(hedge).layer(service_fn(
///     |request: Request<ReplayBody<Empty<Bytes>>>| async move {
///         CALLS.fetch_add(1, Relaxed);
///         sleep(Duration::from_millis(1)).await;
///         Ok::<_, Error>(Response::new(request.method().clone()))
///     },
/// ));
///
/// // A request that is answered within the delay is sent once.
/// let response = service.oneshot(Request::new(Empty::new())).await?;
/// assert_eq!((response.into_body(), CALLS.load(Relaxed)), (Method::GET, 1));
///
/// // A hedged request may be processed twice, so its method must be idempotent.
/// let refused = Hedge::new().methods([Method::POST]).unwrap_err();
/// assert_eq!(refused.field(), "hedge.methods");
/// # Ok(())
/// # }
/// ```
///
/// # Why the pool's own percentile?
///
/// A fixed delay becomes wrong when the service changes: too short, it doubles the load; too long,
/// no request gains from it. After the 95th percentile of the pool's times to a response head, one
/// request in twenty is hedged when all is well, and every one that hangs. The
/// [`Budget`](super::Budget) bounds them when nothing is well.
///
/// An attempt that lost counts with the time that it had run: a lower bound, so that hedging does
/// not hide how slow a service is.
///
/// # What bounds the percentile?
///
/// If a backend hangs, the percentile of the last seconds grows with the delay that it sets, and
/// faster on a busy machine. So the delay is at most twice what the percentile was in the better
/// part of the last five minutes: the lower quartile of its values over five seconds each (one
/// second each at first; with few requests, as many seconds as 20 of them take).
///
/// The price: a pool that becomes more than twice as slow, and stays so, hedges more than one
/// request in twenty for the next four minutes, as far as the budget allows. Then its history is
/// slow as well. A pool that always was slow hedges no more than a fast one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Hedge {
    delay: Delay,
    at_least: Duration,
    at_most: Duration,
    methods: Vec<Method>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delay {
    Fixed(Duration),
    Percentile(u8),
}

impl Hedge {
    /// Begins after the 95th percentile of the pool's times to a response head, 50 ms at least, 2 s
    /// at most, and no later than twice that of the last five minutes.
    pub fn new() -> Self {
        Self {
            delay: Delay::Percentile(PERCENTILE),
            at_least: AT_LEAST,
            at_most: AT_MOST,
            methods: vec![Method::GET, Method::HEAD],
        }
    }

    /// Begins after this percentile. A lower one hedges more requests: the rest to 100 is their
    /// share when all is well.
    ///
    /// Default: 95.
    ///
    /// # Errors
    ///
    /// If it is not within 50 to 99.
    pub fn percentile(mut self, percentile: u8) -> Result<Self, ConfigError> {
        if !(50..=99).contains(&percentile) {
            let message = format!("{percentile}: 50 to 99 is accepted");
            return Err(ConfigError::new("hedge.percentile", message));
        }
        self.delay = Delay::Percentile(percentile);
        Ok(self)
    }

    /// Begins after a fixed time, in place of a percentile.
    ///
    /// # Errors
    ///
    /// If it is not within 1 ms to 60 s.
    pub fn after(mut self, delay: Duration) -> Result<Self, ConfigError> {
        within("hedge.after", delay)?;
        self.delay = Delay::Fixed(delay);
        Ok(self)
    }

    /// Sets the least delay, which is also the delay while fewer than 20 times are known. The timer
    /// is exact to 10 ms.
    ///
    /// With a low value, requests are hedged for a pause of the backend's runtime or a lost packet.
    ///
    /// Default: 50 ms.
    ///
    /// # Errors
    ///
    /// If it is not within 1 ms to 60 s.
    pub fn at_least(mut self, delay: Duration) -> Result<Self, ConfigError> {
        within("hedge.at_least", delay)?;
        self.at_least = delay;
        Ok(self)
    }

    /// Sets the greatest delay. The bound by the pool's history rises in the end if backends hang and
    /// nothing takes them out; this one does not.
    ///
    /// Default: 2 s.
    ///
    /// # Errors
    ///
    /// If it is not within 1 ms to 60 s.
    pub fn at_most(mut self, delay: Duration) -> Result<Self, ConfigError> {
        within("hedge.at_most", delay)?;
        self.at_most = delay;
        Ok(self)
    }

    /// Sets the methods whose requests are hedged, if they have no body. Only idempotent methods
    /// (RFC 9110 §9.2.2) are accepted, because two backends may process a hedged request.
    ///
    /// An empty list is an error: without [`FailoverLayer::hedge`](super::FailoverLayer::hedge), no
    /// request is hedged.
    ///
    /// Default: GET and HEAD.
    ///
    /// # Errors
    ///
    /// If there is none, or one that is not idempotent.
    pub fn methods(
        mut self,
        methods: impl IntoIterator<Item = Method>,
    ) -> Result<Self, ConfigError> {
        let methods: Vec<_> = methods.into_iter().collect();
        if methods.is_empty() {
            let message = "none: 1 or more idempotent methods are accepted";
            return Err(ConfigError::new("hedge.methods", message));
        }
        if let Some(method) = methods.iter().find(|method| !method.is_idempotent()) {
            let message = format!("{method}: only idempotent methods are accepted");
            return Err(ConfigError::new("hedge.methods", message));
        }
        self.methods = methods;
        Ok(self)
    }

    pub(super) fn concerns(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// Returns the percentile to measure; `None` for a fixed delay.
    pub(super) fn measures(&self) -> Option<u8> {
        match self.delay {
            Delay::Fixed(_) => None,
            Delay::Percentile(percentile) => Some(percentile),
        }
    }

    pub(super) fn delay(&self, latency: Option<&Latency>) -> Duration {
        match self.delay {
            Delay::Fixed(delay) => delay,
            Delay::Percentile(_) => latency
                .and_then(Latency::estimate)
                .unwrap_or(self.at_least)
                .min(self.at_most)
                .max(self.at_least),
        }
    }
}

impl Default for Hedge {
    fn default() -> Self {
        Self::new()
    }
}

fn within(field: &str, delay: Duration) -> Result<(), ConfigError> {
    if (SHORTEST..=LONGEST).contains(&delay) {
        return Ok(());
    }
    let message = format!("{delay:?}: 1 ms to 60 s is accepted");
    Err(ConfigError::new(field, message))
}

/// One request in twenty: what Dean and Barroso found to cut the tail for little load ("The Tail
/// at Scale", 2013).
pub(super) const PERCENTILE: u8 = 95;
/// Longer than a garbage collection or a retransmission, shorter than a person notices.
pub(super) const AT_LEAST: Duration = Duration::from_millis(50);
/// A request that waits longer than this gains from a second attempt, whatever that costs.
pub(super) const AT_MOST: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(1);
/// Beyond any time-out that a response head has.
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_delay_is_the_percentile_between_its_bounds() {
        let hedge = Hedge::new();
        let ms = Duration::from_millis;
        for (took, least, most) in [
            (ms(1), ms(50), ms(50)),
            (ms(80), ms(80), ms(90)),
            (ms(9_000), ms(2_000), ms(2_000)),
        ] {
            let now = Instant::now();
            let latency = Latency::new(95, now);
            assert_eq!(hedge.delay(Some(&latency)), ms(50), "nothing is known yet");
            for _ in 0..100 {
                latency.record(took, now);
            }
            let delay = hedge.delay(Some(&latency));
            assert!(least <= delay && delay <= most, "{took:?}: {delay:?}");
            let fixed = Hedge::new().after(ms(7)).unwrap();
            assert_eq!(fixed.delay(Some(&latency)), ms(7), "whatever the pool does");
        }
    }

    #[test]
    fn unsafe_hedge_settings_are_refused_by_name() {
        let field = |result: Result<Hedge, ConfigError>| result.unwrap_err().field().to_owned();
        let hedge = Hedge::new;
        assert_eq!(
            field(hedge().methods([Method::GET, Method::POST])),
            "hedge.methods"
        );
        assert_eq!(field(hedge().methods([])), "hedge.methods");
        assert_eq!(field(hedge().percentile(49)), "hedge.percentile");
        assert_eq!(field(hedge().percentile(100)), "hedge.percentile");
        for bad in [Duration::ZERO, Duration::from_secs(61)] {
            assert_eq!(field(hedge().after(bad)), "hedge.after");
            assert_eq!(field(hedge().at_least(bad)), "hedge.at_least");
            assert_eq!(field(hedge().at_most(bad)), "hedge.at_most");
        }
        let safe = hedge().methods([Method::PUT, Method::OPTIONS]).unwrap();
        assert!(safe.concerns(&Method::PUT) && !safe.concerns(&Method::GET));
    }
}
