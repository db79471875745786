//! [`RespondLayer`]: the settings, and the status of each kind of error.

use std::{error::Error as StdError, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tower_layer::Layer;

use super::{
    Respond,
    classify::{Classifier, classify},
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

/// Returns the status that a client gets for this kind of failure.
#[must_use]
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest | ErrorKind::ClientBody => StatusCode::BAD_REQUEST,
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::ClientBodyTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::MethodRefused => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::LoadShed
        | ErrorKind::Local
        | ErrorKind::NoBackend
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotRouted => StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::ConnectTimeout
        | ErrorKind::RequestWriteTimeout
        | ErrorKind::ResponseBodyTimeout
        | ErrorKind::ResponseHeadTimeout
        | ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Connect
        | ErrorKind::ConnectTls
        | ErrorKind::RequestWrite
        | ErrorKind::ResponseBody
        | ErrorKind::ResponseClosed
        | ErrorKind::ResponseHead
        | ErrorKind::Service
        | ErrorKind::Upgrade => StatusCode::BAD_GATEWAY,
    }
}

fn plain(status: StatusCode) -> &'static [u8] {
    match status.as_u16() {
        400 => b"400 Bad Request\n",
        405 => b"405 Method Not Allowed\n",
        408 => b"408 Request Timeout\n",
        413 => b"413 Payload Too Large\n",
        502 => b"502 Bad Gateway\n",
        503 => b"503 Service Unavailable\n",
        504 => b"504 Gateway Timeout\n",
        _ => b"500 Internal Server Error\n",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_documented_defaults_are_those_of_the_code() {
        let kinds = [
            ErrorKind::BadRequest,
            ErrorKind::BodyTooLarge,
            ErrorKind::ClientBody,
            ErrorKind::ClientBodyTimeout,
            ErrorKind::Connect,
            ErrorKind::ConnectTimeout,
            ErrorKind::ConnectTls,
            ErrorKind::LoadShed,
            ErrorKind::Local,
            ErrorKind::MethodRefused,
            ErrorKind::NoBackend,
            ErrorKind::NotRouted,
            ErrorKind::Overloaded,
            ErrorKind::QueueTimeout,
            ErrorKind::RequestWrite,
            ErrorKind::RequestWriteTimeout,
            ErrorKind::ResponseBody,
            ErrorKind::ResponseBodyTimeout,
            ErrorKind::ResponseClosed,
            ErrorKind::ResponseHead,
            ErrorKind::ResponseHeadTimeout,
            ErrorKind::Service,
            ErrorKind::Timeout,
            ErrorKind::Upgrade,
        ];
        // A row has the kinds of one status, in the order of their names.
        let mut rows: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for kind in kinds {
            let status = status(kind);
            let text = plain(status);
            assert!(text.starts_with(status.as_str().as_bytes()), "{kind}");
            let row = rows.entry(status.as_u16()).or_default();
            row.push(kind.as_str());
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(status, mut kinds)| {
                kinds.sort();
                (format!("`{}`", kinds.join("`, `")), status.to_string())
            })
            .collect();
        let compared: Vec<_> = rows
            .iter()
            .map(|(kinds, status)| (kinds.as_str(), status.clone()))
            .collect();
        crate::default_table::compare(include_str!("mod.rs"), &compared);
    }
}
