//! The live state of one member: health, circuit, mode and counters.
//!
//! All handles and all snapshots of a member share one state, which is keyed by the id and survives
//! changes of the configuration. Requests write the counters; only the control path, under its lock,
//! writes the rest. What a pick reads is atomic; what only events and onlookers read is behind a lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU8, AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{
    Circuit, HealthStatus, Mode,
    attachments::{Attachment, AttachmentKey, Attachments, Notification},
    check_counts::HealthCounters,
    connection_counts::ConnectionCounters,
    counters::{Acquisition, RequestCounters},
    history::History,
};

pub(super) struct State {
    counters: RequestCounters,
    incarnation: u64,
    /// What active checks say.
    active: AtomicU8,
    circuit: AtomicU8,
    /// Active checks run: a member that was not checked yet is held.
    checked: AtomicBool,
    /// How often the address changed.
    address_changes: AtomicU32,
    /// The measured capacity, in thousandths.
    capacity: AtomicU32,
    /// The share that slow start grants, in thousandths.
    slow_start_share: AtomicU32,
    asks_to_drain: AtomicBool,
    evacuated: AtomicBool,
    /// A group of the current snapshot contains the member.
    usable: AtomicBool,
    /// The mode is ready. It stands beside the mode because each snapshot reads it of all members.
    ready: AtomicBool,
    /// The one request that tries a half-open circuit is in flight.
    trial: AtomicBool,
    rarely_used: Mutex<RarelyUsed>,
    /// Notified when a drain that is waited for may have ended, and when the mode changes.
    drain_changed: Notify,
    pub(super) attachments: Attachments,
    pub(super) health_counters: Mutex<HealthCounters>,
    pub(super) connections: Arc<ConnectionCounters>,
    pub(super) history: History,
    /// Notified when a slot of a capped backend becomes free; set when it joins a pool.
    pub(super) slot_freed: OnceLock<Arc<Notify>>,
}

/// What the request path neither reads nor writes.
struct RarelyUsed {
    mode: Mode,
    /// When combined health last changed.
    since: Instant,
    flaps: u32,
    flapping: bool,
}

impl State {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            counters: RequestCounters::default(),
            incarnation: NEXT.fetch_add(1, Relaxed),
            active: AtomicU8::new(UNKNOWN),
            circuit: AtomicU8::new(CLOSED),
            checked: AtomicBool::new(false),
            address_changes: AtomicU32::new(0),
            capacity: AtomicU32::new(FULL),
            slow_start_share: AtomicU32::new(FULL),
            asks_to_drain: AtomicBool::new(false),
            evacuated: AtomicBool::new(false),
            usable: AtomicBool::new(false),
            ready: AtomicBool::new(true),
            trial: AtomicBool::new(false),
            rarely_used: Mutex::new(RarelyUsed {
                mode: Mode::Ready,
                since: Instant::now(),
                flaps: 0,
                flapping: false,
            }),
            drain_changed: Notify::new(),
            attachments: Attachments::default(),
            health_counters: Mutex::default(),
            connections: Arc::default(),
            history: History::default(),
            slot_freed: OnceLock::new(),
        }
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.counters.in_flight()
    }

    pub(super) fn requests(&self) -> u64 {
        self.counters.requests()
    }

    /// Takes a slot; returns false if the cap is reached. Wait-free.
    pub(super) fn acquire_slot(&self, cap: Option<u32>) -> bool {
        let Some(cap) = cap else {
            self.counters.acquire();
            return true;
        };
        match self.counters.acquire_below(cap) {
            Acquisition::Acquired => true,
            Acquisition::Full => false,
            Acquisition::Undone {
                hid_a_slot,
                was_last,
            } => {
                self.notify(hid_a_slot, was_last);
                false
            }
        }
    }

    pub(super) fn release_slot(&self) {
        let was_last = self.counters.release();
        // The state knows the present cap; the lease may be older than it.
        self.notify(self.counters.is_capped(), was_last);
    }

    fn notify(&self, slot_freed: bool, was_last: bool) {
        if slot_freed {
            self.notify_slot_freed();
        }
        if was_last {
            self.drain_changed.notify_waiters();
        }
    }

    /// Makes the end of the last request in flight notify the returned watch until it is dropped.
    pub(super) fn watch_drain(&self) -> DrainWatch<'_> {
        DrainWatch::new(self)
    }

    /// Takes the one slot of a trial; returns false if it is taken.
    pub(super) fn acquire_trial(&self) -> bool {
        !self.trial.load(Relaxed) && !self.trial.swap(true, Acquire)
    }

    pub(super) fn has_trial(&self) -> bool {
        self.trial.load(Relaxed)
    }

    pub(super) fn release_trial(&self) {
        self.trial.store(false, Release);
    }

    fn notify_slot_freed(&self) {
        if let Some(slot_freed) = self.slot_freed.get() {
            slot_freed.notify_one();
        }
    }

    pub(super) fn active(&self) -> HealthStatus {
        match self.active.load(Relaxed) {
            HEALTHY => HealthStatus::Healthy,
            UNHEALTHY => HealthStatus::Unhealthy,
            _ => HealthStatus::Unknown,
        }
    }

    pub(super) fn set_active(&self, health: HealthStatus) {
        let value = match health {
            HealthStatus::Healthy => HEALTHY,
            HealthStatus::Unhealthy => UNHEALTHY,
            HealthStatus::Unknown => UNKNOWN,
        };
        self.active.store(value, Relaxed);
    }

    pub(super) fn set_checked(&self, checked: bool) {
        set(&self.checked, checked);
    }

    pub(super) fn set_capped(&self, capped: bool) {
        self.counters.set_capped(capped);
    }

    pub(super) fn address_changes(&self) -> u32 {
        self.address_changes.load(Relaxed)
    }

    pub(super) fn count_address_change(&self) {
        self.address_changes.fetch_add(1, Relaxed);
    }

    pub(super) fn circuit(&self) -> Circuit {
        match self.circuit.load(Relaxed) {
            CLOSED => Circuit::Closed,
            HALF_OPEN => Circuit::HalfOpen,
            _ => Circuit::Open,
        }
    }

    pub(super) fn set_circuit(&self, circuit: Circuit) {
        let value = match circuit {
            Circuit::Closed => CLOSED,
            Circuit::HalfOpen => HALF_OPEN,
            Circuit::Open => OPEN,
        };
        self.circuit.store(value, Relaxed);
    }

    /// Combines active health and the circuit; no other code does.
    pub(super) fn health(&self) -> HealthStatus {
        if self.circuit() == Circuit::Closed {
            self.active()
        } else {
            HealthStatus::Unhealthy
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    pub(super) fn set_capacity(&self, thousandths: u32) {
        self.capacity.store(thousandths, Relaxed);
    }

    pub(super) fn slow_start_share(&self) -> u32 {
        self.slow_start_share.load(Relaxed)
    }

    pub(super) fn set_slow_start_share(&self, thousandths: u32) {
        self.slow_start_share.store(thousandths, Relaxed);
    }

    pub(super) fn asks_to_drain(&self) -> bool {
        self.asks_to_drain.load(Relaxed)
    }

    pub(super) fn set_asks_to_drain(&self, asks: bool) {
        self.asks_to_drain.store(asks, Relaxed);
    }

    pub(super) fn is_evacuated(&self) -> bool {
        self.evacuated.load(Relaxed)
    }

    pub(super) fn set_evacuated(&self, evacuated: bool) {
        set(&self.evacuated, evacuated);
    }

    pub(super) fn flaps(&self) -> (u32, bool) {
        let rare = self.rarely_used();
        (rare.flaps, rare.flapping)
    }

    pub(super) fn set_flaps(&self, flaps: u32, flapping: bool) {
        let mut rare = self.rarely_used();
        (rare.flaps, rare.flapping) = (flaps, flapping);
    }

    pub(super) fn since(&self) -> Instant {
        self.rarely_used().since
    }

    /// Begins a period of another health; returns how long the one before lasted.
    pub(super) fn begin_health_period(&self, now: Instant) -> Duration {
        self.count_transition();
        let before = std::mem::replace(&mut self.rarely_used().since, now);
        now.saturating_duration_since(before)
    }

    pub(super) fn mode(&self) -> Mode {
        self.rarely_used().mode
    }

    /// Returns true if the mode is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.rarely_used().mode = mode;
        self.ready.store(mode == Mode::Ready, Relaxed);
        // A waiting drain compares the mode again.
        self.drain_changed.notify_waiters();
    }

    fn rarely_used(&self) -> MutexGuard<'_, RarelyUsed> {
        self.rarely_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    pub(super) fn set_usable(&self, usable: bool) {
        set(&self.usable, usable);
    }

    /// Returns true if the sticky sessions of a backend that is not usable stay.
    pub(super) fn keeps_sessions(&self, weight_is_zero: bool) -> bool {
        let out = match self.health() {
            HealthStatus::Unhealthy => true,
            // Its address changed, and no check has passed at the new one.
            HealthStatus::Unknown => self.checked.load(Relaxed),
            HealthStatus::Healthy => false,
        };
        if out || self.is_evacuated() {
            return false;
        }
        match self.mode() {
            Mode::Draining { until } => Instant::now() < until,
            Mode::Maintenance => false,
            Mode::Ready => weight_is_zero || self.asks_to_drain(),
        }
    }

    pub(super) fn attachment<T: Attachment>(
        &self,
        key: &AttachmentKey<T>,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        self.attachments.get(key, make)
    }

    #[cfg(test)]
    pub(super) fn count_attachments(&self) -> usize {
        self.attachments.count()
    }

    /// Lets each attachment release what it holds idle.
    pub(super) fn retire(&self) {
        self.attachments.notify(Notification::Retire);
    }

    /// Notifies each attachment that the pool ended an ejection.
    pub(super) fn notify_readmitted(&self) {
        self.attachments.notify(Notification::Readmitted);
    }
}

/// A drain's wait for the last request in flight; see [`State::watch_drain`].
pub(super) struct DrainWatch<'a>(&'a State);

impl<'a> DrainWatch<'a> {
    fn new(state: &'a State) -> Self {
        state.counters.add_drain_waiter();
        Self(state)
    }

    /// Returns a future that ends when the drain may have ended or changed.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.0.drain_changed.notified()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.counters.is_empty()
    }
}

impl Drop for DrainWatch<'_> {
    fn drop(&mut self) {
        self.0.counters.remove_drain_waiter();
    }
}

/// Writes a flag only if it changes: each snapshot sets the flags of all members, and a write would
/// take the cache line from the threads that pick.
pub(super) fn set(flag: &AtomicBool, value: bool) {
    if flag.load(Relaxed) != value {
        flag.store(value, Relaxed);
    }
}

/// The whole, in thousandths: 10 % of a weight of 1 is still a weight.
pub(super) const FULL: u32 = 1_000;
const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;
const UNKNOWN: u8 = 0;
const HEALTHY: u8 = 1;
const UNHEALTHY: u8 = 2;
