//! Fine deadlines that nearly always go unused: a turning wheel, where a timer would cost more.
//!
//! What waits for a response arms an [`Alarm`] when it has to wait at all. That puts a place into
//! this thread's wheel, under a lock that nobody else wants. The place stays there until it is
//! due, and the next request of the same task shares it, where that is early enough: so a
//! connection under load pays for one place in a while, and is woken once more for it. One task
//! per thread turns the wheel every 5 ms while there is something in it, wakes what is due, and
//! takes places back. An alarm rings [`LATENESS`] after its time at the latest. It may ring early,
//! as that of a request before, or as a thread that was blocked makes the wheel's clock late: who
//! needs to be sure looks at the clock, and arms it again.

use std::{
    array,
    cell::RefCell,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
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

/// One deadline of one future.
#[derive(Default)]
pub(crate) struct Alarm {
    place: Option<Arc<Place>>,
}

impl Alarm {
    /// Sets the deadline, in place of the one before, and who is woken then. Outside of a runtime
    /// it never rings.
    pub(crate) fn arm(&mut self, after: Duration, cx: &Context<'_>) {
        let task = Task::of(cx.waker());
        let shared = RECENT.with_borrow(|recent| {
            let place = recent[task.slot()].as_ref()?;
            place.serves(&task, after).then(|| place.clone())
        });
        self.place = shared.or_else(|| take_place(task, after, cx.waker()));
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.place.is_some()
    }

    /// Is ready once after the deadline passed; registers the task to be woken then.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(place) = &self.place else {
            return Poll::Pending;
        };
        if place.state.load(Acquire) == ARMED {
            if place.task == Task::of(cx.waker()) {
                return Poll::Pending;
            }
            // Another task polls now.
            let left = place.until.saturating_duration_since(Instant::now());
            self.arm(left, cx);
            return Poll::Pending;
        }
        self.place = None;
        Poll::Ready(())
    }
}

/// Takes a place in the wheel of this thread.
#[cold]
#[inline(never)]
fn take_place(task: Task, after: Duration, waker: &Waker) -> Option<Arc<Place>> {
    let place = WHEELS.with_borrow_mut(|wheels| {
        let at = match wheels.iter().position(|wheel| wheel.turns()) {
            Some(at) => at,
            None => {
                wheels.retain(|wheel| !wheel.dead.load(Acquire));
                wheels.push(Wheel::spawn()?);
                wheels.len() - 1
            }
        };
        Some(wheels[at].place(task, after, waker))
    })?;
    let before = RECENT.with_borrow_mut(|recent| recent[task.slot()].replace(place.clone()));
    // Outside of the loan, as it may be the last that holds a task.
    drop(before);
    Some(place)
}

/// Which task a waker wakes. It is no other's as long as a waker of it is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Task {
    data: usize,
    vtable: usize,
}

impl Task {
    fn of(waker: &Waker) -> Self {
        Self {
            data: waker.data().addr(),
            vtable: std::ptr::from_ref(waker.vtable()).addr(),
        }
    }

    fn slot(self) -> usize {
        // Fibonacci hashing, as memory is given out in strides.
        let hash = (self.data as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as usize % RECENT_TASKS
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("armed", &self.is_armed())
            .finish()
    }
}

/// What alarms of one task and the wheel share until it is due.
struct Place {
    state: AtomicU8,
    task: Task,
    after: Duration,
    until: Instant,
    /// There while it is armed, so that nobody else's waker looks like it.
    waker: Mutex<Option<Waker>>,
}

impl Place {
    /// Whether it rings in time for a deadline of this task.
    fn serves(&self, task: &Task, after: Duration) -> bool {
        self.state.load(Acquire) == ARMED && self.task == *task && self.after <= after
    }

    fn ring(&self) -> Option<Waker> {
        // In this order: who shares it in between is woken, or sees that it rang.
        self.state.store(RUNG, Release);
        lock(&self.waker).take()
    }
}

struct Wheel {
    /// Where it stands still while that runtime is not run: those with one thread.
    bound: Option<Id>,
    origin: Instant,
    dead: AtomicBool,
    wake: Notify,
    spokes: Mutex<Spokes>,
}

struct Spokes {
    /// The last tick that was turned to.
    tick: u64,
    /// By due tick, modulo their number.
    spokes: [Vec<Due>; SPOKES],
    held: usize,
    free: Vec<Arc<Place>>,
}

struct Due {
    tick: u64,
    place: Arc<Place>,
}

impl Wheel {
    fn spawn() -> Option<Arc<Self>> {
        let runtime = Handle::try_current().ok()?;
        let bound = runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
        let wheel = Arc::new(Self {
            bound: bound.then(|| runtime.id()),
            origin: Instant::now(),
            dead: AtomicBool::new(false),
            wake: Notify::new(),
            spokes: Mutex::new(Spokes {
                tick: 0,
                spokes: array::from_fn(|_| Vec::new()),
                held: 0,
                free: Vec::new(),
            }),
        });
        runtime.spawn(turn(Turner {
            wheel: wheel.clone(),
        }));
        Some(wheel)
    }

    /// Returns true if it turns while this thread's current runtime does.
    fn turns(&self) -> bool {
        let is_current = |id| Handle::try_current().is_ok_and(|runtime| runtime.id() == id);
        !self.dead.load(Acquire) && self.bound.is_none_or(is_current)
    }

    fn place(&self, task: Task, after: Duration, waker: &Waker) -> Arc<Place> {
        let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(FAR);
        let ticks = millis.min(FAR).div_ceil(TICK_MS);
        let mut guard = lock(&self.spokes);
        let spokes = &mut *guard;
        if spokes.held == 0 {
            // Nobody turned it meanwhile.
            spokes.tick = self.now();
            self.wake.notify_one();
        }
        // A tick more, as the last one may be nearly over.
        let tick = spokes.tick + ticks + 1;
        let armed = Place {
            state: AtomicU8::new(ARMED),
            task,
            after,
            until: self.origin + Duration::from_millis(TICK_MS * tick),
            waker: Mutex::new(Some(waker.clone())),
        };
        let place = match spokes.free.pop() {
            Some(mut free) => match Arc::get_mut(&mut free) {
                Some(place) => {
                    *place = armed;
                    free
                }
                None => Arc::new(armed),
            },
            None => Arc::new(armed),
        };
        let due = Due {
            tick,
            place: place.clone(),
        };
        spokes.spokes[spoke(tick)].push(due);
        spokes.held += 1;
        place
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(FAR) / TICK_MS
    }

    /// Turns to now; returns who is to be woken.
    fn turn(&self, woken: &mut Vec<Waker>) {
        let now = self.now();
        let mut guard = lock(&self.spokes);
        let spokes = &mut *guard;
        let passed = now.saturating_sub(spokes.tick).min(SPOKES as u64);
        for tick in now + 1 - passed..=now {
            let mut at = 0;
            while let Some(due) = spokes.spokes[spoke(tick)].get(at) {
                if due.tick > now {
                    // In a later round.
                    at += 1;
                    continue;
                }
                let mut place = spokes.spokes[spoke(tick)].swap_remove(at).place;
                spokes.held -= 1;
                woken.extend(place.ring());
                // Unless its alarm has yet to see that it rang; what one did last is seen here.
                if Arc::get_mut(&mut place).is_some() && spokes.free.len() < MOST_FREE {
                    spokes.free.push(place);
                }
            }
        }
        spokes.tick = spokes.tick.max(now);
    }
}

/// Says that the wheel is dead when the runtime drops the task.
struct Turner {
    wheel: Arc<Wheel>,
}

impl Drop for Turner {
    fn drop(&mut self) {
        self.wheel.dead.store(true, Release);
        // Early, so that nobody waits for a wheel that stands still, nor shares a place in it.
        let due: Vec<Due> = {
            let mut spokes = lock(&self.wheel.spokes);
            spokes.held = 0;
            spokes.spokes.iter_mut().flat_map(std::mem::take).collect()
        };
        due.into_iter()
            .filter_map(|due| due.place.ring())
            .for_each(Waker::wake);
    }
}

async fn turn(turner: Turner) {
    let wheel = &turner.wheel;
    let mut woken = Vec::new();
    loop {
        let tick = {
            let spokes = lock(&wheel.spokes);
            (spokes.held > 0).then_some(spokes.tick)
        };
        let Some(tick) = tick else {
            wheel.wake.notified().await;
            continue;
        };
        let next = Duration::from_millis(TICK_MS.saturating_mul(tick + 1));
        tokio::time::sleep_until(wheel.origin + next).await;
        wheel.turn(&mut woken);
        woken.drain(..).for_each(Waker::wake);
    }
}

const fn spoke(tick: u64) -> usize {
    (tick % SPOKES as u64) as usize
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// Nearly always one.
    static WHEELS: RefCell<Vec<Arc<Wheel>>> = const { RefCell::new(Vec::new()) };
    /// Places that tasks of this thread took last.
    static RECENT: RefCell<[Option<Arc<Place>>; RECENT_TASKS]> =
        const { RefCell::new([const { None }; RECENT_TASKS]) };
}

/// Tasks that take turns in a slot take a place each time.
const RECENT_TASKS: usize = 512;

/// Fine enough for a wait of 50 ms; 200 wakes a second are nothing to a thread that is busy.
const TICK_MS: u64 = 5;
/// How much later than asked for an alarm may ring; tokio's own timer adds a millisecond.
#[cfg(test)]
const LATENESS: Duration = Duration::from_millis(11);
/// More than a second a round: what is armed here is rarely armed for longer.
const SPOKES: usize = 256;
/// What 40,000 requests a second need for 100 ms; beyond, places are made anew.
const MOST_FREE: usize = 4_096;
/// A hundred years, in milliseconds.
const FAR: u64 = 100 * 365 * 86_400 * 1_000;
const ARMED: u8 = 0;
const RUNG: u8 = 1;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn ring(alarm: &mut Alarm, after: Duration) -> Duration {
        let began = Instant::now();
        poll_fn(|cx| {
            alarm.arm(after, cx);
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx)).await;
        began.elapsed()
    }

    fn places() -> (usize, usize) {
        WHEELS.with_borrow(|wheels| {
            let spokes = lock(&wheels[0].spokes);
            (spokes.held, spokes.free.len())
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_is_never_early_and_hardly_late() {
        let mut alarm = Alarm::default();
        for ms in [0, 1, 4, 5, 6, 49, 50, 51, 1_279, 1_280, 5_000, 60_000] {
            let after = Duration::from_millis(ms);
            tokio::time::sleep(Duration::from_millis(ms % 7)).await;
            let took = ring(&mut alarm, after).await;
            assert!(took >= after, "{took:?} is before {after:?}");
            assert!(took <= after + LATENESS, "{took:?} is long after {after:?}");
            assert!(!alarm.is_armed(), "it rings once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_alarms_ring_in_their_own_time_in_one_wheel() {
        let mut tasks = tokio::task::JoinSet::new();
        for ms in 0..700_u64 {
            let after = Duration::from_millis(ms * 13 % 3_001);
            tasks.spawn(async move {
                let mut alarm = Alarm::default();
                let took = ring(&mut alarm, after).await;
                (after <= took && took <= after + LATENESS)
                    .then_some(())
                    .ok_or((after, took))
            });
        }
        while let Some(ended) = tasks.join_next().await {
            assert_eq!(ended.unwrap(), Ok(()), "asked for, and took");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_of_one_task_share_a_place_and_wake_it_once() {
        let mut task = tokio_test::task::spawn(());
        for _ in 0..100 {
            let mut alarm = Alarm::default();
            task.enter(|cx, _| alarm.arm(Duration::from_millis(20), cx));
            assert!(task.enter(|cx, _| alarm.poll(cx)).is_pending());
        }
        assert_eq!(places().0, 1);
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(task.is_woken(), "by the place that is left");
        assert_eq!(places().0, 0, "the wheel must be empty, and stand still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_place_rings_in_time_or_before() {
        type Task = tokio_test::task::Spawn<()>;
        fn arm(task: &mut Task, ms: u64) -> Alarm {
            let mut alarm = Alarm::default();
            task.enter(|cx, _| alarm.arm(Duration::from_millis(ms), cx));
            alarm
        }
        fn rang(task: &mut Task, alarm: &mut Alarm) -> bool {
            task.enter(|cx, _| alarm.poll(cx)).is_ready()
        }
        let mut task = tokio_test::task::spawn(());
        drop(arm(&mut task, 20));
        tokio::time::sleep(Duration::from_millis(10)).await;
        let [mut same, mut later, mut sooner] = [20, 50, 5].map(|ms| arm(&mut task, ms));
        assert_eq!(places().0, 2, "the last one would ring too late");
        tokio::time::sleep(Duration::from_millis(16)).await;
        assert!(rang(&mut task, &mut sooner));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(rang(&mut task, &mut same) && rang(&mut task, &mut later));
        assert!(!same.is_armed() && !rang(&mut task, &mut same), "once");
        let mut alarm = arm(&mut task, 20);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!rang(&mut task, &mut alarm), "what rang is shared no more");
        tokio::time::sleep(Duration::from_millis(21)).await;
        assert!(rang(&mut task, &mut alarm));
    }

    #[tokio::test(start_paused = true)]
    async fn places_of_tasks_that_are_gone_are_used_again() {
        for _ in 0..20 * RECENT_TASKS {
            let mut task = tokio_test::task::spawn(Alarm::default());
            task.enter(|cx, mut alarm| alarm.arm(Duration::from_millis(5), cx));
            drop(task);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        let (held, free) = places();
        assert_eq!(held, 0);
        assert!(free < 100, "{free} places for ten at once");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_task_to_poll_is_woken() {
        let mut first = tokio_test::task::spawn(());
        let mut second = tokio_test::task::spawn(());
        let mut alarm = Alarm::default();
        first.enter(|cx, _| alarm.arm(Duration::from_millis(20), cx));
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(second.enter(|cx, _| alarm.poll(cx)).is_pending());
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(second.is_woken());
        assert!(second.enter(|cx, _| alarm.poll(cx)).is_ready());
    }

    #[test]
    fn outside_of_a_runtime_it_never_rings_and_each_runtime_has_its_wheel() {
        let mut task = tokio_test::task::spawn(Alarm::default());
        task.enter(|cx, mut alarm| alarm.arm(Duration::ZERO, cx));
        assert!(!task.enter(|_, alarm| alarm.is_armed()));
        for _ in 0..2 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                ring(&mut Alarm::default(), Duration::from_millis(50)).await;
            });
        }
    }

    #[test]
    fn an_alarm_of_a_runtime_that_ended_rings_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let mut task = tokio_test::task::spawn(Alarm::default());
        runtime.block_on(async {
            task.enter(|cx, mut alarm| alarm.arm(Duration::from_secs(60), cx));
        });
        assert!(task.enter(|cx, mut alarm| alarm.poll(cx)).is_pending());
        drop(runtime);
        assert!(task.is_woken());
        assert!(task.enter(|cx, mut alarm| alarm.poll(cx)).is_ready());
    }

    #[test]
    fn a_runtime_that_is_not_run_holds_no_alarm_of_another_back() {
        let runtimes = [(), ()].map(|()| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().unwrap()
        });
        for _ in 0..3 {
            for runtime in &runtimes {
                runtime.block_on(async {
                    let after = Duration::from_millis(50);
                    let mut alarm = Alarm::default();
                    let rings = ring(&mut alarm, after);
                    let took = tokio::time::timeout(Duration::from_secs(9), rings).await;
                    assert!(
                        took.is_ok(),
                        "an alarm waits for a runtime that stands still"
                    );
                });
            }
        }
        assert_eq!(WHEELS.with_borrow(Vec::len), 2, "one wheel each");
    }

    #[test]
    fn alarms_move_between_threads() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for ms in 0..400_u64 {
                tasks.spawn(async move {
                    let mut alarm = Alarm::default();
                    let after = Duration::from_millis(ms % 40);
                    poll_fn(|cx| {
                        alarm.arm(after, cx);
                        Poll::Ready(())
                    })
                    .await;
                    for _ in 0..ms % 5 {
                        tokio::task::yield_now().await;
                    }
                    poll_fn(|cx| alarm.poll(cx)).await;
                });
            }
            let all = async { while tasks.join_next().await.is_some() {} };
            // Generous: one that is lost never rings.
            tokio::time::timeout(Duration::from_secs(30), all)
                .await
                .unwrap();
        });
    }
}
