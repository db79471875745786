//! Coarse deadlines: arming one is a single atomic store.
//!
//! A connection registers one [`Deadline`] for its whole life and arms it again for each request.
//! One task per thread sweeps all deadlines ten times a second and wakes the tasks whose deadline
//! has passed. A deadline fires between its time and [`LATENESS`] after it. It fires early only if
//! the thread was blocked for longer than a tick, which leaves the coarse clock behind. The sweep
//! sleeps while no deadline is registered, and ends with its runtime.
//!
//! ```text
//!   Deadline::arm ──store──▶ Chunk.due[i] ◀──load, exchange── sweep, every 100 ms, one task a thread
//!   poll_expired ──register─▶ Chunk.wakers[i] ──────wake──────┘
//! ```
//!
//! | `due[i]` | meaning |
//! |---|---|
//! | 0 | disarmed |
//! | `u64::MAX` | expired: the sweep has woken the task |
//! | other | due at this millisecond of the coarse clock |
//!
//! # Orderings
//!
//! `due` is `Relaxed` throughout. The sweep changes it only by an exchange from the value that it
//! read, so a deadline that is armed again in between is not expired by an old value. The wake
//! itself orders the rest: the task registers its waker before it looks at `due`, and the sweep
//! writes `EXPIRED` before it wakes, both around the waker's lock.
//!
//! A sweep costs as much as there are registered deadlines, armed or not: 64 of them are eight cache
//! lines.

use std::{
    array,
    cell::RefCell,
    fmt, ptr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::{self, Handle},
    sync::Notify,
    time::Instant,
};

use super::{MAX_DELAY_MS, lock};

/// A deadline that can be armed many times; it is registered with the sweep of one thread.
///
/// Bound to the thread on which it was made. It may be armed and polled from any other: the sweep
/// of the first thread wakes the task wherever it runs.
pub(crate) struct Deadline {
    shard: Arc<Shard>,
    chunk: Arc<Chunk>,
    index: usize,
}

impl Deadline {
    /// Registers an unarmed deadline with the sweep of this thread. Takes a lock; allocates only
    /// where the thread has more deadlines than ever before.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn new() -> Self {
        let runtime = Handle::current().id();
        let shard = SHARDS.with_borrow_mut(|shards| {
            shards.retain(|shard| !shard.stopped.load(Acquire));
            match shards.iter().find(|shard| shard.runtime == runtime) {
                Some(shard) => shard.clone(),
                None => {
                    shards.push(Shard::spawn(runtime));
                    shards[shards.len() - 1].clone()
                }
            }
        });
        shard.register()
    }

    /// Sets the deadline to `after` from now, replacing any earlier one.
    ///
    /// A delay of zero fires with the next tick.
    pub(crate) fn arm(&self, after: Duration) {
        let after = u64::try_from(after.as_millis())
            .unwrap_or(MAX_DELAY_MS)
            .min(MAX_DELAY_MS);
        // The coarse clock is behind by up to a tick; a tick more keeps the deadline from being
        // early.
        let due = self.shard.now.load(Relaxed) + after + TICK_MS;
        self.chunk.due[self.index].store(due, Relaxed);
    }

    /// Returns the time of the coarse clock, in milliseconds from its origin. Costs one atomic load;
    /// the clock is behind by up to a tick.
    pub(crate) fn now(&self) -> u64 {
        self.shard.now.load(Relaxed)
    }

    /// Clears the deadline: it does not fire until it is armed again.
    pub(crate) fn disarm(&self) {
        self.chunk.due[self.index].store(DISARMED, Relaxed);
    }

    /// Returns true once the armed deadline has passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.chunk.due[self.index].load(Relaxed) == EXPIRED
    }

    /// Returns ready once the armed deadline has passed; registers the current task to be woken
    /// then. Takes a lock only where the task differs from the last one.
    ///
    /// Stays ready until the deadline is armed or disarmed again.
    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        // Before the look at `due`: the other way round, an expiry in between would wake the task
        // before.
        self.chunk.wakers[self.index].register(cx.waker());
        if self.is_expired() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // The slot goes to the next deadline, which must not inherit a time or a task.
        self.disarm();
        self.chunk.wakers[self.index].clear();
        lock(&self.shard.slots)
            .free
            .push((self.chunk.clone(), self.index));
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline")
            .field("expired", &self.is_expired())
            .finish()
    }
}

/// The deadlines of one thread and one runtime.
struct Shard {
    /// A shard serves one runtime: another may not be running when a deadline is due.
    runtime: runtime::Id,
    origin: Instant,
    /// Milliseconds from `origin` to the last tick.
    now: AtomicU64,
    stopped: AtomicBool,
    wake: Notify,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    chunks: Vec<Arc<Chunk>>,
    free: Vec<(Arc<Chunk>, usize)>,
}

impl Slots {
    fn in_use(&self) -> usize {
        self.chunks.len() * CHUNK_SIZE - self.free.len()
    }
}

/// Deadlines that are allocated together.
///
/// Never freed while its shard lives: the count of chunks is the most that was needed at once.
struct Chunk {
    due: [AtomicU64; CHUNK_SIZE],
    wakers: [TaskWaker; CHUNK_SIZE],
}

/// The task that a deadline wakes. The task stays registered, so that a connection that polls again
/// with every request takes no lock.
#[derive(Default)]
struct TaskWaker {
    /// The two pointers of `waker`. `waker` keeps its task alive, so no other task has the same
    /// two.
    data: AtomicUsize,
    table: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl TaskWaker {
    fn register(&self, waker: &Waker) {
        let data = waker.data() as usize;
        let table = ptr::from_ref(waker.vtable()) as usize;
        // Both pointers of the same waker: written under the lock, table last.
        if self.data.load(Acquire) == data && self.table.load(Acquire) == table {
            return;
        }
        let mut current = lock(&self.waker);
        *current = Some(waker.clone());
        self.data.store(data, Release);
        self.table.store(table, Release);
    }

    /// The waker is cloned, and stays registered for the next time.
    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn clear(&self) {
        let mut current = lock(&self.waker);
        self.data.store(0, Release);
        self.table.store(0, Release);
        *current = None;
    }
}

impl Shard {
    fn spawn(runtime: runtime::Id) -> Arc<Self> {
        let shard = Arc::new(Self {
            runtime,
            origin: Instant::now(),
            now: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
            slots: Mutex::new(Slots::default()),
        });
        tokio::spawn(sweep(Sweeper {
            shard: shard.clone(),
        }));
        shard
    }

    fn register(self: &Arc<Self>) -> Deadline {
        self.tick();
        let mut slots = lock(&self.slots);
        let was_idle = slots.in_use() == 0;
        let (chunk, index) = slots.free.pop().unwrap_or_else(|| {
            let chunk = Arc::new(Chunk {
                due: array::from_fn(|_| AtomicU64::new(DISARMED)),
                wakers: array::from_fn(|_| TaskWaker::default()),
            });
            slots.chunks.push(chunk.clone());
            let rest = (1..CHUNK_SIZE).map(|index| (chunk.clone(), index));
            slots.free.extend(rest);
            (chunk, 0)
        });
        drop(slots);
        if was_idle {
            self.wake.notify_one();
        }
        Deadline {
            shard: self.clone(),
            chunk,
            index,
        }
    }

    fn tick(&self) -> u64 {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(MAX_DELAY_MS);
        self.now.fetch_max(now, Relaxed).max(now)
    }
}

impl Chunk {
    fn expire(&self, now: u64) {
        for (due, waker) in self.due.iter().zip(&self.wakers) {
            let armed = due.load(Relaxed);
            let is_due = armed != DISARMED && armed != EXPIRED && armed <= now;
            // The exchange fails if the deadline was armed again in between.
            if is_due
                && due
                    .compare_exchange(armed, EXPIRED, Relaxed, Relaxed)
                    .is_ok()
            {
                waker.wake();
            }
        }
    }
}

/// Marks the shard as stopped when the runtime drops the task that sweeps it.
struct Sweeper {
    shard: Arc<Shard>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.shard.stopped.store(true, Release);
    }
}

async fn sweep(sweeper: Sweeper) {
    let shard = &sweeper.shard;
    loop {
        // `Notify` keeps a permit: a deadline registered right before this wait is not missed.
        if lock(&shard.slots).in_use() == 0 {
            shard.wake.notified().await;
        }
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        let now = shard.tick();
        // Handles only: the lock is not held while tasks are woken.
        let chunks = lock(&shard.slots).chunks.clone();
        for chunk in chunks {
            chunk.expire(now);
        }
    }
}

thread_local! {
    /// The shards of this thread, one a runtime; nearly always one.
    static SHARDS: RefCell<Vec<Arc<Shard>>> = const { RefCell::new(Vec::new()) };
}

/// How long after its time a deadline may fire: two ticks, and a millisecond of tokio's own timer.
#[cfg(test)]
const LATENESS: Duration = Duration::from_millis(2 * TICK_MS + 1);
/// Fine enough for time-outs from a second up; ten sweeps a second do not show in a profile.
const TICK_MS: u64 = 100;
/// Deadlines allocated at once. The sweep reads a chunk of 64 from 8 cache lines.
const CHUNK_SIZE: usize = 64;
const DISARMED: u64 = 0;
const EXPIRED: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_at_most_the_lateness_late() {
        for ms in [1, 99, 100, 101, 950, 15_000] {
            let after = Duration::from_millis(ms);
            let deadline = Deadline::new();
            let began = Instant::now();
            deadline.arm(after);
            poll_fn(|cx| deadline.poll_expired(cx)).await;
            let took = began.elapsed();
            assert!(took >= after, "{took:?} is before {after:?}");
            assert!(took <= after + LATENESS, "{took:?} is long after {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_disarmed_or_armed_again_does_not_fire() {
        let deadline = Deadline::new();
        deadline.arm(Duration::from_millis(500));
        deadline.disarm();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(
            !deadline.is_expired(),
            "a disarmed deadline must not expire"
        );
        deadline.arm(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(900)).await;
        deadline.arm(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(
            !deadline.is_expired(),
            "arming again must restart the deadline"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_task_to_poll_is_woken_each_time() {
        let deadline = Arc::new(Deadline::new());
        for _ in 0..2 {
            // A new task each time, as a reused connection is polled by one request's task after
            // another.
            let deadline = deadline.clone();
            let woken = tokio::spawn(async move {
                for _ in 0..2 {
                    deadline.arm(Duration::from_millis(300));
                    poll_fn(|cx| deadline.poll_expired(cx)).await;
                }
            });
            tokio::time::timeout(Duration::from_secs(5), woken)
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_are_reused() {
        for _ in 0..1_000 {
            let _deadline = Deadline::new();
        }
        let chunks = SHARDS.with_borrow(|shards| lock(&shards[0].slots).chunks.len());
        assert_eq!(chunks, 1);
    }

    #[test]
    fn runtimes_that_take_turns_on_a_thread_have_separate_sweeps() {
        let runtimes = [0, 1].map(|_| {
            runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap()
        });
        for runtime in runtimes.iter().cycle().take(4) {
            runtime.block_on(async {
                let deadline = Deadline::new();
                deadline.arm(Duration::from_secs(1));
                let expired = poll_fn(|cx| deadline.poll_expired(cx));
                let limit = Duration::from_secs(5);
                tokio::time::timeout(limit, expired)
                    .await
                    .expect("the other runtime sleeps; this one must sweep for itself");
            });
        }
    }

    #[test]
    fn each_runtime_has_its_own_sweep() {
        for _ in 0..2 {
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let deadline = Deadline::new();
                deadline.arm(Duration::from_secs(1));
                poll_fn(|cx| deadline.poll_expired(cx)).await;
            });
        }
    }
}
