//! Drawing an index by weight, in constant time.
//!
//! Four strategies draw by weight; a draw costs two reads at any number of backends, where a sum of
//! weights would need a binary search and a reservoir a scan. The table costs 8 bytes a backend, and
//! is built once for each snapshot: `derive_groups_once` lets the strategies of all workers share it,
//! except those of `PeakEwma`, whose table holds more
//! (`the_strategies_of_all_workers_share_their_tables`).

use super::pick::below;
use crate::pool::{DerivedGroups, Group, Snapshot};

/// Draws an index by weight.
#[derive(Debug)]
pub(super) enum WeightedDraw {
    /// Equal weights.
    Even,
    /// Walker's alias method: each entry stands for its own index below a threshold, and for another
    /// index from there on.
    Weighted(Box<[AliasEntry]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct AliasEntry {
    /// The entry stands for its own index if the coin is below this.
    own_below: u32,
    other: u32,
}

impl WeightedDraw {
    pub(super) fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Even;
        }
        Self::Weighted(alias_table(weights))
    }

    pub(super) fn of_group(group: &Group) -> Self {
        Self::new(group.weights())
    }

    /// Returns the table of the group, or one of equal weights if the strategy was not attached.
    pub(super) fn of<'a>(
        key: Option<&DerivedGroups<Self>>,
        snapshot: &'a Snapshot,
        group: usize,
    ) -> &'a Self {
        key.and_then(|key| snapshot.derived_group(key, group))
            .unwrap_or(&Self::Even)
    }

    /// Turns one random number into an index: the upper half selects the entry, the lower is the
    /// coin.
    pub(super) fn index(&self, random: u64, len: usize) -> usize {
        let (upper, coin) = ((random >> 32) as u32, random as u32);
        match self {
            Self::Even => below(upper, len),
            Self::Weighted(entries) => {
                let own = below(upper, entries.len());
                let Some(entry) = entries.get(own) else {
                    return own;
                };
                // Without a branch, which a fair coin makes the processor mispredict.
                let lent = 0u32.wrapping_sub(u32::from(coin >= entry.own_below));
                (own as u32 & !lent | entry.other & lent) as usize
            }
        }
    }
}

/// Builds the table by Vose's method in integers: n entries of the mean weight each.
fn alias_table(weights: &[u32]) -> Box<[AliasEntry]> {
    let n = weights.len() as u64;
    let mean: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    // Scaled by n, so that the mean is a whole number.
    let mut left: Vec<u64> = weights.iter().map(|&w| u64::from(w) * n).collect();
    let mut entries: Vec<AliasEntry> = (0..weights.len() as u32)
        .map(|own| AliasEntry {
            own_below: u32::MAX,
            other: own,
        })
        .collect();
    let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|&i| left[i] < mean);
    // Integers, so that no rounding leaves a poor entry without a rich one: the loop ends when all
    // that is left has exactly the mean, and keeps its `own_below` of the whole.
    while let (Some(small), Some(&large)) = (poor.pop(), rich.last()) {
        entries[small] = AliasEntry {
            own_below: ((u128::from(left[small]) << 32) / u128::from(mean)) as u32,
            other: large as u32,
        };
        // The rich entry lends what the poor one lacks of the mean.
        left[large] -= mean - left[small];
        if left[large] < mean {
            rich.pop();
            poor.push(large);
        }
    }
    entries.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How much of the whole each index gets, over all entries and coins.
    fn shares(entries: &[AliasEntry]) -> Vec<f64> {
        let mut shares = vec![0.0; entries.len()];
        for (own, entry) in entries.iter().enumerate() {
            let kept = f64::from(entry.own_below) / 2f64.powi(32);
            shares[own] += kept;
            shares[entry.other as usize] += 1.0 - kept;
        }
        let n = entries.len() as f64;
        shares.iter().map(|share| share / n).collect()
    }

    proptest! {
        #[test]
        fn entries_add_up_to_the_weights(weights in prop::collection::vec(1u32..=1_000_000, 1..200)) {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let shares = shares(&alias_table(&weights));
            for (&weight, share) in weights.iter().zip(shares) {
                let ideal = f64::from(weight) / total;
                prop_assert!((share - ideal).abs() < 1e-6, "{share} of {ideal}");
            }
        }

        #[test]
        fn a_drawn_index_is_in_range(weights in prop::collection::vec(1u32..=1_000, 1..50), r: u64) {
            let draw = WeightedDraw::new(&weights);
            prop_assert!(draw.index(r, weights.len()) < weights.len());
        }
    }

    #[test]
    fn the_extreme_random_numbers_give_indices_in_range() {
        for weights in [&[1, 2, 3][..], &[1, 1, 1]] {
            let draw = WeightedDraw::new(weights);
            for random in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
                assert!(draw.index(random, 3) < 3);
            }
        }
    }
}
