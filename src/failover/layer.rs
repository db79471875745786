//! The settings of failover, and the layer that makes services with them.
//!
//! Settings are cloned into each service that the layer makes; what must be shared by all of them
//! (budget, latency, policy) is behind an `Arc` in them. So axum, which makes a service for each
//! route, gives all routes one budget.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;
use tower_layer::Layer;

use super::{Backoff, Budget, Failover, Hedge, Policy, Standard, latency::Latency};
use crate::error::ConfigError;

/// Retries failed requests on another backend, and hedges slow ones; see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct FailoverLayer {
    pub(super) settings: Settings,
}

/// The settings that a service reads at each request.
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

/// When to hedge, and the latencies that are measured for it.
#[derive(Clone, Debug)]
pub(super) struct Hedging {
    pub(super) rule: Hedge,
    latency: Option<Arc<Latency>>,
}

impl Hedging {
    pub(super) fn delay(&self) -> Duration {
        self.rule.delay(self.latency.as_deref())
    }

    /// Returns true if the time of the current request should be recorded.
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

    /// Returns how long after its beginning a request may first have a deadline or a hedge due.
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

    /// Sets how many attempts a request may have, the first included. With 1 there is no retry and
    /// no hedge; timeouts still apply.
    ///
    /// Each further attempt can add the whole load once more to a pool that fails as a whole; the
    /// [`budget`](Self::budget) bounds that.
    ///
    /// Default: 2.
    ///
    /// # Errors
    ///
    /// If it is 0 or greater than 10.
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
    /// request is not retried once more of its body was read. 0 keeps nothing.
    ///
    /// Costs up to this much memory for each request in flight that has a body, until its response
    /// head arrives.
    ///
    /// Default: 64 KiB.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.settings.replay_limit = bytes;
        self
    }

    /// Sets the budget that retries and hedges are paid from. Clones of a budget share one account,
    /// so a clone that is given to another layer bounds both together. A retry after an attempt
    /// that certainly reached no backend is free: see the [module](super).
    ///
    /// Default: a budget of this layer alone, 20 % of its requests and 3 a second.
    ///
    /// See also [`configured_budget`](Self::configured_budget).
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
        self
    }

    /// Returns the budget that retries and hedges are paid from.
    #[must_use]
    pub fn configured_budget(&self) -> &Budget {
        &self.settings.budget
    }

    /// Begins a second attempt, on another backend, beside one that takes long. The first response
    /// wins; the other attempt is dropped, and its connection closed.
    ///
    /// A hedge counts as one of the attempts and is paid from the budget. If the hedge wins, the
    /// other backend is charged with a failure ([`Outcome::Hedged`](crate::context::Outcome)); if it
    /// loses, no backend is charged. Costs an entry in a timer wheel for a request that waits, and a
    /// copy of the head when a hedge begins.
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

    /// Sets the time that one attempt may take until its response head. The attempt is then dropped
    /// and fails with [`ErrorKind::ResponseHeadTimeout`], or with [`ErrorKind::ConnectTimeout`] if
    /// nothing was sent; another backend is tried as after any failure. The backend is charged.
    ///
    /// The timer is exact to 10 ms. The time to send the request body counts as well, so leave
    /// enough for uploads.
    ///
    /// Default: none; the proxy has timeouts of its own.
    ///
    /// # Errors
    ///
    /// If it is not within 1 ms to 1 h.
    ///
    /// [`ErrorKind::ResponseHeadTimeout`]: crate::ErrorKind::ResponseHeadTimeout
    /// [`ErrorKind::ConnectTimeout`]: crate::ErrorKind::ConnectTimeout
    pub fn per_try_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings.per_try_timeout = Some(checked("per_try_timeout", timeout)?);
        Ok(self)
    }

    /// Sets the time that a request may take until its response head, all attempts and waits
    /// included, counted from the beginning of its [`Exchange`](crate::context::Exchange). A backend
    /// is charged if its attempt had at least half of that time.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// If it is not within 1 ms to 1 h.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.settings.timeout = Some(checked("timeout", timeout)?);
        Ok(self)
    }

    /// Tries another backend when one answers an idempotent request with one of these statuses. The
    /// response is held until another attempt has begun. It goes to the client if none can begin: no
    /// backend, attempt or budget is left, or its `Retry-After` asks for too long a wait.
    ///
    /// [`Policy::decide_status`] can keep a response. An empty list switches these retries off.
    ///
    /// Costs each idempotent request a copy of its head, and with it some allocations.
    ///
    /// Default: none. 502, 503 and 504 are sensible.
    ///
    /// # Errors
    ///
    /// If one is not within 400 to 599.
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

    /// Sets the waits between attempts.
    ///
    /// Default: [`Backoff::new`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Sets the policy that decides which failures and responses are worth another attempt, and which
    /// requests may be hedged.
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

/// The first and one more: after two failures in a row the cause is probably the pool, and not a
/// backend.
pub(super) const MAX_ATTEMPTS: u32 = 2;
/// With more, a client would only wait longer for the error that it gets anyway.
const ATTEMPTS_LIMIT: u32 = 10;
/// Holds most forms and API calls. Uploads are larger, and not worth the memory.
pub(super) const REPLAY_LIMIT: usize = 64 * 1024;
