//! What the proxy keeps with a backend: its idle connections.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use super::h1::Conn;
#[cfg(feature = "http2")]
use super::h2::Shared;
use crate::{
    context::ConnInfo,
    pool::{Attachment, Backend},
};

type Stack = Vec<Box<Conn>>;

/// One backend's idle connections: a stack, so that those in use stay warm and the others expire.
#[derive(Default)]
pub(crate) struct Home {
    idle: Mutex<Stack>,
    /// Connections that belong to one client's connection each.
    owned: Mutex<Stack>,
    has_owned: AtomicBool,
    reaping: AtomicBool,
    idle_timeout: Duration,
    max_idle: usize,
    /// Goes up when everything here is let go of: what was dialled before is of no more use.
    epoch: AtomicU64,
    #[cfg(feature = "http2")]
    pub(super) http2: Shared,
}

impl Home {
    pub(crate) fn new(idle_timeout: Duration, max_idle: usize) -> Self {
        Self {
            idle_timeout,
            max_idle,
            ..Self::default()
        }
    }

    /// Returns what a connection has to be dialled in to be taken back.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Takes an idle connection that is fit for use, the one used last first.
    pub(crate) fn take(&self, wanted: &Wanted<'_>) -> Option<Box<Conn>> {
        if self.has_owned.load(Acquire) {
            if let Some(conn) = self.take_owned(wanted) {
                return Some(conn);
            }
        }
        loop {
            let mut conn = lock(&self.idle).pop()?;
            if wanted.suits(&mut conn) {
                return Some(conn);
            }
        }
    }

    /// Takes back a connection that has ended its exchange.
    pub(crate) fn put(self: &Arc<Self>, conn: Box<Conn>) {
        let stack = if conn.attached.owner.is_some() {
            &self.owned
        } else {
            &self.idle
        };
        let mut stack = lock(stack);
        // Within the lock: `retire` comes before this, or finds the connection here.
        if stack.len() >= self.max_idle || conn.attached.epoch != self.epoch() {
            return;
        }
        if conn.attached.owner.is_some() {
            self.has_owned.store(true, Release);
        }
        stack.push(conn);
        drop(stack);
        self.keep_reaping();
    }

    /// Sees to it that what expires is closed.
    pub(super) fn keep_reaping(self: &Arc<Self>) {
        if !self.reaping.load(Relaxed) && !self.reaping.swap(true, Relaxed) {
            self.spawn_reaper();
        }
    }

    fn take_owned(&self, wanted: &Wanted<'_>) -> Option<Box<Conn>> {
        let client = wanted.client?;
        let mut owned = lock(&self.owned);
        loop {
            let found = owned.iter().position(|conn| {
                conn.attached
                    .owner
                    .as_ref()
                    .is_some_and(|o| o.number() == client.number())
            })?;
            let mut conn = owned.swap_remove(found);
            if wanted.suits(&mut conn) {
                return Some(conn);
            }
        }
    }

    fn spawn_reaper(self: &Arc<Self>) {
        let home = Arc::downgrade(self);
        let every = (self.idle_timeout / 4).max(Duration::from_millis(100));
        tokio::spawn(reap(Reaper { home }, every));
    }

    fn reap(&self) {
        #[cfg(feature = "http2")]
        self.http2.reap(self.idle_timeout);
        // Those that the backend closed hold a socket each until they are closed here, too.
        lock(&self.idle).retain_mut(|conn| !conn.is_stale());
        let mut owned = lock(&self.owned);
        // Ours is the last handle: the client's connection is gone.
        owned.retain_mut(|conn| {
            !conn.is_stale() && conn.attached.owner.as_ref().is_some_and(|o| !o.is_last())
        });
        self.has_owned.store(!owned.is_empty(), Release);
    }
}

impl Attachment for Home {
    fn retire(&self) {
        self.epoch.fetch_add(1, Release);
        let idle = std::mem::take(&mut *lock(&self.idle));
        let owned = std::mem::take(&mut *lock(&self.owned));
        #[cfg(feature = "http2")]
        self.http2.retire();
        drop((idle, owned));
    }
}

/// What an idle connection must be fit for.
pub(crate) struct Wanted<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) client: Option<&'a ConnInfo>,
    /// The request cannot be sent again if the connection turns out to be closed.
    pub(crate) once: bool,
}

impl Wanted<'_> {
    fn suits(&self, conn: &mut Conn) -> bool {
        conn.leads_to(self.backend) && !conn.is_stale() && !(self.once && conn.is_closed_now())
    }
}

/// Notes that no task reaps any more when the runtime drops this one.
struct Reaper {
    home: Weak<Home>,
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.reaping.store(false, Relaxed);
        }
    }
}

async fn reap(reaper: Reaper, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        match reaper.home.upgrade() {
            Some(home) => home.reap(),
            None => return,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
