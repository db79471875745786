//! What you configure.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use fastrand::Rng;
use http::request::Parts;
use tower_layer::Layer;

use super::{Chaos, Fault, fault::RequestFaults};

/// Makes requests fail on purpose; see the [module](super).
///
/// A clone, and every service that it makes, shares its faults, its seed and the count of calls.
#[derive(Clone, Debug)]
#[must_use]
pub struct ChaosLayer {
    state: Arc<FaultState>,
}

impl ChaosLayer {
    /// Makes a layer without faults; the seed decides whom a fault's share and jitter meet.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(FaultState {
                seed,
                calls: AtomicU64::new(0),
                faults: ArcSwapOption::empty(),
            }),
        }
    }

    /// Adds a fault.
    ///
    /// Default: none.
    pub fn with_fault(self, fault: Fault) -> Self {
        self.handle().add(fault);
        self
    }

    /// Returns what switches faults while services run.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            state: self.state.clone(),
        }
    }
}

impl<S> Layer<S> for ChaosLayer {
    type Service = Chaos<S>;

    fn layer(&self, inner: S) -> Chaos<S> {
        Chaos::new(inner, self.state.clone())
    }
}

/// Switches the faults of a [`ChaosLayer`] while its services run. Requests under way keep what
/// they met.
#[derive(Clone, Debug)]
pub struct Handle {
    state: Arc<FaultState>,
}

impl Handle {
    /// Puts these faults in the place of all others.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<Fault> = faults.into_iter().collect();
        let some = (!faults.is_empty()).then(|| Arc::new(faults));
        self.state.faults.store(some);
    }

    /// Adds a fault to those that there are.
    pub fn add(&self, fault: Fault) {
        let added = [fault];
        self.state.faults.rcu(|old| {
            let old = old.iter().flat_map(|all| all.iter());
            Some(Arc::new(old.chain(&added).cloned().collect::<Vec<_>>()))
        });
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.set([]);
    }
}

/// What a layer, its handles and all its services share.
pub(super) struct FaultState {
    seed: u64,
    calls: AtomicU64,
    faults: ArcSwapOption<Vec<Fault>>,
}

impl FaultState {
    /// Returns what this request meets; `None` without any fault.
    pub(super) fn draw(&self, head: &Parts) -> Option<RequestFaults> {
        let faults = self.faults.load();
        let faults = faults.as_deref()?;
        let call = self.calls.fetch_add(1, Relaxed);
        let mut random = Rng::with_seed(self.seed.wrapping_add(call.wrapping_mul(GOLDEN_RATIO)));
        Some(RequestFaults::draw(faults, head, &mut random))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.faults.load().is_none()
    }
}

impl fmt::Debug for FaultState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultState")
            .field("seed", &self.seed)
            .field("calls", &self.calls)
            .field("faults", &self.faults.load())
            .finish()
    }
}

/// 2^64 over the golden ratio: neighbours in number are far apart as seeds.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
