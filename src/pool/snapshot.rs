//! One consistent, immutable view of a pool.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use super::{
    Backend, Derived, DerivedGroups, Health, Mode,
    derived::{Builders, Table},
};

/// One consistent, immutable view of a pool, with everything that a pick needs.
pub struct Snapshot {
    generation: u64,
    members: Arc<Members>,
    groups: Box<[Group]>,
    group_tables: Box<[Box<[Table]>]>,
    usable: usize,
    held: usize,
}

/// What changes with membership only.
pub(super) struct Members {
    pub(super) backends: Box<[Backend]>,
    index: HashMap<Arc<str>, usize>,
    tables: Box<[Table]>,
}

impl Members {
    pub(super) fn build(backends: &[Backend], builders: &Builders) -> Self {
        Self {
            index: backends
                .iter()
                .enumerate()
                .map(|(i, b)| (b.shared_id(), i))
                .collect(),
            tables: builders.members.iter().map(|make| make(backends)).collect(),
            backends: backends.into(),
        }
    }
}

/// Backends among which a strategy picks: the usable ones of one tier.
pub struct Group {
    tier: u8,
    backends: Box<[Backend]>,
    weights: Box<[u32]>,
}

impl Group {
    /// Makes a group of these backends with their configured weights, for tests and benches of
    /// strategies.
    #[must_use]
    pub fn new(tier: u8, backends: Vec<Backend>) -> Self {
        Self {
            tier,
            weights: backends.iter().map(Backend::configured_weight).collect(),
            backends: backends.into(),
        }
    }

    /// Returns the tier.
    #[must_use]
    pub fn tier(&self) -> u8 {
        self.tier
    }

    /// Returns the backends, each usable and of a weight over 0 when the snapshot was made.
    #[must_use]
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Returns the weights now in force, in the backends' order.
    #[must_use]
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("tier", &self.tier)
            .field("backends", &self.backends.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn build(
        generation: u64,
        members: Arc<Members>,
        builders: &Builders,
        prober_attached: bool,
    ) -> Self {
        let mut tiers: BTreeMap<u8, Vec<Backend>> = BTreeMap::new();
        let (mut usable, mut held) = (0, 0);
        for backend in &members.backends {
            let ready = backend.mode() == Mode::Ready && backend.configured_weight() > 0;
            let healthy = match backend.health() {
                Health::Healthy => true,
                Health::Unhealthy => false,
                Health::Unknown => {
                    held += usize::from(prober_attached && ready);
                    !prober_attached
                }
            };
            backend.state.set_usable(ready && healthy);
            if ready && healthy {
                usable += 1;
                tiers
                    .entry(backend.configured_tier())
                    .or_default()
                    .push(backend.clone());
            }
        }
        let groups: Box<[Group]> = tiers
            .into_iter()
            .map(|(tier, backends)| Group::new(tier, backends))
            .collect();
        let group_tables = builders
            .groups
            .iter()
            .map(|make| groups.iter().map(make).collect())
            .collect();
        Self {
            generation,
            members,
            groups,
            group_tables,
            usable,
            held,
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
        self.members
            .index
            .get(id)
            .map(|&i| &self.members.backends[i])
    }

    /// Returns the groups that have a usable backend, the preferred first.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
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

    /// Returns the table over all members that `key` names; `None` for a key of another pool.
    #[must_use]
    pub fn derived<T: 'static>(&self, key: &Derived<T>) -> Option<&T> {
        self.members.tables.get(key.slot)?.downcast_ref()
    }

    /// Returns the table of a group that `key` names; `None` for a key of another pool or a group
    /// that is not there.
    #[must_use]
    pub fn derived_group<T: 'static>(&self, key: &DerivedGroups<T>, group: usize) -> Option<&T> {
        self.group_tables.get(key.slot)?.get(group)?.downcast_ref()
    }

    pub(super) fn members(&self) -> &Arc<Members> {
        &self.members
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("backends", &self.members.backends.len())
            .field("usable", &self.usable)
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}
