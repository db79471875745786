//! What rooms keep with a backend: a list that only grows, so that who looks takes no lock and
//! counts no reference.

use std::{
    any::Any,
    iter,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use super::state::{Attachment, AttachmentKey};
use crate::error::ErrorKind;

/// What an attachment is told.
#[derive(Clone, Copy)]
pub(super) enum Told {
    Broken(ErrorKind),
    Retire,
}

#[derive(Default)]
pub(super) struct Attachments {
    first: Link,
    adding: Mutex<()>,
}

type Link = OnceLock<Box<Entry>>;

struct Entry {
    number: u64,
    any: Arc<dyn Any + Send + Sync>,
    tell: fn(&(dyn Any + Send + Sync), Told),
    next: Link,
}

impl Attachments {
    /// Returns what is kept under `key`, making it when it is missing; made once, whoever asks
    /// at the same time.
    pub(super) fn get<T: Attachment>(
        &self,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        if let Some(found) = self.find(key) {
            return found;
        }
        let _one_at_a_time = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(key) {
            return found;
        }
        let made = Arc::new(make());
        let last = self.iter().last().map_or(&self.first, |entry| &entry.next);
        // Never set: they are set under the lock only.
        let _ = last.set(Box::new(Entry {
            number: key.number(),
            any: made.clone(),
            tell: |any, told| match (any.downcast_ref::<T>(), told) {
                (Some(attachment), Told::Broken(kind)) => attachment.broken(kind),
                (Some(attachment), Told::Retire) => attachment.retire(),
                (None, _) => {}
            },
            next: Link::new(),
        }));
        made
    }

    pub(super) fn tell(&self, told: Told) {
        for entry in self.iter() {
            (entry.tell)(&*entry.any, told);
        }
    }

    fn find<T: Attachment>(&self, key: &AttachmentKey<T>) -> Option<Arc<T>> {
        let entry = self.iter().find(|entry| entry.number == key.number())?;
        entry.any.clone().downcast().ok()
    }

    fn iter(&self) -> impl Iterator<Item = &Entry> {
        iter::successors(self.first.get(), |entry| entry.next.get()).map(|entry| &**entry)
    }
}

impl Drop for Attachments {
    /// One after the other: left to itself, a long list would be dropped by recursion.
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut entry) = next {
            next = entry.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Counting {
        retired: AtomicUsize,
    }

    impl Attachment for Counting {
        fn retire(&self) {
            self.retired.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn each_key_has_its_own_and_all_are_told() {
        let list = Attachments::default();
        let keys: Vec<AttachmentKey<Counting>> = (0..5).map(|_| AttachmentKey::new()).collect();
        let made = keys.iter().map(|key| list.get(key, Counting::default));
        let made: Vec<_> = made.collect();
        list.tell(Told::Retire);
        for (key, made) in keys.iter().zip(&made) {
            let again = list.get(key, || unreachable!("it is there"));
            assert!(Arc::ptr_eq(&again, made));
            assert_eq!(made.retired.load(Relaxed), 1);
        }
    }

    #[test]
    fn who_asks_at_once_gets_the_same() {
        let (list, key) = (Attachments::default(), AttachmentKey::<Counting>::new());
        let others: Vec<AttachmentKey<Counting>> = (0..20).map(|_| AttachmentKey::new()).collect();
        let made = AtomicUsize::new(0);
        let make = || {
            made.fetch_add(1, Relaxed);
            Counting::default()
        };
        let ask = |first: usize| {
            for other in &others[first..] {
                list.get(other, Counting::default);
            }
            list.get(&key, make)
        };
        let got: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..4).map(|i| scope.spawn(move || ask(i * 5))).collect();
            asking.into_iter().map(|t| t.join().ok()).collect()
        });
        let first = got[0].clone().map(|first| Arc::as_ptr(&first));
        for one in got {
            assert_eq!(one.map(|one| Arc::as_ptr(&one)), first);
        }
        assert_eq!(made.load(Relaxed), 1);
        assert_eq!(list.iter().count(), others.len() + 1);
    }

    #[test]
    fn a_long_list_is_dropped() {
        let list = Attachments::default();
        let mut last = &list.first;
        for number in 0..200_000 {
            let entry = last.get_or_init(|| {
                Box::new(Entry {
                    number,
                    any: Arc::new(()),
                    tell: |_, _| {},
                    next: Link::new(),
                })
            });
            last = &entry.next;
        }
        drop(list);
    }
}
