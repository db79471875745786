//! What the proxy keeps with an HTTP/1.1 connection: the pool that the connection returns to, the
//! client that it is bound to, and the request of its current exchange.
//!
//! `connect::http1::Conn` is the exchange itself: it knows neither pools nor records. What it needs
//! of its owner are two callbacks ([`ConnOwner`]): the map for the response's fields, and the way
//! for interim responses. `health` has another owner with the same `Conn`.
//!
//! ```text
//!   Dialing ─▶ Conn::dialled ─▶ start ─▶ exchange ─▶ finish ─▶ ConnectionPool::put ─▶ take ─▶ start …
//!                                           │                         └ retired, too old, too many: closed
//!                                           └ dropped, failed, 101: closed or a tunnel
//! ```
//!
//! Every way out but `finish` drops the box, which closes the socket. So a future or a body that is
//! dropped in the middle can leave no half-read response behind for the next request.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{config::Settings, connection_pool::ConnectionPool, in_flight::InFlight};
pub(super) use crate::connect::http1::{ResponseContent, ResponseHead, Start, Timeouts};
use crate::{
    connect::{
        Connected, ResolvedAddress,
        http1::{self, ConnOwner},
    },
    context::{ConnInfo, Interim},
    pool::{Address, Backend, OpenConnection},
};

/// An HTTP/1.1 connection to a backend.
pub(super) type Conn = http1::Conn<ProxyData>;

/// What the proxy keeps with a connection.
pub(super) struct ProxyData {
    /// The pool that it returns to when it is idle; `None` while it is there.
    pub(super) connections: Option<Arc<ConnectionPool>>,
    /// The backend's address that was dialled.
    address: Address,
    /// The address behind it, if it was found by name.
    resolved: Option<ResolvedAddress>,
    /// Counts the connection as open; a tunnel takes it along.
    pub(super) open: Option<OpenConnection>,
    /// The epoch of the pool when the connection was dialled.
    pub(super) epoch: u64,
    /// The client connection that authenticated it (NTLM, Negotiate): it serves no other.
    pub(super) bound_client: Option<ConnInfo>,
    /// The settings of the exchange. An idle connection keeps none: the settings hold the key under
    /// which the backend keeps the connection, and a cycle would never be freed.
    pub(super) settings: Option<Arc<Settings>>,
    /// The request of the exchange, until its response head is there.
    pub(super) in_flight: Option<InFlight>,
}

impl ConnOwner for ProxyData {
    /// The request's own map: the request is written, so its memory serves the response.
    fn fields(&mut self) -> Option<&mut HeaderMap> {
        self.in_flight.as_mut().map(|c| &mut c.parts.headers)
    }

    /// Dropped if the server has no way for them (`Interim` is absent), as with HTTP/1.0 clients.
    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        let in_flight = self.in_flight.as_ref();
        if let Some(interim) = in_flight.and_then(|c| Interim::of(&c.parts.extensions)) {
            interim.send(status, fields);
        }
    }
}

impl Conn {
    /// Counts the connection as open in the backend's numbers until the box or its tunnel is
    /// dropped.
    pub(super) fn dialled(
        connected: Connected,
        timeouts: Timeouts,
        backend: &Backend,
        epoch: u64,
    ) -> Box<Self> {
        let data = ProxyData {
            connections: None,
            address: backend.address(),
            open: Some(OpenConnection::new(backend)),
            resolved: connected.resolved().cloned(),
            epoch,
            bound_client: None,
            settings: None,
            in_flight: None,
        };
        Self::new(connected.into_stream(), Some(timeouts), data)
    }

    /// Returns true if the connection leads to an address that is still this backend's.
    pub(super) fn leads_to(&self, backend: &Backend) -> bool {
        self.owner_data.address.is_of(backend) && !self.is_gone()
    }

    /// Returns true if the backend's name no longer has the address of this connection.
    pub(super) fn is_gone(&self) -> bool {
        let resolved = self.owner_data.resolved.as_ref();
        resolved.is_some_and(ResolvedAddress::is_gone)
    }

    /// Binds the connection to one client connection; without one, it is closed after the exchange.
    pub(super) fn bind(&mut self, bound_client: Option<ConnInfo>) {
        if bound_client.is_none() {
            self.close_after();
        }
        self.owner_data.bound_client = bound_client;
    }

    /// Ends the exchange. The connection returns to its pool if it can carry another request; otherwise
    /// it is closed.
    ///
    /// Call it when the response is complete, or when nothing of the request was written. Takes the
    /// lock of the backend's idle stack.
    pub(super) fn finish(mut self: Box<Self>) {
        let Some(connections) = self.owner_data.connections.take() else {
            return;
        };
        if self.end() {
            self.owner_data.settings = None;
            connections.put(self);
        }
    }
}
