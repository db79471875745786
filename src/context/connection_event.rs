//! What ends a connection before there is a request.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::ConnInfo;

/// A connection that ended before, between or instead of requests.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionEvent {
    /// The connection.
    pub conn: ConnInfo,
    /// What happened.
    pub kind: ConnectionEventKind,
    /// A detail for people: the parser's or the TLS library's words.
    pub detail: Cow<'static, str>,
    /// From accept to the event.
    pub duration: Duration,
    /// The status that the request was refused with; `None` where nothing was answered.
    pub status: Option<StatusCode>,
    /// The method of the request that was refused, where it could be read.
    pub method: Option<Method>,
    /// The path of the request that was refused, without the query, where it could be read.
    pub path: Option<String>,
}

impl ConnectionEvent {
    /// Notes that this happened to this connection.
    pub fn new(
        conn: ConnInfo,
        kind: ConnectionEventKind,
        detail: impl Into<Cow<'static, str>>,
        duration: Duration,
    ) -> Self {
        Self {
            conn,
            kind,
            detail: detail.into(),
            duration,
            status: None,
            method: None,
            path: None,
        }
    }

    /// Adds what was answered, and to which request.
    #[must_use]
    pub fn refused(
        mut self,
        status: StatusCode,
        method: Option<Method>,
        path: Option<String>,
    ) -> Self {
        self.status = Some(status);
        self.method = method;
        self.path = path;
        self
    }
}

/// What ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionEventKind {
    /// A request head that is malformed, or not HTTP/1; answered with 400, 501 or 505.
    BadRequest,
    /// No whole request head within the time-out; answered with 408.
    HeadTimeout,
    /// A request head over the limits; answered with 431 (or 414).
    HeadTooLarge,
    /// The connection broke.
    Io,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The TLS handshake did not end within the time-out.
    TlsTimeout,
}

impl ConnectionEventKind {
    /// Returns the stable name that stands in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Io => "io",
            Self::TlsHandshake => "tls_handshake",
            Self::TlsTimeout => "tls_timeout",
        }
    }
}

/// Takes what ends connections; the access log's sinks do.
pub trait ConnectionEvents: Send + Sync + 'static {
    /// Called once a connection that ends so, on its task: must not block.
    fn connection_ended(&self, event: &ConnectionEvent);
}

impl<T: ConnectionEvents + ?Sized> ConnectionEvents for Arc<T> {
    fn connection_ended(&self, event: &ConnectionEvent) {
        (**self).connection_ended(event);
    }
}
