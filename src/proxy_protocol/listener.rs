//! The PROXY protocol around an axum listener.

use std::{any::Any, io, net::SocketAddr};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::net::{TcpStream, UnixStream, unix};

use super::{ProxyProtocol, ProxyProtocolStream};
use crate::context::{ConnInfo, Peer, Transport};

/// `accept` returns without the header. The first read of the stream reads it, on the task of the
/// connection, so that one slow peer does not delay another.
impl<L> Listener for ProxyProtocol<L>
where
    L: Listener,
    L::Io: Transport,
    L::Addr: 'static,
{
    type Io = ProxyProtocolStream<L::Io>;
    type Addr = ConnInfo;

    async fn accept(&mut self) -> (Self::Io, ConnInfo) {
        let (io, address) = self.inner.accept().await;
        let conn = ConnInfo::new(peer(&address), local(&io));
        let stream = ProxyProtocolStream::new(io, conn.clone(), &self.config, None);
        (stream, conn)
    }

    fn local_addr(&self) -> io::Result<ConnInfo> {
        let address = self.inner.local_addr()?;
        Ok(ConnInfo::new(Peer::Unknown, peer(&address)))
    }
}

/// For [`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info).
impl<L> Connected<IncomingStream<'_, ProxyProtocol<L>>> for ConnInfo
where
    L: Listener,
    L::Io: Transport,
    L::Addr: 'static,
{
    fn connect_info(stream: IncomingStream<'_, ProxyProtocol<L>>) -> Self {
        stream.remote_addr().clone()
    }
}

/// The listener may be of any type, so the type of its stream is tested here.
fn local<Io: 'static>(io: &Io) -> Peer {
    let io: &dyn Any = io;
    if let Some(stream) = io.downcast_ref::<TcpStream>() {
        stream.local_addr().map_or(Peer::Unknown, Peer::Tcp)
    } else if io.is::<UnixStream>() {
        Peer::Unix
    } else {
        Peer::Unknown
    }
}

fn peer<A: 'static>(address: &A) -> Peer {
    let address: &dyn Any = address;
    if let Some(address) = address.downcast_ref::<SocketAddr>() {
        Peer::Tcp(*address)
    } else if address.is::<unix::SocketAddr>() {
        Peer::Unix
    } else {
        Peer::Unknown
    }
}
