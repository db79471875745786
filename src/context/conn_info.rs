//! `ConnInfo`: the facts of the connection that a request came by.
//!
//! Two levels: what is true for the connection is in the shared part and set once (`OnceLock`, so that
//! a reader takes no lock); the client that a trusted hop names is true for one request, and is in the
//! handle. A clone of the handle that a layer made before keeps what it had.
//!
//! | question | method |
//! |---|---|
//! | which socket is at the other end | `peer` |
//! | which host sent the bytes (behind a PROXY protocol header) | `sender` |
//! | for which client (behind trusted hops) | `client` |
//!
//! A decision about trust takes `sender`, as headers of that host are in question; a log, a hash and a
//! limit take `client`.

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

/// The facts of the connection that a request came by: a request extension, and a shared handle.
///
/// The addresses of the transport are there from the start. The client's address (PROXY protocol)
/// and the TLS session are set once they are known, before the first request.
///
/// A connection from another load balancer carries requests of many clients. The client that such a
/// balancer names for one request is kept in the handle of that request alone:
/// [`set_forwarded_client`](Self::set_forwarded_client).
///
/// # Example
///
/// ```
/// use evenkeel::context::{ConnInfo, Peer};
///
/// let peer = Peer::Tcp(([10, 0, 0, 1], 50_000).into());
/// let mut conn = ConnInfo::new(peer, Peer::Unknown);
/// assert_eq!(conn.client(), peer.address());
///
/// // A trusted balancer at 10.0.0.1 names its client for this request.
/// conn.set_forwarded_client([203, 0, 113, 7].into());
/// assert_eq!(conn.client().unwrap().ip().to_string(), "203.0.113.7");
/// assert_eq!(conn.sender(), peer.address());
/// ```
#[derive(Clone)]
pub struct ConnInfo {
    inner: Arc<Inner>,
    /// The client that trusted hops name for this request.
    forwarded: Option<IpAddr>,
}

struct Inner {
    number: u64,
    peer: Peer,
    local: Peer,
    accepted: Instant,
    client: OnceLock<SocketAddr>,
    destination: OnceLock<SocketAddr>,
    tls: OnceLock<TlsInfo>,
    slots: Slots,
}

impl ConnInfo {
    /// Makes the facts of a connection that is accepted now, and gives it the next
    /// [`number`](Self::number).
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
                destination: OnceLock::new(),
                tls: OnceLock::new(),
                slots: Slots::new(),
            }),
            forwarded: None,
        }
    }

    /// Returns the extension: the one that `evenkeel::serve` inserts, or the one in axum's
    /// `ConnectInfo<ConnInfo>`. For axum's `ConnectInfo<SocketAddr>`, which holds only the peer, see
    /// [`peer_of`](Self::peer_of).
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

    /// Returns the peer's address from a `ConnInfo` or, without one, from axum's
    /// `ConnectInfo<SocketAddr>`.
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

    /// Returns the address of the request's client: [`client`](Self::client) of the `ConnInfo` or,
    /// without one, the address in axum's `ConnectInfo<SocketAddr>`.
    #[must_use]
    pub fn client_of(extensions: &Extensions) -> Option<SocketAddr> {
        match Self::of(extensions) {
            Some(conn) => conn.client(),
            None => Self::peer_of(extensions),
        }
    }

    /// Returns the number of the connection. It is unique within the process and counts from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.inner.number
    }

    /// Returns true if this is the last handle: the connection has ended.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Returns the values that layers cache with the connection.
    pub(crate) fn slots(&self) -> &Slots {
        &self.inner.slots
    }

    /// Returns which of the late facts are known: the client's address, and the TLS session. A value
    /// that a layer computed from the connection is out of date once this differs.
    pub(crate) fn known_facts(&self) -> KnownFacts {
        KnownFacts {
            client: self.inner.client.get().is_some(),
            tls: self.inner.tls.get().is_some(),
        }
    }

    /// Returns the other end of the transport: the client, or a balancer between client and server.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// Returns this end of the transport.
    #[must_use]
    pub fn local(&self) -> &Peer {
        &self.inner.local
    }

    /// Returns the time at which the connection was accepted.
    #[must_use]
    pub fn accepted(&self) -> Instant {
        self.inner.accepted
    }

    /// Returns the client's address: the one that trusted hops name for this request (with port 0, as
    /// they name none), else the one in the PROXY protocol header, else the peer's.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        match self.forwarded {
            Some(client) => Some(SocketAddr::new(client, 0)),
            None => self.sender(),
        }
    }

    /// Returns the address that the connection comes from: the one in the PROXY protocol header, else
    /// the peer's. It is the client's, or that of the last hop that forwarded the request.
    #[must_use]
    pub fn sender(&self) -> Option<SocketAddr> {
        let declared = self.inner.client.get().copied();
        declared.or_else(|| self.inner.peer.address())
    }

    /// Returns the client that trusted hops name for this request; `None` if the client sent the
    /// request itself, or if no hop is trusted.
    #[must_use]
    pub fn forwarded_client(&self) -> Option<IpAddr> {
        self.forwarded
    }

    /// Sets the client that trusted hops name for this request, in this handle and its later clones;
    /// handles of other requests keep theirs. [`ForwardedLayer`](crate::forwarded::ForwardedLayer)
    /// calls it.
    pub fn set_forwarded_client(&mut self, client: IpAddr) {
        // One client hashes and counts alike, in whichever form a hop wrote the address.
        self.forwarded = Some(client.to_canonical());
    }

    /// Returns the request's own handle, so that a layer can set facts of this request; `None` if
    /// nothing is known of the connection. If only axum's `ConnectInfo<ConnInfo>` is there, it inserts
    /// a handle, which allocates.
    pub fn of_mut(extensions: &mut Extensions) -> Option<&mut Self> {
        if extensions.get::<Self>().is_none() {
            // A clone of the handle shares the connection's part, and has a client of its own.
            let conn = Self::of(extensions)?.clone();
            extensions.insert(conn);
        }
        extensions.get_mut()
    }

    /// Sets the client's address from a PROXY protocol header. Only the first call has an effect.
    pub fn set_client(&self, client: SocketAddr) {
        let _ = self.inner.client.set(client);
    }

    /// Returns the address that the client connected to: the one in the PROXY protocol header, else this
    /// end of the transport.
    #[must_use]
    pub fn destination(&self) -> Option<SocketAddr> {
        let declared = self.inner.destination.get().copied();
        declared.or_else(|| self.inner.local.address())
    }

    /// Sets the address that the client connected to, from a PROXY protocol header. Only the first call
    /// has an effect.
    pub fn set_destination(&self, destination: SocketAddr) {
        let _ = self.inner.destination.set(destination);
    }

    /// Returns the facts of the TLS session; `None` over cleartext, or before the handshake has ended.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.inner.tls.get()
    }

    /// Sets the facts of the TLS session. Only the first call has an effect.
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
    /// Unknown, as for a stream in memory.
    Unknown,
}

impl Peer {
    /// Returns the TCP address; `None` for the other kinds.
    #[must_use]
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(address),
            Self::Unix | Self::Unknown => None,
        }
    }

    /// Returns the IP address of a TCP peer; `None` for the other kinds.
    #[must_use]
    pub fn ip(self) -> Option<IpAddr> {
        self.address().map(|a| a.ip())
    }
}
