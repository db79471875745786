//! `ConnInfo`: the facts of the connection that a request came by.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::Extensions;
use tokio::time::Instant;

use super::TlsInfo;
use crate::slots::Slots;

/// What is known of a connection: a shared handle, a request extension.
///
/// The transport's peer and local address are there from the start; the client's address
/// (PROXY protocol) and the TLS facts are filled in once known, before the first request.
///
/// A connection of a balancer in front carries requests of many clients. What that balancer says of
/// a request's client stands in the handle of that request alone:
/// [`set_forwarded_client`](Self::set_forwarded_client).
#[derive(Clone)]
pub struct ConnInfo {
    inner: Arc<Inner>,
    /// The client of this request, as trusted hops say.
    forwarded: Option<IpAddr>,
}

struct Inner {
    number: u64,
    peer: Peer,
    local: Peer,
    accepted: Instant,
    client: OnceLock<SocketAddr>,
    tls: OnceLock<TlsInfo>,
    slots: Slots,
}

impl ConnInfo {
    /// Notes a connection that was accepted now.
    #[must_use]
    pub fn new(peer: Peer, local: Peer) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            inner: Arc::new(Inner {
                number: NEXT.fetch_add(1, Relaxed),
                peer,
                local,
                accepted: Instant::now(),
                client: OnceLock::new(),
                tls: OnceLock::new(),
                slots: Slots::new(),
            }),
            forwarded: None,
        }
    }

    /// Finds the note: what `evenkeel::serve` put there, or axum's `ConnectInfo<ConnInfo>`. A
    /// bare `ConnectInfo<SocketAddr>` supplies only the peer, see [`peer_of`](Self::peer_of).
    #[must_use]
    pub fn of(extensions: &Extensions) -> Option<&Self> {
        if let Some(conn) = extensions.get::<Self>() {
            return Some(conn);
        }
        #[cfg(feature = "axum")]
        if let Some(conn) = extensions.get::<axum::extract::ConnectInfo<Self>>() {
            return Some(&conn.0);
        }
        None
    }

    /// Returns the transport's peer address, from whichever note is there.
    #[must_use]
    pub fn peer_of(extensions: &Extensions) -> Option<SocketAddr> {
        if let Some(conn) = Self::of(extensions) {
            return conn.peer().address();
        }
        #[cfg(feature = "axum")]
        if let Some(peer) = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>() {
            return Some(peer.0);
        }
        None
    }

    /// Returns the address of the request's client, from whichever note is there; see
    /// [`client`](Self::client).
    #[must_use]
    pub fn client_of(extensions: &Extensions) -> Option<SocketAddr> {
        match Self::of(extensions) {
            Some(conn) => conn.client(),
            None => Self::peer_of(extensions),
        }
    }

    /// Returns a number that is unique to the connection within the process.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inner.number
    }

    /// Returns true if no other handle is left: the connection is gone.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Returns the values that layers cache with the connection.
    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.slots
    }

    /// Returns which of the facts that come later are known: the client's address, and the TLS
    /// session. What a layer caches with the connection is out of date once this differs.
    pub(crate) fn known_facts(&self) -> KnownFacts {
        KnownFacts {
            client: self.inner.client.get().is_some(),
            tls: self.inner.tls.get().is_some(),
        }
    }

    /// Returns the other end of the transport: a client, or a balancer in between.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// Returns this end of the transport.
    #[must_use]
    pub fn local(&self) -> &Peer {
        &self.inner.local
    }

    /// Returns when the connection was accepted.
    #[must_use]
    pub fn accepted(&self) -> Instant {
        self.inner.accepted
    }

    /// Returns the client's address: what trusted hops say of this request (then the port is 0, as
    /// it is not known), else what the PROXY protocol said, else the peer's.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        match self.forwarded {
            Some(client) => Some(SocketAddr::new(client, 0)),
            None => self.sender(),
        }
    }

    /// Returns the address that the connection comes from: what the PROXY protocol said, else the
    /// peer's. It is the client's, or that of the last hop that forwarded the request.
    #[must_use]
    pub fn sender(&self) -> Option<SocketAddr> {
        let told = self.inner.client.get().copied();
        told.or_else(|| self.inner.peer.address())
    }

    /// Returns the client that trusted hops name for this request; `None` where it came from the
    /// client itself, or where no hop is trusted.
    #[must_use]
    pub fn forwarded_client(&self) -> Option<IpAddr> {
        self.forwarded
    }

    /// Notes the client of this request, as trusted hops name it: in this handle and its clones,
    /// not in those of other requests. [`ForwardedLayer`](crate::forwarded::ForwardedLayer) does so.
    pub fn set_forwarded_client(&mut self, client: IpAddr) {
        self.forwarded = Some(client.to_canonical());
    }

    /// Returns the request's own handle, to note what is known of the request; `None` where
    /// nothing is known of the connection. Inserts one, which allocates, where only axum's
    /// `ConnectInfo<ConnInfo>` is there.
    pub fn of_mut(extensions: &mut Extensions) -> Option<&mut Self> {
        if extensions.get::<Self>().is_none() {
            let conn = Self::of(extensions)?.clone();
            extensions.insert(conn);
        }
        extensions.get_mut()
    }

    /// Notes the address that the PROXY protocol says; only the first call counts.
    pub fn set_client(&self, client: SocketAddr) {
        let _ = self.inner.client.set(client);
    }

    /// Returns the TLS facts; `None` in cleartext or before the handshake ended.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.inner.tls.get()
    }

    /// Notes the TLS facts; only the first call counts.
    pub fn set_tls(&self, tls: TlsInfo) {
        let _ = self.inner.tls.set(tls);
    }
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnInfo")
            .field("number", &self.inner.number)
            .field("peer", &self.inner.peer)
            .field("local", &self.inner.local)
            .field("client", &self.client())
            .field("forwarded", &self.forwarded)
            .field("tls", &self.tls())
            .finish_non_exhaustive()
    }
}

/// See [`ConnInfo::known_facts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownFacts {
    client: bool,
    tls: bool,
}

/// One end of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix,
    /// Not known, as with a stream in memory.
    Unknown,
}

impl Peer {
    /// Returns the TCP address.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Unix | Self::Unknown => None,
        }
    }

    /// Returns the TCP peer's IP address.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.address().map(|a| a.ip())
    }
}
