//! [`Dependency`]: a check of one thing that an application depends on.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::error::{BoxError, ConfigError};

/// A check of one thing that an application depends on, for
/// [`HealthService`](super::HealthService).
///
/// ```
/// use std::{io::Error, time::Duration};
///
/// use evenkeel::endpoints::Dependency;
/// use tokio::net::TcpStream;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let cache = Dependency::new("cache", || async {
///     TcpStream::connect("127.0.0.1:6379").await?;
///     Ok::<_, Error>(())
/// })?
/// .timeout(Duration::from_millis(200))?
/// .soft(0.3)?; // without the cache, 30 % of the load can be served
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Dependency {
    pub(super) name: Arc<str>,
    pub(super) timeout: Duration,
    /// The share of the full load that can be served without the dependency; `None` if it is hard.
    pub(super) soft_share: Option<f64>,
    pub(super) check: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
}

pub(super) type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl Dependency {
    /// Makes a check of a hard dependency. `check` is called once a run. Its future should use the
    /// dependency as requests do: a query over the application's own connection pool says more than
    /// a connection to a port. Runs never overlap. A future that exceeds the time-out is dropped.
    ///
    /// `name` appears in the JSON and in the header `x-evenkeel-failed-dependency`. Balancers
    /// compare it between backends: use the same name on all of them.
    ///
    /// # Errors
    ///
    /// When the name is empty, longer than 64 bytes, or has bytes other than letters, digits, `-`,
    /// `_` and `.`.
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

    /// Sets how long the check may take before it counts as failed.
    ///
    /// Default: 1 s. See also [`HealthService::deadline`](super::HealthService::deadline), which
    /// limits all checks together.
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

    /// Makes the dependency soft: its failure makes the application degraded, not failed. `share`
    /// is the share of the full load that the application can serve without it, above 0.0 and up to
    /// 1.0; a balancer of this crate lowers the weight of the backend to it.
    ///
    /// Default: hard; the application fails with the dependency.
    ///
    /// # Errors
    ///
    /// When the share is not above 0.0 and up to 1.0.
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

/// Where a query takes longer than a second, users wait too.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// About a DNS label (63): a header that names a dozen dependencies stays below 1 KiB.
const MAX_NAME_LENGTH: usize = 64;
