//! Values that one module keeps with another module's object, each under a key of its own.
//!
//! A connection and a backend outlive the requests that pass them, so they are where a module
//! caches what it computes from them. The object knows neither the value nor the module: it holds
//! [`Slots`], and a module finds its value with a [`SlotKey`] that no other module has.
//!
//! ```text
//!   Slots ─▶ Slot key 3 ─▶ Slot key 7 ─▶ (empty link)        at most 8, never removed
//! ```
//!
//! A list and not a map: an object has two or three values, and reading one is two or three
//! comparisons. A link is set once (`OnceLock`), so readers follow it without a lock, and a value
//! can be borrowed for as long as the object.
//!
//! A value of a key that is gone stays until the object is dropped: make few keys, and keep them (a
//! `static`, or a field of what is configured once).
//!
//! Each value costs one allocation, when it is made; reads allocate nothing.
//! `threads_that_race_for_a_slot_agree` makes values under the same keys on several threads at once.

use std::{
    any::Any,
    fmt,
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Names one kind of value. Two keys never name the same slot.
///
/// A number and not the type: two layers may cache values of one type.
pub(crate) struct SlotKey<T> {
    /// 0 until the key is first used, so that a key can be a `static`.
    number: AtomicU64,
    kind: PhantomData<fn() -> T>,
}

impl<T> SlotKey<T> {
    pub(crate) const fn new() -> Self {
        Self {
            number: AtomicU64::new(0),
            kind: PhantomData,
        }
    }

    fn number(&self) -> u64 {
        match self.number.load(Relaxed) {
            0 => self.assign(),
            number => number,
        }
    }

    /// Two threads may draw a number each; the first stored wins, and the other number is never
    /// used. `Relaxed`: the number is all that is shared.
    #[cold]
    fn assign(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Relaxed);
        match self.number.compare_exchange(0, number, Relaxed, Relaxed) {
            Ok(_) => number,
            Err(assigned) => assigned,
        }
    }
}

impl<T> fmt::Debug for SlotKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SlotKey").field(&self.number()).finish()
    }
}

/// The values that modules keep with one object. A value stays until the object is dropped.
///
/// Reading takes no lock: the slots form a list that only grows.
#[derive(Default)]
pub(crate) struct Slots {
    first: Link,
    /// A bit for each key that was asked for; see [`Slots::is_asked_again`].
    asked: AtomicU64,
}

type Link = OnceLock<Box<Slot<dyn Any + Send + Sync>>>;

struct Slot<T: ?Sized> {
    key: u64,
    next: Link,
    value: T,
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self {
            first: Link::new(),
            asked: AtomicU64::new(0),
        }
    }

    /// Returns the value under `key`.
    pub(crate) fn get<T: Any + Send + Sync>(&self, key: &SlotKey<T>) -> Option<&T> {
        let number = key.number();
        let mut link = &self.first;
        while let Some(slot) = link.get() {
            if slot.key == number {
                return slot.value.downcast_ref();
            }
            link = &slot.next;
        }
        None
    }

    /// Returns whether this was called with `key` before. A module that caches only for objects
    /// that are used again asks here first, so that an object that is used once keeps no memory for
    /// it. May return true too early, where two keys share a bit.
    pub(crate) fn is_asked_again<T>(&self, key: &SlotKey<T>) -> bool {
        let bit = 1 << (key.number() % u64::from(u64::BITS));
        let asked = self.asked.load(Relaxed);
        if asked & bit == 0 {
            // A bit of another thread may be lost: its module asks once more.
            self.asked.store(asked | bit, Relaxed);
        }
        asked & bit != 0
    }

    /// Returns the value under `key`, and makes it if there is none yet. Returns `None` where
    /// [`MAX_SLOTS`] other keys have a value.
    ///
    /// `make` runs at most once for each call. If two threads make a value at once, one of the two
    /// is dropped. It may use the same `Slots`: no lock is held.
    pub(crate) fn get_or_init<T: Any + Send + Sync>(
        &self,
        key: &SlotKey<T>,
        make: impl FnOnce() -> T,
    ) -> Option<&T> {
        let number = key.number();
        let mut make = Some(make);
        // A slot that lost a race for its link to another thread: it is offered to the next one.
        let mut unplaced: Option<Box<Slot<dyn Any + Send + Sync>>> = None;
        let mut link = &self.first;
        for _ in 0..MAX_SLOTS {
            if link.get().is_none() {
                let new = match unplaced.take() {
                    Some(slot) => slot,
                    None => Box::new(Slot {
                        key: number,
                        next: Link::new(),
                        value: make.take()?(),
                    }),
                };
                // Lost the race: the link has a slot of another thread, which may even be the key's
                // own.
                unplaced = link.set(new).err();
            }
            let slot = link.get()?;
            if slot.key == number {
                return slot.value.downcast_ref();
            }
            link = &slot.next;
        }
        None
    }
}

/// A copy of the object has no values yet.
impl Clone for Slots {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").finish_non_exhaustive()
    }
}

/// Each layer that caches has one key, and a stack has two or three such layers. The bound keeps
/// the list short where a program makes layers without end.
const MAX_SLOTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_key_has_a_value_of_its_own() {
        let (one, two) = (SlotKey::<u32>::new(), SlotKey::<u32>::new());
        let text = SlotKey::<String>::new();
        let slots = Slots::new();
        assert_eq!(slots.get(&one), None);
        assert_eq!(slots.get_or_init(&one, || 1), Some(&1));
        assert_eq!(slots.get_or_init(&two, || 2), Some(&2));
        let made = slots.get_or_init(&text, || "three".to_owned());
        assert_eq!(made.map(String::as_str), Some("three"));
        assert_eq!(slots.get_or_init(&one, || 9), Some(&1), "made once");
        assert_eq!((slots.get(&one), slots.get(&two)), (Some(&1), Some(&2)));
        assert_eq!(Slots::new().get(&one), None, "of another object");
    }

    #[test]
    fn a_key_is_asked_again_from_the_second_time_on() {
        let (one, two) = (SlotKey::<u32>::new(), SlotKey::<u32>::new());
        let slots = Slots::new();
        assert!(!slots.is_asked_again(&one) && slots.is_asked_again(&one));
        assert!(!slots.is_asked_again(&two) && slots.is_asked_again(&one));
        assert_eq!(slots.get(&one), None, "nothing is kept for it");
    }

    #[test]
    fn the_number_of_slots_is_bounded() {
        let keys: Vec<_> = (0..=MAX_SLOTS).map(|_| SlotKey::<usize>::new()).collect();
        let slots = Slots::new();
        for (i, key) in keys.iter().enumerate() {
            let made = slots.get_or_init(key, || i);
            assert_eq!(made, (i < MAX_SLOTS).then_some(&i));
        }
        assert_eq!(slots.get_or_init(&keys[0], || 9), Some(&0));
    }

    #[test]
    fn a_value_that_loses_a_race_for_a_slot_gets_the_next() {
        let (one, two) = (SlotKey::<u32>::new(), SlotKey::<u32>::new());
        let slots = Slots::new();
        let made = slots.get_or_init(&one, || {
            assert_eq!(slots.get_or_init(&two, || 2), Some(&2));
            1
        });
        assert_eq!(made, Some(&1), "the other key was first");
        let third = SlotKey::<u32>::new();
        let same = slots.get_or_init(&third, || {
            assert_eq!(slots.get_or_init(&third, || 3), Some(&3));
            4
        });
        assert_eq!(same, Some(&3), "the same key was first");
        assert_eq!((slots.get(&one), slots.get(&two)), (Some(&1), Some(&2)));
    }

    #[test]
    fn threads_that_race_for_a_slot_agree() {
        static KEYS: [SlotKey<usize>; 4] = [const { SlotKey::new() }; 4];
        for _ in 0..100 {
            let slots = Slots::new();
            let made = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|thread| {
                        let slots = &slots;
                        scope.spawn(move || {
                            // Each begins at another key, so that different keys race as well.
                            let mut made = [None; 4];
                            for nth in (0..4).map(|step| (thread + step) % 4) {
                                made[nth] = slots.get_or_init(&KEYS[nth], || thread).copied();
                            }
                            made
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect::<Vec<_>>()
            });
            assert!(made.iter().all(|seen| seen == &made[0]), "{made:?}");
            assert!(made[0].iter().all(Option::is_some));
        }
    }
}
