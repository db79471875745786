//! A slot of a backend, held from the pick to the last byte.

use super::{Backend, Circuit};

/// One request in flight at a backend; its end is the lease's drop, exactly once.
///
/// Not `Clone`: balance's future owns it, then the response body, or the tunnel.
#[derive(Debug)]
pub struct Lease {
    backend: Backend,
    trial: bool,
}

impl Lease {
    /// Takes a slot; `None` when the backend is at its cap. Wait-free.
    #[must_use]
    pub fn acquire(backend: &Backend) -> Option<Self> {
        backend.state.enter(backend.in_flight_cap()).then(|| Self {
            backend: backend.clone(),
            trial: false,
        })
    }

    /// Takes a slot as the one request that tries a backend whose circuit is half open; `None`
    /// where a trial is under way, the circuit is not half open, or the backend is at its cap.
    /// The place of the trial comes back with the lease. Wait-free.
    #[must_use]
    pub fn acquire_trial(backend: &Backend) -> Option<Self> {
        let state = &backend.state;
        if state.circuit() != Circuit::HalfOpen || !state.enter_trial() {
            return None;
        }
        if !state.enter(backend.in_flight_cap()) {
            state.leave_trial();
            return None;
        }
        Some(Self {
            backend: backend.clone(),
            trial: true,
        })
    }

    /// Returns true for the request that tries a half-open circuit.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Returns the backend whose slot it is.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.trial {
            self.backend.state.leave_trial();
        }
        self.backend.state.leave();
    }
}
