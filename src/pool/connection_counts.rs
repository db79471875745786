//! How many connections lead to a backend.
//!
//! Two counters that only grow, and not one that goes up and down: opened connections are a metric of
//! their own, and the number of open ones is their difference. A close is stored with `Release` and
//! read with `Acquire` before the opened ones are read, so that the difference is never negative; a
//! connection opened in between counts as open.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use super::Backend;

/// The connections to a backend that the proxy made; those of active checks are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionCounts {
    /// The connections made since the backend joined. A request that went over none of them is one
    /// that used a connection again.
    pub opened: u64,
    /// The connections that are open now.
    pub open: u64,
    /// The open HTTP/1.1 connections that carry no request.
    pub idle: u64,
}

impl Backend {
    /// Returns the number of connections to the backend.
    ///
    /// Calls each attachment of the backend for the idle ones: for a scrape, not for a request.
    #[must_use]
    pub fn connections(&self) -> ConnectionCounts {
        let counters = &self.state().connections;
        // Read first: a connection that is seen to close is then seen to have opened.
        let closed = counters.closed.load(Acquire);
        let opened = counters.opened.load(Acquire);
        ConnectionCounts {
            opened,
            open: opened.saturating_sub(closed),
            idle: self.state().attachments.idle_connections(),
        }
    }
}

/// The counters of a backend. They are apart from its state: a connection that the backend keeps idle
/// must not keep the backend alive.
#[derive(Default)]
pub(super) struct ConnectionCounters {
    opened: AtomicU64,
    closed: AtomicU64,
}

/// Counts an open connection until it is dropped.
pub(crate) struct OpenConnection(Arc<ConnectionCounters>);

impl OpenConnection {
    /// Counts a connection to this backend as opened.
    pub(crate) fn new(backend: &Backend) -> Self {
        let counters = backend.state().connections.clone();
        counters.opened.fetch_add(1, Relaxed);
        Self(counters)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    #[test]
    fn a_connection_counts_until_it_is_dropped() {
        let backend = Backend::new("a", "http://127.0.0.1:1").unwrap();
        let pool = Pool::new([backend]).unwrap();
        let backend = pool.snapshot().backends()[0].clone();
        let counts = || (backend.connections().opened, backend.connections().open);
        let (one, two) = (OpenConnection::new(&backend), OpenConnection::new(&backend));
        assert_eq!(counts(), (2, 2));
        drop(one);
        assert_eq!(counts(), (2, 1));
        drop(two);
        assert_eq!(counts(), (2, 0));
    }
}
