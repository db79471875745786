//! Counters that each thread writes apart: no lock, no cache line that two worker threads write, and no
//! atomic read-modify-write on the request path.
//!
//! The first [`OWNERS`] threads that record own a shard each. The owner alone writes its shard, so that
//! an addition is a plain load and store. Further threads share one more shard, with atomic additions.
//! A thread that ends leaves its shard, with the counts, to the next thread that asks for one. A reader
//! sums the shards.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A set of counters, one copy for each thread that records.
pub(super) struct Sharded<T> {
    owned: [Shard<T>; OWNERS],
    shared: Shard<T>,
}

/// Allocated at the first record of its thread.
type Shard<T> = OnceLock<Box<Aligned<T>>>;

/// Two cache lines, which processors fetch together.
#[derive(Default)]
#[repr(align(128))]
struct Aligned<T>(T);

impl<T: Default> Sharded<T> {
    pub(super) const fn new() -> Self {
        Self {
            owned: [const { OnceLock::new() }; OWNERS],
            shared: OnceLock::new(),
        }
    }

    /// Returns the counters that this writer writes.
    #[inline]
    pub(super) fn of(&self, writer: Writer) -> &T {
        let shard = match writer {
            Writer::Owner(at) => self.owned.get(at).unwrap_or(&self.shared),
            Writer::Shared => &self.shared,
        };
        &shard.get_or_init(Box::default).0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let shards = self.owned.iter().chain([&self.shared]);
        shards.filter_map(OnceLock::get).map(|shard| &shard.0)
    }

    /// Returns the sum of one counter.
    pub(super) fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.iter().map(|shard| counter(shard).load()).sum()
    }
}

/// A counter of one shard.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds. `writer` is the one whose shard the counter is in.
    #[inline]
    pub(super) fn add(&self, writer: Writer, number: u64) {
        match writer {
            // Release, so that a reader which sees the end of a request sees its beginning, which may
            // be in another shard.
            Writer::Owner(_) => {
                let sum = self.0.load(Relaxed).wrapping_add(number);
                self.0.store(sum, Release);
            }
            Writer::Shared => {
                self.0.fetch_add(number, Release);
            }
        }
    }

    pub(super) fn load(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// The right of a thread to write a shard. It must not leave the call that asked for it: the thread may
/// end, and another thread may own the shard then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Owner(usize),
    Shared,
}

impl Writer {
    /// Returns the writer of this thread.
    #[inline]
    pub(super) fn current() -> Self {
        // `try_with` fails if the thread is about to end: it has given its shard back.
        OWNERSHIP
            .try_with(|ownership| ownership.0)
            .unwrap_or(Self::Shared)
    }
}

/// A thread's ownership of a shard in every `Sharded`, until the thread ends.
struct Ownership(Writer);

impl Ownership {
    #[cold]
    fn take() -> Self {
        let mut taken = TAKEN.load(Relaxed);
        loop {
            let free = (!taken).trailing_zeros();
            if free as usize >= OWNERS {
                return Self(Writer::Shared);
            }
            // Acquire: what the former owner wrote is read before the first addition.
            match TAKEN.compare_exchange_weak(taken, taken | 1 << free, Acquire, Relaxed) {
                Ok(_) => return Self(Writer::Owner(free as usize)),
                Err(now) => taken = now,
            }
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        if let Writer::Owner(at) = self.0 {
            TAKEN.fetch_and(!(1 << at), Release);
        }
    }
}

thread_local! {
    static OWNERSHIP: Ownership = Ownership::take();
}

/// A bit for each shard that a thread owns.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// As many as `TAKEN` has bits. A machine with more cores shares the last shard among the rest, at the
/// cost of an atomic addition.
pub(super) const OWNERS: usize = u32::BITS as usize;
