//! [`TlsStream`]: the byte stream inside TLS.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    handshake::{Handshake, Session},
    handshake_config::HandshakeConfig,
};
use crate::context::{ConnInfo, ConnectionEvents};

/// The byte stream inside TLS. The first read or write runs the handshake.
///
/// [`conn`](Self::conn) has the result of the handshake from then on. If the handshake fails, the read
/// or write fails, and the connection is closed.
pub struct TlsStream<Io> {
    state: State<Io>,
}

/// Boxed, since a handshake needs more memory than a session. Each variant holds the [`ConnInfo`], so
/// that the stream itself stays two words long.
enum State<Io> {
    Handshake(Pin<Box<Handshake<Io>>>),
    Open(Box<Open<Io>>),
    Failed(Box<ConnInfo>),
}

struct Open<Io> {
    session: Session<Io>,
    conn: ConnInfo,
}

impl<Io> TlsStream<Io> {
    pub(super) fn new(
        io: Io,
        conn: ConnInfo,
        shared: Arc<HandshakeConfig>,
        events: Option<Arc<dyn ConnectionEvents>>,
    ) -> Self {
        let handshake = Handshake::new(io, conn, shared, events);
        Self {
            state: State::Handshake(Box::pin(handshake)),
        }
    }

    /// Returns the information about the connection.
    #[must_use]
    pub fn conn(&self) -> &ConnInfo {
        match &self.state {
            State::Handshake(handshake) => handshake.conn(),
            State::Open(open) => &open.conn,
            State::Failed(conn) => conn,
        }
    }

    /// Returns the stream below TLS; `None` before the handshake succeeded.
    #[must_use]
    pub fn get_ref(&self) -> Option<&Io> {
        match &self.state {
            State::Open(open) => Some(open.session.get_ref().0.get_ref()),
            State::Handshake(_) | State::Failed(_) => None,
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(&self.state, State::Handshake(handshake) if handshake.is_silent())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// Runs the handshake before the first read or write.
    ///
    /// # Errors
    ///
    /// If the handshake fails, or does not complete within the time-out of the layer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: the next call continues.
    pub async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Polls the handshake; see [`handshake`](Self::handshake).
    ///
    /// # Errors
    ///
    /// As for [`handshake`](Self::handshake).
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = match &mut self.state {
            State::Handshake(handshake) => ready!(handshake.as_mut().poll(cx)),
            State::Open(_) => return Poll::Ready(Ok(())),
            State::Failed(_) => return Poll::Ready(Err(no_session())),
        };
        let conn = self.conn().clone();
        let (state, ended) = match ended {
            Ok(session) => (State::Open(Box::new(Open { session, conn })), Ok(())),
            Err(error) => (State::Failed(Box::new(conn)), Err(error)),
        };
        self.state = state;
        Poll::Ready(ended)
    }

    #[inline]
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut Session<Io>>>> {
        if !matches!(self.state, State::Open(_)) {
            ready!(self.poll_handshake(cx))?;
        }
        Poll::Ready(match &mut self.state {
            State::Open(open) => Ok(Pin::new(&mut open.session)),
            State::Handshake(_) | State::Failed(_) => Err(no_session()),
        })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_open(cx))?.poll_read(cx, buf)
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_open(cx))?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_open(cx))?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().state {
            State::Open(open) => Pin::new(&mut open.session).poll_flush(cx),
            // Nothing has been written yet.
            State::Handshake(_) => Poll::Ready(Ok(())),
            State::Failed(_) => Poll::Ready(Err(no_session())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.state {
            State::Open(open) => return Pin::new(&mut open.session).poll_shutdown(cx),
            // There is no session that a close_notify could end.
            State::Handshake(handshake) => {
                this.state = State::Failed(Box::new(handshake.conn().clone()));
            }
            State::Failed(_) => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io> fmt::Debug for TlsStream<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Handshake(_) => "handshake",
            State::Open(_) => "open",
            State::Failed(_) => "failed",
        };
        f.debug_struct("TlsStream")
            .field("conn", self.conn())
            .field("state", &state)
            .finish()
    }
}

fn no_session() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "there is no TLS session")
}
