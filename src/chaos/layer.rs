//! [`ChaosLayer`], and the [`Handle`] that changes its faults while services run.
//!
//! The faults are behind one swapped pointer: a request loads it once and keeps what it drew, so that
//! `Handle::clear` in the middle of a test changes no request that runs. `add` copies the list; faults
//! are few, and change seldom.

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

/// Injects faults into requests; see the [module](super).
///
/// Clones of a layer, and the services that they make, share its faults, its seed and its count of
/// calls.
#[derive(Clone, Debug)]
#[must_use]
pub struct ChaosLayer {
    state: Arc<FaultState>,
}

impl ChaosLayer {
    /// Makes a layer without faults. The seed decides which requests the share of a fault meets,
    /// and how long each jitter is.
    pub fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(FaultState {
                seed,
                calls: AtomicU64::new(0),
                faults: ArcSwapOption::empty(),
            }),
        }
    }

    /// Adds a fault to the layer, its clones and their services.
    ///
    /// Default: none.
    pub fn with_fault(self, fault: Fault) -> Self {
        self.handle().add(fault);
        self
    }

    /// Returns a handle that changes the faults while services run.
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

/// Changes the faults of a [`ChaosLayer`] while its services run. A request keeps the faults that
/// it met when it was called.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::chaos::{ChaosLayer, Fault};
///
/// let chaos = ChaosLayer::new(1);
/// let handle = chaos.handle(); // keep it; `layer` goes into the stack
/// handle.set([Fault::hang().backend("a")]);
/// handle.add(Fault::latency(Duration::from_millis(50)));
/// handle.clear();
/// ```
#[derive(Clone, Debug)]
pub struct Handle {
    state: Arc<FaultState>,
}

impl Handle {
    /// Replaces all faults.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults: Vec<Fault> = faults.into_iter().collect();
        let some = (!faults.is_empty()).then(|| Arc::new(faults));
        self.state.faults.store(some);
    }

    /// Adds a fault.
    pub fn add(&self, fault: Fault) {
        let added = [fault];
        self.state.faults.rcu(|old| {
            let old = old.iter().flat_map(|all| all.iter());
            Some(Arc::new(old.chain(&added).cloned().collect::<Vec<_>>()))
        });
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.set([]);
    }
}

/// State shared by a layer, its handles and its services.
pub(super) struct FaultState {
    seed: u64,
    calls: AtomicU64,
    /// `None` where there are no faults, so that a request reads one word.
    faults: ArcSwapOption<Vec<Fault>>,
}

impl FaultState {
    /// Returns the faults that a request with this head meets; `None` while there are no faults.
    ///
    /// Costs an addition to a counter that all requests share; without faults, one load.
    pub(super) fn draw(&self, head: &Parts) -> Option<RequestFaults> {
        let faults = self.faults.load();
        let faults = faults.as_deref()?;
        // Counted only while there are faults, so that calls before them do not shift the draws.
        let call = self.calls.fetch_add(1, Relaxed);
        let mut random = Rng::with_seed(self.seed.wrapping_add(call.wrapping_mul(GOLDEN_RATIO)));
        Some(RequestFaults::draw(faults, head, &mut random))
    }

    /// Returns true while there are no faults.
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

/// 2^64 divided by the golden ratio: multiples of it for consecutive calls are far apart as seeds.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
