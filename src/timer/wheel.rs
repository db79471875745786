//! A hashed timing wheel for deadlines of milliseconds that nearly always go unused.
//!
//! A future that has to wait for a response arms a [`Timer`]. Arming inserts an entry into the
//! wheel of the current thread, under a lock that no other thread contends for. The entry stays in
//! the wheel until it is due, and the next request of the same task shares it if the entry fires
//! early enough: a connection under load inserts one entry per deadline, not one per request, and
//! its task is woken once for it. One task per thread advances the wheel every 5 ms while the wheel
//! holds an entry; it wakes the tasks of due entries and keeps the entries for reuse.
//!
//! A timer fires at most [`LATENESS`] after its deadline. It may fire early: because it shares the
//! entry of an earlier request, or because a blocked thread left the wheel's clock behind. A caller
//! that must not act early compares the clock with its own deadline and arms the timer again.
//!
//! ```text
//!   tick 5 ms:  0 │ 1 │ 2 │ … │ 255 │ 0 …           256 lists, one round 1.28 s
//!                       └ [entry due at 2] [entry due at 258]     later rounds stay in the list
//! ```
//!
//! | event | cost |
//! |---|---|
//! | arm, while an entry of this task fires in time | a look into an array of the thread |
//! | arm otherwise | an uncontended lock, a push; no allocation if an entry is free |
//! | drop | nothing: the entry stays, fires, and wakes the task for nothing |
//! | fire | a wake |
//!
//! Why entries are not removed: removing takes the lock again and a search, for each of thousands
//! of deadlines a second that go unused. A task that serves requests one after the other shares one
//! entry instead, and pays one needless wake for it.
//!
//! # Orderings
//!
//! `state` is Release when an entry fires and Acquire when it is read: a timer that sees `FIRED`
//! sees all that the driver did before. The waker is taken under its lock after `FIRED` is stored,
//! so a timer that begins to share the entry at that moment either is woken or sees `FIRED`.

use std::{
    array,
    cell::RefCell,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU8,
            Ordering::{Acquire, Release},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    runtime::{Handle, Id, RuntimeFlavor},
    sync::Notify,
    time::Instant,
};

use super::{MAX_DELAY_MS, lock};

/// One deadline of one future; it never fires while it is not armed.
///
/// Cheap to make, to move and to drop; belongs to one future.
#[derive(Default)]
pub(crate) struct Timer {
    entry: Option<Arc<Entry>>,
}

impl Timer {
    /// Sets the deadline to `after` from now, replacing any earlier one, and registers the current
    /// task to be woken then. Outside a tokio runtime the timer stays unarmed.
    ///
    /// A delay of zero fires within two ticks. The precision is that of the wheel, not of `after`.
    pub(crate) fn arm(&mut self, after: Duration, cx: &Context<'_>) {
        let task = TaskId::of(cx.waker());
        let shared = RECENT_ENTRIES.with_borrow(|recent| {
            let entry = recent[task.recent_slot()].as_ref()?;
            entry.fires_in_time_for(&task, after).then(|| entry.clone())
        });
        self.entry = shared.or_else(|| insert_entry(task, after, cx.waker()));
    }

    /// Returns true between [`arm`](Self::arm) and the [`poll`](Self::poll) that returns ready.
    pub(crate) fn is_armed(&self) -> bool {
        self.entry.is_some()
    }

    /// Returns ready once after the deadline has passed; registers the current task to be woken
    /// then.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(entry) = &self.entry else {
            return Poll::Pending;
        };
        if entry.state.load(Acquire) == ARMED {
            if entry.task == TaskId::of(cx.waker()) {
                return Poll::Pending;
            }
            // The future moved to another task, which needs an entry of its own.
            let left = entry.until.saturating_duration_since(Instant::now());
            self.arm(left, cx);
            return Poll::Pending;
        }
        self.entry = None;
        Poll::Ready(())
    }
}

/// Inserts an entry into the wheel of this thread; returns `None` outside a tokio runtime.
///
/// Spawns the task of the wheel at the first call on a thread.
#[cold]
#[inline(never)]
fn insert_entry(task: TaskId, after: Duration, waker: &Waker) -> Option<Arc<Entry>> {
    let entry = WHEELS.with_borrow_mut(|wheels| {
        // A wheel of another runtime stands still while this one runs.
        let at = match wheels.iter().position(|wheel| wheel.is_running()) {
            Some(at) => at,
            None => {
                wheels.retain(|wheel| !wheel.stopped.load(Acquire));
                wheels.push(Wheel::spawn()?);
                wheels.len() - 1
            }
        };
        Some(wheels[at].schedule(task, after, waker))
    })?;
    let before =
        RECENT_ENTRIES.with_borrow_mut(|recent| recent[task.recent_slot()].replace(entry.clone()));
    // After the borrow: dropping the last entry of a task may drop the task, and its timers with
    // it.
    drop(before);
    Some(entry)
}

/// Identifies the task that a waker wakes. No other task has the same id while a waker of this one
/// is alive.
///
/// The two pointers of a waker, as in `Waker::will_wake`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TaskId {
    data: usize,
    vtable: usize,
}

impl TaskId {
    fn of(waker: &Waker) -> Self {
        Self {
            data: waker.data().addr(),
            vtable: std::ptr::from_ref(waker.vtable()).addr(),
        }
    }

    fn recent_slot(self) -> usize {
        // Fibonacci hashing: allocators place tasks at multiples of a stride.
        let hash = (self.data as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize % RECENT_SLOTS
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer")
            .field("armed", &self.is_armed())
            .finish()
    }
}

/// A deadline in the wheel, shared by the timers of one task.
struct Entry {
    state: AtomicU8,
    task: TaskId,
    after: Duration,
    until: Instant,
    /// Kept while the entry is armed, so that no other task can get the same [`TaskId`].
    waker: Mutex<Option<Waker>>,
}

impl Entry {
    /// Returns true if this entry belongs to `task` and fires no later than `after` from now.
    ///
    /// Compares the delays and not the times: an entry that was inserted earlier with no longer a
    /// delay fires earlier. That spares a reading of the clock.
    fn fires_in_time_for(&self, task: &TaskId, after: Duration) -> bool {
        self.state.load(Acquire) == ARMED && self.task == *task && self.after <= after
    }

    /// Marks the entry as fired and returns the waker of its task.
    fn fire(&self) -> Option<Waker> {
        // In this order: a timer that begins to share the entry in between is woken, or sees FIRED.
        self.state.store(FIRED, Release);
        lock(&self.waker).take()
    }
}

/// The wheel of one thread.
struct Wheel {
    /// The runtime that drives the wheel, if it is a `current_thread` one: the wheel stands still
    /// while that runtime is not being run.
    runtime: Option<Id>,
    origin: Instant,
    stopped: AtomicBool,
    wake: Notify,
    slots: Mutex<Slots>,
}

struct Slots {
    /// The tick that the wheel has been advanced to.
    tick: u64,
    /// Entries by the tick at which they are due, modulo the number of slots.
    lists: [Vec<Scheduled>; SLOTS],
    /// How many entries the lists hold.
    scheduled: usize,
    /// Entries for reuse.
    free: Vec<Arc<Entry>>,
}

struct Scheduled {
    tick: u64,
    entry: Arc<Entry>,
}

impl Wheel {
    fn spawn() -> Option<Arc<Self>> {
        let runtime = Handle::try_current().ok()?;
        let is_bound = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let wheel = Arc::new(Self {
            runtime: is_bound.then(|| runtime.id()),
            origin: Instant::now(),
            stopped: AtomicBool::new(false),
            wake: Notify::new(),
            slots: Mutex::new(Slots {
                tick: 0,
                lists: array::from_fn(|_| Vec::new()),
                scheduled: 0,
                free: Vec::new(),
            }),
        });
        runtime.spawn(drive(Driver {
            wheel: wheel.clone(),
        }));
        Some(wheel)
    }

    /// Returns true if the wheel advances while the current runtime of this thread runs.
    fn is_running(&self) -> bool {
        let is_current = |id| Handle::try_current().is_ok_and(|runtime| runtime.id() == id);
        !self.stopped.load(Acquire) && self.runtime.is_none_or(is_current)
    }

    /// Takes the lock of the wheel, which only its driver contends for.
    fn schedule(&self, task: TaskId, after: Duration, waker: &Waker) -> Arc<Entry> {
        let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(MAX_DELAY_MS);
        let ticks = millis.min(MAX_DELAY_MS).div_ceil(TICK_MS);
        let mut guard = lock(&self.slots);
        let slots = &mut *guard;
        if slots.scheduled == 0 {
            // The driver does not advance an empty wheel.
            slots.tick = self.current_tick();
            self.wake.notify_one();
        }
        // One tick more, because the current tick may be nearly over.
        let tick = slots.tick + ticks + 1;
        let armed = Entry {
            state: AtomicU8::new(ARMED),
            task,
            after,
            until: self.origin + Duration::from_millis(TICK_MS * tick),
            waker: Mutex::new(Some(waker.clone())),
        };
        // `get_mut` fails if a timer took the entry up at this moment: it then stays with that
        // timer.
        let entry = match slots.free.pop() {
            Some(mut free) => match Arc::get_mut(&mut free) {
                Some(entry) => {
                    *entry = armed;
                    free
                }
                None => Arc::new(armed),
            },
            None => Arc::new(armed),
        };
        let due = Scheduled {
            tick,
            entry: entry.clone(),
        };
        slots.lists[slot_of(tick)].push(due);
        slots.scheduled += 1;
        entry
    }

    fn current_tick(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(MAX_DELAY_MS) / TICK_MS
    }

    /// Advances the wheel to the current time and adds the wakers of due entries to `wakers`.
    fn advance(&self, wakers: &mut Vec<Waker>) {
        let now = self.current_tick();
        let mut guard = lock(&self.slots);
        let slots = &mut *guard;
        // After a long pause each list is visited once, not once for each tick that passed.
        let passed = now.saturating_sub(slots.tick).min(SLOTS as u64);
        for tick in now + 1 - passed..=now {
            let mut at = 0;
            while let Some(due) = slots.lists[slot_of(tick)].get(at) {
                if due.tick > now {
                    // Due in a later round.
                    at += 1;
                    continue;
                }
                let mut entry = slots.lists[slot_of(tick)].swap_remove(at).entry;
                slots.scheduled -= 1;
                wakers.extend(entry.fire());
                // An entry is reused unless a timer still holds it. `get_mut` synchronizes with
                // the drop of the last timer.
                if Arc::get_mut(&mut entry).is_some() && slots.free.len() < MAX_FREE {
                    slots.free.push(entry);
                }
            }
        }
        slots.tick = slots.tick.max(now);
    }
}

/// Marks the wheel as stopped when the runtime drops the task that advances it.
struct Driver {
    wheel: Arc<Wheel>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wheel.stopped.store(true, Release);
        // Fires every entry early: no timer waits for a stopped wheel or shares an entry in it.
        let due: Vec<Scheduled> = {
            let mut slots = lock(&self.wheel.slots);
            slots.scheduled = 0;
            slots.lists.iter_mut().flat_map(std::mem::take).collect()
        };
        due.into_iter()
            .filter_map(|due| due.entry.fire())
            .for_each(Waker::wake);
    }
}

async fn drive(driver: Driver) {
    let wheel = &driver.wheel;
    let mut wakers = Vec::new();
    loop {
        let tick = {
            let slots = lock(&wheel.slots);
            (slots.scheduled > 0).then_some(slots.tick)
        };
        let Some(tick) = tick else {
            wheel.wake.notified().await;
            continue;
        };
        let next = Duration::from_millis(TICK_MS.saturating_mul(tick + 1));
        tokio::time::sleep_until(wheel.origin + next).await;
        wheel.advance(&mut wakers);
        wakers.drain(..).for_each(Waker::wake);
    }
}

const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

thread_local! {
    /// The wheels that this thread uses, one a runtime; nearly always one.
    static WHEELS: RefCell<Vec<Arc<Wheel>>> = const { RefCell::new(Vec::new()) };
    /// The entries that tasks of this thread inserted last, by a hash of the task.
    static RECENT_ENTRIES: RefCell<[Option<Arc<Entry>>; RECENT_SLOTS]> =
        const { RefCell::new([const { None }; RECENT_SLOTS]) };
}

/// Two tasks that share a slot and take turns insert an entry each time: more slots, fewer of
/// these.
const RECENT_SLOTS: usize = 512;

/// Fine enough for a wait of 50 ms; 200 wakes a second do not show on a busy thread.
const TICK_MS: u64 = 5;
/// How long after its deadline a timer may fire: two ticks, and a millisecond of tokio's own timer.
#[cfg(test)]
const LATENESS: Duration = Duration::from_millis(11);
/// One round takes 1.28 s; deadlines here are rarely longer, so few entries wait for a later round.
const SLOTS: usize = 256;
/// Enough for 40,000 insertions a second with 100 ms each; further entries are allocated.
const MAX_FREE: usize = 4_096;
const ARMED: u8 = 0;
const FIRED: u8 = 1;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn elapsed(timer: &mut Timer, after: Duration) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| {
            timer.arm(after, cx);
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll(cx)).await;
        began.elapsed()
    }

    fn entries() -> (usize, usize) {
        WHEELS.with_borrow(|wheels| {
            let slots = lock(&wheels[0].slots);
            (slots.scheduled, slots.free.len())
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_never_early_and_at_most_the_lateness_late() {
        let mut timer = Timer::default();
        for ms in [0, 1, 4, 5, 6, 49, 50, 51, 1_279, 1_280, 5_000, 60_000] {
            let after = Duration::from_millis(ms);
            tokio::time::sleep(Duration::from_millis(ms % 7)).await;
            let took = elapsed(&mut timer, after).await;
            assert!(took >= after, "{took:?} is before {after:?}");
            assert!(took <= after + LATENESS, "{took:?} is long after {after:?}");
            assert!(!timer.is_armed(), "it fires once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_timers_fire_in_their_own_time_in_one_wheel() {
        let mut tasks = tokio::task::JoinSet::new();
        for ms in 0..700_u64 {
            let after = Duration::from_millis(ms * 13 % 3_001);
            tasks.spawn(async move {
                let mut timer = Timer::default();
                let took = elapsed(&mut timer, after).await;
                (after <= took && took <= after + LATENESS)
                    .then_some(())
                    .ok_or((after, took))
            });
        }
        while let Some(ended) = tasks.join_next().await {
            assert_eq!(ended.unwrap(), Ok(()), "(deadline, elapsed)");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn timers_of_one_task_share_an_entry_and_wake_it_once() {
        let mut task = tokio_test::task::spawn(());
        for _ in 0..100 {
            let mut timer = Timer::default();
            task.enter(|cx, _| timer.arm(Duration::from_millis(20), cx));
            assert!(task.enter(|cx, _| timer.poll(cx)).is_pending());
        }
        assert_eq!(entries().0, 1);
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(
            task.is_woken(),
            "the dropped timers leave an entry that wakes the task"
        );
        assert_eq!(entries().0, 0, "the wheel must be empty");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_entry_fires_in_time_or_before() {
        type Task = tokio_test::task::Spawn<()>;
        fn arm(task: &mut Task, ms: u64) -> Timer {
            let mut timer = Timer::default();
            task.enter(|cx, _| timer.arm(Duration::from_millis(ms), cx));
            timer
        }
        fn fired(task: &mut Task, timer: &mut Timer) -> bool {
            task.enter(|cx, _| timer.poll(cx)).is_ready()
        }
        let mut task = tokio_test::task::spawn(());
        drop(arm(&mut task, 20));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let [mut same, mut later, mut sooner] = [20, 50, 5].map(|ms| arm(&mut task, ms));
        assert_eq!(
            entries().0,
            2,
            "the shared entry would fire too late for the shortest"
        );
        tokio::time::sleep(Duration::from_millis(16)).await;
        assert!(fired(&mut task, &mut sooner));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(fired(&mut task, &mut same) && fired(&mut task, &mut later));
        assert!(!same.is_armed() && !fired(&mut task, &mut same), "once");
        let mut timer = arm(&mut task, 20);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(
            !fired(&mut task, &mut timer),
            "a fired entry must not be shared"
        );
        tokio::time::sleep(Duration::from_millis(21)).await;
        assert!(fired(&mut task, &mut timer));
    }

    #[tokio::test(start_paused = true)]
    async fn entries_of_dropped_tasks_are_reused() {
        for _ in 0..20 * RECENT_SLOTS {
            let mut task = tokio_test::task::spawn(Timer::default());
            task.enter(|cx, mut timer| timer.arm(Duration::from_millis(5), cx));
            drop(task);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        let (scheduled, free) = entries();
        assert_eq!(scheduled, 0);
        assert!(
            free < 100,
            "{free} entries were allocated where ten are armed at once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_task_to_poll_is_woken() {
        let mut first = tokio_test::task::spawn(());
        let mut second = tokio_test::task::spawn(());
        let mut timer = Timer::default();
        first.enter(|cx, _| timer.arm(Duration::from_millis(20), cx));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(second.enter(|cx, _| timer.poll(cx)).is_pending());
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(second.is_woken());
        assert!(second.enter(|cx, _| timer.poll(cx)).is_ready());
    }

    #[test]
    fn outside_of_a_runtime_it_never_fires_and_each_runtime_has_its_wheel() {
        let mut task = tokio_test::task::spawn(Timer::default());
        task.enter(|cx, mut timer| timer.arm(Duration::ZERO, cx));
        assert!(!task.enter(|_, timer| timer.is_armed()));
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                elapsed(&mut Timer::default(), Duration::from_millis(50)).await;
            });
        }
    }

    #[test]
    fn a_timer_of_a_runtime_that_ended_fires_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut task = tokio_test::task::spawn(Timer::default());
        runtime.block_on(async {
            task.enter(|cx, mut timer| timer.arm(Duration::from_secs(60), cx));
        });
        assert!(task.enter(|cx, mut timer| timer.poll(cx)).is_pending());
        drop(runtime);
        assert!(task.is_woken());
        assert!(task.enter(|cx, mut timer| timer.poll(cx)).is_ready());
    }

    #[test]
    fn an_idle_runtime_delays_no_timer_of_another_runtime() {
        let runtimes = [(), ()].map(|()| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().unwrap()
        });
        for _ in 0..3 {
            for runtime in &runtimes {
                runtime.block_on(async {
                    let after = Duration::from_millis(50);
                    let mut timer = Timer::default();
                    let fired = elapsed(&mut timer, after);
                    let took = tokio::time::timeout(Duration::from_secs(9), fired).await;
                    assert!(
                        took.is_ok(),
                        "a timer waits for a runtime that stands still"
                    );
                });
            }
        }
        assert_eq!(WHEELS.with_borrow(Vec::len), 2, "one wheel each");
    }

    #[test]
    fn timers_move_between_threads() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for ms in 0..400_u64 {
                tasks.spawn(async move {
                    let mut timer = Timer::default();
                    let after = Duration::from_millis(ms % 40);
                    poll_fn(|cx| {
                        timer.arm(after, cx);
                        Poll::Ready(())
                    })
                    .await;
                    for _ in 0..ms % 5 {
                        tokio::task::yield_now().await;
                    }
                    poll_fn(|cx| timer.poll(cx)).await;
                });
            }
            let all = async { while tasks.join_next().await.is_some() {} };
            // Generous: a lost timer never fires.
            tokio::time::timeout(Duration::from_secs(30), all)
                .await
                .unwrap();
        });
    }
}
