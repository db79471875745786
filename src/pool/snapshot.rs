//! One consistent, immutable view of a pool.

use std::{collections::HashMap, fmt, sync::Arc};

use super::{
    Backend, Derived, DerivedGroups,
    control::Control,
    derived::{Table, Tables},
    eligibility::{Eligibility, GroupDraft},
    hasher::BuildIdHasher,
    locality::SEGMENTS,
    shares::{WHOLE, WeightTotals, portion, split},
};

/// One consistent, immutable view of a pool, with everything that a pick needs.
pub struct Snapshot {
    generation: u64,
    members: Arc<Members>,
    groups: Box<[Group]>,
    /// Of [`PARTS`], in the groups' order.
    shares: Box<[u32]>,
    /// The one group that has a share, where there is but one.
    only_group: Option<usize>,
    group_tables: Tables<Box<[Table]>>,
    trials: Box<[Backend]>,
    usable: usize,
    usable_by_health: usize,
    /// Where none is usable_by_health: those that are ejected, and usable but for that.
    ejected: Box<[Backend]>,
    held: usize,
    in_panic_mode: bool,
}

/// Names one membership with its settings. Holds it, so that no later one can have its name.
#[derive(Clone)]
pub(crate) struct Membership(Arc<Members>);

impl PartialEq for Membership {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What changes with membership only.
pub(super) struct Members {
    pub(super) backends: Box<[Backend]>,
    index: HashMap<Arc<str>, usize, BuildIdHasher>,
    /// How far each is from the balancer.
    distances: Box<[u8]>,
    tables: Tables<Table>,
}

impl Members {
    pub(super) fn build(control: &Control) -> Self {
        let backends = &control.members;
        let own = control.routing.locality.as_ref();
        let distance = |backend: &Backend| {
            let locality = backend.configured_locality();
            own.map_or(0, |own| locality.map_or(SEGMENTS, |l| own.distance(l)))
        };
        Self {
            index: backends
                .iter()
                .enumerate()
                .map(|(i, b)| (b.shared_id(), i))
                .collect(),
            distances: backends.iter().map(distance).collect(),
            tables: control.builders.members.build(|make| make(backends)),
            backends: backends.as_slice().into(),
        }
    }

    /// Returns the member that this handle stands for.
    pub(super) fn current(&self, backend: &Backend) -> Option<&Backend> {
        self.get(backend.id()).filter(|b| b.is_same(backend))
    }

    /// Each with its position and its distance.
    pub(super) fn with_distances(&self) -> impl Iterator<Item = (u32, (&Backend, &u8))> {
        (0..).zip(self.backends.iter().zip(&self.distances))
    }

    fn get(&self, id: &str) -> Option<&Backend> {
        self.index.get(id).map(|&i| &self.backends[i])
    }
}

/// Backends among which a strategy picks: the usable ones of one tier at one distance.
pub struct Group {
    tier: u8,
    distance: u8,
    backends: Box<[Backend]>,
    weights: Box<[u32]>,
    positions: Box<[u32]>,
}

impl Group {
    /// Makes a group of these backends with their weights in force, for tests and benches of
    /// strategies.
    #[must_use]
    pub fn new(tier: u8, backends: Vec<Backend>) -> Self {
        let positions = (0..).take(backends.len()).collect();
        let weight_totals = WeightTotals::default();
        let distance = 0;
        Self::from(GroupDraft {
            tier,
            distance,
            backends,
            positions,
            weight_totals,
        })
    }

    /// Returns the tier.
    #[must_use]
    pub fn tier(&self) -> u8 {
        self.tier
    }

    /// Returns how far the backends are, 0 (the same rack) to 3 (another region); 0 where the
    /// balancer has no locality of its own.
    #[must_use]
    pub fn distance(&self) -> u8 {
        self.distance
    }

    /// Returns the backends, each usable and of a weight over 0 when the snapshot was made.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Returns the weights now in force, in the backends' order and in thousandths: a backend of
    /// weight 1 that is well and warm has 1,000. None is 0.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }

    /// Returns where each of the backends stands among all members: its place in
    /// [`Snapshot::backends`].
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

impl Snapshot {
    pub(super) fn build(control: &Control, members: Arc<Members>) -> Self {
        let mut eligibility = Eligibility::of(control, &members);
        let in_panic_mode = eligibility.is_panic(control.routing.panic);
        if in_panic_mode {
            eligibility.include_unhealthy(&members);
        }
        let drafts: Vec<GroupDraft> = eligibility.drafts.into_iter().flatten().collect();
        let shares = if in_panic_mode {
            shares_by_weight(&drafts)
        } else {
            shares_by_availability(&drafts, control.routing.overprovisioning)
        };
        let (groups, shares): (Vec<_>, Vec<_>) = drafts
            .into_iter()
            .zip(shares)
            .filter(|(draft, _)| !draft.backends.is_empty())
            .map(|(draft, share)| (Group::from(draft), share))
            .unzip();
        let mut loaded = (0..shares.len()).filter(|&i| shares[i] > 0);
        let only_group = match (loaded.next(), loaded.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        };
        Self {
            generation: control.generation,
            group_tables: control
                .builders
                .groups
                .build(|make| groups.iter().map(make).collect()),
            usable: groups.iter().map(|g| g.backends.len()).sum(),
            groups: groups.into(),
            shares: shares.into(),
            only_group,
            trials: eligibility.trials.into(),
            ejected: match eligibility.usable_by_health {
                0 => eligibility.ejected.into(),
                _ => Box::default(),
            },
            usable_by_health: eligibility.usable_by_health,
            held: eligibility.held,
            in_panic_mode,
            members,
        }
    }

    /// Returns the number of this snapshot; each change makes a higher one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns all members, usable or not, in their configured order.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.members.backends
    }

    /// Returns the member with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Backend> {
        self.members.get(id)
    }

    /// Returns the groups that have a usable backend, the preferred first: by tier, and within a
    /// tier by distance.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns each group's share of new traffic, in the groups' order; they add up to 10,000
    /// where there are groups. One without a share is a fall-back: it gets what the others have
    /// no room for.
    #[must_use]
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Returns the number of the group whose turn it is for this random number, each as often as
    /// its share asks. The number is drawn only where more than one group has a share.
    pub fn draw_group(&self, random: impl FnOnce() -> u32) -> usize {
        if let Some(only) = self.only_group {
            return only;
        }
        if self.shares.is_empty() {
            return 0;
        }
        let mut left = ((u64::from(random()) * u64::from(PARTS)) >> 32) as u32;
        for (number, &share) in self.shares.iter().enumerate() {
            match left.checked_sub(share) {
                Some(rest) => left = rest,
                None => return number,
            }
        }
        0
    }

    /// Returns how many backends can take new traffic.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// Returns how many are held until their first check passes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns true while too few backends are usable and health is not believed: see
    /// [`PanicRouting::UseAll`](super::PanicRouting::UseAll).
    #[must_use]
    pub fn in_panic_mode(&self) -> bool {
        self.in_panic_mode
    }

    /// Returns the backends that one request at a time may try: those whose circuit is half open
    /// and that nothing else keeps out. Nearly always none.
    #[must_use]
    pub fn trials(&self) -> &[Backend] {
        &self.trials
    }

    /// Returns the table over all members that `key` names; `None` for a key of another pool.
    #[must_use]
    pub fn derived<T: 'static>(&self, key: &Derived<T>) -> Option<&T> {
        self.members.tables.get(&key.key)?.downcast_ref()
    }

    /// Returns the table of a group that `key` names; `None` for a key of another pool or a group
    /// that is not there.
    #[must_use]
    pub fn derived_group<T: 'static>(&self, key: &DerivedGroups<T>, group: usize) -> Option<&T> {
        self.group_tables.get(&key.key)?.get(group)?.downcast_ref()
    }

    /// Returns a name of the membership, which is another one after any change of it.
    pub(crate) fn membership(&self) -> Membership {
        Membership(self.members.clone())
    }

    /// Returns how many tables there are, over members and over groups.
    #[cfg(test)]
    pub(crate) fn count_tables(&self) -> (usize, usize) {
        (self.members.tables.count(), self.group_tables.count())
    }

    pub(super) fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// Those whose ejection alone leaves nobody usable.
    pub(super) fn ejected(&self) -> &[Backend] {
        &self.ejected
    }

    /// How many are usable by their health, panic or not.
    pub(super) fn usable_by_health(&self) -> usize {
        self.usable_by_health
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("backends", &self.members.backends.len())
            .field("usable", &self.usable)
            .field("held", &self.held)
            .field("in_panic_mode", &self.in_panic_mode)
            .finish_non_exhaustive()
    }
}

/// Tiers first, then the distances within each.
fn shares_by_availability(drafts: &[GroupDraft], overprovisioning: u32) -> Vec<u32> {
    let available = |weight_totals: WeightTotals| weight_totals.availability(overprovisioning);
    let tiers: Vec<&[GroupDraft]> = drafts.chunk_by(|a, b| a.tier == b.tier).collect();
    let availabilities: Vec<u32> = tiers
        .iter()
        .map(|tier| {
            let sum =
                |part: fn(&WeightTotals) -> u64| tier.iter().map(|f| part(&f.weight_totals)).sum();
            available(WeightTotals {
                usable: sum(|s| s.usable),
                configured: sum(|s| s.configured),
            })
        })
        .collect();
    let mut shares = Vec::with_capacity(drafts.len());
    for (tier, share) in tiers.iter().zip(split(&availabilities)) {
        let near: Vec<u32> = tier.iter().map(|f| available(f.weight_totals)).collect();
        shares.extend(split(&near).into_iter().map(|part| part * share));
    }
    shares
}

fn shares_by_weight(drafts: &[GroupDraft]) -> Vec<u32> {
    let weight = |draft: &GroupDraft| {
        let weights = draft.backends.iter().map(Backend::weight_in_force);
        weights.map(u64::from).sum()
    };
    portion(&drafts.iter().map(weight).collect::<Vec<u64>>(), PARTS)
}

/// Percent of percent.
const PARTS: u32 = WHOLE * WHOLE;
