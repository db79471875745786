//! Requests that the server refuses itself, and connections that end within a head.
//!
//! Which status a malformed head gets is decided in [`wire`](crate::wire); this file reports,
//! answers and closes. A refusal is never followed by another request of the connection: after a
//! head that two parsers could read differently, the position of the next one is unknown (RFC 9112
//! §11.2). The reason goes to the events only; the client gets a status without a body.

use std::{future::poll_fn, io, pin::Pin};

use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::input::Next;
use crate::{
    context::{ConnInfo, ConnectionEventKind},
    server::{Body, http::ConnectionReporter, stream::Stream},
    wire::{Malformed, MalformedKind, request},
};

/// The reason of a refusal, with method and path if they could be parsed.
///
/// Boxed by its callers: it is larger than what a request needs at that place.
pub(super) struct Refusal {
    kind: ConnectionEventKind,
    status: StatusCode,
    reason: &'static str,
    method: Option<Method>,
    path: Option<String>,
}

impl Refusal {
    /// The status comes with the error: 400, 414, 431, 501 or 505.
    #[cold]
    pub(super) fn malformed(error: Malformed, head: &[u8]) -> Self {
        let kind = match error.kind {
            MalformedKind::HeadTooLarge | MalformedKind::TargetTooLong => {
                ConnectionEventKind::HeadTooLarge
            }
            MalformedKind::Bad | MalformedKind::NotImplemented | MalformedKind::Version => {
                ConnectionEventKind::BadRequest
            }
        };
        Self::new(kind, error.status(), error.reason(), head)
    }

    /// Makes the refusal of a head that was not complete in time.
    #[cold]
    pub(super) fn head_timeout(head: &[u8]) -> Self {
        let kind = ConnectionEventKind::HeadTimeout;
        Self::new(kind, StatusCode::REQUEST_TIMEOUT, "", head)
    }

    /// The head was valid, so method and path are those of the request.
    #[cold]
    fn misdirected(request: &Request<Body>) -> Self {
        Self {
            kind: ConnectionEventKind::BadRequest,
            status: StatusCode::MISDIRECTED_REQUEST,
            reason: MISDIRECTED,
            method: Some(request.method().clone()),
            path: Some(request.uri().path().to_owned()),
        }
    }

    /// `head` is all that was received; the log gets its method and path if they can be parsed.
    fn new(
        kind: ConnectionEventKind,
        status: StatusCode,
        reason: &'static str,
        head: &[u8],
    ) -> Self {
        let (method, path) = request::identify(head);
        Self {
            kind,
            status,
            reason,
            method,
            path,
        }
    }
}

/// Refuses a request for a host that the TLS session does not cover (RFC 9110 §15.5.20).
pub(super) fn check_policy(next: Next, request: Option<&Request<Body>>, conn: &ConnInfo) -> Next {
    match (next, conn.tls(), request) {
        (Next::Head(_), Some(tls), Some(request))
            if !tls.covers_request(request.uri(), request.headers()) =>
        {
            Next::Refused(Box::new(Refusal::misdirected(request)))
        }
        (next, ..) => next,
    }
}

/// Reports the refusal, answers and closes. Bytes that arrive before the close are discarded.
pub(super) async fn answer<Io: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Stream<Io>,
    refusal: Refusal,
    reporter: &ConnectionReporter,
) -> io::Result<()> {
    reporter.refuse(
        refusal.kind,
        refusal.reason,
        refusal.status,
        refusal.method,
        refusal.path,
    );
    close(io, refusal.status).await
}

/// Answers a request that reached its time-out before the service answered, and closes.
pub(super) async fn answer_timeout<Io: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Stream<Io>,
) -> io::Result<()> {
    close(io, TIMED_OUT).await
}

/// Writes a response without a body, then shuts the connection down and lingers. The deadline of
/// the connection bounds it.
async fn close<Io: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Stream<Io>,
    status: StatusCode,
) -> io::Result<()> {
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        status.as_str()
    );
    // The client may still be sending the refused request: without the wait, a reset could overtake
    // this response.
    io.expect_more();
    io.write_all(head.as_bytes()).await?;
    io.flush().await?;
    poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await
}

/// Reports that the client closed the connection within a head.
#[cold]
pub(super) fn report_cut_off(reporter: &ConnectionReporter) {
    reporter.report(
        ConnectionEventKind::Io,
        "the client closed the connection within a request head",
    );
}

/// The status of a request that reached its time-out.
pub(super) const TIMED_OUT: StatusCode = StatusCode::GATEWAY_TIMEOUT;
/// The reason of a 421.
pub(in crate::server) const MISDIRECTED: &str =
    "the host has another TLS policy than the connection";
