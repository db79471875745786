//! [`Listener`]: the sources of connections, and [`bind`], which makes a TCP listener.
//!
//! A listener is polled by one task, that of [`Serve`](super::Serve), and accepts one connection at
//! a time; the connection's protocols run in tasks of their own, so that a slow TLS handshake keeps
//! no other connection waiting. To accept on several cores, each of the [`Workers`](super::Workers)
//! binds a listener of its own with `reuse_port`: the kernel then chooses by a hash of both
//! addresses, and no two threads are woken for one connection.
//!
//! What `accept` may fail with, and what follows:
//!
//! | error | log | wait |
//! |---|---|---|
//! | the client has gone again (ECONNABORTED, ECONNRESET) | none | none |
//! | out of descriptors, buffers or memory | one ERROR in 10 s, `evenkeel::local_fault` | 100 ms |
//! | any other | ERROR | 100 ms |

use std::{future::Future, io, net::SocketAddr, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::{context::Peer, local_fault::LocalFault, tcp_listener, tcp_timeout};

/// A source of connections. `accept` returns no error: an implementation logs it and tries again.
///
/// Implement it for another source of connections, or around a listener to count or filter
/// connections. `Serve` drops the future of `accept` when a shutdown begins, so `accept` has to be
/// cancel safe: a connection that the future has taken from the kernel must not be lost with it.
///
/// # Example
///
/// A listener that counts what another one accepts:
///
/// ```
/// use std::{
///     sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}},
///     time::Duration,
/// };
///
/// use evenkeel::{context::Peer, server::Listener};
/// use tokio::net::{TcpListener, TcpStream};
///
/// struct Counting<L> {
///     inner: L,
///     accepted: Arc<AtomicUsize>,
/// }
///
/// impl<L: Listener> Listener for Counting<L> {
///     type Io = L::Io;
///
///     async fn accept(&mut self) -> (L::Io, Peer) {
///         let accepted = self.inner.accept().await;
///         self.accepted.fetch_add(1, Relaxed);
///         accepted
///     }
///
///     fn local(&self) -> Peer {
///         self.inner.local()
///     }
///
///     // Without this, the kernel would keep clients that lost their network.
///     fn tcp_user_timeout(&mut self, timeout: Duration) {
///         self.inner.tcp_user_timeout(timeout);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let inner = TcpListener::bind("127.0.0.1:0").await?;
/// let address = inner.local_addr()?;
/// let accepted = Arc::new(AtomicUsize::new(0));
/// let mut listener = Counting { inner, accepted: accepted.clone() };
///
/// let client = TcpStream::connect(address).await?;
/// let (_stream, peer) = listener.accept().await;
/// assert!(matches!(peer, Peer::Tcp(peer) if peer == client.local_addr()?));
/// assert_eq!(accepted.load(Relaxed), 1);
/// # Ok(())
/// # }
/// ```
pub trait Listener: Send + 'static {
    /// The byte stream of a connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection; returns it with its peer.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Peer)> + Send;

    /// Returns the address that clients connect to.
    ///
    /// It is called once, before the first connection; [`ConnInfo`](crate::context::ConnInfo) shows
    /// it.
    fn local(&self) -> Peer;

    /// Makes the kernel close connections whose peer acknowledges nothing for `timeout`. The server
    /// calls it once, before it accepts the first connection. See
    /// [`Serve::tcp_user_timeout`](super::Serve::tcp_user_timeout).
    ///
    /// The default does nothing, which is right for listeners that are not TCP. A listener that wraps
    /// another has to pass the call on.
    fn tcp_user_timeout(&mut self, _timeout: Duration) {}
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> (TcpStream, Peer) {
        loop {
            match Self::accept(self).await {
                Ok((stream, peer)) => {
                    // With Nagle's algorithm, a small response would wait until the client
                    // acknowledged the previous one.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(target: "evenkeel::server", %error, "TCP_NODELAY");
                    }
                    return (stream, Peer::Tcp(peer));
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    fn local(&self) -> Peer {
        self.local_addr().map_or(Peer::Unknown, Peer::Tcp)
    }

    fn tcp_user_timeout(&mut self, timeout: Duration) {
        tcp_timeout::set_for_accepted(&SockRef::from(&*self), timeout);
    }
}

impl Listener for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        loop {
            match Self::accept(self).await {
                Ok((stream, _)) => return (stream, Peer::Unix),
                Err(error) => pause(&error).await,
            }
        }
    }

    fn local(&self) -> Peer {
        Peer::Unix
    }
}

/// Logs an error of `accept` and waits. Without the wait, a process that is out of file descriptors
/// would use the CPU for retries that fail.
///
/// Errors that belong to the one connection (its client has gone again) cost no wait: the next
/// connection has nothing to do with them.
///
/// The wait holds the accept loop and nothing else: open connections go on.
async fn pause(error: &io::Error) {
    let gone = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    );
    if !gone {
        match LocalFault::of(error) {
            Some(fault) => fault.report(error),
            None => tracing::error!(
                target: "evenkeel::server", %error, "a connection could not be accepted"
            ),
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Binds a TCP listener. With `reuse_port`, several listeners (one for each worker thread) share the
/// address, and the kernel distributes connections over them.
///
/// The kernel closes a connection whose client acknowledges nothing for 60 s, so that clients which
/// vanish do not stay (Linux, Android, Fuchsia). [`serve`](super::serve) replaces this time by its
/// own; `axum::serve` keeps it.
///
/// # Errors
///
/// Those of the operating system: the address is in use, not permitted, or not of this machine.
///
/// Port 0 lets the system choose one; `local_addr` of the listener says which. It has to be called
/// inside a tokio runtime with I/O.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    TcpListener::from_std(tcp_listener::bind(address, reuse_port)?)
}

/// Long enough for other connections to close and free a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
