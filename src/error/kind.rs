//! [`ErrorKind`]: the phase and the side of a failure.

use std::fmt;

/// The phase and the side of a failure. Variants are added over time: match with a wildcard, or use
/// the predicates of [`Error`](super::Error).
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
    /// Every kind, at the index that it has as a number.
    pub(crate) const ALL: [Self; 24] = [
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::ClientBody,
        Self::ClientBodyTimeout,
        Self::Connect,
        Self::ConnectTimeout,
        Self::ConnectTls,
        Self::LoadShed,
        Self::Local,
        Self::MethodRefused,
        Self::NoBackend,
        Self::NotRouted,
        Self::Overloaded,
        Self::QueueTimeout,
        Self::RequestWrite,
        Self::RequestWriteTimeout,
        Self::ResponseBody,
        Self::ResponseBodyTimeout,
        Self::ResponseClosed,
        Self::ResponseHead,
        Self::ResponseHeadTimeout,
        Self::Service,
        Self::Timeout,
        Self::Upgrade,
    ];

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

    /// Returns the failure in words.
    pub(super) fn describe(self) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_has_every_kind_at_its_number() {
        for (number, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind}");
        }
        let source = include_str!("kind.rs");
        let names = source.split("pub fn as_str").nth(1).unwrap();
        let names = names.split("fn describe").next().unwrap();
        assert_eq!(names.matches(" => \"").count(), ErrorKind::ALL.len());
    }
}
