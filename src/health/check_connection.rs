//! How a check gets to a backend, and what it keeps of the way.
//!
//! | | fresh (default) | pooled |
//! |---|---|---|
//! | proves | that new connections are accepted | that the process answers |
//! | costs the backend | a connection, and TLS | a request |
//! | sees a new address of a name | with its dial | by `refresh`, once an answer no longer has the old one |
//!
//! A kept connection is used if it is open, leads to the backend's present address, and came from a
//! check that passed. A check that finds it closed is made again on a fresh one: the close says
//! nothing about the backend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(all(feature = "proxy", feature = "http2"))]
use super::http2_exchange;
use super::{
    CheckReport, Target,
    http::{Fields, Http1},
};
use crate::{
    connect::{Connected, Connector, ResolvedAddress, TargetOverride, http1::Conn},
    pool::{Address, Attachment, AttachmentKey, Backend},
};

/// How a check gets to a backend.
#[derive(Clone, Debug, Default)]
pub(super) struct CheckConnector {
    pub(super) connector: Connector,
    pub(super) target_override: TargetOverride,
    /// What names the idle connections of this check; none where each check opens its own.
    pub(super) pooled: Option<Arc<AttachmentKey<IdleConnection>>>,
}

impl CheckConnector {
    /// Connects until the deadline, or says why not.
    pub(super) async fn connect(
        &self,
        target: &Target,
        backend: &Backend,
    ) -> Result<Connected, CheckReport> {
        let connect = self
            .connector
            .connect_by(backend, &self.target_override, target.deadline());
        let connected = connect.await;
        if let (Ok(connected), Some(key)) = (&connected, &self.pooled) {
            let idle = backend.attachment(key, IdleConnection::default);
            // Kept apart from the connection: the check takes the connection out, and the address
            // has to be followed meanwhile.
            *lock(&idle.place) = connected.resolved().cloned();
        }
        connected.map_err(|error| CheckReport::not_connected(&error))
    }

    /// Takes the idle connection, if it is as good as new.
    pub(super) fn idle(&self, backend: &Backend) -> Option<Connection> {
        let key = self.pooled.as_ref()?;
        backend
            .attachment(key, IdleConnection::default)
            .take(backend)
    }

    /// Keeps a connection for the next check.
    pub(super) fn keep(&self, backend: &Backend, connection: Connection) {
        if let Some(key) = &self.pooled {
            let idle = backend.attachment(key, IdleConnection::default);
            idle.put(connection, backend.address());
        }
    }

    pub(super) fn is_pooled(&self) -> bool {
        self.pooled.is_some()
    }
}

/// A connection that a check can use.
///
/// Dropping it closes it.
#[derive(Debug)]
pub(super) enum Connection {
    Http1(Http1),
    #[cfg(all(feature = "proxy", feature = "http2"))]
    Http2(http2_exchange::Connection),
}

impl Connection {
    pub(super) fn http1(connected: Connected) -> Self {
        Self::Http1(Conn::new(connected.into_stream(), None, Fields::default()))
    }
}

/// The one connection that a check keeps to a backend, and to which address: the check that
/// keeps it may have begun before the address changed.
#[derive(Debug, Default)]
pub(super) struct IdleConnection {
    kept: Mutex<Option<(Address, Connection)>>,
    /// Where the connection leads by name.
    place: Mutex<Option<ResolvedAddress>>,
}

impl IdleConnection {
    fn take(&self, backend: &Backend) -> Option<Connection> {
        let (address, mut connection) = lock(&self.kept).take()?;
        let place = lock(&self.place).clone();
        if let Some(place) = &place {
            // No other connection of this check is opened, for which the name would be looked up.
            place.refresh();
        }
        if !address.is_of(backend) || place.is_some_and(|place| place.is_gone()) {
            return None;
        }
        // After the address: a connection to another address is closed, whatever its state.
        let stale = match &mut connection {
            Connection::Http1(conn) => conn.is_stale(),
            #[cfg(all(feature = "proxy", feature = "http2"))]
            Connection::Http2(connection) => !connection.is_open(),
        };
        (!stale).then_some(connection)
    }

    /// Replaces the one that was kept, which is closed.
    fn put(&self, connection: Connection, address: Address) {
        *lock(&self.kept) = Some((address, connection));
    }
}

impl Attachment for IdleConnection {
    fn retire(&self) {
        drop(lock(&self.kept).take());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
