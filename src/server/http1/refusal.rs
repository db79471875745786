//! Requests that are refused before a service sees them, and connections that end without one.

use std::{future::poll_fn, io, pin::Pin};

use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    context::ConnectionEventKind,
    server::{http::ConnectionReporter, stream::Stream},
    wire::{Malformed, MalformedKind, request},
};

/// Why a request is refused, and which it was as far as that could be read.
pub(super) struct Refusal {
    kind: ConnectionEventKind,
    status: StatusCode,
    reason: &'static str,
    method: Option<Method>,
    path: Option<String>,
}

impl Refusal {
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

    /// A head that did not come in time.
    #[cold]
    pub(super) fn head_timeout(head: &[u8]) -> Self {
        let kind = ConnectionEventKind::HeadTimeout;
        Self::new(kind, StatusCode::REQUEST_TIMEOUT, "", head)
    }

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

/// Answers and closes: what comes between the answer and the close is read and thrown away, never
/// executed.
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

/// Answers a request whose time was over before the service answered, and closes.
pub(super) async fn answer_timeout<Io: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Stream<Io>,
) -> io::Result<()> {
    close(io, TIMED_OUT).await
}

async fn close<Io: AsyncRead + AsyncWrite + Unpin>(
    io: &mut Stream<Io>,
    status: StatusCode,
) -> io::Result<()> {
    let reason = status.canonical_reason().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        status.as_str()
    );
    io.expect_more();
    io.write_all(head.as_bytes()).await?;
    io.flush().await?;
    poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await
}

/// Notes that the client closed the connection within a head.
#[cold]
pub(super) fn report_cut_off(reporter: &ConnectionReporter) {
    reporter.report(
        ConnectionEventKind::Io,
        "the client closed the connection within a request head",
    );
}

/// What a request is answered with whose time was over.
pub(super) const TIMED_OUT: StatusCode = StatusCode::GATEWAY_TIMEOUT;
