//! One at random, by weight.

use super::strategy::{DRAWS, Pick, Strategy, below};
use crate::pool::{DerivedGroups, Group, Lease, Pool, Snapshot};

/// Weighted random: each pick on its own, so balancers that know nothing of one another do not
/// fall into step. Two memory reads a pick, however many backends.
#[derive(Debug, Default)]
pub struct Random {
    draw: Option<DerivedGroups<Draw>>,
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
        self.draw = Some(pool.derive_groups_once(Draw::of_group));
    }

    fn pick_from(
        &self,
        snapshot: &Snapshot,
        group: &Group,
        number: usize,
        pick: &Pick<'_>,
    ) -> Option<Lease> {
        let backends = group.backends();
        let draw = Draw::of(self.draw.as_ref(), snapshot, number);
        for _ in 0..=DRAWS {
            let drawn = backends.get(draw.index(fastrand::u64(..), backends.len()))?;
            if let Some(lease) = pick.take(drawn) {
                return Some(lease);
            }
        }
        pick.take_any(backends)
    }
}

/// Draws an index by weight.
#[derive(Debug)]
pub(super) enum Draw {
    /// Equal weights.
    Even,
    /// Walker's alias method: each place keeps its own index up to a threshold, and lends what
    /// is above to another.
    Weighted(Box<[Place]>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The own index where the coin is below.
    own_below: u32,
    other: u32,
}

impl Draw {
    pub(super) fn new(weights: &[u32]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Even;
        }
        Self::Weighted(places(weights))
    }

    pub(super) fn of_group(group: &Group) -> Self {
        Self::new(group.weights())
    }

    /// Returns the group's table; that of equal weights where the strategy was not attached.
    pub(super) fn of<'a>(
        key: Option<&DerivedGroups<Self>>,
        snapshot: &'a Snapshot,
        group: usize,
    ) -> &'a Self {
        key.and_then(|key| snapshot.derived_group(key, group))
            .unwrap_or(&Self::Even)
    }

    /// Turns one random number into an index: the upper half says the place, the lower is the
    /// coin.
    pub(super) fn index(&self, random: u64, len: usize) -> usize {
        let (upper, coin) = ((random >> 32) as u32, random as u32);
        match self {
            Self::Even => below(upper, len),
            Self::Weighted(places) => {
                let own = below(upper, places.len());
                let Some(place) = places.get(own) else {
                    return own;
                };
                // Without a branch, which would be mispredicted as often as the coin is fair.
                let lent = 0u32.wrapping_sub(u32::from(coin >= place.own_below));
                (own as u32 & !lent | place.other & lent) as usize
            }
        }
    }
}

/// Vose's construction, in whole numbers: n places of the mean weight each.
fn places(weights: &[u32]) -> Box<[Place]> {
    let n = weights.len() as u64;
    let mean: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    // Scaled by n, so that the mean is a whole number.
    let mut left: Vec<u64> = weights.iter().map(|&w| u64::from(w) * n).collect();
    let mut places: Vec<Place> = (0..weights.len() as u32)
        .map(|own| Place {
            own_below: u32::MAX,
            other: own,
        })
        .collect();
    let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|&i| left[i] < mean);
    while let (Some(small), Some(&large)) = (poor.pop(), rich.last()) {
        places[small] = Place {
            own_below: ((u128::from(left[small]) << 32) / u128::from(mean)) as u32,
            other: large as u32,
        };
        left[large] -= mean - left[small];
        if left[large] < mean {
            rich.pop();
            poor.push(large);
        }
    }
    places.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How much of the whole each index gets, over all places and coins.
    fn shares(places: &[Place]) -> Vec<f64> {
        let mut shares = vec![0.0; places.len()];
        for (own, place) in places.iter().enumerate() {
            let kept = f64::from(place.own_below) / 2f64.powi(32);
            shares[own] += kept;
            shares[place.other as usize] += 1.0 - kept;
        }
        let n = places.len() as f64;
        shares.iter().map(|share| share / n).collect()
    }

    proptest! {
        #[test]
        fn places_add_up_to_the_weights(weights in prop::collection::vec(1u32..=1_000_000, 1..200)) {
            let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
            let shares = shares(&places(&weights));
            for (&weight, share) in weights.iter().zip(shares) {
                let ideal = f64::from(weight) / total;
                prop_assert!((share - ideal).abs() < 1e-6, "{share} of {ideal}");
            }
        }

        #[test]
        fn an_index_is_in_range(weights in prop::collection::vec(1u32..=1_000, 1..50), r: u64) {
            let draw = Draw::new(&weights);
            prop_assert!(draw.index(r, weights.len()) < weights.len());
        }
    }

    #[test]
    fn the_extremes_of_chance_are_in_range() {
        for weights in [&[1, 2, 3][..], &[1, 1, 1]] {
            let draw = Draw::new(weights);
            for random in [0, u64::MAX, u64::MAX << 32, u64::MAX >> 32] {
                assert!(draw.index(random, 3) < 3);
            }
        }
    }
}
