//! [`EndpointsLayer`]: the paths of the endpoints.

use std::sync::Arc;

use tower_layer::Layer;

use super::{Readiness, WithEndpoints};
use crate::error::ConfigError;

/// Responds to `/live` and `/ready` before the inner service sees the request; see the
/// [module](super).
#[derive(Clone, Debug)]
#[must_use]
pub struct EndpointsLayer {
    readiness: Readiness,
    paths: Paths,
}

/// The paths of the endpoints; `None` for one that is switched off.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) live: Option<Arc<str>>,
    pub(super) ready: Option<Arc<str>>,
}

impl EndpointsLayer {
    /// Makes a layer that responds with the state of `readiness`.
    pub fn new(readiness: Readiness) -> Self {
        Self {
            readiness,
            paths: Paths::default(),
        }
    }

    /// Sets the readiness that the layer responds with.
    ///
    /// Default: that of [`new`](Self::new).
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// Sets the path of the liveness endpoint. The inner service receives no requests for this
    /// path.
    ///
    /// Default: `/live`. See also [`no_live`](Self::no_live).
    ///
    /// # Errors
    ///
    /// When the path does not begin with `/`, or has a query, a fragment, a blank or a byte outside
    /// ASCII.
    pub fn live_path(mut self, path: &str) -> Result<Self, ConfigError> {
        self.paths.live = Some(validate_path("live", path)?);
        Ok(self)
    }

    /// Sets the path of the readiness endpoint. The inner service receives no requests for this
    /// path.
    ///
    /// Default: `/ready`. See also [`no_ready`](Self::no_ready).
    ///
    /// # Errors
    ///
    /// When the path does not begin with `/`, or has a query, a fragment, a blank or a byte outside
    /// ASCII.
    pub fn ready_path(mut self, path: &str) -> Result<Self, ConfigError> {
        self.paths.ready = Some(validate_path("ready", path)?);
        Ok(self)
    }

    /// Removes the liveness endpoint: the inner service receives its requests.
    pub fn no_live(mut self) -> Self {
        self.paths.live = None;
        self
    }

    /// Removes the readiness endpoint: the inner service receives its requests. Without both
    /// endpoints, every request passes.
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

/// The paths of Kubernetes' own components, without their final `z`. RFC 8615 reserves only
/// `/.well-known/`.
pub(super) const DEFAULT_LIVE_PATH: &str = "/live";
pub(super) const DEFAULT_READY_PATH: &str = "/ready";
