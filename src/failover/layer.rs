//! What you configure.

use std::sync::Arc;

use tower_layer::Layer;

use super::{Budget, Failover, Policy, Standard};
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
        if !(1..=MOST_ATTEMPTS).contains(&attempts) {
            return Err(ConfigError::new(
                "max_attempts",
                format!("{attempts}: 1 to {MOST_ATTEMPTS} is accepted"),
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
    /// shared with it.
    ///
    /// Default: one of the layer's own, 20 % of its requests and 3 a second.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = budget;
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

/// The first and one more: a second failure in a row says that the pool, not a backend, is ill.
pub(super) const MAX_ATTEMPTS: u32 = 2;
/// More would only make a client wait for the error that it gets anyway.
const MOST_ATTEMPTS: u32 = 10;
/// Most forms and API calls; uploads are not worth the memory.
pub(super) const REPLAY_LIMIT: usize = 64 * 1024;
