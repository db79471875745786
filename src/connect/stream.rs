//! `Stream`: the byte stream to a backend, over TCP, a Unix socket or TLS.
//!
//! An enum and not a trait object, so that calls are direct. TLS is boxed: a session is large, and
//! most backends are reached in cleartext.
//!
//! The methods with `now` in their names never register a waker. They are for the first write of a
//! request, inside `call`, where no task is known yet; the future of the response polls the rest.

#[cfg(feature = "__sockets")]
use std::mem::MaybeUninit;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

#[cfg(feature = "__sockets")]
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};

/// The byte stream to a backend. It reads and writes as tokio's own streams do.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// TLS over TCP or over a Unix socket.
    #[cfg(feature = "__tls")]
    Tls(Box<TlsStream>),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A TLS session with a backend; see [`Stream::Tls`].
#[cfg(feature = "__tls")]
#[derive(Debug)]
pub struct TlsStream(pub(super) tokio_rustls::client::TlsStream<Stream>);

impl Stream {
    /// Returns true if written data may wait in a buffer until a flush.
    ///
    /// True for TLS alone.
    pub(crate) fn buffers_writes(&self) -> bool {
        !matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Writes as much as the socket takes at once. No task is woken when the socket takes more.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing was taken. With TLS, an error of the socket may come after the
    /// session has encrypted the bytes.
    pub(crate) fn write_now(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(buf),
            Self::Unix(stream) => stream.try_write(buf),
            #[cfg(feature = "__tls")]
            Self::Tls(stream) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                match Pin::new(&mut stream.0).poll_write(&mut cx, buf) {
                    Poll::Ready(wrote) => wrote,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Writes as much of these buffers as the socket takes at once; see [`write_now`](Self::write_now).
    pub(crate) fn write_vectored_now(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(bufs),
            Self::Unix(stream) => stream.try_write_vectored(bufs),
            #[cfg(feature = "__tls")]
            Self::Tls(stream) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                match Pin::new(&mut stream.0).poll_write_vectored(&mut cx, bufs) {
                    Poll::Ready(wrote) => wrote,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Asks the kernel whether the backend has closed an idle connection or sent something. Costs one
    /// system call, and sees what arrived since the runtime last polled the socket, which
    /// [`is_stale`](Self::is_stale) does not.
    #[cfg(feature = "__sockets")]
    pub(crate) fn has_news(&self) -> bool {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            #[cfg(feature = "__tls")]
            // TLS records are not decrypted: any byte, a ticket too, counts as news. That costs a
            // connection, and never a request.
            Self::Tls(stream) => return stream.0.get_ref().0.has_news(),
        };
        !would_block(&socket.peek(&mut [MaybeUninit::uninit()]))
    }

    /// Returns true if the backend has closed an idle connection, or sent data that no request asked
    /// for. In either case no request may be sent on it. Costs no system call if the runtime has seen no
    /// data since the last read.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        match self {
            Self::Tcp(stream) => !would_block(&stream.try_read(&mut byte)),
            Self::Unix(stream) => !would_block(&stream.try_read(&mut byte)),
            // A close_notify and a new ticket look alike until the session reads them.
            #[cfg(feature = "__tls")]
            Self::Tls(stream) => {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                let mut buf = ReadBuf::new(&mut byte);
                Pin::new(&mut stream.0)
                    .poll_read(&mut cx, &mut buf)
                    .is_ready()
            }
        }
    }
}

fn would_block(read: &io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $do,
            Self::Unix($stream) => $do,
            #[cfg(feature = "__tls")]
            Self::Tls(stream) => {
                let $stream = &mut stream.0;
                $do
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
