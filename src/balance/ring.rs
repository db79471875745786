//! Hash rings: which backend a key belongs to.
//!
//! A ring is built for each change of membership or settings: for 10,000 backends of weight 1 that is
//! a sort of 320,000 points. A look-up is one read of the index and, on the average, less than one
//! step from there, since there are at least as many buckets as points.

use super::{pick::below, xxh64::xxh64};
use crate::pool::Backend;

/// A ring for each tier, over all its members, usable or not, so that it changes with membership
/// alone.
#[derive(Debug)]
pub(super) struct Rings {
    tiers: Vec<(u8, Ring)>,
}

impl Rings {
    pub(super) fn new(backends: &[Backend]) -> Self {
        let mut tiers: Vec<u8> = backends.iter().map(Backend::configured_tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let ring = |tier| {
            let members = backends.iter().enumerate();
            let members = members.filter(|(_, b)| b.configured_tier() == tier);
            (tier, Ring::new(members))
        };
        Self {
            tiers: tiers.into_iter().map(ring).collect(),
        }
    }

    pub(super) fn of(&self, tier: u8) -> Option<&Ring> {
        let found = self.tiers.iter().find(|(number, _)| *number == tier);
        found.map(|(_, ring)| ring)
    }
}

/// Points in the order of their hashes, with an index to find one by its upper bits.
#[derive(Debug)]
pub(super) struct Ring {
    points: Box<[Point]>,
    /// For each value of the upper bits: the first point that is not below.
    starts: Box<[u32]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    hash: u32,
    pub(super) member: u32,
}

impl Ring {
    /// The number of points of a backend depends on its own weight, and on the others only by powers
    /// of two: else each backend that joins would change the points, and so the keys, of all others.
    fn new<'a>(members: impl Iterator<Item = (usize, &'a Backend)> + Clone) -> Self {
        let total: u64 = members
            .clone()
            .map(|(_, b)| u64::from(b.configured_weight()))
            .sum();
        let count = members.clone().count();
        let most = POINTS.max(LEAST_POINTS * count as u64);
        // Powers of two, so that a change of the total seldom changes the points of each backend.
        let each = (most / total.max(1)).next_power_of_two();
        let of = (total / most.max(1)).max(1).next_power_of_two();
        let mut points = Vec::with_capacity(2 * most as usize + count);
        for (member, backend) in members {
            let weight = u64::from(backend.configured_weight());
            let own = (weight * each).div_ceil(of);
            points.extend((0..own).map(|number| Point {
                // By the id, so that the ring is the same after a restart and in other balancers; the
                // number of the point is the seed.
                hash: (xxh64(backend.id().as_bytes(), number) >> 32) as u32,
                member: member as u32,
            }));
        }
        // Of two points with one hash the lower member comes first, in every balancer with the same
        // list.
        points.sort_unstable();
        let buckets = points.len().next_power_of_two().max(2);
        let mut starts = Vec::with_capacity(buckets);
        let mut at = 0;
        for bucket in 0..buckets as u64 {
            let least = ((bucket << 32) / buckets as u64) as u32;
            while points.get(at).is_some_and(|p| p.hash < least) {
                at += 1;
            }
            starts.push(at as u32);
        }
        Self {
            points: points.into(),
            starts: starts.into(),
        }
    }

    /// Returns all points once, from the point that this hash belongs to.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = Point> + '_ {
        let position = (hash >> 32) as u32;
        let bucket = below(position, self.starts.len());
        let start = self.starts.get(bucket).map_or(0, |&s| s as usize);
        let (before, after) = self
            .points
            .split_at_checked(start)
            .unwrap_or((&[], &self.points));
        let skipped = after.iter().take_while(|p| p.hash < position).count();
        let (passed, after) = after.split_at_checked(skipped).unwrap_or((&[], after));
        after.iter().chain(before).chain(passed).copied()
    }
}

/// Points of a small ring, at the least: a thousand for each of four, so that loads differ by a
/// few percent.
const POINTS: u64 = 4_096;
/// Points for each backend of a large ring; bounded loads even out the rest.
const LEAST_POINTS: u64 = 32;
