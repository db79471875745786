//! Least requests: the backend with the fewest requests in flight.
//!
//! Two passes over at most 32 backends: the first finds the least load and the total weight of those
//! that share it, the second finds the one whose turn it is among them. Loads of the first pass are
//! kept on the stack, because a second read would see other numbers, and might find no backend with
//! the least load at all.
//!
//! Ties are the usual case, not the exception: in a pool with little traffic every backend has none in
//! flight. Without turns by weight, the first of the list would get all of it; HAProxy's `leastconn`
//! and nginx' `least_conn` take turns among equals for the same reason.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{
    pick::{DRAWS, Pick},
    power_of_two::{Load, take_best_of},
    strategy::Strategy,
    weighted_draw::WeightedDraw,
};
use crate::pool::{DerivedGroups, Group, Lease, Pool, Snapshot};

/// Least requests: the backend with the fewest requests in flight for its weight. Backends with
/// equally few take turns by weight.
///
/// Exact up to 32 usable backends. Beyond that, it takes the best of four drawn by weight: a look at
/// all would cost each request more than the evenness is worth.
#[derive(Debug, Default)]
pub struct LeastRequests {
    turn: AtomicU64,
    draw: Option<DerivedGroups<WeightedDraw>>,
}

impl LeastRequests {
    /// Makes the strategy.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn least(&self, group: &Group, pick: &Pick<'_>) -> Option<usize> {
        let mut loads = [FULL; EXACT];
        let mut least: Option<Load> = None;
        let mut tied = 0;
        let members = group.backends().iter().zip(group.weights());
        for ((backend, &weight), in_flight) in members.zip(&mut loads) {
            if !pick.has_room(backend) {
                continue;
            }
            *in_flight = backend.in_flight();
            let this = Load::new(*in_flight, weight);
            match least {
                Some(l) if l.is_equal(this) => tied += u64::from(weight),
                Some(l) if l.is_below(this) => {}
                _ => {
                    least = Some(this);
                    tied = u64::from(weight);
                }
            }
        }
        let least = least?;
        // The turn is taken even if one backend alone has the least: a branch would cost as much, and
        // turns need no gaplessness.
        let mut mine = turn_of(self.turn.fetch_add(1, Relaxed), tied);
        let loads = group.weights().iter().zip(&loads).enumerate();
        for (index, (&weight, &in_flight)) in loads {
            if in_flight != FULL && least.is_equal(Load::new(in_flight, weight)) {
                match mine.checked_sub(u64::from(weight)) {
                    Some(rest) => mine = rest,
                    None => return Some(index),
                }
            }
        }
        None
    }
}

impl Strategy for LeastRequests {
    fn name(&self) -> &'static str {
        "least-requests"
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
        if backends.len() > EXACT {
            let draw = WeightedDraw::of(self.draw.as_ref(), snapshot, number);
            return take_best_of(SAMPLES, draw, group, pick);
        }
        // Bounded: under contention each loop may lose its backend to another thread.
        for _ in 0..=DRAWS {
            // Not taken only where others filled it in between.
            if let Some(lease) = pick.take(backends.get(self.least(group, pick)?)?) {
                return Some(lease);
            }
        }
        pick.take_any(backends)
    }
}

/// Scales the turn to `0..tied`, consecutive turns far apart and each value equally often
/// (multiples of the golden ratio), so that a heavy backend's turns are not in a row.
fn turn_of(turn: u64, tied: u64) -> u64 {
    let fraction = turn.wrapping_mul(GOLDEN) >> 32;
    (fraction * tied) >> 32
}

/// Half a cache line each to read, a few nanoseconds in all; the design's bound for being exact.
const EXACT: usize = 32;
/// Marks a backend without room; more than can ever be in flight.
const FULL: u32 = u32::MAX;
/// Two would be the power of two choices; four come nearer to the least for two more reads.
const SAMPLES: usize = 4;
/// 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_and_fair() {
        for tied in [1, 2, 3, 7, 32, 1_000] {
            let mut counts = vec![0u32; tied as usize];
            for turn in 0..tied * 100 {
                counts[turn_of(turn, tied) as usize] += 1;
            }
            assert!(
                counts.iter().all(|&c| (95..=105).contains(&c)),
                "every turn must come equally often among {tied}: {counts:?}"
            );
        }
        assert!(
            (0..1_000)
                .all(|t| turn_of(t, 2) != turn_of(t + 1, 2) || turn_of(t + 2, 2) != turn_of(t, 2)),
            "never three times the same of two"
        );
    }
}
