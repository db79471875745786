//! What lives until a tunnel closes.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A tunnel that the response opens (101, or 2xx to CONNECT); a response extension.
///
/// A layer that must last as long as the tunnel hands in a guard: it is dropped when the last
/// byte went through, in the order of [`hold`](Self::hold).
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
    /// Makes a tunnel; whoever carries it keeps a clone until it closes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `guard` until the tunnel closes.
    pub fn hold(&self, guard: impl Any + Send) {
        self.guards().push(Box::new(guard));
    }

    /// Counts bytes that the client sent through.
    pub fn add_to_backend(&self, bytes: u64) {
        self.inner.to_backend.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes that the backend sent through.
    pub fn add_to_client(&self, bytes: u64) {
        self.inner.to_client.fetch_add(bytes, Relaxed);
    }

    /// Returns the bytes that the client sent through so far.
    #[must_use]
    pub fn to_backend(&self) -> u64 {
        self.inner.to_backend.load(Relaxed)
    }

    /// Returns the bytes that the backend sent through so far.
    #[must_use]
    pub fn to_client(&self) -> u64 {
        self.inner.to_client.load(Relaxed)
    }

    /// Closes the tunnel: drops the guards.
    pub fn close(&self) {
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
