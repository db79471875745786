//! [`RespondLayer`]: what a user configures.
//!
//! A layer is one `Arc`: a request clones it once, for the case that it fails. The classifier and the
//! renderer run for failures only.

use std::{error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tower_layer::Layer;

use super::{
    Respond,
    classify::{Classifier, classify},
    status::plain,
};
use crate::error::{BoxError, ConfigError, Error, ErrorKind};

/// Answers requests whose service failed; see the [module](super).
#[derive(Clone)]
#[must_use]
pub struct RespondLayer {
    page: Arc<ErrorPage>,
}

/// The content of error responses, and the user's classifier.
#[derive(Clone)]
pub(super) struct ErrorPage {
    pub(super) content_type: HeaderValue,
    render: Option<Arc<dyn Fn(StatusCode) -> Bytes + Send + Sync>>,
    classifier: Option<Arc<Classifier>>,
}

impl RespondLayer {
    /// Makes a layer that answers in plain text.
    pub fn new() -> Self {
        Self {
            page: Arc::new(ErrorPage {
                content_type: HeaderValue::from_static("text/plain; charset=utf-8"),
                render: None,
                classifier: None,
            }),
        }
    }

    /// Sets the body for a status, and its media type. `render` runs for each error: return clones of
    /// the same [`Bytes`], which share their memory.
    ///
    /// Default: the status and its reason in plain text.
    ///
    /// # Errors
    ///
    /// If the media type is not a valid field value.
    ///
    /// # Example
    ///
    /// ```
    /// use bytes::Bytes;
    /// use evenkeel::{Error, ErrorKind, respond::RespondLayer};
    /// use http::{Request, Response};
    /// use http_body_util::{BodyExt, Full};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), evenkeel::BoxError> {
    /// let page = Bytes::from_static(b"<h1>Back soon</h1>");
    /// let layer = RespondLayer::new().body("text/html", move |_status| page.clone())?;
    /// let service = layer.layer(service_fn(|_: Request<()>| async {
    ///     Err::<Response<Full<Bytes>>, _>(Error::new(ErrorKind::NoBackend))
    /// }));
    /// let response = service.oneshot(Request::new(())).await?;
    /// assert_eq!(response.status(), 503);
    /// assert_eq!(response.headers()["content-type"], "text/html");
    /// assert_eq!(response.into_body().collect().await?.to_bytes(), "<h1>Back soon</h1>");
    /// # Ok(())
    /// # }
    /// ```
    pub fn body(
        mut self,
        content_type: &str,
        render: impl Fn(StatusCode) -> Bytes + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        let content_type = HeaderValue::from_str(content_type).map_err(|error| {
            ConfigError::new("content_type", format!("{content_type:?}: {error}"))
        })?;
        let page = Arc::make_mut(&mut self.page);
        page.content_type = content_type;
        page.render = Some(Arc::new(render));
        Ok(self)
    }

    /// Sets the kind of errors of other crates. The kind decides the status, and the access log has it.
    /// The layer calls `classifier` for failures only: for an error that is not an [`Error`] of this
    /// crate, for each of its sources, and for the sources of a [`Service`](ErrorKind::Service) and a
    /// [`ClientBody`](ErrorKind::ClientBody) error. An answer takes precedence over the table of the
    /// [module](super).
    ///
    /// ```
    /// use evenkeel::{ErrorKind, respond::RespondLayer};
    ///
    /// // The body of a request that `RequestBodyTimeoutLayer` cancelled.
    /// let layer = RespondLayer::new().classify(|error| {
    ///     error.is::<tower_http::timeout::TimeoutError>().then_some(ErrorKind::ClientBodyTimeout)
    /// });
    /// # let _ = layer;
    /// ```
    ///
    /// Default: none.
    pub fn classify(
        mut self,
        classifier: impl Fn(&(dyn StdError + 'static)) -> Option<ErrorKind> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.page).classifier = Some(Arc::new(classifier));
        self
    }
}

impl Default for RespondLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RespondLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondLayer")
            .field("content_type", &self.page.content_type)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond::new(inner, self.page.clone())
    }
}

impl ErrorPage {
    /// Returns the error with its kind.
    pub(super) fn classify(&self, error: BoxError) -> Error {
        classify(error, self.classifier.as_deref())
    }

    pub(super) fn text(&self, status: StatusCode) -> Bytes {
        match &self.render {
            Some(render) => render(status),
            None => Bytes::from_static(plain(status)),
        }
    }
}
