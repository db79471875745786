//! Random: a backend drawn by weight.
//!
//! The only strategy without any state of its own: there is no counter that all threads write. The
//! spread is that of chance: of 10,000 requests over four backends, a share has a standard deviation
//! of 43. [`RoundRobin`](super::RoundRobin) is exact.

use super::{
    pick::{DRAWS, Pick},
    strategy::Strategy,
    weighted_draw::WeightedDraw,
};
use crate::pool::{DerivedGroups, Group, Lease, Pool, Snapshot};

/// Weighted random. Each pick is independent, so balancers that know nothing of one another do not
/// fall into step. A pick costs two memory reads at any number of backends.
#[derive(Debug, Default)]
pub struct Random {
    draw: Option<DerivedGroups<WeightedDraw>>,
}

impl Random {
    /// Makes the strategy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for Random {
    fn name(&self) -> &'static str {
        "random"
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
        let backends = group.backends();
        let draw = WeightedDraw::of(self.draw.as_ref(), snapshot, number);
        // Drawing again spreads the share of a full backend by weight; `take_any` would not.
        for _ in 0..=DRAWS {
            let drawn = backends.get(draw.index(fastrand::u64(..), backends.len()))?;
            if let Some(lease) = pick.take(drawn) {
                return Some(lease);
            }
        }
        pick.take_any(backends)
    }
}
