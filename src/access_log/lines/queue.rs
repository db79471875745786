//! The lines that wait to be written, and how the writer and its users wake each other.
//!
//! The sleep and the wake-up are a handshake over one flag, `SeqCst` on both sides:
//!
//! | the writer | a thread with a line |
//! |---|---|
//! | stores `asleep` | adds the line under the shard's lock |
//! | looks at every shard once more | loads `asleep`; if it is set, clears it and unparks |
//! | parks | |
//!
//! Either the thread sees the flag, or its line was there before the writer's look. A token of
//! `unpark` stays if the writer has not parked yet. While lines come, the writer polls every 10 ms and
//! no thread pays for a wake-up: an `unpark` is a system call.

use std::{
    cell::Cell,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    thread::Thread,
};

use crate::access_log::json::Buffer;

/// The state that the threads of requests share with the writer.
pub(super) struct Queue {
    /// Each thread that logs adds to one of these, so that threads seldom wait for each other.
    pub(super) shards: [Mutex<Shard>; SHARDS],
    /// Lines that the output took.
    pub(super) written: AtomicU64,
    /// Lines that left the queue and that the output did not take.
    pub(super) lost: AtomicU64,
    /// The writer sleeps until it is unparked, because no line came for a second.
    pub(super) asleep: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(super) reopen: AtomicBool,
    pub(super) flushes: Mutex<Flushes>,
    pub(super) flushed: Condvar,
}

#[derive(Default)]
pub(super) struct Shard {
    pub(super) buffer: Buffer,
    pub(super) lines: usize,
    /// Lines that found the buffer full. Counted here, where the thread writes anyway, and not in
    /// one number that all threads would wait for while an output stalls.
    dropped: u64,
}

/// Numbers of flushes; the writer raises `done` to what `requested` was before it wrote.
#[derive(Default)]
pub(super) struct Flushes {
    pub(super) requested: u64,
    pub(super) done: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            reopen: AtomicBool::new(false),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
        }
    }

    /// Adds the line that `write` writes, or drops it if the queue is full. Returns false if
    /// `write` did: the buffer was too small and is larger now, and the caller tries again.
    #[inline(always)]
    pub(super) fn try_add(&self, writer: &Thread, write: impl FnOnce(&mut Buffer) -> bool) -> bool {
        let mut shard = lock(&self.shards[shard_of_thread()]);
        // Before the line is formatted: while an output stalls, a dropped line costs less than a
        // written one.
        if shard.lines >= QUEUED_LINES || shard.buffer.written().len() >= QUEUED_BYTES {
            shard.dropped += 1;
            return true;
        }
        if !write(&mut shard.buffer) {
            return false;
        }
        shard.lines += 1;
        // `unpark` is a system call, and must not be made under the lock.
        drop(shard);
        // The writer looks at every shard once more after it has set `asleep`, so that no line is
        // missed between the two.
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            writer.unpark();
        }
        true
    }

    /// Returns how many lines were dropped or lost.
    pub(super) fn dropped(&self) -> u64 {
        let dropped: u64 = self.shards.iter().map(|shard| lock(shard).dropped).sum();
        dropped + self.lost.load(Relaxed)
    }
}

/// Returns the number of this thread's shard. Threads take shards in turn, each when it logs for the
/// first time.
fn shard_of_thread() -> usize {
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.get();
    if number != usize::MAX {
        return number;
    }
    // In turn and not by a hash of the thread, so that up to 16 threads have a shard each.
    let number = NEXT.fetch_add(1, Relaxed) % SHARDS;
    NUMBER.set(number);
    number
}

/// A panic of a formatter poisons a shard; its lines are whole all the same, as `used` moves last.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads beyond this number share shards, and wait for each other now and then.
pub(super) const SHARDS: usize = 16;
/// Lines that wait in one shard: about 4 MiB at 500 bytes a line. The writer empties the shards every
/// 10 ms, so that one is full only if the output stalls.
pub(in crate::access_log) const QUEUED_LINES: usize = 8_192;
/// Bytes that wait in one shard. Clients choose how long lines are: with the limit of lines alone,
/// 8,192 requests with heads of 64 KiB would hold 512 MiB.
pub(in crate::access_log) const QUEUED_BYTES: usize = 4 * 1024 * 1024;
