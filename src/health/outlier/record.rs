//! What one layer's traffic showed about one backend, and what is done about it.
//!
//! A record hangs at the backend under a key of its layer: several layers on one pool judge their
//! own traffic by their own rules. It belongs to an incarnation, and `member` refuses to act for a
//! backend that was replaced meanwhile.
//!
//! All counters are `Relaxed`: they are evidence, not a protocol. A count that is one too low on
//! another thread ejects one failure later. The ejection itself goes through the pool, which
//! decides under its own lock whether the backend may go (invariant F).

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    BUCKETS, EjectionHistory, FailureWindow, LatencyWindow, MeasuredLatency, Outliers, Streak,
    ejection_requested,
};
use crate::{
    error::ErrorKind,
    health::layer_state::{HealthState, lock},
    pool::{Attachment, Backend, Circuit, Ejection, Reason},
};

/// What one layer's traffic showed about one backend.
pub(in crate::health) struct OutlierRecord {
    rules: Arc<Outliers>,
    streak: Streak,
    window: FailureWindow,
    latency: Option<LatencyWindow>,
    history: Mutex<EjectionHistory>,
    /// In milliseconds: an ejection that was refused is not tried again at each failure.
    ///
    /// Milliseconds of `HealthState::millis`. An ejection that was refused (the last usable
    /// backend) would otherwise take the pool's lock with each failure.
    next_try: AtomicU64,
    state: Weak<HealthState>,
    id: Arc<str>,
    incarnation: u64,
}

impl OutlierRecord {
    /// One allocation for each backend and layer, at the first request; kept at the backend.
    pub(in crate::health) fn new(
        state: &Arc<HealthState>,
        rules: Arc<Outliers>,
        backend: &Backend,
    ) -> Self {
        Self {
            streak: Streak::default(),
            window: FailureWindow::default(),
            latency: rules.slow.is_some().then(LatencyWindow::default),
            history: Mutex::default(),
            next_try: AtomicU64::new(0),
            state: Arc::downgrade(state),
            id: backend.shared_id(),
            incarnation: backend.incarnation(),
            rules,
        }
    }

    pub(in crate::health) fn rules(&self) -> &Outliers {
        &self.rules
    }

    pub(in crate::health) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns the moment, where latencies are looked at.
    pub(in crate::health) fn clock(&self) -> Option<Instant> {
        self.latency.as_ref().map(|_| Instant::now())
    }

    /// The time to the response head, if latencies are compared.
    pub(in crate::health) fn took(&self, time: Duration) {
        if let Some(latency) = &self.latency {
            latency.record(time);
        }
    }

    pub(in crate::health) fn take_latency(&self) -> Option<MeasuredLatency> {
        self.latency.as_ref().map(LatencyWindow::take)
    }

    /// Two atomic operations; no lock, no clock.
    pub(in crate::health) fn success(&self) {
        self.streak.success();
        if self.rules.rate.is_some() {
            self.window.success();
        }
    }

    /// Reads the clock, and may eject the backend before it returns.
    #[cold]
    pub(in crate::health) fn failure(&self, reason: Reason) {
        let streak = self.streak.failure();
        self.judge(reason, streak);
    }

    /// A response that began well broke off.
    #[cold]
    pub(in crate::health) fn broke_off(&self, kind: ErrorKind) {
        if self.rules.rate.is_some() {
            // The head was counted as a success when it came.
            self.window.undo_success();
        }
        let code = match kind {
            ErrorKind::ResponseBodyTimeout => "L7TOUT",
            _ => "L7RSP",
        };
        self.judge(Reason::new(code, kind.as_str()), 0);
    }

    /// `streak` is 0 for a failure that does not count in a row.
    fn judge(&self, reason: Reason, streak: u32) {
        let Some(state) = self.state.upgrade() else {
            return;
        };
        let rules = &*self.rules;
        let now = state.millis();
        let mut reason = reason;
        let mut guilty = streak >= rules.consecutive;
        if let Some(share) = rules.rate {
            // The window may be as short as a second: a tick is then 100 ms.
            let tick = now * BUCKETS / (rules.window.as_millis() as u64).max(1);
            let count = self.window.failure(tick);
            let rate = f64::from(count.failures) / count.total as f64;
            if !guilty && count.total >= u64::from(rules.volume) && rate >= share {
                guilty = true;
                reason = Reason::new(
                    reason.code,
                    format!(
                        "{}: {} of {} within {:?} failed",
                        reason.detail, count.failures, count.total, rules.window
                    ),
                );
            }
        }
        if guilty && self.may_try(now) {
            self.eject(&state, reason, streak, rules.max_share);
        }
    }

    /// The backend itself asks to be taken out.
    #[cold]
    pub(in crate::health) fn ejection_requested(&self) {
        if let Some(state) = self.state.upgrade()
            && self.may_try(state.millis())
        {
            self.eject(&state, ejection_requested(), 1, 1.0);
        }
    }

    /// Called by the prober, not by requests.
    #[cold]
    pub(in crate::health) fn is_slow(&self, reason: Reason) {
        if let Some(state) = self.state.upgrade() {
            self.eject(&state, reason, 0, self.rules.max_share);
        }
    }

    /// Readmits the backend at once: the next pick finds it.
    #[cold]
    pub(in crate::health) fn trial_passed(&self) {
        if let Some((state, backend)) = self.member() {
            // Back by other means, or out for something newer: this says no more than others do.
            if backend.circuit() != Circuit::HalfOpen {
                return;
            }
            self.readmitted(Instant::now());
            state
                .pool
                .readmit(&backend, Reason::new("TRIAL", "a trial passed"));
            state.touch(self.incarnation);
        }
    }

    /// Opens the circuit again, and starts the next, longer ejection.
    #[cold]
    pub(in crate::health) fn trial_failed(&self, reason: Reason) {
        if let Some((state, backend)) = self.member() {
            let say = || {
                tracing::info!(
                    target: "evenkeel::health",
                    backend = backend.id(), %reason, "a trial failed"
                );
            };
            if state.pool.end_trial_and(&backend, say) {
                state.touch(self.incarnation);
            } else {
                // The circuit was not half open: it is a failure like any other.
                self.failure(reason);
            }
        }
    }

    /// Counts an ejection; returns how long it lasts.
    pub(in crate::health) fn ejected(&self, now: Instant) -> Duration {
        lock(&self.history).eject(&self.rules, now, fastrand::f64())
    }

    /// Also called by the pool, for a backend that another layer or the program readmitted. All
    /// evidence begins at zero: what was counted before the ejection is paid for.
    pub(in crate::health) fn readmitted(&self, now: Instant) {
        lock(&self.history).readmit(now);
        self.streak.success();
        self.window.clear();
        self.next_try.store(0, Relaxed);
    }

    /// Two threads may both get true; the pool refuses the second ejection.
    fn may_try(&self, now: u64) -> bool {
        let may = now >= self.next_try.load(Relaxed);
        if may {
            self.next_try.store(now + RETRY_EJECTION, Relaxed);
        }
        may
    }

    /// `None` if the backend left the pool, or another one has its id by now.
    fn member(&self) -> Option<(Arc<HealthState>, Backend)> {
        let state = self.state.upgrade()?;
        let backend = state.pool.snapshot().get(&self.id).cloned()?;
        (backend.incarnation() == self.incarnation).then_some((state, backend))
    }

    fn eject(&self, state: &HealthState, reason: Reason, streak: u32, max_share: f64) {
        let Some((_, backend)) = self.member() else {
            return;
        };
        let id = backend.id();
        let (code, detail) = (reason.code, reason.detail.clone());
        match state.pool.eject(&backend, reason, streak, max_share) {
            Ejection::Ejected => state.touch(self.incarnation),
            Ejection::LastUsable => tracing::warn!(
                target: "evenkeel::health",
                backend = id, streak, code, detail = &*detail, "the backend fails, and is not ejected: it is the last"
            ),
            Ejection::ShareExceeded => tracing::warn!(
                target: "evenkeel::health",
                backend = id, streak, code, detail = &*detail, "the backend fails, and is not ejected: too many are"
            ),
            Ejection::AlreadyEjected | Ejection::NotAMember => {}
        }
    }
}

impl Attachment for OutlierRecord {
    fn readmitted(&self) {
        Self::readmitted(self, Instant::now());
    }
}

/// In milliseconds: soon enough for when another backend comes back, rare enough for the lock.
const RETRY_EJECTION: u64 = 1_000;
