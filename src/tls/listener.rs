//! TLS around an axum listener.

use std::{any::Any, io, net::SocketAddr};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::net::{TcpStream, UnixStream, unix};

use super::{Tls, TlsStream};
use crate::context::{ConnInfo, Peer};

/// `accept` returns without the handshake. That runs at the first read of the stream, on the task of
/// the connection, so that one client's handshake does not delay another.
impl<L> Listener for Tls<L>
where
    L: Listener,
    L::Addr: 'static,
{
    type Io = TlsStream<L::Io>;
    type Addr = ConnInfo;

    async fn accept(&mut self) -> (Self::Io, ConnInfo) {
        let (io, address) = self.inner.accept().await;
        let conn = conn_info(&io, &address);
        let stream = TlsStream::new(io, conn.clone(), self.shared.clone(), None);
        (stream, conn)
    }

    fn local_addr(&self) -> io::Result<ConnInfo> {
        let address = self.inner.local_addr()?;
        let noted = any(&address).downcast_ref::<ConnInfo>().cloned();
        Ok(noted.unwrap_or_else(|| ConnInfo::new(Peer::Unknown, peer(&address))))
    }
}

/// For [`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info).
impl<L> Connected<IncomingStream<'_, Tls<L>>> for ConnInfo
where
    L: Listener,
    L::Addr: 'static,
{
    fn connect_info(stream: IncomingStream<'_, Tls<L>>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Makes the `ConnInfo`. The listener may be of any type, so the types of its address and its stream
/// are tested here. A `ConnInfo` of a listener inside (PROXY protocol) is kept, as it describes the
/// same connection.
fn conn_info<Io: 'static, A: 'static>(io: &Io, address: &A) -> ConnInfo {
    if let Some(conn) = any(address).downcast_ref::<ConnInfo>() {
        return conn.clone();
    }
    let io = any(io);
    let local = if let Some(stream) = io.downcast_ref::<TcpStream>() {
        stream.local_addr().map_or(Peer::Unknown, Peer::Tcp)
    } else if io.is::<UnixStream>() {
        Peer::Unix
    } else {
        Peer::Unknown
    };
    ConnInfo::new(peer(address), local)
}

fn peer<A: 'static>(address: &A) -> Peer {
    let address = any(address);
    if let Some(address) = address.downcast_ref::<SocketAddr>() {
        Peer::Tcp(*address)
    } else if address.is::<unix::SocketAddr>() {
        Peer::Unix
    } else {
        Peer::Unknown
    }
}

fn any<T: 'static>(value: &T) -> &dyn Any {
    value
}
