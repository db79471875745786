//! What you configure.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{Backoff, Budget, Failover, Hedge, Policy, Standard, latency::Latency};
use crate::error::ConfigError;

/// Tries another backend when one fails; see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct FailoverLayer {
    settings: Settings,
}

/// What a service asks at each request.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) max_attempts: u32,
    pub(super) replay_limit: usize,
    pub(super) budget: Budget,
    pub(super) policy: Arc<dyn Policy>,
    pub(super) hedge: Option<Hedging>,
    pub(super) per_try_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) retry_statuses: Option<Arc<[StatusCode]>>,
    pub(super) backoff: Backoff,
}

/// When to hedge, and what is measured for it.
#[derive(Clone, Debug)]
pub(super) struct Hedging {
    pub(super) rule: Hedge,
    latency: Option<Arc<Latency>>,
}

impl Hedging {
    pub(super) fn delay(&self) -> Duration {
        self.rule.delay(self.latency.as_deref())
    }

    /// Returns true if the time of the request at hand is to be counted.
    pub(super) fn samples(&self) -> bool {
        self.latency
            .as_ref()
            .is_some_and(|latency| latency.samples())
    }

    pub(super) fn record(&self, took: Duration, now: Instant) {
        if let Some(latency) = &self.latency {
            latency.record(took, now);
        }
    }
}

impl Settings {
    pub(super) fn has_deadlines(&self) -> bool {
        self.per_try_timeout.is_some() || self.timeout.is_some()
    }

    pub(super) fn is_retried(&self, status: StatusCode) -> bool {
        let statuses = self.retry_statuses.as_deref();
        statuses.is_some_and(|statuses| statuses.contains(&status))
    }

    /// How long after the beginning there may be something to do.
    pub(super) fn first_due(&self, hedges: bool) -> Option<Duration> {
        let hedge = self.hedge.as_ref().filter(|_| hedges).map(Hedging::delay);
        let all = [hedge, self.per_try_timeout, self.timeout];
        all.into_iter().flatten().min()
    }
}

impl FailoverLayer {
    /// Makes a layer with the defaults. All services that it makes share one budget.
    pub fn new() -> Self {
        Self {
            settings: Settings {
                max_attempts: MAX_ATTEMPTS,
                replay_limit: REPLAY_LIMIT,
                budget: Budget::default(),
                policy: Arc::new(Standard),
                hedge: None,
                per_try_timeout: None,
                timeout: None,
                retry_statuses: None,
                backoff: Backoff::new(),
            },
        }
    }

    /// Sets how often a request may be tried, the first time included. With 1 there is no
    /// retry, and the layer passes everything through.
    ///
    /// Each further attempt can double the load on a pool that is failing as a whole; the
    /// [`budget`](Self::budget) holds against that.
    ///
    /// Default: 2.
    ///
    /// # Errors
    ///
    /// When it is 0 or over 10.
    pub fn max_attempts(mut self, attempts: u32) -> Result<Self, ConfigError> {
        if !(1..=ATTEMPTS_LIMIT).contains(&attempts) {
            return Err(ConfigError::new(
                "max_attempts",
                format!("{attempts}: 1 to {ATTEMPTS_LIMIT} is accepted"),
            ));
        }
        self.settings.max_attempts = attempts;
        Ok(self)
    }

    /// Sets how many bytes of a request body are kept, so that a retry can send them again. A
    /// body of which more was read is not sent again. 0 keeps nothing.
    ///
    /// Costs up to this much memory for each request in flight that has a body.
    ///
    /// Default: 64 KiB.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.settings.replay_limit = bytes;
        self
    }

    /// Sets the budget that retries are paid from; a clone of one that another layer has is
    /// shared with it. What reached no backend for certain is paid from none: see the
    /// [module](super).
    ///
    /// Default: one of the layer's own, 20 % of its requests and 3 a second.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Begins a second attempt, on another backend, beside one that takes long; the first
    /// response wins, and the other attempt is dropped, its connection closed.
    ///
    /// A hedge is one of the attempts, and is paid from the budget. A backend against which a
    /// hedge wins is charged with a failure ([`Outcome::Hedged`](crate::context::Outcome)); a
    /// hedge that was not needed is charged to nobody. Costs a place in a timer wheel for a
    /// request that waits, and a copy of the head where a hedge begins.
    ///
    /// Default: none.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        let latency = hedge.measures();
        self.settings.hedge = Some(Hedging {
            rule: hedge,
            latency: latency.map(|percentile| Arc::new(Latency::new(percentile, Instant::now()))),
        });
        self
    }

    /// Sets the most that one try may take until its response head; then it is dropped, and
    /// another backend is tried as after any failure ([`ErrorKind::ResponseHeadTimeout`], or
    /// [`ErrorKind::ConnectTimeout`] where nothing was sent). The backend is charged: the
    /// attempt's end stands in the [`Exchange`](crate::context::Exchange) before it is dropped.
    ///
    /// Kept to within 10 ms. Bounds the sending of a request body, too: uploads need their time.
    ///
    /// Default: none; the proxy has time-outs of its own.
    ///
    /// # Errors
    ///
    /// When it is not within 1 ms to 1 h.
    ///
    /// [`ErrorKind::ResponseHeadTimeout`]: crate::ErrorKind::ResponseHeadTimeout
    /// [`ErrorKind::ConnectTimeout`]: crate::ErrorKind::ConnectTimeout
    pub fn per_try_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings.per_try_timeout = Some(checked("per_try_timeout", timeout)?);
        Ok(self)
    }

    /// Sets the most that a request may take until its response head, all tries and waits
    /// included, from when its record began. A backend is charged that had half of the time at
    /// least; one that was tried late is not.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// When it is not within 1 ms to 1 h.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings.timeout = Some(checked("timeout", timeout)?);
        Ok(self)
    }

    /// Tries another backend when one answers an idempotent request with one of these statuses.
    /// The answer is kept until another attempt has begun, and goes to the client where none can:
    /// no backend, attempt or budget is left, or `Retry-After` asks for too long a wait.
    ///
    /// Costs a copy of the head for each idempotent request, some allocations.
    ///
    /// Default: none; sensible are 502, 503 and 504.
    ///
    /// # Errors
    ///
    /// When one is not within 400 to 599.
    pub fn retry_statuses(
        mut self,
        statuses: impl IntoIterator<Item = u16>,
    ) -> Result<Self, ConfigError> {
        let parsed = statuses.into_iter().map(|status| {
            let accepted = (400..600).contains(&status);
            let parsed = StatusCode::from_u16(status).ok().filter(|_| accepted);
            parsed.ok_or_else(|| {
                ConfigError::new(
                    "retry_statuses",
                    format!("{status}: 400 to 599 is accepted"),
                )
            })
        });
        let statuses = parsed.collect::<Result<Vec<_>, _>>()?;
        self.settings.retry_statuses = (!statuses.is_empty()).then(|| statuses.into());
        Ok(self)
    }

    /// Sets the waits between tries.
    ///
    /// Default: [`Backoff::new`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Sets who decides which failures are worth another attempt.
    ///
    /// Default: [`Standard`].
    pub fn with_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.settings.policy = Arc::new(policy);
        self
    }
}

impl Default for FailoverLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone> Layer<S> for FailoverLayer {
    type Service = Failover<S>;

    fn layer(&self, inner: S) -> Failover<S> {
        Failover::new(inner, self.settings.clone())
    }
}

fn checked(field: &str, timeout: Duration) -> Result<Duration, ConfigError> {
    if (Duration::from_millis(1)..=Duration::from_secs(3_600)).contains(&timeout) {
        return Ok(timeout);
    }
    let message = format!("{timeout:?}: 1 ms to 1 h is accepted");
    Err(ConfigError::new(field, message))
}

/// The first and one more: a second failure in a row says that the pool, not a backend, is ill.
pub(super) const MAX_ATTEMPTS: u32 = 2;
/// More would only make a client wait for the error that it gets anyway.
const ATTEMPTS_LIMIT: u32 = 10;
/// Most forms and API calls; uploads are not worth the memory.
pub(super) const REPLAY_LIMIT: usize = 64 * 1024;
