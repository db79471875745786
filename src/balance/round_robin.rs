//! Round robin: each backend in turn, by weight, evenly spread.
//!
//! The classic smooth weighted round robin (nginx') changes a counter of each backend at each pick,
//! and so needs a lock or a scan. Here the sequence of a whole round is computed when the pool
//! changes, and a pick is one `fetch_add` and one read. The price is memory (four bytes a slot) and a
//! bound on the round's length, beyond which weights are rounded.
//!
//! The counter is shared by all groups and never reset: each group takes it modulo its own length. A
//! change of the pool therefore begins a round somewhere in its middle, not always at the first
//! backend: a pool that changes often would otherwise favour the first ones.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    pick::{DRAWS, Pick, below},
    strategy::Strategy,
};
use crate::pool::{DerivedGroups, Group, Lease, Pool, Snapshot};

/// Smooth weighted round robin: each backend in turn, a heavier one more often, and its turns spread
/// between those of the others. The default.
///
/// The order is built when the pool changes, so a pick costs one `fetch_add`. Weights are exact while
/// their sum (divided by their common divisor) is at most max(4,096, 2 × backends). Beyond that, each
/// backend gets its rounded share of that many slots, at least one.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicU64,
    order: Option<DerivedGroups<Order>>,
}

impl RoundRobin {
    /// Makes the strategy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Strategy for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn yields_to_sessions(&self) -> bool {
        true
    }

    fn attach(&mut self, pool: &Pool) {
        self.order = Some(pool.derive_groups_once(|group| Order::new(group.weights())));
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        let backends = group.backends();
        let order = self
            .order
            .as_ref()
            .and_then(|key| snapshot.derived_group(key, number))
            .unwrap_or(&Order::InTurn);
        // `Relaxed`: each pick needs a number that no other has, and nothing else is ordered by it.
        let turn = self.turn.fetch_add(1, Relaxed);
        let first = backends.get(order.at(turn, backends.len()))?;
        if let Some(lease) = pick.take(first) {
            return Some(lease);
        }
        // Not the next in turn, which would get its own share and this one's.
        for _ in 0..DRAWS {
            let drawn = backends.get(order.draw(backends.len()))?;
            if let Some(lease) = pick.take(drawn) {
                return Some(lease);
            }
        }
        pick.take_any(backends)
    }
}

/// The order in which the backends of a group have their turns.
#[derive(Debug)]
enum Order {
    /// Equal weights: by index.
    InTurn,
    /// A round of indices, each as often as its weight asks.
    Slots(Box<[u32]>),
}

impl Order {
    fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::InTurn;
        }
        Self::Slots(spread(&shares(weights)))
    }

    fn at(&self, turn: u64, len: usize) -> usize {
        match self {
            // An empty group has no index: the caller's look-up returns `None`.
            Self::InTurn => turn.checked_rem(len as u64).unwrap_or(0) as usize,
            Self::Slots(slots) => {
                let slot = turn.checked_rem(slots.len() as u64).unwrap_or(0) as usize;
                slots.get(slot).map_or(0, |&index| index as usize)
            }
        }
    }

    /// Draws by weight, as the slots are by weight, without a table of its own. For a choice that was
    /// refused: see [`DRAWS`].
    fn draw(&self, len: usize) -> usize {
        let random = fastrand::u32(..);
        match self {
            Self::InTurn => below(random, len),
            Self::Slots(slots) => {
                let slot = below(random, slots.len());
                slots.get(slot).map_or(0, |&index| index as usize)
            }
        }
    }
}

/// Returns how many slots each backend gets: its weight over the common divisor, or if those are too
/// many, its share of the bound by largest remainder, at least one. No weight is 0.
///
/// ```text
/// weights 10, 20, 30      ─▶ divisor 10 ─▶ 1, 2, 3           (exact)
/// weights 1, 1000 × 99    ─▶ 99,001 slots are too many
///                         ─▶ the one gets 1 slot, the others 41 or 42 of 4,096
/// ```
///
/// Largest remainder makes the sum exact, which [`spread`] relies on.
fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|&w| u64::from(w / divisor)).sum();
    let bound = (2 * weights.len() as u64).max(SLOTS);
    if total <= bound {
        return weights.iter().map(|w| w / divisor).collect();
    }
    let mut by_weight: Vec<usize> = (0..weights.len()).collect();
    by_weight.sort_by_key(|&i| weights[i]);
    let mut shares = vec![1; weights.len()];
    let mut slots = bound;
    let mut total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    // The lightest first: a share below one slot becomes one, at the cost of the others.
    let mut small = 0;
    for &i in &by_weight {
        let weight = u64::from(weights[i]);
        if weight * slots >= total {
            break;
        }
        slots -= 1;
        total -= weight;
        small += 1;
    }
    let mut rest = by_weight.split_off(small);
    let mut left = slots;
    for &i in &rest {
        let share = u64::from(weights[i]) * slots / total;
        shares[i] = share as u32;
        left -= share;
    }
    rest.sort_by_key(|&i| Reverse(u64::from(weights[i]) * slots % total));
    for &i in rest.iter().take(left as usize) {
        shares[i] += 1;
    }
    shares
}

/// Spreads each index evenly over the round: after any m slots it had its share of m, less than
/// one off. The k-th of c turns in L slots must lie between ⌊kL/c⌋ and ⌈(k+1)L/c⌉; taking the
/// earliest deadline among those that may begin keeps all (the shares sum up to L).
fn spread(shares: &[u32]) -> Box<[u32]> {
    if shares.len() > CROWD {
        return scatter(shares);
    }
    let len: u64 = shares.iter().map(|&c| u64::from(c)).sum();
    let window = |index: usize, turn: u64| {
        let count = u64::from(shares[index]);
        let begins = turn * len / count;
        let ends = ((turn + 1) * len).div_ceil(count);
        (begins, ends)
    };
    // `open` has the turns that may begin now, the earliest deadline first; `later` has those whose
    // window is not open yet, by when it opens. Each index has one entry in one of them.
    let mut open = BinaryHeap::new();
    let mut later = BinaryHeap::new();
    for index in (0..shares.len()).filter(|&i| shares[i] > 0) {
        open.push(Reverse((window(index, 0).1, index, 0)));
    }
    let mut order = Vec::with_capacity(len as usize);
    for slot in 0..len {
        while let Some(&Reverse((begins, index, turn))) = later.peek() {
            if begins > slot {
                break;
            }
            later.pop();
            open.push(Reverse((window(index, turn).1, index, turn)));
        }
        let Some(Reverse((_, index, turn))) = open.pop() else {
            break;
        };
        order.push(index as u32);
        if turn + 1 < u64::from(shares[index]) {
            later.push(Reverse((window(index, turn + 1).0, index, turn + 1)));
        }
    }
    order.into()
}

/// Spreads many indices nearly evenly, in one pass: each turn goes to its ideal slot, from a phase of
/// its own on, and turns that meet in a slot stand in a row. A heap of ten thousand would cost each
/// change of health milliseconds.
fn scatter(shares: &[u32]) -> Box<[u32]> {
    let len: u64 = shares.iter().map(|&c| u64::from(c)).sum();
    let turns = || {
        (0..).zip(shares).flat_map(move |(index, &count)| {
            // In 2^32ths of a slot; multiples of the golden ratio are far from one another.
            let step = (len << 32) / u64::from(count.max(1));
            let phase = u64::from(u32::wrapping_mul(index, GOLDEN));
            let first = ((u128::from(step) * u128::from(phase)) >> 32) as u64;
            (0..u64::from(count)).map(move |turn| {
                let slot = (first + turn * step) >> 32;
                (slot.min(len - 1) as usize, index)
            })
        })
    };
    // A counting sort by slot.
    let mut ends = vec![0u32; len as usize + 1];
    for (slot, _) in turns() {
        ends[slot + 1] += 1;
    }
    for slot in 1..ends.len() {
        ends[slot] += ends[slot - 1];
    }
    let mut order = vec![0; len as usize].into_boxed_slice();
    for (slot, index) in turns() {
        order[ends[slot] as usize] = index;
        ends[slot] += 1;
    }
    order
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The most backends for the heap, which this many cost a few hundred microseconds for each change.
const CROWD: usize = 1_024;
/// 2^32 over the golden ratio.
const GOLDEN: u32 = 0x9E37_79B9;
/// Slots of a round, for small groups: 16 KiB at most, and four for each step of a weight.
const SLOTS: u64 = 4_096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(order: &[u32], of: usize) -> Vec<u64> {
        let mut counts = vec![0; of];
        for &i in order {
            counts[i as usize] += 1;
        }
        counts
    }

    #[test]
    fn the_order_is_smooth() {
        for (weights, expected) in [
            (&[5, 1, 1][..], "aababaa".len()),
            (&[1, 1], 2),
            (&[10, 20, 30], 6),
            (&[1_000, 999], 1_999),
        ] {
            assert_eq!(spread(&shares(weights)).len(), expected, "{weights:?}");
        }
        let order = spread(&shares(&[2, 1, 1]));
        assert!(
            (0..4).all(|i| (order[i], order[(i + 1) % 4]) != (0, 0)),
            "the heavy one must not be twice in a row: {order:?}"
        );
    }

    #[test]
    fn the_lightest_of_very_unequal_weights_gets_a_slot() {
        let mut weights = vec![1_000; 99];
        weights.push(1);
        let shares = shares(&weights);
        assert_eq!(shares.iter().sum::<u32>(), 4_096, "the round is bounded");
        assert_eq!(shares[99], 1, "the lightest must have a turn");
    }

    #[test]
    fn thousands_of_backends_are_spread_nearly_evenly() {
        let shares: Vec<u32> = (0..3_000).map(|i| 1 + i % 3).collect();
        let order = spread(&shares);
        let exact = counts(&order, shares.len());
        assert!(exact.iter().zip(&shares).all(|(&a, &b)| a == u64::from(b)));
        // A heavy backend's turns keep their distance: a third of the round, but for the rows.
        let mut last = vec![None; shares.len()];
        for (slot, &index) in order.iter().enumerate() {
            if let Some(before) = last[index as usize].replace(slot) {
                let ideal = order.len() / shares[index as usize] as usize;
                let gap = slot - before;
                assert!(gap.abs_diff(ideal) < 20, "{gap} of {ideal}");
            }
        }
    }

    proptest! {
        #[test]
        fn shares_are_exact_or_nearest(weights in prop::collection::vec(1u32..=1_000, 2..40)) {
            let shares = shares(&weights);
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            let slots: u64 = shares.iter().map(|&c| u64::from(c)).sum();
            prop_assert!(slots <= SLOTS);
            for (&weight, &share) in weights.iter().zip(&shares) {
                prop_assert!(share >= 1, "every weight over 0 must have a turn");
                let ideal = u64::from(weight) as f64 * slots as f64 / total as f64;
                let off = (f64::from(share) - ideal).abs();
                // Those below one slot take theirs from the others, in proportion.
                prop_assert!(off <= 1.0 + 0.01 * ideal, "{share} of {ideal}");
            }
        }

        #[test]
        fn after_any_number_of_slots_each_backend_had_its_share(
            shares in prop::collection::vec(1u32..60, 1..40),
        ) {
            let order = spread(&shares);
            let len = order.len() as f64;
            prop_assert_eq!(order.len() as u64, shares.iter().map(|&c| u64::from(c)).sum::<u64>());
            let mut had = vec![0u32; shares.len()];
            for (slot, &index) in order.iter().enumerate() {
                had[index as usize] += 1;
                for (&count, &had) in shares.iter().zip(&had) {
                    let due = f64::from(count) * (slot + 1) as f64 / len;
                    prop_assert!((f64::from(had) - due).abs() < 1.0, "{had} of {due}");
                }
            }
            let counted = counts(&order, shares.len());
            prop_assert!(counted.iter().zip(&shares).all(|(&a, &b)| a == u64::from(b)));
        }
    }
}
