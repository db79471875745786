//! Events of connections that ended before, between or instead of requests.
//!
//! A request that reaches a service has a line in the log by the access log layer. What ends before
//! that has none, and would be invisible: a port scan, a failed handshake, a head that is too large.
//! The server, the TLS layer and the PROXY protocol layer report those here, at most one for each
//! connection.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{Method, StatusCode};

use super::{ConnInfo, HandshakeFailure};

/// A connection that ended before, between or instead of requests, such as by a failed TLS handshake.
/// The access log writes a line for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionEvent {
    /// The connection.
    pub conn: ConnInfo,
    /// What ended it.
    pub kind: ConnectionEventKind,
    /// A detail for people: the message of the parser or of the TLS library.
    pub detail: Cow<'static, str>,
    /// The time from accept to the event.
    pub duration: Duration,
    /// The status that the server refused the request with; `None` if it sent no response.
    pub status: Option<StatusCode>,
    /// The method of the refused request, if it could be read.
    pub method: Option<Method>,
    /// The path of the refused request without its query, if it could be read.
    pub path: Option<String>,
    /// Why the TLS handshake failed; `None` if it did not.
    pub handshake_failure: Option<HandshakeFailure>,
    /// The server name (SNI) of a TLS handshake that failed, if the client sent it.
    pub server_name: Option<Box<str>>,
}

impl ConnectionEvent {
    /// Makes an event of this connection, without a refused request and a failed handshake.
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
            handshake_failure: None,
            server_name: None,
        }
    }

    /// Adds why the TLS handshake failed, and the server name that the client asked for.
    #[must_use]
    pub fn failed_handshake(
        mut self,
        failure: HandshakeFailure,
        server_name: Option<&str>,
    ) -> Self {
        self.handshake_failure = Some(failure);
        self.server_name = server_name.map(Box::from);
        self
    }

    /// Adds the status of the response, and the request that it refused.
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
    /// The request head is malformed, or not HTTP/1, or its host is not one that the TLS session covers.
    /// The server answered 400, 501 or 505, or 421 for the host.
    BadRequest,
    /// No whole request head came within the time-out. The server answered 408.
    HeadTimeout,
    /// The request head is over the limits. The server answered 431, or 414 for the target.
    HeadTooLarge,
    /// The connection broke: the operating system returned an error.
    Io,
    /// The client broke a rule of HTTP/2 that concerns the connection (RFC 9113 §5.4.1), or cost too much:
    /// the server closed the connection with GOAWAY. A malformed request resets its stream alone, and
    /// is no event.
    ProtocolError,
    /// The PROXY protocol header is malformed, too long, or missing.
    ProxyHeader,
    /// No whole PROXY protocol header came within the time-out.
    ProxyTimeout,
    /// The TLS handshake failed.
    TlsHandshake,
    /// The TLS handshake did not end within the time-out.
    TlsTimeout,
}

impl ConnectionEventKind {
    /// Returns the name in logs and metrics. It does not change between versions.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Io => "io",
            Self::ProtocolError => "protocol_error",
            Self::ProxyHeader => "proxy_header",
            Self::ProxyTimeout => "proxy_timeout",
            Self::TlsHandshake => "tls_handshake",
            Self::TlsTimeout => "tls_timeout",
        }
    }
}

/// A sink for the events of connections. The sinks of the access log and of the metrics implement it;
/// a pair hands each event to both of its sinks.
///
/// The server calls the methods on its accept loop or on the connection's task: they must not block.
///
/// # Example
///
/// ```
/// use std::{sync::atomic::{AtomicU64, Ordering::Relaxed}, time::Duration};
///
/// use evenkeel::context::{
///     ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Peer,
/// };
///
/// /// Counts handshakes that failed.
/// #[derive(Default)]
/// struct Handshakes(AtomicU64);
///
/// impl ConnectionEvents for Handshakes {
///     fn connection_ended(&self, event: &ConnectionEvent) {
///         if event.kind == ConnectionEventKind::TlsHandshake {
///             self.0.fetch_add(1, Relaxed);
///         }
///     }
/// }
///
/// // A server calls it; so does a test.
/// let handshakes = Handshakes::default();
/// let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
/// let kind = ConnectionEventKind::TlsHandshake;
/// handshakes.connection_ended(&ConnectionEvent::new(conn, kind, "no common cipher", Duration::ZERO));
/// assert_eq!(handshakes.0.load(Relaxed), 1);
/// ```
pub trait ConnectionEvents: Send + Sync + 'static {
    /// Records the end of a connection without a request, or a request that the server refused. Called
    /// at most once for each connection.
    fn connection_ended(&self, event: &ConnectionEvent);

    /// Records that a connection was accepted. The default does nothing.
    fn connection_opened(&self, _conn: &ConnInfo) {}

    /// Records that a TLS handshake succeeded; [`ConnInfo::tls`] has its facts. The default does
    /// nothing.
    fn handshake_ended(&self, _conn: &ConnInfo) {}

    /// Records that a connection which was [opened](Self::connection_opened) is closed, however it
    /// ended. The default does nothing.
    fn connection_closed(&self, _conn: &ConnInfo) {}
}

impl<T: ConnectionEvents + ?Sized> ConnectionEvents for Arc<T> {
    fn connection_ended(&self, event: &ConnectionEvent) {
        (**self).connection_ended(event);
    }

    fn connection_opened(&self, conn: &ConnInfo) {
        (**self).connection_opened(conn);
    }

    fn handshake_ended(&self, conn: &ConnInfo) {
        (**self).handshake_ended(conn);
    }

    fn connection_closed(&self, conn: &ConnInfo) {
        (**self).connection_closed(conn);
    }
}

/// `None` does nothing.
impl<T: ConnectionEvents> ConnectionEvents for Option<T> {
    fn connection_ended(&self, event: &ConnectionEvent) {
        if let Some(sink) = self {
            sink.connection_ended(event);
        }
    }

    fn connection_opened(&self, conn: &ConnInfo) {
        if let Some(sink) = self {
            sink.connection_opened(conn);
        }
    }

    fn handshake_ended(&self, conn: &ConnInfo) {
        if let Some(sink) = self {
            sink.handshake_ended(conn);
        }
    }

    fn connection_closed(&self, conn: &ConnInfo) {
        if let Some(sink) = self {
            sink.connection_closed(conn);
        }
    }
}

impl<A: ConnectionEvents, B: ConnectionEvents> ConnectionEvents for (A, B) {
    fn connection_ended(&self, event: &ConnectionEvent) {
        self.0.connection_ended(event);
        self.1.connection_ended(event);
    }

    fn connection_opened(&self, conn: &ConnInfo) {
        self.0.connection_opened(conn);
        self.1.connection_opened(conn);
    }

    fn handshake_ended(&self, conn: &ConnInfo) {
        self.0.handshake_ended(conn);
        self.1.handshake_ended(conn);
    }

    fn connection_closed(&self, conn: &ConnInfo) {
        self.0.connection_closed(conn);
        self.1.connection_closed(conn);
    }
}
