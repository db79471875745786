//! What the proxy keeps with an HTTP/1.1 connection: its owner, the place where it waits while it is
//! idle, and the request of its exchange.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{config::Settings, idle::Home, service::Carried};
pub(super) use crate::connect::http1::{Answer, AnswerBody, Start, Timeouts};
use crate::{
    connect::{
        Connected, Place,
        http1::{self, Attached},
    },
    context::{ConnInfo, Interim},
    pool::{Address, Backend},
};

/// A connection to a backend.
pub(super) type Conn = http1::Conn<Ours>;

/// What the proxy keeps with a connection.
pub(super) struct Ours {
    /// Where it goes when it is idle; `None` while it is there.
    pub(super) home: Option<Arc<Home>>,
    /// Where it leads.
    address: Address,
    /// Where it leads by name.
    place: Option<Place>,
    /// What the home's epoch was when it was dialled.
    pub(super) epoch: u64,
    /// Authenticated for one client's connection, and of use to that one only.
    pub(super) owner: Option<ConnInfo>,
    /// Those of the exchange; an idle connection keeps none, as their key keeps it.
    pub(super) settings: Option<Arc<Settings>>,
    /// The request of the exchange, until it is answered.
    pub(super) carried: Option<Carried>,
}

impl Attached for Ours {
    fn fields(&mut self) -> Option<&mut HeaderMap> {
        self.carried.as_mut().map(|c| &mut c.parts.headers)
    }

    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        let carried = self.carried.as_ref();
        if let Some(interim) = carried.and_then(|c| Interim::of(&c.parts.extensions)) {
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
        let ours = Ours {
            home: None,
            address,
            place: connected.place().cloned(),
            epoch,
            owner: None,
            settings: None,
            carried: None,
        };
        Self::new(connected.into_stream(), Some(timeouts), ours)
    }

    /// Returns true if the address at the other end is still this backend's.
    pub(super) fn leads_to(&self, backend: &Backend) -> bool {
        self.attached.address.is_of(backend) && !self.is_gone()
    }

    /// Returns true if the backend's name no longer leads to the other end.
    pub(super) fn is_gone(&self) -> bool {
        let place = self.attached.place.as_ref();
        place.is_some_and(Place::is_gone)
    }

    /// Binds the connection to one client's connection; without one, it is closed after use.
    pub(super) fn bind(&mut self, owner: Option<ConnInfo>) {
        if owner.is_none() {
            self.close_after();
        }
        self.attached.owner = owner;
    }

    /// Ends the exchange: the connection goes home, if it may be used again, else it is closed.
    pub(super) fn finish(mut self: Box<Self>) {
        let Some(home) = self.attached.home.take() else {
            return;
        };
        if self.end() {
            self.attached.settings = None;
            home.put(self);
        }
    }
}
