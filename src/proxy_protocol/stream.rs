//! [`ProxyProtocolStream`]: the byte stream behind the header.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{layer::HeaderConfig, parse, reading::Reading};
use crate::{
    context::{ConnInfo, ConnectionEvents},
    log_limit::LogLimit,
};

/// The byte stream behind the PROXY protocol header. The first read or write reads the header.
///
/// If the header is refused, the read or write fails, and so do all later ones.
pub struct ProxyProtocolStream<Io> {
    io: Io,
    conn: ConnInfo,
    state: State,
}

enum State {
    Header(Box<Reading>),
    /// The first bytes of a peer that is not trusted.
    Untrusted,
    /// Bytes that came with the header, and how many of them were returned.
    Ahead(Vec<u8>, usize),
    Open,
    Failed,
}

impl<Io> ProxyProtocolStream<Io> {
    pub(super) fn new(
        io: Io,
        conn: ConnInfo,
        config: &Arc<HeaderConfig>,
        events: Option<Arc<dyn ConnectionEvents>>,
    ) -> Self {
        let state = if config.trusts(conn.peer()) {
            let reading = Reading::new(conn.clone(), config.clone(), events);
            State::Header(Box::new(reading))
        } else if config.is_on() {
            State::Untrusted
        } else {
            State::Open
        };
        Self { io, conn, state }
    }

    /// Returns the facts of the connection. They have the client's address once the header is read.
    #[must_use]
    pub fn conn(&self) -> &ConnInfo {
        &self.conn
    }

    /// Returns the stream below, from which the header may not be read yet.
    #[must_use]
    pub fn get_ref(&self) -> &Io {
        &self.io
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(&self.state, State::Header(reading) if reading.is_silent())
    }
}

impl<Io: AsyncRead + Unpin> ProxyProtocolStream<Io> {
    /// Reads the header before the first read or write.
    ///
    /// # Errors
    ///
    /// If the header is malformed, too long or missing, or if it does not come within the time-out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call continues.
    pub async fn header(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_header(cx)).await
    }

    /// Polls the header; see [`header`](Self::header).
    ///
    /// # Errors
    ///
    /// As for [`header`](Self::header).
    pub fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = match &mut self.state {
            State::Header(reading) => ready!(reading.poll(&mut self.io, cx)),
            State::Failed => return Poll::Ready(Err(refused())),
            State::Untrusted | State::Ahead(..) | State::Open => return Poll::Ready(Ok(())),
        };
        let (state, ended) = match ended {
            Ok(ahead) if ahead.is_empty() => (State::Open, Ok(())),
            Ok(ahead) => (State::Ahead(ahead, 0), Ok(())),
            Err(error) => (State::Failed, Err(error)),
        };
        self.state = state;
        Poll::Ready(ended)
    }

    /// Reads the first bytes of a peer that is not trusted, and warns if they are a header.
    fn poll_untrusted(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.state = State::Open;
        if parse::has_signature(&buf.filled()[before..]) {
            warn_untrusted(&self.conn);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for ProxyProtocolStream<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Open => return Pin::new(&mut this.io).poll_read(cx, buf),
                State::Ahead(ahead, returned) => {
                    let rest = &ahead[*returned..];
                    let now = rest.len().min(buf.remaining());
                    buf.put_slice(&rest[..now]);
                    *returned += now;
                    if *returned == ahead.len() {
                        this.state = State::Open;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Untrusted => return this.poll_untrusted(cx, buf),
                State::Header(_) | State::Failed => ready!(this.poll_header(cx))?,
            }
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ProxyProtocolStream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_header(cx))?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_header(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl<Io> fmt::Debug for ProxyProtocolStream<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Header(_) => "header",
            State::Untrusted | State::Ahead(..) | State::Open => "open",
            State::Failed => "failed",
        };
        f.debug_struct("ProxyProtocolStream")
            .field("conn", &self.conn)
            .field("state", &state)
            .finish_non_exhaustive()
    }
}

/// A balancer that is missing from the list of trusted peers is a frequent mistake, and its clients see
/// only that each request is malformed.
#[cold]
fn warn_untrusted(conn: &ConnInfo) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(left_out) = LIMIT.pass() {
        tracing::warn!(
            target: "evenkeel::proxy_protocol", peer = ?conn.peer(), left_out,
            "a PROXY protocol header from a peer that is not trusted; if the peer is a balancer of \
             yours, add its network to the trusted peers"
        );
    }
}

fn refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the PROXY protocol header was refused",
    )
}
