//! A group: the usable backends of one tier at one distance, among which a strategy picks.
//!
//! Strategies see groups and never the whole membership, so that a table of theirs is indexed by what
//! may be picked. A group is rebuilt with each snapshot: a change of health costs a copy of handles
//! (one reference count each) and of 8 bytes a member.

use std::fmt;

use super::{Backend, eligibility::GroupDraft, shares::WeightTotals};

/// The usable backends of one tier at one distance, in the members' order.
///
/// A [`Snapshot`](super::Snapshot) splits the usable backends into groups, draws a group by its
/// share of the traffic, and lets the strategy pick within it. Backends, weights and positions are
/// parallel slices. None of them changes after the snapshot was built.
pub struct Group {
    tier: u8,
    distance: u8,
    backends: Box<[Backend]>,
    weights: Box<[u32]>,
    positions: Box<[u32]>,
}

impl Group {
    /// Makes a group of these backends with their weights in force. It is for tests and benches of
    /// strategies; a pool makes its own groups.
    #[must_use]
    pub fn new(tier: u8, backends: Vec<Backend>) -> Self {
        Self::from(GroupDraft {
            tier,
            distance: 0,
            positions: (0..).take(backends.len()).collect(),
            backends,
            weight_totals: WeightTotals::default(),
        })
    }

    /// Returns the tier; 0 is preferred.
    #[must_use]
    pub fn tier(&self) -> u8 {
        self.tier
    }

    /// Returns the distance from the balancer to the backends: 0 (the same rack) to 3 (another
    /// region), and 0 if the balancer has no [locality](super::Routing::locality).
    #[must_use]
    pub fn distance(&self) -> u8 {
        self.distance
    }

    /// Returns the backends. Each was usable and had a weight over 0 when the snapshot was built.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Returns the weights in force, in the backends' order and in thousandths: 1,000 for a backend
    /// of weight 1 at full capacity after slow start. None is 0.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Returns the index of each backend in [`Snapshot::backends`](super::Snapshot::backends).
    #[must_use]
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }
}

impl From<GroupDraft> for Group {
    fn from(draft: GroupDraft) -> Self {
        let backends = draft.backends;
        Self {
            tier: draft.tier,
            distance: draft.distance,
            // Read once, when the snapshot is built: a slow start or a capacity that changes makes the
            // next one.
            weights: backends.iter().map(Backend::weight_in_force).collect(),
            backends: backends.into(),
            positions: draft.positions.into(),
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("tier", &self.tier)
            .field("distance", &self.distance)
            .field("backends", &self.backends.len())
            .finish_non_exhaustive()
    }
}
