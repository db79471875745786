//! What the proxy keeps with a backend: its idle connections, and the task that closes those that
//! expire.
//!
//! Connections are retired by epoch. Each connection carries the number of the epoch that it was dialled
//! in, and the pool keeps the oldest epoch that still counts: one store retires all earlier connections,
//! busy ones included, which find out when they return.
//!
//! ```text
//!  conn A ── dial: epoch 5 ──── retire: epoch and oldest become 6 ──── put: 5 < 6, closed
//!  conn B ────────────────────────────── dial: epoch 6 ─────────────── put: 6 = 6, kept
//! ```
//!
//! Without epochs, a connection that is in use while its backend is drained, removed or given
//! another address would come back to the idle stack and carry other requests to the old place.
//! `retire` cannot find such a connection; the connection finds `oldest` when it returns. The
//! largest age works by the same number: the reaper begins an epoch with each turn and retires
//! those that are older than the age, so a connection carries no time of its own.
//!
//! # Locks and orderings
//!
//! `idle` and `bound` are never held at the same time, and nothing is awaited or dialled under
//! them. `retire` drops connections outside of the locks, since to close a socket is a system call;
//! the reaper closes its few inside. `put` reads `oldest` under the lock of its stack: `retire`
//! raises `oldest` first and empties the stack second, so either `put` sees the new number or
//! `retire` finds the connection. `epoch` and `oldest` are stored with Release and read with
//! Acquire.
//!
//! `has_bound` keeps requests without NTLM from the second lock. It is a hint: a connection that is
//! bound at this moment on another thread is missed once, and a new one is dialled.
//!
//! # The reaper
//!
//! One task for each backend and proxy, while the pool exists. It holds a weak handle: an `Arc`
//! would keep the pool, and with it the backend's sockets, for ever. It runs on the runtime that
//! returned the first connection. If that runtime ends, `Reaper::drop` clears `reaping`, and the
//! next connection that returns starts another.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use super::http1::Conn;
#[cfg(feature = "http2")]
use super::http2::SharedConnection;
use crate::{
    connect::ResolvedAddress,
    context::ConnInfo,
    pool::{Attachment, Backend},
};

type Stack = Vec<Box<Conn>>;

/// The idle connections of one backend: a stack, so that a few connections stay in use and the others
/// expire.
#[derive(Default)]
pub(crate) struct ConnectionPool {
    /// A stack and not a queue: under little load the same few connections are used, and the rest
    /// reach the idle time-out. A queue would keep all of them alive.
    idle: Mutex<Stack>,
    /// Connections that are bound to one client connection each.
    ///
    /// Stacks by client connection, as a client may have several requests in flight.
    bound: Mutex<BoundStacks>,
    /// There may be bound connections.
    has_bound: AtomicBool,
    /// The reaper runs.
    reaping: AtomicBool,
    idle_timeout: Duration,
    max_idle: usize,
    max_age: Option<Duration>,
    /// Increases when all connections are retired and, with a largest age, as time passes.
    epoch: AtomicU64,
    /// Connections that were dialled in an earlier epoch are no longer used.
    oldest: AtomicU64,
    /// The address of the connection that was dialled last, if it was found by name.
    resolved: Mutex<Option<ResolvedAddress>>,
    /// The one connection of HTTP/2, if the backend speaks it.
    #[cfg(feature = "http2")]
    pub(super) http2: SharedConnection,
}

impl ConnectionPool {
    /// Allocates nothing for connections, and starts no task: both begin with the first connection
    /// that returns.
    pub(crate) fn new(idle_timeout: Duration, max_idle: usize, max_age: Option<Duration>) -> Self {
        Self {
            idle_timeout,
            max_idle,
            max_age,
            ..Self::default()
        }
    }

    /// Returns the current epoch: a connection that is dialled now carries it.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Records the address of a connection that was dialled.
    ///
    /// The last dial counts: addresses of one name expire together.
    pub(super) fn set_resolved(&self, resolved: Option<&ResolvedAddress>) {
        *lock(&self.resolved) = resolved.cloned();
    }

    /// Compares epochs, so no clock is read.
    fn is_too_old(&self, conn: &Conn) -> bool {
        conn.owner_data.epoch < self.oldest.load(Acquire)
    }

    /// Begins the next epoch, and returns its number.
    ///
    /// Only a connection that is dialled after this call carries the new number.
    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Release) + 1
    }

    /// Takes an idle connection that meets the requirements. Of several, it takes the one used last.
    ///
    /// A connection that does not meet the requirements is closed here, by its drop: it is stale,
    /// or leads to an address that the backend has left. The lock is taken once for each connection
    /// that is looked at, and not held while the socket is asked.
    pub(crate) fn take(&self, required: &Requirements<'_>) -> Option<Box<Conn>> {
        if self.has_bound.load(Acquire)
            && let Some(conn) = self.take_bound(required)
        {
            return Some(conn);
        }
        // The idle ones have named other clients.
        if required.own_client && required.client.is_some() {
            return None;
        }
        loop {
            let mut conn = lock(&self.idle).pop()?;
            if required.are_met_by(&mut conn) {
                return Some(conn);
            }
        }
    }

    /// Takes back a connection whose exchange has ended.
    ///
    /// Closes it instead if the stack is full, or the connection was retired while it was in use.
    pub(crate) fn put(self: &Arc<Self>, conn: Box<Conn>) {
        // Checked under the lock: `retire` runs either before this or after it, and then finds the
        // connection in the stack.
        if let Some(number) = conn.owner_data.bound_client.as_ref().map(ConnInfo::number) {
            let mut bound = lock(&self.bound);
            if bound.len >= self.max_idle || self.is_too_old(&conn) {
                return;
            }
            self.has_bound.store(true, Release);
            bound.push(number, conn);
        } else {
            let mut idle = lock(&self.idle);
            if idle.len() >= self.max_idle || self.is_too_old(&conn) {
                return;
            }
            idle.push(conn);
        }
        self.keep_reaping();
    }

    /// Starts the task that closes expired connections, unless it runs.
    pub(super) fn keep_reaping(self: &Arc<Self>) {
        // The load alone in the usual case: a swap would take the cache line from the other threads
        // each time.
        if !self.reaping.load(Relaxed) && !self.reaping.swap(true, Relaxed) {
            self.spawn_reaper();
        }
    }

    /// `None` if the client connection is unknown or has no connection here.
    fn take_bound(&self, required: &Requirements<'_>) -> Option<Box<Conn>> {
        let client = required.client?;
        loop {
            let mut conn = lock(&self.bound).pop(client.number())?;
            if required.are_met_by(&mut conn) {
                return Some(conn);
            }
        }
    }

    /// The interval is a quarter of the idle time-out (an eighth of the largest age if that is
    /// shorter), 100 ms at the least.
    fn spawn_reaper(self: &Arc<Self>) {
        let connections = Arc::downgrade(self);
        let age = self.max_age.unwrap_or(Duration::MAX);
        let every = (self.idle_timeout / 4)
            .min(age / AGE_STEPS)
            .max(Duration::from_millis(100));
        tokio::spawn(reap(Reaper { connections }, every));
    }

    /// Closes the connections that are no longer usable; `ages` is the state of the task.
    fn reap(&self, ages: &mut EpochAges) {
        if let Some(resolved) = &*lock(&self.resolved) {
            // Asks the resolver if the name's answer has expired; without traffic that dials,
            // nothing else would.
            resolved.refresh();
        }
        if let Some(max) = self.max_age
            && let Some(oldest) = ages.turn(self.next_epoch(), max, Instant::now())
        {
            self.oldest.fetch_max(oldest, Release);
        }
        #[cfg(feature = "http2")]
        self.http2.reap(self.idle_timeout, self.max_age);
        // A connection that the backend has closed holds a socket until it is closed here as well.
        let is_usable =
            |conn: &mut Box<Conn>| !conn.is_stale() && !conn.is_gone() && !self.is_too_old(conn);
        lock(&self.idle).retain_mut(is_usable);
        let mut bound = lock(&self.bound);
        // If this is the last handle, the client connection has ended.
        bound.retain_mut(|conn| {
            is_usable(conn)
                && conn
                    .owner_data
                    .bound_client
                    .as_ref()
                    .is_some_and(|o| !o.is_last())
        });
        self.has_bound.store(bound.len > 0, Release);
    }
}

impl Attachment for ConnectionPool {
    /// Called by the pool of backends when this one is drained, removed or given another address.
    fn retire(&self) {
        self.oldest.fetch_max(self.next_epoch(), Release);
        let idle = std::mem::take(&mut *lock(&self.idle));
        let bound = std::mem::take(&mut *lock(&self.bound));
        #[cfg(feature = "http2")]
        self.http2.retire();
        drop((idle, bound));
    }

    /// For the status page: takes both locks, one after the other.
    fn idle_connections(&self) -> u64 {
        (lock(&self.idle).len() + lock(&self.bound).len) as u64
    }
}

/// The bound connections, by the number of their client connection. With the PROXY protocol, each
/// client has one.
///
/// A map: a backend behind NTLM has a connection for each client, and a scan would be a scan of
/// all.
#[derive(Default)]
struct BoundStacks {
    by_client: HashMap<u64, Stack>,
    /// The number of connections in all stacks.
    len: usize,
}

impl BoundStacks {
    /// A client connection's number is never used again while the process runs, so a stale stack
    /// cannot serve another client.
    fn push(&mut self, number: u64, conn: Box<Conn>) {
        self.by_client.entry(number).or_default().push(conn);
        self.len += 1;
    }

    fn pop(&mut self, number: u64) -> Option<Box<Conn>> {
        let conn = self.by_client.get_mut(&number)?.pop()?;
        self.len -= 1;
        Some(conn)
    }

    fn retain_mut(&mut self, mut keep: impl FnMut(&mut Box<Conn>) -> bool) {
        let mut len = 0;
        self.by_client.retain(|_, stack| {
            stack.retain_mut(&mut keep);
            len += stack.len();
            !stack.is_empty()
        });
        self.len = len;
    }
}

/// What a request needs of an idle connection.
pub(crate) struct Requirements<'a> {
    pub(crate) backend: &'a Backend,
    /// The client connection of the request; `None` for a program's own.
    pub(crate) client: Option<&'a ConnInfo>,
    /// True if a connection names its client to the backend: it serves that one only.
    pub(crate) own_client: bool,
    /// True if the request cannot be sent again when the connection turns out to be closed.
    pub(crate) single_use: bool,
}

impl Requirements<'_> {
    /// In the order of their cost: two comparisons, a deadline, then a system call.
    fn are_met_by(&self, conn: &mut Conn) -> bool {
        conn.leads_to(self.backend)
            && !conn.is_stale()
            && !(self.single_use && conn.is_closed_now())
    }
}

/// Records that no task runs any more if the runtime drops the task.
struct Reaper {
    connections: Weak<ConnectionPool>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(connections) = self.connections.upgrade() {
            connections.reaping.store(false, Relaxed);
        }
    }
}

/// Ends when the pool is dropped, at the next turn.
async fn reap(reaper: Reaper, every: Duration) {
    let mut ages = EpochAges::default();
    loop {
        tokio::time::sleep(every).await;
        match reaper.connections.upgrade() {
            Some(connections) => connections.reap(&mut ages),
            None => return,
        }
    }
}

/// The beginnings of the epochs, if there is a largest age. Pure: the time is a parameter.
///
/// One entry for each turn of the reaper within the largest age: at most a few tens.
#[derive(Default)]
struct EpochAges(VecDeque<(Instant, u64)>);

impl EpochAges {
    /// Records that an epoch begins. Returns the oldest epoch that may have connections younger than
    /// `max`, if that changed.
    fn turn(&mut self, epoch: u64, max: Duration, now: Instant) -> Option<u64> {
        self.0.push_back((now, epoch));
        let mut oldest = None;
        while let Some((began, epoch)) = self.0.front() {
            if now.saturating_duration_since(*began) < max {
                break;
            }
            // Connections from before this epoch are older than `max`.
            oldest = Some(*epoch);
            self.0.pop_front();
        }
        oldest
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that is too old is noticed late by at most this part of the largest age.
const AGE_STEPS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dialled_before_the_age_is_too_old() {
        let (start, max) = (Instant::now(), Duration::from_secs(8));
        let mut ages = EpochAges::default();
        let mut oldest = 0;
        for second in 1..40 {
            let now = start + Duration::from_secs(second);
            // Epoch n began after n seconds.
            oldest = ages.turn(second, max, now).unwrap_or(oldest);
            assert_eq!(oldest, second.saturating_sub(8), "at {second} s");
        }
        assert_eq!(ages.0.len(), 8, "no more is kept than counts");
    }
}
