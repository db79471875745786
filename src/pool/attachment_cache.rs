//! What a service found with its backends lately, so that it need not look for it again.

use std::sync::Arc;

use super::{
    Backend,
    attachments::{Attachment, AttachmentKey},
};

/// The attachments that one service used last, under one key.
///
/// What is kept under a key with a member of a pool stays the same one for as long as the key is
/// there, so what was found once is right. It may outlive the member by as long as the service does
/// not meet others: idle connections to one that left, whose dial came late, wait for their
/// time-out. A clone begins empty: who clones a service for each request pays for nothing.
pub(crate) struct AttachmentCache<T> {
    key: u64,
    lookups: u32,
    /// By incarnation; made once it is worth its memory.
    slots: Option<Box<[Slot<T>; SLOTS]>>,
}

type Slot<T> = Option<(u64, Arc<T>)>;

impl<T: Attachment> AttachmentCache<T> {
    /// Does what [`Backend::attachment`] does.
    #[inline]
    pub(crate) fn get(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let incarnation = backend.incarnation();
        if let Some(slots) = &self.slots {
            if let Some((owner, kept)) = &slots[slot(incarnation)] {
                if *owner == incarnation && self.key == key.number() {
                    return kept.clone();
                }
            }
        }
        self.look_up(backend, key, make)
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
        if self.key != key.number() {
            *self = Self {
                key: key.number(),
                lookups: 1,
                slots: None,
            };
        } else if self.lookups > LOOKUPS_BEFORE_CACHING {
            let slots = self.slots.get_or_insert_with(Box::default);
            let slot = &mut slots[slot(backend.incarnation())];
            // With many more backends than places, most lookups are in vain: few are noted.
            if slot.is_none() || self.lookups % OVERWRITE_EVERY == 0 {
                *slot = Some((backend.incarnation(), kept.clone()));
            }
        }
        kept
    }
}

fn slot(incarnation: u64) -> usize {
    incarnation as usize % SLOTS
}

impl<T> Default for AttachmentCache<T> {
    fn default() -> Self {
        Self {
            key: 0,
            lookups: 0,
            slots: None,
        }
    }
}

impl<T> Clone for AttachmentCache<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// 256 bytes.
const SLOTS: usize = 16;
/// A service that makes no more requests than this keeps nothing.
const LOOKUPS_BEFORE_CACHING: u32 = 4;
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
    fn what_is_found_is_what_is_kept_under_the_key() {
        let backends: Vec<_> = (0..50).map(|n| backend(&n.to_string())).collect();
        let keys = [AttachmentKey::new(), AttachmentKey::new()];
        let mut cache = AttachmentCache::default();
        for turn in 0..400 {
            // Few at first, then more than there are places; now and then under another key.
            let few = if turn < 200 { 4 } else { backends.len() };
            let backend = &backends[turn * 7 % few];
            let key = &keys[turn / 90 % 2];
            let found = cache.get(backend, key, || Kept(backend.incarnation()));
            let kept = backend.attachment(key, || unreachable!("it was made"));
            assert!(Arc::ptr_eq(&found, &kept), "{turn}");
            assert_eq!(found.0, backend.incarnation());
        }
        let slots = cache.slots.as_ref().expect("it is worth it");
        assert!(slots.iter().all(Option::is_some));
        assert!(cache.clone().slots.is_none(), "a clone begins empty");
    }

    #[test]
    fn a_service_of_few_requests_keeps_nothing() {
        let (backend, key) = (backend("a"), AttachmentKey::new());
        let mut cache = AttachmentCache::default();
        for _ in 0..LOOKUPS_BEFORE_CACHING {
            cache.get(&backend, &key, || Kept(1));
        }
        assert!(cache.slots.is_none());
    }
}
