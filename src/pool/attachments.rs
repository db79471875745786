//! Attachments: state that layers keep with a backend, such as idle connections.
//!
//! The attachments of a backend are a linked list of slots that only grows. A slot is used again once
//! its key is gone, and is never freed before the backend, so that a look-up follows plain references
//! and takes no lock.
//!
//! Orderings: `OnceLock` publishes a new slot. In a slot that is used again, `number` is stored with
//! `Release` behind the swap of `attached`, and read with `Acquire` before it: a reader that sees the
//! number sees that attachment or a later one, and compares the number inside as well. A slot is free
//! once all clones of its key are gone: while a caller looks a key up, it holds a clone, so that the
//! slot cannot pass to another key under it.
//!
//! Keys are needed because several layers of one type may stand around one pool (two proxies with
//! other settings, the services before and after a reload): a map by type would mix their connections
//! up.

use std::{
    any::Any,
    fmt, iter,
    marker::PhantomData,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use arc_swap::ArcSwapOption;

/// State that a layer keeps with a backend, made and found with
/// [`Backend::attachment`](super::Backend::attachment).
///
/// The pool calls the methods without holding its lock, so that they may call the pool. Each has a
/// default that does nothing.
///
/// # Example
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
///
/// use evenkeel::{Backend, Pool, pool::{Attachment, AttachmentKey}};
///
/// #[derive(Default)]
/// struct Cache {
///     cleared: AtomicBool,
/// }
///
/// impl Attachment for Cache {
///     fn retire(&self) {
///         self.cleared.store(true, Relaxed);
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = AttachmentKey::new();
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let cache = pool.snapshot().backends()[0].attachment(&key, Cache::default);
/// pool.start_maintenance("a")?;
/// assert!(cache.cleared.load(Relaxed));
/// # Ok(())
/// # }
/// ```
pub trait Attachment: Any + Send + Sync {
    /// Releases what is idle. Called when the backend is drained, put into maintenance, evacuated or
    /// removed, when its address changes, and when a drain ends; several calls may come. Never called
    /// on the request path.
    fn retire(&self) {}

    /// Forgets the failures that led to an ejection. Called when the pool ended the ejection because
    /// no other backend was usable; not after [`Pool::readmit`](super::Pool::readmit). Never called on
    /// the request path.
    fn readmitted(&self) {}

    /// Returns how many connections to the backend the attachment holds idle, for
    /// [`Backend::connections`](super::Backend::connections). Never called on the request path.
    fn idle_connections(&self) -> u64 {
        0
    }
}

/// The key of an [`Attachment`]: each layer makes one and finds its own attachments with it.
///
/// Some time after the last clone of a key is gone, the attachments under it are dropped.
pub struct AttachmentKey<T> {
    number: u64,
    alive: Arc<()>,
    kind: PhantomData<fn() -> T>,
}

impl<T> AttachmentKey<T> {
    /// Makes a key that is different from every other key of this process.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            number: NEXT.fetch_add(1, Relaxed),
            alive: Arc::new(()),
            kind: PhantomData,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Returns a reference that is alive as long as a clone of this key.
    fn alive(&self) -> Weak<()> {
        Arc::downgrade(&self.alive)
    }
}

impl<T> Clone for AttachmentKey<T> {
    fn clone(&self) -> Self {
        Self {
            number: self.number,
            alive: self.alive.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> Default for AttachmentKey<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for AttachmentKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttachmentKey").field(&self.number).finish()
    }
}

/// A call of one of the methods of [`Attachment`].
#[derive(Clone, Copy)]
pub(super) enum Notification {
    Readmitted,
    Retire,
}

#[derive(Default)]
pub(super) struct Attachments {
    first: Link,
    /// Held while an attachment is added.
    adding: Mutex<()>,
}

type Link = OnceLock<Box<Slot>>;

/// A slot of the list. It is never removed; another attachment takes it once its key is gone.
///
/// `number` stands beside the pointer so that a walk compares numbers and follows no pointer of
/// others.
#[derive(Default)]
struct Slot {
    number: AtomicU64,
    attached: ArcSwapOption<Attached>,
    next: Link,
}

struct Attached {
    number: u64,
    key: Weak<()>,
    any: Arc<dyn Any + Send + Sync>,
    notify: fn(&(dyn Any + Send + Sync), Notification),
    idle_connections: fn(&(dyn Any + Send + Sync)) -> u64,
}

impl Attachments {
    /// Returns the attachment under `key`, and makes it first if there is none. Of concurrent calls,
    /// one makes it.
    pub(super) fn get<T: Attachment>(
        &self,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        if let Some(found) = self.find(key) {
            return found;
        }
        // Looked for again under the lock: of two callers that found nothing, the second finds what
        // the first made.
        let guard = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(key) {
            return found;
        }
        let made = Arc::new(make());
        let gone = self.free_slot().put(Attached {
            number: key.number(),
            key: key.alive(),
            any: made.clone(),
            notify: |any, notification| match (any.downcast_ref::<T>(), notification) {
                (Some(attachment), Notification::Readmitted) => attachment.readmitted(),
                (Some(attachment), Notification::Retire) => attachment.retire(),
                (None, _) => {}
            },
            idle_connections: |any| any.downcast_ref().map_or(0, T::idle_connections),
        });
        drop(guard);
        // Without the lock: dropping an attachment runs code of a layer.
        drop(gone);
        made
    }

    /// Calls code of layers, so the caller holds no lock of the pool. Attachments whose key is gone
    /// are called as well, until another one takes their slot: they may still hold idle connections.
    pub(super) fn notify(&self, notification: Notification) {
        for attached in self.iter().filter_map(|slot| slot.attached.load_full()) {
            (attached.notify)(&*attached.any, notification);
        }
    }

    /// Leaves out those whose key is gone: a proxy that a reload replaced counts no more.
    pub(super) fn idle_connections(&self) -> u64 {
        let attached = self.iter().filter_map(|slot| slot.attached.load_full());
        attached
            .filter(|attached| attached.key.strong_count() > 0)
            .map(|attached| (attached.idle_connections)(&*attached.any))
            .sum()
    }

    fn find<T: Attachment>(&self, key: &AttachmentKey<T>) -> Option<Arc<T>> {
        // The caller holds the key, so that no other attachment can take the slot meanwhile.
        let is_it = |slot: &&Slot| slot.number.load(Acquire) == key.number();
        let kept = self.iter().find(is_it)?.attached.load();
        let kept = kept.as_ref().filter(|kept| kept.number == key.number())?;
        kept.any.clone().downcast().ok()
    }

    /// Returns a slot whose key is gone, else a new one at the end. Under the lock only.
    fn free_slot(&self) -> &Slot {
        let mut last = &self.first;
        for slot in self.iter() {
            let kept = slot.attached.load();
            if kept
                .as_ref()
                .is_none_or(|kept| kept.key.strong_count() == 0)
            {
                return slot;
            }
            last = &slot.next;
        }
        last.get_or_init(Box::default)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.iter().count()
    }

    fn iter(&self) -> impl Iterator<Item = &Slot> {
        iter::successors(self.first.get(), |slot| slot.next.get()).map(|slot| &**slot)
    }
}

impl Slot {
    /// Puts an attachment into the slot; returns the one that it replaces.
    fn put(&self, kept: Attached) -> Option<Arc<Attached>> {
        let number = kept.number;
        let gone = self.attached.swap(Some(Arc::new(kept)));
        self.number.store(number, Release);
        gone
    }
}

impl Drop for Attachments {
    /// Drops the slots in a loop: the derived drop of a long list would recurse and overflow the stack.
    fn drop(&mut self) {
        let mut next = self.first.take();
        while let Some(mut slot) = next {
            next = slot.next.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

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
    fn each_key_has_its_own_attachment_and_all_are_notified() {
        let list = Attachments::default();
        let keys: Vec<AttachmentKey<Counting>> = (0..5).map(|_| AttachmentKey::new()).collect();
        let made = keys.iter().map(|key| list.get(key, Counting::default));
        let made: Vec<_> = made.collect();
        list.notify(Notification::Retire);
        for (key, made) in keys.iter().zip(&made) {
            let again = list.get(key, || unreachable!("it is there"));
            assert!(Arc::ptr_eq(&again, made));
            assert_eq!(made.retired.load(Relaxed), 1);
        }
    }

    #[test]
    fn concurrent_calls_get_the_same_attachment() {
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
    fn a_key_that_is_gone_leaves_its_slot_to_another() {
        let list = Attachments::default();
        let stays = AttachmentKey::<Counting>::new();
        let kept = list.get(&stays, Counting::default);
        let mut last = Weak::new();
        for _ in 0..1_000 {
            let key = AttachmentKey::new();
            let made = list.get(&key, Counting::default);
            assert!(
                last.upgrade().is_none(),
                "the previous attachment of the slot is dropped"
            );
            last = Arc::downgrade(&made);
            let again = list.get(&key.clone(), || unreachable!("it is there"));
            assert!(Arc::ptr_eq(&again, &made));
        }
        assert_eq!(list.iter().count(), 2);
        let again = list.get(&stays, || unreachable!("it is there"));
        assert!(Arc::ptr_eq(&again, &kept));
    }

    #[test]
    fn a_long_list_is_dropped() {
        let list = Attachments::default();
        let mut last = &list.first;
        for number in 0..200_000 {
            let slot = last.get_or_init(Box::default);
            slot.number.store(number, Release);
            last = &slot.next;
        }
        drop(list);
    }
}
