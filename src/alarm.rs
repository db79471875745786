//! Fine deadlines that nearly always go unused: a turning wheel, where a timer would cost more.
//!
//! What waits for a response arms an [`Alarm`] when it has to wait at all. That puts a place into
//! this thread's wheel, under a lock that nobody else wants; an answer in time costs one store
//! more. One task per thread turns the wheel every 5 ms while there is something in it, wakes
//! what is due, and takes places back for the next request. An alarm rings between its time and
//! [`LATENESS`] after it; a thread that was blocked for longer than a tick makes the wheel's clock
//! late, so that one armed then may ring early: whoever needs to be sure looks at the clock.

use std::{
    array,
    cell::RefCell,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU8,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
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
        self.disarm();
        self.place = WHEELS.with_borrow_mut(|wheels| {
            let at = match wheels.iter().position(|wheel| wheel.turns()) {
                Some(at) => at,
                None => {
                    wheels.retain(|wheel| !wheel.dead.load(Acquire));
                    wheels.push(Wheel::spawn()?);
                    wheels.len() - 1
                }
            };
            Some(wheels[at].place(after, cx.waker()))
        });
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
            let mut waker = lock(&place.waker);
            match &mut *waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            drop(waker);
            // It may have rung in between.
            if place.state.load(Acquire) == ARMED {
                return Poll::Pending;
            }
        }
        self.place = None;
        Poll::Ready(())
    }

    /// Forgets the deadline.
    pub(crate) fn disarm(&mut self) {
        if let Some(place) = self.place.take() {
            place.state.store(IDLE, Release);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm")
            .field("armed", &self.is_armed())
            .finish()
    }
}

/// What an alarm and the wheel share until it is due.
struct Place {
    state: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Place {
    fn ring(&self) -> Option<Waker> {
        // In this order: who registers in between sees that it rang.
        let rings = self
            .state
            .compare_exchange(ARMED, RUNG, AcqRel, Relaxed)
            .is_ok();
        let waker = lock(&self.waker).take();
        if rings { waker } else { None }
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

    fn place(&self, after: Duration, waker: &Waker) -> Arc<Place> {
        let millis = u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(FAR);
        let ticks = millis.min(FAR).div_ceil(TICK_MS);
        let mut guard = lock(&self.spokes);
        let spokes = &mut *guard;
        if spokes.held == 0 {
            // Nobody turned it meanwhile.
            spokes.tick = self.now();
            self.wake.notify_one();
        }
        let place = spokes.free.pop().unwrap_or_else(|| {
            Arc::new(Place {
                state: AtomicU8::new(IDLE),
                waker: Mutex::new(None),
            })
        });
        *lock(&place.waker) = Some(waker.clone());
        place.state.store(ARMED, Release);
        // A tick more, as the last one may be nearly over.
        let tick = spokes.tick + ticks + 1;
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
}

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
const IDLE: u8 = 0;
const ARMED: u8 = 1;
const RUNG: u8 = 2;

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
    async fn disarmed_or_dropped_it_wakes_nobody_and_its_place_is_used_again() {
        for round in 0..100 {
            let mut task = tokio_test::task::spawn(Some(Alarm::default()));
            task.enter(|cx, mut alarm| {
                if let Some(alarm) = &mut *alarm {
                    alarm.arm(Duration::from_millis(20), cx);
                }
                if round % 2 == 0 {
                    *alarm = None;
                } else if let Some(alarm) = &mut *alarm {
                    alarm.disarm();
                }
            });
            tokio::time::sleep(Duration::from_millis(40)).await;
            assert!(!task.is_woken(), "nobody waits any more");
            assert_eq!(places().0, 0, "the wheel must be empty, and stand still");
            assert_eq!(places().1, 1, "one place is enough");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_task_to_poll_is_woken() {
        let mut first = tokio_test::task::spawn(());
        let mut second = tokio_test::task::spawn(());
        let mut alarm = Alarm::default();
        first.enter(|cx, _| alarm.arm(Duration::from_millis(20), cx));
        assert!(second.enter(|cx, _| alarm.poll(cx)).is_pending());
        tokio::time::sleep(Duration::from_millis(40)).await;
        assert!(second.is_woken() && !first.is_woken());
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
