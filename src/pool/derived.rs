//! Tables that rooms above hang on a snapshot, rebuilt on the control path.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    marker::PhantomData,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{Backend, Group, Pool};

impl Pool {
    /// Hangs a table over all members on every snapshot, rebuilt when membership or settings
    /// change. The closure runs on the control path, never on a request's, while other changes of
    /// the pool wait: it must not change the pool itself. The table is let go of some time after
    /// the last clone of what this returns.
    pub fn derive<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&[Backend]) -> T + Send + 'static,
    ) -> Derived<T> {
        let mut control = self.control();
        let make = move |backends: &[Backend]| -> Table { Arc::new(make(backends)) };
        let key = control.builders.members.add(Box::new(make));
        self.publish_and_announce(control, true);
        Derived::new(key)
    }

    /// Hangs a table over the usable backends of each group on every snapshot. The closure runs
    /// on the control path at every change of health, too, and must not change the pool itself.
    /// The table is let go of some time after the last clone of what this returns.
    pub fn derive_groups<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&Group) -> T + Send + 'static,
    ) -> DerivedGroups<T> {
        let mut control = self.control();
        let make = move |group: &Group| -> Table { Arc::new(make(group)) };
        let key = control.builders.groups.add(Box::new(make));
        self.publish_and_announce(control, false);
        DerivedGroups::new(key)
    }

    /// As [`derive`](Self::derive), for a table that is a function of the members alone and that
    /// is told by its type: made once, however many ask for it.
    pub(crate) fn derive_once<T: Send + Sync + 'static>(
        &self,
        make: fn(&[Backend]) -> T,
    ) -> Derived<T> {
        let mut control = self.control();
        let kind = TypeId::of::<T>();
        if let Some(known) = control.builders.members.find_by_type(kind) {
            return Derived::new(known);
        }
        let make = move |backends: &[Backend]| -> Table { Arc::new(make(backends)) };
        let key = control.builders.members.add(Box::new(make));
        control.builders.members.register_type(kind, &key);
        self.publish_and_announce(control, true);
        Derived::new(key)
    }

    /// As [`derive_groups`](Self::derive_groups), for a table that is a function of the group
    /// alone and that is told by its type: made once, however many strategies (one a worker) ask
    /// for it.
    pub(crate) fn derive_groups_once<T: Send + Sync + 'static>(
        &self,
        make: fn(&Group) -> T,
    ) -> DerivedGroups<T> {
        let mut control = self.control();
        let kind = TypeId::of::<T>();
        if let Some(known) = control.builders.groups.find_by_type(kind) {
            return DerivedGroups::new(known);
        }
        let make = move |group: &Group| -> Table { Arc::new(make(group)) };
        let key = control.builders.groups.add(Box::new(make));
        control.builders.groups.register_type(kind, &key);
        self.publish_and_announce(control, false);
        DerivedGroups::new(key)
    }
}

/// Names a table over all members; see [`Pool::derive`](super::Pool::derive). The table is let go
/// of some time after the last clone of its name.
pub struct Derived<T> {
    pub(super) key: TableKey,
    kind: PhantomData<fn() -> T>,
}

/// Names a table over the usable backends of each group; see
/// [`Pool::derive_groups`](super::Pool::derive_groups). The table is let go of some time after the
/// last clone of its name.
pub struct DerivedGroups<T> {
    pub(super) key: TableKey,
    kind: PhantomData<fn() -> T>,
}

impl<T> Derived<T> {
    pub(super) fn new(key: TableKey) -> Self {
        Self {
            key,
            kind: PhantomData,
        }
    }
}

impl<T> DerivedGroups<T> {
    pub(super) fn new(key: TableKey) -> Self {
        Self {
            key,
            kind: PhantomData,
        }
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self::new(self.key.clone())
    }
}

impl<T> Clone for DerivedGroups<T> {
    fn clone(&self) -> Self {
        Self::new(self.key.clone())
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Derived").field(&self.key.number).finish()
    }
}

impl<T> fmt::Debug for DerivedGroups<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DerivedGroups")
            .field(&self.key.number)
            .finish()
    }
}

/// Where a table is. Places are used again, numbers are not, by any pool: they tell a
/// table from one that had its slot before.
#[derive(Clone)]
pub(super) struct TableKey {
    pub(super) slot: usize,
    number: u64,
    /// As long as it lives, so does the table.
    alive: Arc<()>,
}

pub(super) type Table = Arc<dyn Any + Send + Sync>;

/// How each table is built; one list for members, one for groups.
#[derive(Default)]
pub(super) struct Builders {
    pub(super) members: TableBuilders<dyn Fn(&[Backend]) -> Table + Send>,
    pub(super) groups: TableBuilders<dyn Fn(&Group) -> Table + Send>,
}

/// What makes the tables, each at its slot; a slot may be free.
pub(super) struct TableBuilders<F: ?Sized> {
    slots: Vec<Option<TableBuilder<F>>>,
    /// The one table of a type.
    by_type: HashMap<TypeId, (usize, u64, Weak<()>)>,
}

struct TableBuilder<F: ?Sized> {
    number: u64,
    alive: Weak<()>,
    make: Box<F>,
}

impl Builders {
    /// Drops the builders of tables whose keys are gone.
    pub(super) fn drop_unused(&mut self) {
        self.members.drop_unused();
        self.groups.drop_unused();
    }
}

impl<F: ?Sized> TableBuilders<F> {
    /// Puts it where there is room.
    pub(super) fn add(&mut self, make: Box<F>) -> TableKey {
        self.drop_unused();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (alive, number) = (Arc::new(()), NEXT.fetch_add(1, Relaxed));
        let builder = Some(TableBuilder {
            number,
            alive: Arc::downgrade(&alive),
            make,
        });
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.unwrap_or(self.slots.len());
        match free {
            Some(slot) => self.slots[slot] = builder,
            None => self.slots.push(builder),
        }
        TableKey {
            slot,
            number,
            alive,
        }
    }

    /// Returns the name of the one table of this type, where somebody has it still.
    pub(super) fn find_by_type(&self, kind: TypeId) -> Option<TableKey> {
        let (slot, number, alive) = self.by_type.get(&kind)?;
        Some(TableKey {
            slot: *slot,
            number: *number,
            alive: alive.upgrade()?,
        })
    }

    /// Says that this is the one table of this type.
    pub(super) fn register_type(&mut self, kind: TypeId, key: &TableKey) {
        let alive = Arc::downgrade(&key.alive);
        self.by_type.insert(kind, (key.slot, key.number, alive));
    }

    /// Lets go of those whose names are gone.
    fn drop_unused(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|m| m.alive.strong_count() == 0) {
                *slot = None;
            }
        }
        while self.slots.last().is_some_and(Option::is_none) {
            self.slots.pop();
        }
        self.by_type
            .retain(|_, (_, _, alive)| alive.strong_count() > 0);
    }

    /// Makes all tables.
    pub(super) fn build<T>(&self, table: impl Fn(&F) -> T) -> Tables<T> {
        let slots = self.slots.iter();
        Tables(
            slots
                .map(|slot| slot.as_ref().map(|m| (m.number, table(&m.make))))
                .collect(),
        )
    }
}

impl<F: ?Sized> Default for TableBuilders<F> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            by_type: HashMap::new(),
        }
    }
}

/// The tables of a snapshot, each at its slot.
pub(super) struct Tables<T>(Box<[Option<(u64, T)>]>);

impl<T> Tables<T> {
    pub(super) fn get(&self, key: &TableKey) -> Option<&T> {
        let (number, table) = self.0.get(key.slot)?.as_ref()?;
        (*number == key.number).then_some(table)
    }

    /// Returns how many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }
}
