//! What the proxy keeps with a backend: its idle connections.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use super::h1::Conn;
#[cfg(feature = "http2")]
use super::h2::Shared;
use crate::{context::ConnInfo, pool::Attachment};

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

    /// Takes an idle connection that is fit for use, the one used last first.
    pub(crate) fn take(&self, client: Option<&ConnInfo>) -> Option<Box<Conn>> {
        if self.has_owned.load(Acquire) {
            if let Some(conn) = self.take_owned(client) {
                return Some(conn);
            }
        }
        loop {
            let mut conn = lock(&self.idle).pop()?;
            if !conn.is_stale() {
                return Some(conn);
            }
        }
    }

    /// Takes back a connection that has ended its exchange.
    pub(crate) fn put(self: &Arc<Self>, conn: Box<Conn>) {
        if conn.owner().is_some() {
            lock(&self.owned).push(conn);
            self.has_owned.store(true, Release);
        } else {
            let mut idle = lock(&self.idle);
            if idle.len() < self.max_idle {
                idle.push(conn);
            }
        }
        self.keep_reaping();
    }

    /// Sees to it that what expires is closed.
    pub(super) fn keep_reaping(self: &Arc<Self>) {
        if !self.reaping.load(Relaxed) && !self.reaping.swap(true, Relaxed) {
            self.spawn_reaper();
        }
    }

    fn take_owned(&self, client: Option<&ConnInfo>) -> Option<Box<Conn>> {
        let client = client?;
        let mut owned = lock(&self.owned);
        loop {
            let found = owned
                .iter()
                .position(|conn| conn.owner().is_some_and(|o| o.number() == client.number()))?;
            let mut conn = owned.swap_remove(found);
            if !conn.is_stale() {
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
        lock(&self.idle).retain(|conn| !conn.is_expired());
        let mut owned = lock(&self.owned);
        // Ours is the last handle: the client's connection is gone.
        owned.retain(|conn| !conn.is_expired() && conn.owner().is_some_and(|o| !o.is_last()));
        self.has_owned.store(!owned.is_empty(), Release);
    }
}

impl Attachment for Home {
    fn retire(&self) {
        let idle = std::mem::take(&mut *lock(&self.idle));
        let owned = std::mem::take(&mut *lock(&self.owned));
        #[cfg(feature = "http2")]
        self.http2.retire();
        drop((idle, owned));
    }
}

/// Notes that nobody reaps any more when the runtime drops the task.
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
