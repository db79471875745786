//! Errors: why a request failed, by phase and side, and which setting was refused.
//!
//! One type of error, [`Error`], passes through all layers. Its [`ErrorKind`] names the phase in which
//! the request failed (connect, request, response) and the side that caused it (client, backend, this
//! process). The layers decide by the kind: failover whether another attempt may help, health whether
//! the backend is charged, `RespondLayer` which status the client gets.
//!
//! # Example
//!
//! ```
//! use evenkeel::{BoxError, Error, ErrorKind};
//!
//! let error = Error::new(ErrorKind::Connect).with_source("connection refused");
//! assert!(error.is_connect() && !error.is_after_sending());
//! assert_eq!(error.to_string(), "no connection to the backend: connection refused");
//!
//! // A layer of tower boxes the error; the kind survives.
//! let boxed: BoxError = error.into();
//! assert_eq!(Error::from_boxed(boxed).kind(), ErrorKind::Connect);
//! ```

use std::{any::Any, error, fmt, time::Duration};

use http::request::Parts;

/// A boxed error of any type; the services of tower use the same.
pub type BoxError = Box<dyn error::Error + Send + Sync>;

/// Why no backend answered a request.
///
/// [`kind`](Self::kind) and the predicates say what happened. An error may give the head of the
/// request back ([`take_unsent`](Self::take_unsent)), so that another attempt needs no copy of it.
/// `RespondLayer` turns the error into a status; no other layer does.
///
/// It is one pointer large. An error allocates; a request that succeeds has none.
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
    /// Makes an error of this kind, without a cause.
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

    /// Gives the head of the request back, so that another attempt can use it.
    #[must_use]
    pub fn with_unsent(mut self, head: Parts) -> Self {
        self.inner.unsent = Some(head);
        self
    }

    /// Marks that the backend may have seen a part of the request: only an idempotent request may be
    /// sent again (RFC 9110 §9.2.2).
    #[must_use]
    pub fn after_sending(mut self) -> Self {
        self.inner.touched = true;
        self
    }

    /// Marks that the backend declared the request unprocessed (RFC 9113 §8.7): any request may be sent
    /// again, even if a part of it was sent.
    #[must_use]
    pub fn unprocessed(mut self) -> Self {
        self.inner.unprocessed = true;
        self
    }

    /// Adds the time after which a client may try again; the response has it as `Retry-After`.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// Returns the [`Error`] in a [`BoxError`]; an error of another type becomes the cause of an
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

    /// Returns the kind of an error that is an `Error`, boxed or not.
    pub(crate) fn kind_of<E: 'static>(error: &E) -> Option<ErrorKind> {
        let error = error as &dyn Any;
        let plain = error.downcast_ref::<Self>();
        let boxed = || error.downcast_ref::<BoxError>()?.downcast_ref::<Self>();
        plain.or_else(boxed).map(Self::kind)
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

    /// Returns true if the backend declared the request unprocessed.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        self.inner.unprocessed
    }

    /// Returns the time after which a client may try again; `None` if it is unknown.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns true if no connection to the backend could be made. Nothing was sent then.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::Connect | ErrorKind::ConnectTimeout | ErrorKind::ConnectTls
        )
    }

    /// Returns true if the cause is in this process or its host, such as a lack of descriptors. Neither
    /// the client nor a backend is charged.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.inner.kind == ErrorKind::Local
    }

    /// Returns true if a time-out caused the error.
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

    /// Returns true if the client caused the error. No backend is charged (invariant E of the
    /// [pool](crate::pool)).
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

/// The phase and the side of a failure. Variants are added over time: match with a wildcard, or use
/// the predicates of [`Error`].
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
    /// No connection to the backend: it refused, is unreachable, or its name does not resolve. The
    /// backend has no load from it, so another attempt takes nothing from a retry budget.
    Connect,
    /// No connection to the backend within the connect time-out.
    ConnectTimeout,
    /// The TLS handshake with the backend failed.
    ConnectTls,
    /// A layer refused the request because its inner service was busy: `tower::load_shed`.
    LoadShed,
    /// This process could not reach the backend: it is out of descriptors, ports or memory, or the
    /// resolver does not answer for the backend's name. No backend is charged. If nothing was sent,
    /// another attempt takes nothing from a retry budget.
    Local,
    /// The method is not forwarded: CONNECT, or TRACE unless it is allowed.
    MethodRefused,
    /// No backend of the pool can take traffic.
    NoBackend,
    /// The proxy was called without a `Selected` extension: no balancer is above it.
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
    /// The backend's response body is malformed, or its connection broke before the end.
    ResponseBody,
    /// The backend sent no more of its response body within the idle time-out.
    ResponseBodyTimeout,
    /// The backend closed or reset the connection before a whole response head.
    ResponseClosed,
    /// The backend's response head is malformed or over the limits.
    ResponseHead,
    /// No response head within the response time-out.
    ResponseHeadTimeout,
    /// A service of another crate failed; its error is the source.
    Service,
    /// The request took longer than a layer allows: `tower::timeout`.
    Timeout,
    /// The backend agreed to an upgrade, and the connections could not be joined.
    Upgrade,
}

impl ErrorKind {
    /// Returns the name in logs and metrics. It does not change between versions.
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

/// A setting outside its range: the name of the field, and a message with the given value and the
/// accepted ones.
///
/// ```
/// use evenkeel::Backend;
///
/// let error = Backend::new("a", "http://127.0.0.1:9001").and_then(|b| b.weight(70_000)).unwrap_err();
/// assert_eq!(error.field(), "weight");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Makes an error about this field. `message` says what was given and what is accepted.
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

    /// Returns the message: what was given and what is accepted.
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
