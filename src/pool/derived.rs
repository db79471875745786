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

use super::{Backend, Group};

/// Names a table over all members; see [`Pool::derive`](super::Pool::derive). The table is let go
/// of some time after the last clone of its name.
pub struct Derived<T> {
    pub(super) name: Name,
    kind: PhantomData<fn() -> T>,
}

/// Names a table over the usable backends of each group; see
/// [`Pool::derive_groups`](super::Pool::derive_groups). The table is let go of some time after the
/// last clone of its name.
pub struct DerivedGroups<T> {
    pub(super) name: Name,
    kind: PhantomData<fn() -> T>,
}

impl<T> Derived<T> {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            kind: PhantomData,
        }
    }
}

impl<T> DerivedGroups<T> {
    pub(super) fn new(name: Name) -> Self {
        Self {
            name,
            kind: PhantomData,
        }
    }
}

impl<T> Clone for Derived<T> {
    fn clone(&self) -> Self {
        Self::new(self.name.clone())
    }
}

impl<T> Clone for DerivedGroups<T> {
    fn clone(&self) -> Self {
        Self::new(self.name.clone())
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Derived").field(&self.name.number).finish()
    }
}

impl<T> fmt::Debug for DerivedGroups<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DerivedGroups")
            .field(&self.name.number)
            .finish()
    }
}

/// Where a table is. Places are used again, numbers are not, by any pool: they tell a
/// table from one that had its place before.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) place: usize,
    number: u64,
    /// As long as it lives, so does the table.
    alive: Arc<()>,
}

pub(super) type Table = Arc<dyn Any + Send + Sync>;

/// How each table is built; one list for members, one for groups.
#[derive(Default)]
pub(super) struct Builders {
    pub(super) members: Makers<dyn Fn(&[Backend]) -> Table + Send>,
    pub(super) groups: Makers<dyn Fn(&Group) -> Table + Send>,
}

/// What makes the tables, each at its place; a place may be free.
pub(super) struct Makers<F: ?Sized> {
    places: Vec<Option<Maker<F>>>,
    /// The one table of a type.
    once: HashMap<TypeId, (usize, u64, Weak<()>)>,
}

struct Maker<F: ?Sized> {
    number: u64,
    alive: Weak<()>,
    make: Box<F>,
}

impl<F: ?Sized> Makers<F> {
    /// Puts it where there is room.
    pub(super) fn add(&mut self, make: Box<F>) -> Name {
        self.sweep();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (alive, number) = (Arc::new(()), NEXT.fetch_add(1, Relaxed));
        let maker = Some(Maker {
            number,
            alive: Arc::downgrade(&alive),
            make,
        });
        let free = self.places.iter().position(Option::is_none);
        let place = free.unwrap_or(self.places.len());
        match free {
            Some(place) => self.places[place] = maker,
            None => self.places.push(maker),
        }
        Name {
            place,
            number,
            alive,
        }
    }

    /// Returns the name of the one table of this type, where somebody has it still.
    pub(super) fn known(&self, kind: TypeId) -> Option<Name> {
        let (place, number, alive) = self.once.get(&kind)?;
        Some(Name {
            place: *place,
            number: *number,
            alive: alive.upgrade()?,
        })
    }

    /// Says that this is the one table of this type.
    pub(super) fn remember(&mut self, kind: TypeId, name: &Name) {
        let alive = Arc::downgrade(&name.alive);
        self.once.insert(kind, (name.place, name.number, alive));
    }

    /// Lets go of those whose names are gone.
    pub(super) fn sweep(&mut self) {
        for place in &mut self.places {
            if place.as_ref().is_some_and(|m| m.alive.strong_count() == 0) {
                *place = None;
            }
        }
        while self.places.last().is_some_and(Option::is_none) {
            self.places.pop();
        }
        self.once
            .retain(|_, (_, _, alive)| alive.strong_count() > 0);
    }

    /// Makes all tables.
    pub(super) fn build<T>(&self, table: impl Fn(&F) -> T) -> Tables<T> {
        let places = self.places.iter();
        Tables(
            places
                .map(|place| place.as_ref().map(|m| (m.number, table(&m.make))))
                .collect(),
        )
    }
}

impl<F: ?Sized> Default for Makers<F> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            once: HashMap::new(),
        }
    }
}

/// The tables of a snapshot, each at its place.
pub(super) struct Tables<T>(Box<[Option<(u64, T)>]>);

impl<T> Tables<T> {
    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        let (number, table) = self.0.get(name.place)?.as_ref()?;
        (*number == name.number).then_some(table)
    }

    /// Returns how many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }
}
