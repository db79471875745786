//! A listening TCP socket, as `server` and `fleet` bind it.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::tcp_timeout;

/// Binds a non-blocking listener that closes connections whose client acknowledges nothing. With
/// `reuse_port`, several sockets share the address.
pub(crate) fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Without it, a restarted server could not bind while old connections are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Before `listen`: a connection takes the options that the listener has when it arrives.
    tcp_timeout::set_for_accepted(&SockRef::from(&socket), tcp_timeout::DEFAULT);
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connections that may wait to be accepted; Linux lowers the number to `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;
