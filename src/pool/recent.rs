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
pub(crate) struct Recent<T> {
    key: u64,
    looks: u32,
    /// By incarnation; made once it is worth its memory.
    found: Option<Box<[Place<T>; PLACES]>>,
}

type Place<T> = Option<(u64, Arc<T>)>;

impl<T: Attachment> Recent<T> {
    /// Does what [`Backend::attachment`] does.
    #[inline]
    pub(crate) fn get(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let incarnation = backend.incarnation();
        if let Some(found) = &self.found {
            if let Some((whose, kept)) = &found[place(incarnation)] {
                if *whose == incarnation && self.key == key.number() {
                    return kept.clone();
                }
            }
        }
        self.look(backend, key, make)
    }

    #[cold]
    #[inline(never)]
    fn look(
        &mut self,
        backend: &Backend,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let kept = backend.attachment(key, make);
        self.looks = self.looks.wrapping_add(1);
        if self.key != key.number() {
            *self = Self {
                key: key.number(),
                looks: 1,
                found: None,
            };
        } else if self.looks > FIRST_LOOKS {
            let found = self.found.get_or_insert_with(Box::default);
            let place = &mut found[place(backend.incarnation())];
            // With many more backends than places, most looks are in vain: few are noted.
            if place.is_none() || self.looks % SELDOM == 0 {
                *place = Some((backend.incarnation(), kept.clone()));
            }
        }
        kept
    }
}

fn place(incarnation: u64) -> usize {
    incarnation as usize % PLACES
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            key: 0,
            looks: 0,
            found: None,
        }
    }
}

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// 256 bytes.
const PLACES: usize = 16;
/// A service that makes no more requests than this keeps nothing.
const FIRST_LOOKS: u32 = 4;
const SELDOM: u32 = 16;

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
        let mut recent = Recent::default();
        for turn in 0..400 {
            // Few at first, then more than there are places; now and then under another key.
            let few = if turn < 200 { 4 } else { backends.len() };
            let backend = &backends[turn * 7 % few];
            let key = &keys[turn / 90 % 2];
            let found = recent.get(backend, key, || Kept(backend.incarnation()));
            let kept = backend.attachment(key, || unreachable!("it was made"));
            assert!(Arc::ptr_eq(&found, &kept), "{turn}");
            assert_eq!(found.0, backend.incarnation());
        }
        let found = recent.found.as_ref().expect("it is worth it");
        assert!(found.iter().all(Option::is_some));
        assert!(recent.clone().found.is_none(), "a clone begins empty");
    }

    #[test]
    fn a_service_of_few_requests_keeps_nothing() {
        let (backend, key) = (backend("a"), AttachmentKey::new());
        let mut recent = Recent::default();
        for _ in 0..FIRST_LOOKS {
            recent.get(&backend, &key, || Kept(1));
        }
        assert!(recent.found.is_none());
    }
}
