//! Coarse deadlines: what a timer a request would cost, for a store.
//!
//! A connection registers one [`Watch`] for its whole life; arming it for a request is one
//! atomic store. One task per thread sweeps the watches ten times a second and wakes those that
//! are due, so a deadline fires between its time and [`LATENESS`] after it, never before (unless
//! the thread was blocked for longer than a tick, which makes the coarse clock late). The task
//! sleeps while no watch is registered, and ends with its runtime.

use std::{
    array,
    cell::RefCell,
    fmt, ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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

/// One connection's place in the sweep.
pub(crate) struct Watch {
    shard: Arc<Shard>,
    chunk: Arc<Chunk>,
    index: usize,
}

impl Watch {
    /// Takes a place in this thread's sweep; within a runtime only.
    pub(crate) fn new() -> Self {
        let runtime = Handle::current().id();
        let shard = SHARDS.with_borrow_mut(|shards| {
            shards.retain(|shard| !shard.dead.load(Acquire));
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

    /// Sets the deadline, in place of the one before.
    pub(crate) fn arm(&self, after: Duration) {
        let after = u64::try_from(after.as_millis()).unwrap_or(FAR).min(FAR);
        // The clock is late by up to a tick, so a tick more makes sure that it is not early.
        let due = self.shard.now.load(Relaxed) + after + TICK_MS;
        self.chunk.due[self.index].store(due, Relaxed);
    }

    /// Returns the time of this thread's sweep in milliseconds: a load, and late by up to a tick.
    #[cfg_attr(
        not(feature = "server"),
        expect(dead_code, reason = "only a server asks")
    )]
    pub(crate) fn now(&self) -> u64 {
        self.shard.now.load(Relaxed)
    }

    /// Forgets the deadline.
    pub(crate) fn disarm(&self) {
        self.chunk.due[self.index].store(DISARMED, Relaxed);
    }

    /// Returns true once the armed deadline passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.chunk.due[self.index].load(Relaxed) == EXPIRED
    }

    /// Is ready once the armed deadline passed; registers the task to be woken then.
    pub(crate) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.chunk.wakers[self.index].register(cx.waker());
        if self.is_expired() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.disarm();
        self.chunk.wakers[self.index].clear();
        lock(&self.shard.places)
            .free
            .push((self.chunk.clone(), self.index));
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("expired", &self.is_expired())
            .finish()
    }
}

struct Shard {
    /// Only watches of the same runtime: another may not be running when they are due.
    runtime: runtime::Id,
    origin: Instant,
    /// Milliseconds since `origin`, as of the last tick.
    now: AtomicU64,
    dead: AtomicBool,
    wake: Notify,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    chunks: Vec<Arc<Chunk>>,
    free: Vec<(Arc<Chunk>, usize)>,
}

impl Places {
    fn in_use(&self) -> usize {
        self.chunks.len() * CHUNK - self.free.len()
    }
}

struct Chunk {
    due: [AtomicU64; CHUNK],
    wakers: [Registered; CHUNK],
}

/// The task to be woken. It stays registered, so that whoever polls again, as connections do at
/// every request, takes no lock.
#[derive(Default)]
struct Registered {
    /// Of the waker below, which keeps the task alive: none but its own has the same.
    data: AtomicUsize,
    table: AtomicUsize,
    waker: Mutex<Option<Waker>>,
}

impl Registered {
    fn register(&self, waker: &Waker) {
        let data = waker.data() as usize;
        let table = ptr::from_ref(waker.vtable()) as usize;
        if self.data.load(Acquire) == data && self.table.load(Acquire) == table {
            return;
        }
        let mut place = lock(&self.waker);
        *place = Some(waker.clone());
        self.data.store(data, Release);
        self.table.store(table, Release);
    }

    fn wake(&self) {
        let waker = lock(&self.waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn clear(&self) {
        let mut place = lock(&self.waker);
        self.data.store(0, Release);
        self.table.store(0, Release);
        *place = None;
    }
}

impl Shard {
    fn spawn(runtime: runtime::Id) -> Arc<Self> {
        let shard = Arc::new(Self {
            runtime,
            origin: Instant::now(),
            now: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            wake: Notify::new(),
            places: Mutex::new(Places::default()),
        });
        tokio::spawn(sweep(Sweeper {
            shard: shard.clone(),
        }));
        shard
    }

    fn register(self: &Arc<Self>) -> Watch {
        self.tick();
        let mut places = lock(&self.places);
        let asleep = places.in_use() == 0;
        let (chunk, index) = places.free.pop().unwrap_or_else(|| {
            let chunk = Arc::new(Chunk {
                due: array::from_fn(|_| AtomicU64::new(DISARMED)),
                wakers: array::from_fn(|_| Registered::default()),
            });
            places.chunks.push(chunk.clone());
            let rest = (1..CHUNK).map(|index| (chunk.clone(), index));
            places.free.extend(rest);
            (chunk, 0)
        });
        drop(places);
        if asleep {
            self.wake.notify_one();
        }
        Watch {
            shard: self.clone(),
            chunk,
            index,
        }
    }

    fn tick(&self) -> u64 {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(FAR);
        self.now.fetch_max(now, Relaxed).max(now)
    }
}

impl Chunk {
    fn expire(&self, now: u64) {
        for (due, waker) in self.due.iter().zip(&self.wakers) {
            let armed = due.load(Relaxed);
            let is_due = armed != DISARMED && armed != EXPIRED && armed <= now;
            // Armed anew in between: not this time.
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

/// Says that the shard is dead when the runtime drops the task.
struct Sweeper {
    shard: Arc<Shard>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.shard.dead.store(true, Release);
    }
}

async fn sweep(sweeper: Sweeper) {
    let shard = &sweeper.shard;
    loop {
        if lock(&shard.places).in_use() == 0 {
            shard.wake.notified().await;
        }
        tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
        let now = shard.tick();
        let chunks = lock(&shard.places).chunks.clone();
        for chunk in chunks {
            chunk.expire(now);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// This thread's, one a runtime; nearly always one.
    static SHARDS: RefCell<Vec<Arc<Shard>>> = const { RefCell::new(Vec::new()) };
}

/// How much later than asked for a deadline may fire.
#[cfg(test)]
const LATENESS: Duration = Duration::from_millis(2 * TICK_MS + 1);
/// Fine enough for time-outs of a second and more, coarse enough to cost nothing.
const TICK_MS: u64 = 100;
/// Places made at once; a chunk is what the sweep reads in one go.
const CHUNK: usize = 64;
const DISARMED: u64 = 0;
const EXPIRED: u64 = u64::MAX;
/// A hundred years: what a longer time-out comes to.
const FAR: u64 = 100 * 365 * 86_400 * 1_000;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_never_early_and_hardly_late() {
        for ms in [1, 99, 100, 101, 950, 15_000] {
            let after = Duration::from_millis(ms);
            let watch = Watch::new();
            let began = Instant::now();
            watch.arm(after);
            poll_fn(|cx| watch.poll_expired(cx)).await;
            let took = began.elapsed();
            assert!(took >= after, "{took:?} is before {after:?}");
            assert!(took <= after + LATENESS, "{took:?} is long after {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn disarmed_and_armed_anew_do_not_fire() {
        let watch = Watch::new();
        watch.arm(Duration::from_millis(500));
        watch.disarm();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!watch.is_expired(), "a disarmed watch must not expire");
        watch.arm(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(900)).await;
        watch.arm(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(!watch.is_expired(), "arming anew must begin anew");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_polled_last_is_woken_each_time() {
        let watch = Arc::new(Watch::new());
        for _ in 0..2 {
            // A task of its own each time, as a connection that is used again is polled by.
            let watch = watch.clone();
            let woken = tokio::spawn(async move {
                for _ in 0..2 {
                    watch.arm(Duration::from_millis(300));
                    poll_fn(|cx| watch.poll_expired(cx)).await;
                }
            });
            tokio::time::timeout(Duration::from_secs(5), woken)
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_used_again() {
        for _ in 0..1_000 {
            let _watch = Watch::new();
        }
        let chunks = SHARDS.with_borrow(|shards| lock(&shards[0].places).chunks.len());
        assert_eq!(chunks, 1);
    }

    #[test]
    fn two_runtimes_that_take_turns_on_a_thread_do_not_wait_for_one_another() {
        let runtimes = [0, 1].map(|_| {
            runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap()
        });
        for runtime in runtimes.iter().cycle().take(4) {
            runtime.block_on(async {
                let watch = Watch::new();
                watch.arm(Duration::from_secs(1));
                let expired = poll_fn(|cx| watch.poll_expired(cx));
                let limit = Duration::from_secs(5);
                tokio::time::timeout(limit, expired)
                    .await
                    .expect("the other runtime sleeps; this one must sweep for itself");
            });
        }
    }

    #[test]
    fn a_new_runtime_gets_a_sweep_of_its_own() {
        for _ in 0..2 {
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let watch = Watch::new();
                watch.arm(Duration::from_secs(1));
                poll_fn(|cx| watch.poll_expired(cx)).await;
            });
        }
    }
}
