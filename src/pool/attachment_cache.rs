//! A cache of the attachments that one service used last, so that it need not look them up again.
//!
//! A request looks one attachment up for each layer that keeps one: a walk through a list of atomic
//! pointers, and an atomic addition for the reference. One service sends many requests to few
//! backends, so that it caches what it found, in the service itself and so without a lock.
//!
//! | state of a service | what a look-up costs |
//! |---|---|
//! | made for one request (a clone) | the walk; no cache is allocated |
//! | after four look-ups | one comparison and, with `get`, one addition |
//! | more backends than slots | mostly the walk; one miss in 16 replaces an entry |
//!
//! The incarnation is the index and the tag of a slot: a backend that was removed and added again has
//! another one, so that its attachment is never taken for the former one's.

use std::sync::Arc;

use super::{
    Backend,
    attachments::{Attachment, AttachmentKey},
};

/// The attachments that one service used last, under one key.
///
/// An attachment stays the same one as long as its key lives, so that a cached one is never wrong. It
/// may outlive its member, until the service uses others: idle connections of a removed backend then
/// wait for their time-out. A clone begins empty, so that a service that is cloned for each request
/// pays nothing for the cache.
pub(crate) struct AttachmentCache<T> {
    key: u64,
    lookups: u32,
    /// Indexed by incarnation; allocated once the service has made enough requests.
    slots: Option<Box<[Slot<T>; SLOTS]>>,
}

type Slot<T> = Option<(u64, Arc<T>)>;

impl<T: Attachment> AttachmentCache<T> {
    /// As [`Backend::attachment`], without a walk through its list if the slot has the attachment.
    #[inline]
    pub(crate) fn get(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        match self.kept(backend, key) {
            Some(kept) => kept.clone(),
            None => self.look_up(backend, key, make),
        }
    }

    /// Calls `read` with the attachment. Where the slot has it, no reference is counted: threads that
    /// use one attachment do not write to a common cache line.
    #[inline]
    pub(crate) fn with<R>(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
        read: impl FnOnce(&T) -> R,
    ) -> R {
        match self.kept(backend, key) {
            Some(kept) => read(kept),
            None => read(&self.look_up(backend, key, make)),
        }
    }

    #[inline]
    fn kept(&self, backend: &Backend, key: &AttachmentKey<T>) -> Option<&Arc<T>> {
        let incarnation = backend.incarnation();
        let slot = self.slots.as_ref()?[slot(incarnation)].as_ref();
        let (_, kept) =
            slot.filter(|(owner, _)| *owner == incarnation && self.key == key.number())?;
        Some(kept)
    }

    #[cold]
    #[inline(never)]
    fn look_up(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let kept = backend.attachment(key, make);
        self.lookups = self.lookups.wrapping_add(1);
        // The service changed its key, by a reload for instance: what it cached is under the former.
        if self.key != key.number() {
            *self = Self {
                key: key.number(),
                lookups: 1,
                slots: None,
            };
        } else if self.lookups > LOOKUPS_BEFORE_CACHING {
            let slots = self.slots.get_or_insert_with(Box::default);
            let slot = &mut slots[slot(backend.incarnation())];
            // With many more backends than slots, most look-ups miss; few of them replace an entry.
            if slot.is_none() || self.lookups.is_multiple_of(OVERWRITE_EVERY) {
                *slot = Some((backend.incarnation(), kept.clone()));
            }
        }
        kept
    }
}

/// Incarnations count up from 1 within a process, so that the backends of one pool spread over the
/// slots.
fn slot(incarnation: u64) -> usize {
    incarnation as usize % SLOTS
}

impl<T> AttachmentCache<T> {
    /// Makes an empty cache.
    pub(crate) const fn new() -> Self {
        Self {
            key: 0,
            lookups: 0,
            slots: None,
        }
    }
}

impl<T> Default for AttachmentCache<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for AttachmentCache<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A cache of 256 bytes.
const SLOTS: usize = 16;
/// A service that makes no more requests than this allocates no cache.
const LOOKUPS_BEFORE_CACHING: u32 = 4;
/// Of the look-ups that miss an occupied slot, one in so many replaces it.
const OVERWRITE_EVERY: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    struct Kept(u64);

    impl Attachment for Kept {}

    fn backend(id: &str) -> Backend {
        Backend::new(id, "http://127.0.0.1:1").unwrap()
    }

    #[test]
    fn the_cache_returns_what_is_attached_under_the_key() {
        let backends: Vec<_> = (0..50).map(|n| backend(&n.to_string())).collect();
        let keys = [AttachmentKey::new(), AttachmentKey::new()];
        let mut cache = AttachmentCache::default();
        for turn in 0..400 {
            // Few backends at first, then more than there are slots; at times under another key.
            let few = if turn < 200 { 4 } else { backends.len() };
            let backend = &backends[turn * 7 % few];
            let key = &keys[turn / 90 % 2];
            let found = cache.get(backend, key, || Kept(backend.incarnation()));
            let kept = backend.attachment(key, || unreachable!("it was made"));
            assert!(Arc::ptr_eq(&found, &kept), "{turn}");
            assert_eq!(found.0, backend.incarnation());
            let make = || unreachable!("it was made");
            let counted = Arc::strong_count(&kept);
            cache.with(backend, key, make, |read| {
                assert!(std::ptr::eq(read, &*kept), "{turn}");
                let in_slot = few <= SLOTS && turn % 90 > 20;
                assert!(!in_slot || Arc::strong_count(&kept) == counted, "{turn}");
            });
        }
        let slots = cache.slots.as_ref().expect("the cache is allocated");
        assert!(slots.iter().all(Option::is_some));
        assert!(cache.clone().slots.is_none(), "a clone begins empty");
    }

    #[test]
    fn a_service_of_few_requests_allocates_no_cache() {
        let (backend, key) = (backend("a"), AttachmentKey::new());
        let mut cache = AttachmentCache::default();
        for _ in 0..LOOKUPS_BEFORE_CACHING {
            cache.get(&backend, &key, || Kept(1));
        }
        assert!(cache.slots.is_none());
    }
}
