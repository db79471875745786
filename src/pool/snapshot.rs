//! One consistent, immutable view of a pool.
//!
//! A request loads a snapshot once and decides by it alone, so that a change of membership or health
//! in between cannot show it two states at once.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::Guard;

use super::{
    Backend, Derived, DerivedGroups, Excluded, Group,
    control::Control,
    derived::{Table, Tables},
    eligibility::{Eligibility, GroupDraft},
    hasher::BuildIdHasher,
    locality::SEGMENTS,
    shares::{WHOLE, WeightTotals, portion, split},
};

/// One consistent, immutable view of a pool, with everything that a pick needs.
///
/// [`Pool::snapshot`](super::Pool::snapshot) returns the current one. The handles in it show live
/// state, such as the number of requests in flight; the groups, weights and shares stay as they were
/// built.
pub struct Snapshot {
    generation: u64,
    members: Arc<Members>,
    groups: Box<[Group]>,
    /// Parts of [`PARTS`], in the groups' order.
    shares: Box<[u32]>,
    /// The index of the group with the whole share, if one has it.
    only_group: Option<usize>,
    group_tables: Tables<Box<[Table]>>,
    trials: Box<[Backend]>,
    usable: usize,
    usable_by_health: usize,
    held: usize,
    excluded: Excluded,
    in_panic_mode: bool,
}

/// Identifies one membership with its settings. It keeps that alive, so that no later one can have
/// its address.
#[derive(Clone)]
pub(crate) struct Membership(Arc<Members>);

impl PartialEq for Membership {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What changes only with membership, settings or routing. Snapshots of changes of health share it.
pub(super) struct Members {
    pub(super) backends: Box<[Backend]>,
    index: HashMap<Arc<str>, usize, BuildIdHasher>,
    /// The distance of each member from the balancer.
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
                // A handle of the id, not a copy of its text.
                .map(|(i, b)| (b.shared_id(), i))
                .collect(),
            distances: backends.iter().map(distance).collect(),
            tables: control.builders.members.build(|make| make(backends)),
            backends: backends.as_slice().into(),
        }
    }

    /// Returns the member that this handle stands for, with its present configuration.
    pub(super) fn current(&self, backend: &Backend) -> Option<&Backend> {
        self.get(backend.id()).filter(|b| b.is_same(backend))
    }

    /// Returns each member with its position and its distance.
    pub(super) fn with_distances(&self) -> impl Iterator<Item = (u32, (&Backend, &u8))> {
        (0..).zip(self.backends.iter().zip(&self.distances))
    }

    fn get(&self, id: &str) -> Option<&Backend> {
        self.index.get(id).map(|&i| &self.backends[i])
    }
}

impl Snapshot {
    /// Pure but for the builders of tables, which are code of layers and of users. O(members).
    pub(super) fn build(
        control: &Control,
        members: Arc<Members>,
        mut eligibility: Eligibility,
    ) -> Self {
        let drafts = eligibility.take_drafts();
        let shares = match eligibility.in_panic_mode {
            true => shares_by_weight(&drafts),
            false => shares_by_availability(&drafts, control.routing.overprovisioning),
        };
        let (groups, shares): (Vec<_>, Vec<_>) = drafts
            .into_iter()
            .zip(shares)
            // Behind the computation of shares, since an empty group counts there with the weight that
            // it lacks. Its own share is 0: nothing usable is no availability.
            .filter(|(draft, _)| !draft.backends.is_empty())
            .map(|(draft, share)| (Group::from(draft), share))
            .unzip();
        // Most pools have one group with all of the traffic: a pick then draws no random number for
        // it.
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
            usable: groups.iter().map(|g| g.backends().len()).sum(),
            groups: groups.into(),
            shares: shares.into(),
            only_group,
            trials: eligibility.trials.into(),
            usable_by_health: eligibility.usable_by_health,
            held: eligibility.held,
            excluded: eligibility.excluded,
            in_panic_mode: eligibility.in_panic_mode,
            members,
        }
    }

    /// Returns the number of this snapshot. Each later snapshot of the pool has a higher one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns all members, usable or not, in the order in which they were configured.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.members.backends
    }

    /// Returns the member with this id: one look-up in a hash map.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Backend> {
        self.members.get(id)
    }

    /// Returns the groups that have a usable backend, the preferred first: by tier, and within a tier
    /// by distance.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Returns each group's share of new traffic in the groups' order, in ten-thousandths; they add
    /// up to 10,000 unless there is no group. A group whose share is 0 gets the requests that find
    /// every backend of the other groups at its cap.
    #[must_use]
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Returns the index of a group, drawn by the groups' shares with a random number. `random` is
    /// called only if more than one group has a share. Returns 0 if there is no group.
    pub fn draw_group(&self, random: impl FnOnce() -> u32) -> usize {
        if let Some(only) = self.only_group {
            return only;
        }
        if self.shares.is_empty() {
            return 0;
        }
        // A scan: there is a group for each tier and distance, so seldom more than a handful.
        let mut left = ((u64::from(random()) * u64::from(PARTS)) >> 32) as u32;
        for (number, &share) in self.shares.iter().enumerate() {
            match left.checked_sub(share) {
                Some(rest) => left = rest,
                None => return number,
            }
        }
        0
    }

    /// Returns how many backends new requests may be sent to.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.usable
    }

    /// Returns how many backends no new request may be sent to, and why. The counts of backends tried and
    /// full are 0: they differ by request.
    #[must_use]
    pub fn excluded(&self) -> Excluded {
        self.excluded
    }

    /// Returns how many backends are held until their first check passes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns true in panic mode: too few backends are usable, and all get traffic whatever their
    /// health; see [`PanicRouting::UseAll`](super::PanicRouting::UseAll).
    #[must_use]
    pub fn in_panic_mode(&self) -> bool {
        self.in_panic_mode
    }

    /// Returns the backends that one request at a time may try, with
    /// [`Lease::acquire_trial`](super::Lease::acquire_trial): those whose circuit is half open and
    /// that nothing else keeps out of service. Mostly empty.
    #[must_use]
    pub fn trials(&self) -> &[Backend] {
        &self.trials
    }

    /// Returns the table of [`Pool::derive`](super::Pool::derive) that `key` names; `None` for a key
    /// of another pool.
    #[must_use]
    pub fn derived<T: 'static>(&self, key: &Derived<T>) -> Option<&T> {
        self.members.tables.get(&key.key)?.downcast_ref()
    }

    /// Returns the table of [`Pool::derive_groups`](super::Pool::derive_groups) that `key` names, for
    /// the group of this index; `None` for a key of another pool and for an index out of range.
    #[must_use]
    pub fn derived_group<T: 'static>(&self, key: &DerivedGroups<T>, group: usize) -> Option<&T> {
        self.group_tables.get(&key.key)?.get(group)?.downcast_ref()
    }

    /// Identifies the membership; another value after any change of it.
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

    /// Returns how many backends would be usable without panic routing.
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

/// The current snapshot, borrowed without a lock; see [`Pool::snapshot`](super::Pool::snapshot).
#[derive(Debug)]
pub struct SnapshotGuard {
    guard: Guard<Arc<Snapshot>>,
}

impl SnapshotGuard {
    pub(super) fn new(guard: Guard<Arc<Snapshot>>) -> Self {
        Self { guard }
    }
}

impl std::ops::Deref for SnapshotGuard {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.guard
    }
}

/// Splits the traffic among tiers by availability, then each tier's share among its distances.
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
        // Both percentages multiply to ten-thousandths without a rounding in between.
        let near: Vec<u32> = tier.iter().map(|f| available(f.weight_totals)).collect();
        shares.extend(split(&near).into_iter().map(|part| part * share));
    }
    shares
}

/// Splits the traffic by weight alone, for panic mode.
fn shares_by_weight(drafts: &[GroupDraft]) -> Vec<u32> {
    let weight = |draft: &GroupDraft| {
        let weights = draft.backends.iter().map(Backend::weight_in_force);
        weights.map(u64::from).sum()
    };
    portion(&drafts.iter().map(weight).collect::<Vec<u64>>(), PARTS)
}

/// Percent of a percent: a tier's percent times a distance's.
const PARTS: u32 = WHOLE * WHOLE;
