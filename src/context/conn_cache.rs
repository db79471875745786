//! A value that a layer computes from a connection and caches with it.
//!
//! Facts of a connection may arrive between two requests: a server of another crate may set TLS facts
//! late. A cached value is therefore compared with the facts that it was made from, and not used once
//! there are more; it is not made again, which a slot that is written once could not hold
//! (`facts_learnt_between_two_requests_of_a_connection_are_logged`).

use super::{ConnInfo, conn_info::KnownFacts};
use crate::slots::SlotKey;

/// A value that a layer computes from a connection and keeps with it, such as the fields that
/// describe the client. It is computed at the connection's second request, so that a connection with
/// one request spends no memory on it.
pub(crate) struct ConnCache<T> {
    known: KnownFacts,
    value: T,
}

impl<T: Send + Sync + 'static> ConnCache<T> {
    /// Returns the value that the connection caches under `key`, unless more is known of the
    /// connection now than when the value was computed.
    pub(crate) fn get<'a>(conn: &'a ConnInfo, key: &SlotKey<Self>) -> Option<&'a T> {
        conn.slots().get(key)?.current(conn)
    }

    /// Does what [`get`](Self::get) does, and computes the value at the second call.
    pub(crate) fn get_or_compute<'a>(
        conn: &'a ConnInfo,
        key: &SlotKey<Self>,
        compute: impl FnOnce() -> T,
    ) -> Option<&'a T> {
        if !conn.slots().is_asked_again(key) {
            return None;
        }
        let make = || Self {
            known: conn.known_facts(),
            value: compute(),
        };
        conn.slots().get_or_init(key, make)?.current(conn)
    }

    fn current(&self, conn: &ConnInfo) -> Option<&T> {
        (self.known == conn.known_facts()).then_some(&self.value)
    }
}
