//! `Tunnel`: what must last until an upgraded connection closes.
//!
//! The guards are `Any`, because their owners do not know each other: a lease, a log line, a span.
//! They are dropped outside the lock, as a guard's drop may call the tunnel (the log line reads its
//! bytes).

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// The tunnel that a response opens (101, or 2xx to CONNECT): a response extension.
///
/// The body of such a response ends at once, but the connection goes on. A layer whose work lasts as
/// long as the tunnel, such as a lease or a log line, hands in a guard. The guards are dropped when
/// the tunnel closes, in the order in which they were handed in.
///
/// ```
/// use std::sync::Arc;
///
/// use evenkeel::context::Tunnel;
///
/// let tunnel = Tunnel::new();
/// let lease = Arc::new(());
/// tunnel.hold(lease.clone());
/// assert_eq!(Arc::strong_count(&lease), 2);
/// tunnel.close();
/// assert_eq!(Arc::strong_count(&lease), 1);
/// ```
#[derive(Clone, Default)]
pub struct Tunnel {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    guards: Mutex<Vec<Box<dyn Any + Send>>>,
    to_backend: AtomicU64,
    to_client: AtomicU64,
}

impl Tunnel {
    /// Makes a tunnel. The task that copies its bytes keeps a clone, and calls [`close`](Self::close)
    /// at the end.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `guard` until the tunnel closes. Allocates.
    pub fn hold(&self, guard: impl Any + Send) {
        self.guards().push(Box::new(guard));
    }

    /// Adds to the number of bytes that went from the client to the backend.
    pub fn add_to_backend(&self, bytes: u64) {
        self.inner.to_backend.fetch_add(bytes, Relaxed);
    }

    /// Adds to the number of bytes that went from the backend to the client.
    pub fn add_to_client(&self, bytes: u64) {
        self.inner.to_client.fetch_add(bytes, Relaxed);
    }

    /// Returns the number of bytes that went from the client to the backend so far.
    #[must_use]
    pub fn to_backend(&self) -> u64 {
        self.inner.to_backend.load(Relaxed)
    }

    /// Returns the number of bytes that went from the backend to the client so far.
    #[must_use]
    pub fn to_client(&self) -> u64 {
        self.inner.to_client.load(Relaxed)
    }

    /// Drops the guards. A guard that is handed in later stays until the last handle of the tunnel is
    /// dropped.
    pub fn close(&self) {
        // The lock is released with this statement, before the guards are dropped.
        let guards = std::mem::take(&mut *self.guards());
        drop(guards);
    }

    fn guards(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Any + Send>>> {
        self.inner
            .guards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("to_backend", &self.to_backend())
            .field("to_client", &self.to_client())
            .finish_non_exhaustive()
    }
}
