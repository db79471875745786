//! One thing that an application cannot do without, or not as well.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::error::{BoxError, ConfigError};

/// A check of one thing that an application needs, for [`HealthService`](super::HealthService).
#[derive(Clone)]
#[must_use]
pub struct Dependency {
    pub(super) name: Arc<str>,
    pub(super) timeout: Duration,
    /// The share of the full load that can be borne without it; `None` when nothing can.
    pub(super) soft_share: Option<f64>,
    pub(super) check: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
}

pub(super) type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl Dependency {
    /// Makes a check. The closure is called anew for each run, and should take the way that
    /// requests take: a query over the application's own connection pool, not a look at a port.
    /// Runs never overlap; a future that is late is dropped.
    ///
    /// The name stands in JSON and in the header `x-evenkeel-failed-dependency`; a balancer
    /// compares it between backends, so it should be the same on all of them.
    ///
    /// # Errors
    ///
    /// When the name is empty, over 64 bytes, or has others than letters, digits, `-`, `_` and
    /// `.`.
    pub fn new<C, F, E>(name: &str, check: C) -> Result<Self, ConfigError>
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.bytes().all(is_allowed) {
            let message = format!(
                "{name:?}: 1 to {MAX_NAME_LENGTH} letters, digits, hyphens, underscores and dots are accepted"
            );
            return Err(ConfigError::new("dependency.name", message));
        }
        Ok(Self {
            name: name.into(),
            timeout: TIMEOUT,
            soft_share: None,
            check: Arc::new(move || {
                let future = check();
                Box::pin(async move { future.await.map_err(Into::into) })
            }),
        })
    }

    /// Sets how long the check may take.
    ///
    /// Default: 1 s. See also [`HealthService::deadline`](super::HealthService::deadline), which
    /// bounds all of them.
    ///
    /// # Errors
    ///
    /// When it is 0.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout.is_zero() {
            let message = "0: more than that is accepted";
            return Err(ConfigError::new("dependency.timeout", message));
        }
        self.timeout = timeout;
        Ok(self)
    }

    /// Lets the application go on without it: its failure degrades, and does not fail, the whole.
    /// `share` says how much of the full load can be borne then; 1.0 is all of it.
    ///
    /// Default: hard; without it the application is out.
    ///
    /// # Errors
    ///
    /// When the share is not above 0.0, or over 1.0.
    pub fn soft(mut self, share: f64) -> Result<Self, ConfigError> {
        if !(share > 0.0 && share <= 1.0) {
            let message = format!("{share}: above 0.0, up to 1.0 is accepted");
            return Err(ConfigError::new("dependency.soft", message));
        }
        self.soft_share = Some(share);
        Ok(self)
    }
}

impl fmt::Debug for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dependency")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("soft_share", &self.soft_share)
            .finish_non_exhaustive()
    }
}

/// A query that takes longer says that users wait, too.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// A DNS label is 63; a header that names a dozen still is a line.
const MAX_NAME_LENGTH: usize = 64;
