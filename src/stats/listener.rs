//! What is recorded of a listener, and the bounded table of listeners.

use std::sync::{Mutex, OnceLock, PoisonError};

use http::StatusCode;

use super::{
    handshakes::{self, HandshakeCounters, HandshakeStats},
    histogram::{HistogramCounters, HistogramSnapshot, Sample},
    outcome::{self, OutcomeCounters, STATUS_CLASSES, StatusCounters},
    shard::{Counter, Sharded, Writer},
};
use crate::context::{ConnectionEvent, ConnectionEventKind, Peer, RequestOutcome, TlsInfo};

/// What came in by one listener since it was first seen.
///
/// The numbers add up: `accepted` = the sum of `statuses` + `in_flight`. While requests end, the sum of
/// `outcomes` may be ahead of that of `statuses`; at rest they are equal. A request that a layer loses stays in flight forever, so that it shows.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerStats {
    /// The address that the listener is bound to, the name that the layer gave it, `unix`, `unknown`
    /// for requests of unknown origin, or `other` beyond 15 listeners.
    pub name: String,
    /// The requests that arrived.
    pub accepted: u64,
    /// The requests that arrived and have not ended.
    pub in_flight: u64,
    /// The requests that ended, by the class of their status: 1 to 5, and 0 for those that got no
    /// response.
    pub statuses: [u64; STATUS_CLASSES],
    /// The requests that ended, by how, in the words of the access log's `outcome`. Outcomes that did
    /// not occur are left out.
    pub outcomes: Vec<(&'static str, u64)>,
    /// The time from a request's arrival to its end. Tunnels are left out.
    pub duration: HistogramSnapshot,
    /// The connections that were accepted.
    pub connections_opened: u64,
    /// The connections that ended.
    pub connections_closed: u64,
    /// The connections that ended without a request, and the requests that the server refused, by
    /// [reason](ConnectionEventKind::as_str). Reasons that did not occur are left out.
    pub connection_failures: Vec<(&'static str, u64)>,
    /// The TLS handshakes that succeeded. Combinations that did not occur are left out.
    pub handshakes: Vec<HandshakeStats>,
    /// The TLS handshakes that failed, by
    /// [cause](crate::context::HandshakeFailure::as_str). Causes that did not occur are left out. Clients
    /// that send no byte, as TCP checks do, are not among them, whether they close or time out.
    pub handshake_failures: Vec<(&'static str, u64)>,
}

impl ListenerStats {
    /// Returns the number of requests that ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.statuses.iter().sum()
    }
}

/// The listeners that were seen. The table only grows, up to its end.
pub(super) struct Listeners {
    listeners: [OnceLock<Box<Listener>>; MAX_LISTENERS],
    adding: Mutex<()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ListenerKey {
    Bound(Peer),
    Named(String),
    Other,
}

struct Listener {
    key: ListenerKey,
    counters: Sharded<Counters>,
}

#[derive(Default)]
struct Counters {
    accepted: Counter,
    statuses: StatusCounters,
    outcomes: OutcomeCounters,
    duration: HistogramCounters,
    connections_opened: Counter,
    connections_closed: Counter,
    /// By kind, and one for others.
    connection_failures: [Counter; FAILURES.len() + 1],
    handshakes: HandshakeCounters,
}

/// The end of a request at its listener.
pub(super) struct EndedRequest {
    pub(super) outcome: RequestOutcome,
    pub(super) status: Option<StatusCode>,
    /// The nanoseconds from its arrival to its end; `None` for a tunnel.
    pub(super) duration: Option<u64>,
}

impl Listeners {
    pub(super) const fn new() -> Self {
        Self {
            listeners: [const { OnceLock::new() }; MAX_LISTENERS],
            adding: Mutex::new(()),
        }
    }

    /// Returns the number of the listener. Looks at as many entries as there are listeners before it,
    /// which are few, and takes no lock once the listener is known.
    #[inline]
    pub(super) fn number(&self, local: Peer) -> usize {
        let is_it = |key: &ListenerKey| matches!(key, ListenerKey::Bound(peer) if *peer == local);
        match self.find(is_it) {
            Some(number) => number,
            // The table is full.
            None if self.listeners[OTHER].get().is_some() => OTHER,
            None => self.add(ListenerKey::Bound(local)),
        }
    }

    /// Adds a listener, unless it is known; returns its number.
    #[cold]
    pub(super) fn add(&self, key: ListenerKey) -> usize {
        let _guard = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = self.find(|known| *known == key) {
            return number;
        }
        let free = self.listeners.iter().position(|cell| cell.get().is_none());
        let number = free.unwrap_or(OTHER).min(OTHER);
        let key = match number {
            OTHER => ListenerKey::Other,
            _ => key,
        };
        self.listeners[number].get_or_init(|| Box::new(Listener::new(key)));
        number
    }

    fn find(&self, is_it: impl Fn(&ListenerKey) -> bool) -> Option<usize> {
        let known = self.listeners.iter().map_while(OnceLock::get);
        known.map(|listener| &listener.key).position(is_it)
    }

    fn counters(&self, number: usize, writer: Writer) -> Option<&Counters> {
        let listener = self.listeners.get(number)?.get()?;
        Some(listener.counters.of(writer))
    }

    #[inline]
    pub(super) fn accept(&self, number: usize) {
        let writer = Writer::current();
        if let Some(counters) = self.counters(number, writer) {
            counters.accepted.add(writer, 1);
        }
    }

    pub(super) fn end(&self, number: usize, writer: Writer, request: &EndedRequest) {
        let Some(counters) = self.counters(number, writer) else {
            return;
        };
        if let Some(duration) = request.duration {
            counters.duration.record(writer, Sample::of(duration));
        }
        counters.outcomes.add_request(writer, request.outcome);
        counters.statuses.add(writer, request.status);
    }

    pub(super) fn open_connection(&self, number: usize) {
        let writer = Writer::current();
        if let Some(counters) = self.counters(number, writer) {
            counters.connections_opened.add(writer, 1);
        }
    }

    pub(super) fn close_connection(&self, number: usize) {
        let writer = Writer::current();
        if let Some(counters) = self.counters(number, writer) {
            counters.connections_closed.add(writer, 1);
        }
    }

    pub(super) fn fail_connection(&self, number: usize, event: &ConnectionEvent) {
        let writer = Writer::current();
        let Some(counters) = self.counters(number, writer) else {
            return;
        };
        let at = FAILURES.iter().position(|known| *known == event.kind);
        let at = at.unwrap_or(FAILURES.len());
        if let Some(counter) = counters.connection_failures.get(at) {
            counter.add(writer, 1);
        }
        if let Some(failure) = event.handshake_failure {
            counters.handshakes.fail(writer, failure);
        }
    }

    pub(super) fn end_handshake(&self, number: usize, tls: &TlsInfo) {
        let writer = Writer::current();
        if let Some(counters) = self.counters(number, writer) {
            counters.handshakes.succeed(writer, tls);
        }
    }

    pub(super) fn read(&self) -> Vec<ListenerStats> {
        let known = self.listeners.iter().filter_map(OnceLock::get);
        known.map(|listener| listener.read()).collect()
    }
}

impl Listener {
    fn new(key: ListenerKey) -> Self {
        Self {
            key,
            counters: Sharded::new(),
        }
    }

    fn read(&self) -> ListenerStats {
        let counters = &self.counters;
        // What ended is read first: a request that is seen to end is then seen to have arrived.
        let statuses = outcome::classes(counters, |c| &c.statuses);
        let outcomes = outcome::requests(counters, |c| &c.outcomes);
        let mut duration = HistogramSnapshot::default();
        counters
            .iter()
            .for_each(|shard| shard.duration.add_to(&mut duration));
        let connections_closed = counters.sum(|c| &c.connections_closed);
        let accepted = counters.sum(|c| &c.accepted);
        let reasons = FAILURES.iter().map(|kind| kind.as_str()).chain(["other"]);
        let failures = reasons.enumerate().map(|(at, reason)| {
            let number = counters.sum(|c| &c.connection_failures[at]);
            (reason, number)
        });
        ListenerStats {
            name: self.key.to_string(),
            accepted,
            in_flight: accepted.saturating_sub(statuses.iter().sum()),
            statuses,
            outcomes,
            duration,
            connections_opened: counters.sum(|c| &c.connections_opened),
            connections_closed,
            connection_failures: failures.filter(|(_, number)| *number > 0).collect(),
            handshakes: handshakes::succeeded(counters, |c| &c.handshakes),
            handshake_failures: handshakes::failed(counters, |c| &c.handshakes),
        }
    }
}

impl std::fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bound(Peer::Tcp(address)) => address.fmt(f),
            Self::Bound(Peer::Unix) => f.write_str("unix"),
            Self::Bound(Peer::Unknown) => f.write_str("unknown"),
            Self::Named(name) => f.write_str(name),
            Self::Other => f.write_str("other"),
        }
    }
}

const FAILURES: [ConnectionEventKind; 9] = [
    ConnectionEventKind::BadRequest,
    ConnectionEventKind::HeadTimeout,
    ConnectionEventKind::HeadTooLarge,
    ConnectionEventKind::Io,
    ConnectionEventKind::ProtocolError,
    ConnectionEventKind::ProxyHeader,
    ConnectionEventKind::ProxyTimeout,
    ConnectionEventKind::TlsHandshake,
    ConnectionEventKind::TlsTimeout,
];
/// More than a server listens on. A server that reports the address which each client connected to, and
/// not the one that it is bound to, fills the table with its own addresses only.
const MAX_LISTENERS: usize = 16;
/// The last entry is for all listeners that found the table full.
pub(super) const OTHER: usize = MAX_LISTENERS - 1;
