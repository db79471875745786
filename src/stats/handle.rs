//! [`Stats`]: the handle, and what a reader gets.

use std::{
    any::Any,
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::time::Instant;

use super::{
    BackendStats, CertificateRegistry, ListenerStats,
    backend::BackendCounters,
    listener::{ListenerKey, Listeners},
    recording::Recording,
    skew::Skew,
};
use crate::{
    context::{ConnInfo, ConnectionEvent, ConnectionEvents, Exchange, Peer},
    pool::{AttachmentCache, AttachmentKey, Backend, Pool},
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
    gauges: Mutex<Vec<Gauge>>,
    skew: Skew,
    certificates: Mutex<CertificateRegistry>,
}

/// A value that other parts of the program know: the sum of its terms.
#[derive(Clone)]
struct Gauge {
    name: &'static str,
    help: &'static str,
    terms: Vec<Term>,
}

#[derive(Clone)]
struct Term {
    /// The thing that the term is read from; `None` for a term that stays until it is replaced.
    of: Option<Weak<dyn Any + Send + Sync>>,
    /// Returns `None` once the thing is gone.
    read: Arc<dyn Fn() -> Option<f64> + Send + Sync>,
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
                certificates: Mutex::default(),
            }),
        }
    }

    /// Shows the certificates of this registry, in all clones of the handle.
    ///
    /// Default: those of a registry of its own; see [`certificates`](Self::certificates).
    #[must_use]
    pub fn with_certificates(self, certificates: CertificateRegistry) -> Self {
        *self.lock_certificates() = certificates;
        self
    }

    /// Returns the registry of the certificates that gauges and the status page show. Add to it what the
    /// program serves: `Certificates::show_in`.
    pub fn certificates(&self) -> CertificateRegistry {
        self.lock_certificates().clone()
    }

    fn lock_certificates(&self) -> MutexGuard<'_, CertificateRegistry> {
        let certificates = self.inner.certificates.lock();
        certificates.unwrap_or_else(PoisonError::into_inner)
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
    ///
    /// See also [`add_to_gauge`](Self::add_to_gauge).
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> f64 + Send + Sync + 'static,
    ) {
        let read = Arc::new(move || Some(read()));
        let terms = vec![Term { of: None, read }];
        let gauge = Gauge { name, help, terms };
        let mut gauges = self.gauges();
        match gauges.iter_mut().find(|known| known.name == name) {
            Some(known) => *known = gauge,
            None => gauges.push(gauge),
        }
    }

    /// Adds a thing to a value that several things make up, such as one queue for each worker. The
    /// value is the sum over the things that exist: the handle keeps none alive, and a thing that is
    /// added twice counts once. The gauge ends with its last thing.
    ///
    /// `read` is called as that of [`gauge`](Self::gauge) is.
    pub fn add_to_gauge<T: Send + Sync + 'static>(
        &self,
        name: &'static str,
        help: &'static str,
        thing: &Arc<T>,
        read: impl Fn(&T) -> f64 + Send + Sync + 'static,
    ) {
        let of = Arc::downgrade(thing);
        let term = Term {
            of: Some(of.clone()),
            read: Arc::new(move || of.upgrade().map(|thing| read(&thing))),
        };
        let mut gauges = self.gauges();
        let Some(known) = gauges.iter_mut().find(|known| known.name == name) else {
            let terms = vec![term];
            gauges.push(Gauge { name, help, terms });
            return;
        };
        known.terms.retain(|other| {
            let of = other.of.as_ref().map(|of| of.as_ptr().cast::<()>());
            of != Some(Arc::as_ptr(thing).cast())
        });
        known.terms.push(term);
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
        // Cloned, so that `read` may take a lock of its own.
        let gauges = self.gauges().clone();
        let read = |gauge: &Gauge| GaugeReading {
            name: gauge.name,
            help: gauge.help,
            value: gauge.terms.iter().filter_map(|term| (term.read)()).sum(),
        };
        gauges.iter().map(read).collect()
    }

    /// Returns the gauges without what is gone.
    fn gauges(&self) -> MutexGuard<'_, Vec<Gauge>> {
        let gauges = self.inner.gauges.lock();
        let mut gauges = gauges.unwrap_or_else(PoisonError::into_inner);
        for gauge in gauges.iter_mut() {
            let exists = |of: &Weak<dyn Any + Send + Sync>| of.strong_count() > 0;
            gauge
                .terms
                .retain(|term| term.of.as_ref().is_none_or(exists));
        }
        gauges.retain(|gauge| !gauge.terms.is_empty());
        gauges
    }
}

impl Inner {
    fn counters(&self, backend: &Backend) -> Arc<BackendCounters> {
        backend.attachment(&self.key, BackendCounters::default)
    }

    /// Calls `record` with the counters of the backend. It must not call this handle.
    #[inline]
    pub(super) fn with_counters(&self, backend: &Backend, record: impl FnOnce(&BackendCounters)) {
        let mut record = Some(record);
        let _ = RECENT.try_with(|recent| {
            let Ok(mut recent) = recent.try_borrow_mut() else {
                return;
            };
            if let Some(record) = record.take() {
                recent.with(backend, &self.key, BackendCounters::default, record);
            }
        });
        // The thread is about to end.
        if let Some(record) = record {
            record(&self.counters(backend));
        }
    }
}

thread_local! {
    /// The counters that this thread wrote last. Those of a backend that left stay here until the
    /// thread has written others.
    static RECENT: RefCell<AttachmentCache<BackendCounters>> =
        const { RefCell::new(AttachmentCache::new()) };
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
        self.inner.listeners.fail_connection(listener, event);
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

/// The value of a [gauge](Stats::gauge): the sum over its things if it
/// [has several](Stats::add_to_gauge).
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
