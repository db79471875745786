//! [`Stats`]: the handle, and what a reader gets.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::{
    BackendStats, ListenerStats,
    backend::BackendCounters,
    listener::{ListenerKey, Listeners},
    recording::Recording,
    skew::Skew,
};
use crate::{
    context::{ConnInfo, ConnectionEvent, ConnectionEvents, Exchange, Peer},
    pool::{AttachmentKey, Backend, Pool},
};

/// The numbers of a pool and of the listeners in front of it; see the [module](super).
///
/// A `Stats` is a handle: clones share the numbers. `MetricsLayer` records requests in it. It is also a
/// [`ConnectionEvents`], which records connections and TLS handshakes.
#[derive(Clone)]
pub struct Stats {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pool: Pool,
    key: AttachmentKey<BackendCounters>,
    pub(super) listeners: Listeners,
    gauges: Mutex<Vec<Arc<Gauge>>>,
    skew: Skew,
}

/// A value that another part of the program knows.
struct Gauge {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> f64 + Send + Sync>,
}

impl Stats {
    /// Makes a handle without numbers for the backends of this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool,
                key: AttachmentKey::new(),
                listeners: Listeners::new(),
                gauges: Mutex::default(),
                skew: Skew::default(),
            }),
        }
    }

    /// Returns the pool that the handle was made for.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.inner.pool
    }

    /// Returns the numbers as they are now.
    ///
    /// Costs time in proportion to the backends and to the threads that record, on the thread of the
    /// caller: less than 10 µs for each backend. Requests do not wait meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let members = self.inner.pool.snapshot().backends().to_vec();
        let backends: Vec<_> = members
            .iter()
            .map(|backend| self.inner.counters(backend).read(backend))
            .collect();
        let taken = Instant::now();
        StatsSnapshot {
            taken,
            sticky_skew: self.inner.skew.read(&backends, taken),
            backends,
            listeners: self.inner.listeners.read(),
            gauges: self.read_gauges(),
        }
    }

    /// Adds a value that another part of the program knows, such as the length of a queue. `read` is
    /// called for each snapshot, on the thread of its caller. It must not call this handle.
    ///
    /// `name` and `help` are those of the metric, such as `evenkeel_requests_waiting`. A gauge replaces
    /// an earlier one of the same name.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let read = Box::new(read);
        let gauge = Arc::new(Gauge { name, help, read });
        let mut gauges = self
            .inner
            .gauges
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match gauges.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = gauge,
            None => gauges.push(gauge),
        }
    }

    /// Returns the number of the listener of this connection.
    pub(crate) fn listener_of(&self, conn: Option<&ConnInfo>) -> usize {
        let local = conn.map_or(Peer::Unknown, |conn| *conn.local());
        self.inner.listeners.number(local)
    }

    /// Returns the number of the listener with a name of its own.
    pub(crate) fn listener_named(&self, name: String) -> usize {
        self.inner.listeners.add(ListenerKey::Named(name))
    }

    /// Begins to record a request.
    #[inline]
    pub(crate) fn begin(&self, listener: usize, exchange: Exchange) -> Recording {
        Recording::begin(self.inner.clone(), listener, exchange)
    }

    fn read_gauges(&self) -> Vec<GaugeReading> {
        let gauges = self.inner.gauges.lock();
        // Cloned, so that `read` may take a lock of its own.
        let gauges = gauges.unwrap_or_else(PoisonError::into_inner).clone();
        let read = |gauge: &Arc<Gauge>| GaugeReading {
            name: gauge.name,
            help: gauge.help,
            value: (gauge.read)(),
        };
        gauges.iter().map(read).collect()
    }
}

impl Inner {
    #[inline]
    pub(super) fn counters(&self, backend: &Backend) -> Arc<BackendCounters> {
        backend.attachment(&self.key, BackendCounters::default)
    }
}

impl ConnectionEvents for Stats {
    fn connection_opened(&self, conn: &ConnInfo) {
        let listener = self.listener_of(Some(conn));
        self.inner.listeners.open_connection(listener);
    }

    fn handshake_ended(&self, conn: &ConnInfo) {
        if let Some(tls) = conn.tls() {
            let listener = self.listener_of(Some(conn));
            self.inner.listeners.end_handshake(listener, tls);
        }
    }

    fn connection_ended(&self, event: &ConnectionEvent) {
        let listener = self.listener_of(Some(&event.conn));
        self.inner.listeners.fail_connection(listener, event.kind);
    }

    fn connection_closed(&self, conn: &ConnInfo) {
        let listener = self.listener_of(Some(conn));
        self.inner.listeners.close_connection(listener);
    }
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stats")
            .field("pool", &self.inner.pool)
            .finish_non_exhaustive()
    }
}

/// The numbers as they were at one moment: counts since the process began, or since the backend joined.
/// A rate is the difference of two snapshots over the time between them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StatsSnapshot {
    /// When the snapshot was taken.
    pub taken: Instant,
    /// The backends that are members now, in the order of the pool.
    pub backends: Vec<BackendStats>,
    /// The listeners, in the order in which they were first seen.
    pub listeners: Vec<ListenerStats>,
    /// The values that other parts of the program know, in the order in which they were added.
    pub gauges: Vec<GaugeReading>,
    /// How unevenly the requests of sticky sessions were spread in the last minute or two: the most
    /// that a usable backend got for each unit of its weight, over the mean. 1 is even. `None` if there
    /// were none.
    pub sticky_skew: Option<f64>,
}

/// The value of a [gauge](Stats::gauge).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GaugeReading {
    /// The name of the metric.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its value.
    pub value: f64,
}
