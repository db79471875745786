//! What can go wrong with a request, named by phase and side.

use std::{error, fmt, time::Duration};

use http::request::Parts;

/// A boxed error of any kind, as tower's services use it.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// Why a request could not be answered by a backend.
///
/// Opaque: ask [`kind`](Self::kind) or one of the predicates. An error may carry what was not
/// sent ([`take_unsent`](Self::take_unsent)), so that another attempt needs no copy made ahead.
/// `RespondLayer` is the only place that turns it into a status.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    source: Option<BoxError>,
    unsent: Option<Parts>,
    touched: bool,
    unprocessed: bool,
    retry_after: Option<Duration>,
}

impl Error {
    /// Makes an error of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                source: None,
                unsent: None,
                touched: false,
                unprocessed: false,
                retry_after: None,
            }),
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Adds the head of the request, given back so that another attempt can use it.
    #[must_use]
    pub fn with_unsent(mut self, head: Parts) -> Self {
        self.inner.unsent = Some(head);
        self
    }

    /// Notes that the backend may have seen some of the request: only an idempotent request may
    /// be sent again (RFC 9110 §9.2.2).
    #[must_use]
    pub fn after_sending(mut self) -> Self {
        self.inner.touched = true;
        self
    }

    /// Notes that the backend said that it did not process the request (RFC 9113 §8.7): any
    /// request may be sent again, whatever was sent of it.
    #[must_use]
    pub fn unprocessed(mut self) -> Self {
        self.inner.unprocessed = true;
        self
    }

    /// Adds when a client may try again; `Retry-After` of the answer.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// Unwraps an [`Error`] that went through a [`BoxError`]; wraps any other as
    /// [`ErrorKind::Service`].
    #[must_use]
    pub fn from_boxed(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => *error,
            Err(other) => Self::new(ErrorKind::Service).with_source(other),
        }
    }

    /// Returns the phase and side of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Takes the head of the request, where it is given back.
    pub fn take_unsent(&mut self) -> Option<Parts> {
        self.inner.unsent.take()
    }

    /// Returns true if a byte of the request may have reached a backend's application.
    #[must_use]
    pub fn is_after_sending(&self) -> bool {
        self.inner.touched
    }

    /// Returns true if the backend said that it did not process the request.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.inner.unprocessed
    }

    /// Returns when a client may try again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns true if no connection to the backend could be had: nothing was sent.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::ConnectTls
        )
    }

    /// Returns true if the cause lies on this side: neither the client nor a backend is charged
    /// with it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.inner.kind == ErrorKind::Local
    }

    /// Returns true if a deadline passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::ClientBodyTimeout
                | ErrorKind::ConnectTimeout
                | ErrorKind::QueueTimeout
                | ErrorKind::RequestWriteTimeout
                | ErrorKind::ResponseBodyTimeout
                | ErrorKind::ResponseHeadTimeout
                | ErrorKind::Timeout
        )
    }

    /// Returns true if the client, not a backend, is the cause (invariant E: never charged to
    /// the backend).
    #[must_use]
    pub fn is_client(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::BadRequest
                | ErrorKind::BodyTooLarge
                | ErrorKind::ClientBody
                | ErrorKind::ClientBodyTimeout
                | ErrorKind::MethodRefused
        )
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.inner.kind);
        if let Some(source) = &self.inner.source {
            out.field("source", source);
        }
        out.finish_non_exhaustive()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.inner.kind.describe())?;
        if let Some(source) = &self.inner.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.inner
            .source
            .as_deref()
            .map(|source| source as &(dyn error::Error + 'static))
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

/// Phase and side of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be forwarded without ambiguity (bad target, Host or framing).
    BadRequest,
    /// The request body is larger than a layer accepts (RFC 9110 §15.5.14).
    BodyTooLarge,
    /// The client's request body ended early or could not be read.
    ClientBody,
    /// The client sent no more of its request body within the idle time-out.
    ClientBodyTimeout,
    /// No connection to the backend: refused, unreachable, or its name does not resolve. As the
    /// backend has no load of it, another attempt costs nothing of a retry budget.
    Connect,
    /// No connection to the backend within the connect time-out.
    ConnectTimeout,
    /// The TLS handshake with the backend failed.
    ConnectTls,
    /// A layer refused the request, as what it stands around was busy: `tower::load_shed`.
    LoadShed,
    /// This side could not reach the backend: it is out of descriptors, ports or memory, or the
    /// resolver does not answer for the backend's name. No backend is charged with it, and another
    /// attempt costs nothing of a retry budget where nothing was sent.
    Local,
    /// The method is not forwarded (CONNECT, or TRACE where it is switched off).
    MethodRefused,
    /// No backend can take traffic.
    NoBackend,
    /// The proxy was called without a `Selected` backend.
    NotRouted,
    /// All usable backends are at their caps and the queue is full.
    Overloaded,
    /// No backend had room within the queue's time-out, or the HTTP/2 backend had no free stream
    /// within the response time-out.
    QueueTimeout,
    /// Writing the request to the backend failed.
    RequestWrite,
    /// The backend took no more of the request within the idle time-out.
    RequestWriteTimeout,
    /// The backend's response body is malformed or its connection broke in the middle.
    ResponseBody,
    /// The backend sent no more of its response body within the idle time-out.
    ResponseBodyTimeout,
    /// The backend closed or reset the connection before a whole response head.
    ResponseClosed,
    /// The backend's response head is malformed or over the limits.
    ResponseHead,
    /// No response head within the response time-out.
    ResponseHeadTimeout,
    /// A service that is not part of this crate failed.
    Service,
    /// The request took longer than a layer around it allows: `tower::timeout`.
    Timeout,
    /// The upgrade that the backend agreed to could not be carried out.
    Upgrade,
}

impl ErrorKind {
    /// Returns the stable name that stands in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BodyTooLarge => "body_too_large",
            Self::ClientBody => "client_body",
            Self::ClientBodyTimeout => "client_body_timeout",
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectTls => "connect_tls",
            Self::LoadShed => "load_shed",
            Self::Local => "local",
            Self::MethodRefused => "method_refused",
            Self::NoBackend => "no_backend",
            Self::NotRouted => "not_routed",
            Self::Overloaded => "overloaded",
            Self::QueueTimeout => "queue_timeout",
            Self::RequestWrite => "request_write",
            Self::RequestWriteTimeout => "request_write_timeout",
            Self::ResponseBody => "response_body",
            Self::ResponseBodyTimeout => "response_body_timeout",
            Self::ResponseClosed => "response_closed",
            Self::ResponseHead => "response_head",
            Self::ResponseHeadTimeout => "response_head_timeout",
            Self::Service => "service",
            Self::Timeout => "timeout",
            Self::Upgrade => "upgrade",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::BadRequest => "the request cannot be forwarded",
            Self::BodyTooLarge => "the request body is too large",
            Self::ClientBody => "the client's request body could not be read",
            Self::ClientBodyTimeout => "the client stopped sending its request body",
            Self::Connect => "no connection to the backend",
            Self::ConnectTimeout => "no connection to the backend in time",
            Self::ConnectTls => "the TLS handshake with the backend failed",
            Self::LoadShed => "a layer refused the request as it was busy",
            Self::Local => "this side could not reach the backend",
            Self::MethodRefused => "the method is not forwarded",
            Self::NoBackend => "no backend can take traffic",
            Self::NotRouted => "no backend was selected for the request",
            Self::Overloaded => "all backends are busy and the queue is full",
            Self::QueueTimeout => "no backend had room in time",
            Self::RequestWrite => "the request could not be written to the backend",
            Self::RequestWriteTimeout => "the backend stopped reading the request",
            Self::ResponseBody => "the backend's response body broke off",
            Self::ResponseBodyTimeout => "the backend stopped sending its response body",
            Self::ResponseClosed => "the backend closed the connection without a response",
            Self::ResponseHead => "the backend's response head is malformed",
            Self::ResponseHeadTimeout => "no response head from the backend in time",
            Self::Service => "the inner service failed",
            Self::Timeout => "the request took longer than a layer allows",
            Self::Upgrade => "the upgrade failed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A setting outside its range: names the field, what was given, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Makes an error about this field; `message` says what is accepted.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the name of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns what was wrong and what is accepted.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_a_box() {
        let boxed: BoxError = Error::new(ErrorKind::Connect).after_sending().into();
        let back = Error::from_boxed(boxed);
        assert_eq!(back.kind(), ErrorKind::Connect, "the kind must survive");
        assert!(back.is_after_sending(), "what is known must survive");
    }

    #[test]
    fn a_foreign_error_is_kept_as_the_cause() {
        let error = Error::from_boxed("boom".into());
        assert_eq!(error.kind(), ErrorKind::Service);
        assert_eq!(error.to_string(), "the inner service failed: boom");
    }
}
