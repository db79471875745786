//! Tables that layers derive from each snapshot, such as a strategy's order or the tokens of sticky
//! cookies. They are built on the control path and read by requests through a key.
//!
//! What a table goes through:
//!
//! ```text
//! derive ─▶ builder in a slot ─▶ built with this snapshot and each later one
//!                 │                       │
//!    last key dropped: the builder goes   └─▶ read through key: slot, then number
//!    with the next snapshot or `derive`
//! ```
//!
//! A key has a slot (an index, so that a look-up hashes nothing) and a number (so that a key whose
//! slot another table got finds nothing). Before tables were dropped, each reload that made a layer
//! added one that was rebuilt for ever: `a_thousand_reloads_leak_no_tables`.
//!
//! Builders run under the control lock, so that no snapshot can be published without its tables. A
//! builder that panics leaves the snapshot before it in force: see `tests/derived.rs`.

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
    /// Adds a table over all members to every snapshot. The pool rebuilds it when membership or
    /// settings change, not when health does.
    ///
    /// `make` runs on the control path, under the pool's lock: it must not call a method that changes
    /// the pool, which would deadlock, and its time delays other changes. The pool drops the table
    /// some time after the last clone of the returned key.
    ///
    /// # Example
    ///
    /// ```
    /// use evenkeel::{Backend, Pool};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
    /// let ports = pool.derive(|all| all.iter().map(Backend::port).collect::<Vec<_>>());
    /// assert_eq!(pool.snapshot().derived(&ports), Some(&vec![9001]));
    /// pool.upsert(Backend::new("b", "http://127.0.0.1:9002")?);
    /// assert_eq!(pool.snapshot().derived(&ports), Some(&vec![9001, 9002]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn derive<T: Send + Sync + 'static>(
        &self,
        make: impl Fn(&[Backend]) -> T + Send + 'static,
    ) -> Derived<T> {
        let mut control = self.control();
        let make = move |backends: &[Backend]| -> Table { Arc::new(make(backends)) };
        let key = control.builders.members.add(Box::new(make));
        // The caller may read the table as soon as it has the key.
        self.publish_and_announce(control, true);
        Derived::new(key)
    }

    /// Adds a table over each [`Group`] to every snapshot. The pool rebuilds it at every change,
    /// those of health included.
    ///
    /// `make` runs under the same conditions as that of [`derive`](Self::derive), and the pool drops
    /// the table in the same way. [`Snapshot::derived_group`](super::Snapshot::derived_group) reads
    /// it.
    ///
    /// # Example
    ///
    /// ```
    /// use evenkeel::{Backend, Pool};
    ///
    /// # fn main() -> Result<(), evenkeel::ConfigError> {
    /// let pool = Pool::new([
    ///     Backend::new("a", "http://127.0.0.1:9001")?,
    ///     Backend::new("b", "http://127.0.0.1:9002")?.weight(2)?,
    /// ])?;
    /// let total = pool.derive_groups(|group| group.weights().iter().sum::<u32>());
    /// assert_eq!(pool.snapshot().derived_group(&total, 0), Some(&3_000));
    ///
    /// pool.update_weight("b", 1)?;
    /// assert_eq!(pool.snapshot().derived_group(&total, 0), Some(&2_000));
    /// # Ok(())
    /// # }
    /// ```
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

    /// As [`derive`](Self::derive), for a table that depends on the members alone: all callers that
    /// ask for the same type share one table.
    ///
    /// `make` is a function pointer, so that it captures nothing: the type of the table alone names
    /// it. A table that depends on a layer's settings must not be shared in this way.
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

    /// As [`derive_groups`](Self::derive_groups), for a table that depends on the group alone: all
    /// callers that ask for the same type, such as the strategies of several workers, share one table.
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

/// The key of a table over all members; see [`Pool::derive`]. The pool drops the table some time
/// after the last clone of its key.
pub struct Derived<T> {
    pub(super) key: TableKey,
    kind: PhantomData<fn() -> T>,
}

/// The key of a table over each group; see [`Pool::derive_groups`]. The pool drops the table some
/// time after the last clone of its key.
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

/// Where a table is. Slots are used again; numbers are not, by any pool of the process: a number tells
/// a table from another one that had its slot before.
#[derive(Clone)]
pub(super) struct TableKey {
    pub(super) slot: usize,
    number: u64,
    /// The table lives as long as a clone of this.
    alive: Arc<()>,
}

pub(super) type Table = Arc<dyn Any + Send + Sync>;

/// The builders of all tables: one list for tables over members, one for tables over groups.
#[derive(Default)]
pub(super) struct Builders {
    pub(super) members: TableBuilders<dyn Fn(&[Backend]) -> Table + Send>,
    pub(super) groups: TableBuilders<dyn Fn(&Group) -> Table + Send>,
}

/// Builders, each in a slot; a slot may be free.
pub(super) struct TableBuilders<F: ?Sized> {
    slots: Vec<Option<TableBuilder<F>>>,
    /// The shared table of a type: its slot, its number, and whether its key is alive.
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
    /// Puts a builder into a free slot, else into a new one.
    pub(super) fn add(&mut self, make: Box<F>) -> TableKey {
        self.drop_unused();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (alive, number) = (Arc::new(()), NEXT.fetch_add(1, Relaxed));
        let builder = Some(TableBuilder {
            number,
            alive: Arc::downgrade(&alive),
            make,
        });
        // The first free slot, so that the list is as long as the most tables that lived at once.
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

    /// Returns the key of the shared table of this type if a clone of it is alive.
    pub(super) fn find_by_type(&self, kind: TypeId) -> Option<TableKey> {
        let (slot, number, alive) = self.by_type.get(&kind)?;
        Some(TableKey {
            slot: *slot,
            number: *number,
            alive: alive.upgrade()?,
        })
    }

    /// Makes this the shared table of a type.
    ///
    /// Replaces an entry whose table is gone: the type may be derived again later.
    pub(super) fn register_type(&mut self, kind: TypeId, key: &TableKey) {
        let alive = Arc::downgrade(&key.alive);
        self.by_type.insert(kind, (key.slot, key.number, alive));
    }

    /// Drops the builders whose keys are gone.
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

    /// Builds all tables.
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

/// The tables of a snapshot, each in the slot of its key.
pub(super) struct Tables<T>(Box<[Option<(u64, T)>]>);

impl<T> Tables<T> {
    pub(super) fn get(&self, key: &TableKey) -> Option<&T> {
        // A key of another pool has a number that no table here has.
        let (number, table) = self.0.get(key.slot)?.as_ref()?;
        (*number == key.number).then_some(table)
    }

    /// Returns how many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }
}
