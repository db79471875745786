//! What a user configures: the layer.
//!
//! A layer is cheap to clone and to apply: axum calls `layer` for each route, and some servers for
//! each connection. All services of a layer and its clones share one [`HealthTask`], which is made
//! at the first call and not in `new`: a layer that is never applied checks nothing. A setter after
//! that begins another task; the services that exist keep the earlier one with its settings.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tower_layer::Layer;

use super::{
    Checks, Health, Outliers,
    layer_state::{HealthState, HealthTask},
};
use crate::{
    error::ConfigError,
    pool::{Pool, Rank},
};

/// Keeps traffic off backends that do not serve; see the [module](super).
///
/// Inside a tokio runtime, [`layer`](Layer::layer) starts a task that opens connections to the
/// backends, unless [`no_checks`](Self::no_checks) was called; it ends when the last layer and
/// service are dropped. A clone of the layer and every service that it makes share one task; a setter
/// begins another.
#[derive(Clone)]
#[must_use]
pub struct HealthLayer {
    pool: Pool,
    checks: Option<Checks>,
    /// Whether the checks are those that a user gave.
    rank: Rank,
    outliers: Option<Outliers>,
    task: Arc<OnceLock<Arc<HealthTask>>>,
}

impl HealthLayer {
    /// Makes a layer for the backends of this pool, with the defaults.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            checks: Some(Checks::new()),
            rank: Rank::Default,
            outliers: Some(Outliers::new()),
            task: Arc::default(),
        }
    }

    /// Sets the active checks: the check, how often it runs, and how many results change the state.
    ///
    /// Default: [`Checks::new`].
    ///
    /// # Errors
    ///
    /// If a setting is out of its range, or the time-out is not below the interval.
    pub fn checks(mut self, checks: Checks) -> Result<Self, ConfigError> {
        checks.validate()?;
        self.checks = Some(checks);
        self.rank = Rank::Given;
        self.task = Arc::default();
        Ok(self)
    }

    /// Makes no active checks: only live traffic takes backends out, and they come back after the time
    /// of their ejection. A backend that nothing checks counts as up from the start.
    pub fn no_checks(mut self) -> Self {
        self.checks = None;
        self.task = Arc::default();
        self
    }

    /// Sets when live traffic takes a backend out.
    ///
    /// Default: [`Outliers::new`].
    ///
    /// # Errors
    ///
    /// If a setting is out of its range.
    pub fn outliers(mut self, outliers: Outliers) -> Result<Self, ConfigError> {
        outliers.validate()?;
        self.outliers = Some(outliers);
        self.task = Arc::default();
        Ok(self)
    }

    /// Switches outlier detection off: only checks take backends out.
    pub fn no_outliers(mut self) -> Self {
        self.outliers = None;
        self.task = Arc::default();
        self
    }

    /// Returns a layer with the same checks and the same detection of outliers for another pool, with
    /// a task of its own.
    pub fn for_pool(&self, pool: Pool) -> Self {
        Self {
            pool,
            task: Arc::default(),
            ..self.clone()
        }
    }

    /// Returns the pool that the layer was made for.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl<S> Layer<S> for HealthLayer {
    type Service = Health<S>;

    fn layer(&self, inner: S) -> Health<S> {
        let task = self.task.get_or_init(|| {
            let (checks, outliers) = (self.checks.clone(), self.outliers.clone());
            let state = HealthState::new(self.pool.clone(), checks, outliers, self.rank);
            Arc::new(HealthTask::new(state))
        });
        // Without a runtime this does nothing, and the first `poll_ready` inside one starts the
        // task.
        task.ensure();
        Health::new(inner, task.clone())
    }
}

impl fmt::Debug for HealthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthLayer")
            .field("checks", &self.checks)
            .field("outliers", &self.outliers)
            .field("started", &self.task.get().is_some())
            .finish_non_exhaustive()
    }
}
