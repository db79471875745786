//! What the proxy keeps with an HTTP/1.1 connection: its bound_client, the place where it waits while it is
//! idle, and the request of its exchange.

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
    pool::{Address, Backend},
};

/// A connection to a backend.
pub(super) type Conn = http1::Conn<ProxyData>;

/// What the proxy keeps with a connection.
pub(super) struct ProxyData {
    /// Where it goes when it is idle; `None` while it is there.
    pub(super) connections: Option<Arc<ConnectionPool>>,
    /// Where it leads.
    address: Address,
    /// Where it leads by name.
    resolved: Option<ResolvedAddress>,
    /// What the connections's epoch was when it was dialled.
    pub(super) epoch: u64,
    /// Authenticated for one client's connection, and of use to that one only.
    pub(super) bound_client: Option<ConnInfo>,
    /// Those of the exchange; an idle connection keeps none, as their key keeps it.
    pub(super) settings: Option<Arc<Settings>>,
    /// The request of the exchange, until it is answered.
    pub(super) in_flight: Option<InFlight>,
}

impl ConnOwner for ProxyData {
    fn fields(&mut self) -> Option<&mut HeaderMap> {
        self.in_flight.as_mut().map(|c| &mut c.parts.headers)
    }

    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        let in_flight = self.in_flight.as_ref();
        if let Some(interim) = in_flight.and_then(|c| Interim::of(&c.parts.extensions)) {
            interim.send(status, fields);
        }
    }
}

impl Conn {
    pub(super) fn dialled(
        connected: Connected,
        timeouts: Timeouts,
        address: Address,
        epoch: u64,
    ) -> Box<Self> {
        let data = ProxyData {
            connections: None,
            address,
            resolved: connected.resolved().cloned(),
            epoch,
            bound_client: None,
            settings: None,
            in_flight: None,
        };
        Self::new(connected.into_stream(), Some(timeouts), data)
    }

    /// Returns true if the address at the other end is still this backend's.
    pub(super) fn leads_to(&self, backend: &Backend) -> bool {
        self.owner_data.address.is_of(backend) && !self.is_gone()
    }

    /// Returns true if the backend's name no longer leads to the other end.
    pub(super) fn is_gone(&self) -> bool {
        let resolved = self.owner_data.resolved.as_ref();
        resolved.is_some_and(ResolvedAddress::is_gone)
    }

    /// Binds the connection to one client's connection; without one, it is closed after use.
    pub(super) fn bind(&mut self, bound_client: Option<ConnInfo>) {
        if bound_client.is_none() {
            self.close_after();
        }
        self.owner_data.bound_client = bound_client;
    }

    /// Ends the exchange: the connection goes connections, if it may be used again, else it is closed.
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
