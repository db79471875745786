//! Power of two choices: the less loaded of two backends.
//!
//! The theory is Mitzenmacher's: the second choice turns a maximum load that grows as log n / log log
//! n into one that grows as log log n; a third choice adds little. Envoy's `LEAST_REQUEST` and nginx'
//! `random two` work the same way. `take_best_of` also serves `LeastRequests` in large pools, with
//! four.

use super::{
    pick::{DRAWS, Pick},
    strategy::Strategy,
    weighted_draw::WeightedDraw,
};
use crate::pool::{Backend, DerivedGroups, Group, Lease, Pool, Snapshot};

/// Power of two choices: draws two by weight and takes the one with fewer requests in flight for
/// its weight. Nearly as even as a look at all backends, at the cost of two.
#[derive(Debug, Default)]
pub struct PowerOfTwo {
    draw: Option<DerivedGroups<WeightedDraw>>,
}

impl PowerOfTwo {
    /// Makes the strategy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for PowerOfTwo {
    fn name(&self) -> &'static str {
        "power-of-two"
    }

    fn yields_to_sessions(&self) -> bool {
        true
    }

    fn attach(&mut self, pool: &Pool) {
        self.draw = Some(pool.derive_groups_once(WeightedDraw::of_group));
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        let draw = WeightedDraw::of(self.draw.as_ref(), snapshot, number);
        take_best_of(2, draw, group, pick)
    }
}

/// Draws `choices` backends by weight and takes the least loaded. Draws again if that one is at its
/// cap, then takes any.
pub(super) fn take_best_of(
    choices: usize,
    draw: &WeightedDraw,
    group: &Group,
    pick: &Pick<'_>,
) -> Option<Lease> {
    let (backends, weights) = (group.backends(), group.weights());
    if let [only] = backends {
        return pick.take(only);
    }
    // One access to the thread's generator, and a local one for the draws: an access to a thread-local
    // costs more than a draw.
    let mut random = fastrand::Rng::with_seed(fastrand::u64(..));
    for _ in 0..=DRAWS {
        let mut best: Option<(Load, &Backend)> = None;
        let mut last = usize::MAX;
        for _ in 0..choices {
            let mut index = draw.index(random.u64(..), backends.len());
            if index == last {
                // The same backend twice is no choice: take its neighbour.
                index = if index + 1 < backends.len() {
                    index + 1
                } else {
                    0
                };
            }
            last = index;
            let (backend, &weight) = (backends.get(index)?, weights.get(index)?);
            // Caps are left to the take.
            if pick.excludes(backend) {
                continue;
            }
            let load = Load::new(backend.in_flight(), weight);
            // On a tie the first drawn stays: the draw was by weight.
            if best.as_ref().is_none_or(|(b, _)| load.is_below(*b)) {
                best = Some((load, backend));
            }
        }
        if let Some(lease) = best.and_then(|(_, backend)| pick.take(backend)) {
            return Some(lease);
        }
    }
    pick.take_any(backends)
}

/// Requests in flight for a weight, compared without a division.
///
/// a / b < c / d as a × d < c × b: 32 bits each, so that the products fit in 64. Weights are never 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    in_flight: u32,
    weight: u32,
}

impl Load {
    pub(super) fn new(in_flight: u32, weight: u32) -> Self {
        Self { in_flight, weight }
    }

    pub(super) fn is_below(self, other: Self) -> bool {
        self.scaled(other) < other.scaled(self)
    }

    pub(super) fn is_equal(self, other: Self) -> bool {
        self.scaled(other) == other.scaled(self)
    }

    fn scaled(self, other: Self) -> u64 {
        u64::from(self.in_flight) * u64::from(other.weight)
    }
}
