//! A slot of a backend, held from the pick to the last byte.

use super::Backend;

/// One request in flight at a backend; its end is the lease's drop, exactly once.
///
/// Not `Clone`: balance's future owns it, then the response body, or the tunnel.
#[derive(Debug)]
pub struct Lease {
    backend: Backend,
}

impl Lease {
    /// Takes a slot; `None` when the backend is at its cap. Wait-free.
    #[must_use]
    pub fn acquire(backend: &Backend) -> Option<Self> {
        backend.state.enter(backend.in_flight_cap()).then(|| Self {
            backend: backend.clone(),
        })
    }

    /// Returns the backend whose slot it is.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend
            .state
            .leave(self.backend.in_flight_cap().is_some());
    }
}
