//! The header of one connection, from its first byte to the verdict.

use std::{
    borrow::Cow,
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep_until},
};

use super::{
    layer::HeaderConfig,
    parse::{Parsed, V1_MAX, parse},
};
use crate::context::{ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents};

/// A header that is being read.
pub(super) struct Reading {
    /// What was received; empty until the first byte, then with room for the longest header.
    received: Vec<u8>,
    /// Made when the reading first waits, as a timer needs a runtime.
    deadline: Option<Pin<Box<Sleep>>>,
    conn: ConnInfo,
    config: Arc<HeaderConfig>,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl Reading {
    pub(super) fn new(
        conn: ConnInfo,
        config: Arc<HeaderConfig>,
        events: Option<Arc<dyn ConnectionEvents>>,
    ) -> Self {
        Self {
            received: Vec::new(),
            deadline: None,
            conn,
            events: events.or_else(|| config.events.clone()),
            config,
        }
    }

    /// Returns true until the peer has sent a byte.
    pub(super) fn is_silent(&self) -> bool {
        self.received.is_empty()
    }

    /// Reads the header and records it. Returns the bytes behind it that came with it.
    pub(super) fn poll<Io: AsyncRead + Unpin>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Vec<u8>>> {
        let ended = match self.poll_header(io, cx) {
            Poll::Ready(ended) => ended,
            // The header is polled first: one that came in time wins.
            Poll::Pending => Err(ready!(self.poll_deadline(cx))),
        };
        Poll::Ready(ended.map_err(|failure| self.report(failure)))
    }

    fn poll_header<Io: AsyncRead + Unpin>(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Vec<u8>, Failure>> {
        let max = self.config.max_length.max(V1_MAX);
        loop {
            // On the stack: a silent peer needs no buffer.
            let mut bytes = [0; READ];
            let mut buf = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut buf));
            if let Err(error) = read {
                return Poll::Ready(Err(self.lost(error.kind(), error.to_string())));
            }
            if buf.filled().is_empty() {
                let detail = "the peer closed before the end of the header";
                let failure = self.lost(io::ErrorKind::UnexpectedEof, detail);
                return Poll::Ready(Err(failure));
            }
            if self.received.is_empty() {
                self.received.reserve_exact(max + READ);
            }
            self.received.extend_from_slice(buf.filled());
            match parse(&self.received, max) {
                Parsed::Incomplete => {}
                Parsed::Header(header, length) => {
                    header.record(&self.conn);
                    return Poll::Ready(Ok(self.rest(length)));
                }
                Parsed::Absent if !self.config.is_required => {
                    return Poll::Ready(Ok(self.rest(0)));
                }
                Parsed::Absent => {
                    let detail = "no PROXY protocol header from a trusted peer";
                    return Poll::Ready(Err(Failure::header(detail)));
                }
                Parsed::Malformed(detail) => return Poll::Ready(Err(Failure::header(detail))),
            }
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let at = self.conn.accepted() + self.config.timeout;
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep_until(at)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Failure {
            kind: Some(ConnectionEventKind::ProxyTimeout),
            io: io::ErrorKind::TimedOut,
            detail: match self.is_silent() {
                true => "the peer said nothing".into(),
                false => "the peer stopped in the middle of the header".into(),
            },
        })
    }

    /// Returns what was received behind `length`.
    fn rest(&mut self, length: usize) -> Vec<u8> {
        let mut received = mem::take(&mut self.received);
        received.drain(..length);
        received.shrink_to_fit();
        received
    }

    /// A peer that connects and leaves, as TCP checks do, is not reported.
    fn lost(&self, io: io::ErrorKind, detail: impl Into<Cow<'static, str>>) -> Failure {
        Failure {
            kind: (!self.is_silent()).then_some(ConnectionEventKind::ProxyHeader),
            io,
            detail: detail.into(),
        }
    }

    fn report(&self, failure: Failure) -> io::Error {
        let (conn, detail) = (&self.conn, &failure.detail);
        tracing::debug!(
            target: "evenkeel::proxy_protocol", peer = ?conn.peer(), %detail, "no PROXY protocol header"
        );
        if let (Some(events), Some(kind)) = (&self.events, failure.kind) {
            let duration = conn.accepted().elapsed();
            let event = ConnectionEvent::new(conn.clone(), kind, detail.clone(), duration);
            events.connection_ended(&event);
        }
        io::Error::new(failure.io, failure.detail)
    }
}

/// Why there is no header.
struct Failure {
    /// `None` if it is not reported.
    kind: Option<ConnectionEventKind>,
    io: io::ErrorKind,
    detail: Cow<'static, str>,
}

impl Failure {
    fn header(detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: Some(ConnectionEventKind::ProxyHeader),
            io: io::ErrorKind::InvalidData,
            detail: detail.into(),
        }
    }
}

/// Nearly every header arrives in one read of this size, often with the first bytes behind it.
const READ: usize = 512;
