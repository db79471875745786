//! Where connections come from.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

use crate::{context::Peer, local_fault::LocalFault, tcp_timeout};

/// Where connections come from. Accepting never fails: what goes wrong is logged and tried again.
pub trait Listener: Send + 'static {
    /// The byte stream of a connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for a connection; returns it with its peer.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Peer)> + Send;

    /// Returns the address that clients connect to.
    fn local(&self) -> Peer;

    /// Has the operating system end connections that are accepted from now on, once their peer
    /// acknowledges nothing for so long; called once, before the first is accepted. See
    /// [`Serve::tcp_user_timeout`](super::Serve::tcp_user_timeout).
    ///
    /// Does nothing by default, as of what is no TCP. A listener around another passes it on.
    fn tcp_user_timeout(&mut self, _timeout: Duration) {}
}

impl Listener for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> (TcpStream, Peer) {
        loop {
            match Self::accept(self).await {
                Ok((stream, peer)) => {
                    // A small response must not wait for the last one's acknowledgement.
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

/// Out of file descriptors, say: trying again at once would only burn the CPU, and a line for each
/// try would fill the log.
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

/// Binds a TCP listener; with `reuse_port`, several (one a worker thread) share the address and
/// the kernel spreads connections over them.
///
/// What it accepts is ended by the kernel once the client acknowledges nothing for 60 s, so that
/// clients which vanish are noticed (Linux, Android, Fuchsia): [`serve`](super::serve) sets its
/// own time, `axum::serve` keeps this one.
///
/// # Errors
///
/// Those of the operating system: in use, not permitted, no such address.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    tcp_timeout::set_for_accepted(&SockRef::from(&socket), tcp_timeout::DEFAULT);
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Long enough for others to close something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;
