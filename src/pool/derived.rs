//! Tables that rooms above hang on a snapshot, rebuilt on the control path.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::Arc,
};

use super::{Backend, Group};

/// Names a table over all members; see [`Pool::derive`](super::Pool::derive).
pub struct Derived<T> {
    pub(super) slot: usize,
    kind: PhantomData<fn() -> T>,
}

/// Names a table over the usable backends of each group; see
/// [`Pool::derive_groups`](super::Pool::derive_groups).
pub struct DerivedGroups<T> {
    pub(super) slot: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T> Derived<T> {
    pub(super) fn new(slot: usize) -> Self {
        Self {
            slot,
            kind: PhantomData,
        }
    }
}

impl<T> DerivedGroups<T> {
    pub(super) fn new(slot: usize) -> Self {
        Self {
            slot,
            kind: PhantomData,
        }
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Derived<T> {}

impl<T> Clone for DerivedGroups<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DerivedGroups<T> {}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Derived").field(&self.slot).finish()
    }
}

impl<T> fmt::Debug for DerivedGroups<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DerivedGroups").field(&self.slot).finish()
    }
}

pub(super) type Table = Arc<dyn Any + Send + Sync>;

/// How each table is built; one list for members, one for groups.
#[derive(Default)]
pub(super) struct Builders {
    pub(super) members: Vec<Box<dyn Fn(&[Backend]) -> Table + Send>>,
    pub(super) groups: Vec<Box<dyn Fn(&Group) -> Table + Send>>,
    /// Where the one table of a type is.
    pub(super) members_once: HashMap<TypeId, usize>,
    pub(super) groups_once: HashMap<TypeId, usize>,
}

impl Builders {
    pub(super) fn build_members(&self, backends: &[Backend]) -> Box<[Table]> {
        self.members.iter().map(|make| make(backends)).collect()
    }

    pub(super) fn build_groups(&self, groups: &[Group]) -> Box<[Box<[Table]>]> {
        let makers = self.groups.iter();
        makers
            .map(|make| groups.iter().map(make).collect())
            .collect()
    }
}
