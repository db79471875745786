//! What you configure.

use std::sync::Arc;

use tower_layer::Layer;

use super::{Readiness, WithEndpoints};
use crate::error::ConfigError;

/// Answers `/live` and `/ready` before the inner service sees them; see the [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct EndpointsLayer {
    readiness: Readiness,
    paths: Paths,
}

/// Where the answers are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) live: Option<Arc<str>>,
    pub(super) ready: Option<Arc<str>>,
}

impl EndpointsLayer {
    /// Answers with what `readiness` says.
    pub fn new(readiness: Readiness) -> Self {
        Self {
            readiness,
            paths: Paths::default(),
        }
    }

    /// Sets the path that tells whether this instance lives. What the inner service has under
    /// this path is no longer reached.
    ///
    /// Default: `/live`. See also [`no_live`](Self::no_live).
    ///
    /// # Errors
    ///
    /// When it does not begin with a slash, or has a query, a fragment or what no path may have.
    pub fn live_path(mut self, path: &str) -> Result<Self, ConfigError> {
        self.paths.live = Some(validate_path("live", path)?);
        Ok(self)
    }

    /// Sets the path that tells whether this instance can route. What the inner service has
    /// under this path is no longer reached.
    ///
    /// Default: `/ready`. See also [`no_ready`](Self::no_ready).
    ///
    /// # Errors
    ///
    /// When it does not begin with a slash, or has a query, a fragment or what no path may have.
    pub fn ready_path(mut self, path: &str) -> Result<Self, ConfigError> {
        self.paths.ready = Some(validate_path("ready", path)?);
        Ok(self)
    }

    /// Leaves `/live` to the inner service.
    pub fn no_live(mut self) -> Self {
        self.paths.live = None;
        self
    }

    /// Leaves `/ready` to the inner service. Without both, the layer passes everything.
    pub fn no_ready(mut self) -> Self {
        self.paths.ready = None;
        self
    }
}

impl<S> Layer<S> for EndpointsLayer {
    type Service = WithEndpoints<S>;

    fn layer(&self, inner: S) -> WithEndpoints<S> {
        WithEndpoints::new(inner, self.readiness.clone(), self.paths.clone())
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            live: Some(DEFAULT_LIVE_PATH.into()),
            ready: Some(DEFAULT_READY_PATH.into()),
        }
    }
}

fn validate_path(field: &'static str, path: &str) -> Result<Arc<str>, ConfigError> {
    let is_path = path
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
    match is_path && path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(ConfigError::new(
            field,
            format!("{path:?}: a path such as \"/{field}\" is accepted"),
        )),
    }
}

/// Neither is a path of HTTP's (RFC 8615 keeps `/.well-known/`): what Kubernetes' own components
/// answer under, but for their `z`.
pub(super) const DEFAULT_LIVE_PATH: &str = "/live";
pub(super) const DEFAULT_READY_PATH: &str = "/ready";
