//! What one layer's traffic showed about one backend, and what is done about it.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    outlier::{BUCKETS, History, Latency, Measured, Outliers, Streak, Window, asked_out},
    owner::{Core, lock},
};
use crate::{
    error::ErrorKind,
    pool::{Attachment, Backend, Circuit, Ejection, Reason},
};

/// What one layer's traffic showed about one backend.
pub(super) struct Watch {
    rules: Arc<Outliers>,
    streak: Streak,
    window: Window,
    latency: Option<Latency>,
    history: Mutex<History>,
    /// Its circuit is half open: who is sent there now is a trial.
    trial: AtomicBool,
    /// In milliseconds: an ejection that was refused is not tried again at each failure.
    next_try: AtomicU64,
    core: Weak<Core>,
    id: Arc<str>,
    incarnation: u64,
}

impl Watch {
    pub(super) fn new(core: &Arc<Core>, rules: Arc<Outliers>, backend: &Backend) -> Self {
        Self {
            streak: Streak::default(),
            window: Window::default(),
            latency: rules.slow.is_some().then(Latency::default),
            history: Mutex::default(),
            trial: AtomicBool::new(false),
            next_try: AtomicU64::new(0),
            core: Arc::downgrade(core),
            id: backend.shared_id(),
            incarnation: backend.incarnation(),
            rules,
        }
    }

    pub(super) fn rules(&self) -> &Outliers {
        &self.rules
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Returns true if a request that is sent now is a trial.
    pub(super) fn is_trial(&self) -> bool {
        self.trial.load(Relaxed)
    }

    pub(super) fn set_trial(&self, trial: bool) {
        self.trial.store(trial, Relaxed);
    }

    /// Returns the moment, where latencies are looked at.
    pub(super) fn clock(&self) -> Option<Instant> {
        self.latency.as_ref().map(|_| Instant::now())
    }

    pub(super) fn took(&self, time: Duration) {
        if let Some(latency) = &self.latency {
            latency.record(time);
        }
    }

    pub(super) fn take_latency(&self) -> Option<Measured> {
        self.latency.as_ref().map(Latency::take)
    }

    pub(super) fn success(&self) {
        self.streak.success();
        if self.rules.rate.is_some() {
            self.window.success();
        }
    }

    #[cold]
    pub(super) fn failure(&self, reason: Reason) {
        let streak = self.streak.failure();
        self.judge(reason, streak);
    }

    /// A response that began well broke off.
    #[cold]
    fn broke_off(&self, kind: ErrorKind) {
        if self.rules.rate.is_some() {
            self.window.undo_success();
        }
        let code = match kind {
            ErrorKind::ResponseBodyTimeout => "L7TOUT",
            _ => "L7RSP",
        };
        self.judge(Reason::new(code, kind.as_str()), 0);
    }

    fn judge(&self, reason: Reason, streak: u32) {
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let rules = &*self.rules;
        let now = core.millis();
        let mut reason = reason;
        let mut guilty = streak >= rules.consecutive;
        if let Some(share) = rules.rate {
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
            self.eject(&core, reason, streak, rules.max_share);
        }
    }

    /// The backend itself asks to be taken out.
    #[cold]
    pub(super) fn asked_out(&self) {
        if let Some(core) = self.core.upgrade() {
            if self.may_try(core.millis()) {
                self.eject(&core, asked_out(), 1, 1.0);
            }
        }
    }

    #[cold]
    pub(super) fn is_slow(&self, reason: Reason) {
        if let Some(core) = self.core.upgrade() {
            self.eject(&core, reason, 0, self.rules.max_share);
        }
    }

    #[cold]
    pub(super) fn trial_passed(&self) {
        if let Some((core, backend)) = self.member() {
            // Back by other means, or out for something newer: this says no more than others do.
            if backend.circuit() != Circuit::HalfOpen {
                return;
            }
            self.readmitted(Instant::now());
            core.pool
                .readmit(&backend, Reason::new("TRIAL", "a trial passed"));
            core.touch(self.incarnation);
        }
    }

    #[cold]
    pub(super) fn trial_failed(&self, reason: Reason) {
        if let Some((core, backend)) = self.member() {
            self.set_trial(false);
            let say = || {
                tracing::info!(
                    target: "evenkeel::health",
                    backend = backend.id(), %reason, "a trial failed"
                );
            };
            if core.pool.end_trial_and(&backend, say) {
                core.touch(self.incarnation);
            } else {
                // The circuit was not half open: it is a failure like any other.
                self.failure(reason);
            }
        }
    }

    /// Counts an ejection; returns how long it lasts.
    pub(super) fn ejected(&self, now: Instant) -> Duration {
        lock(&self.history).eject(&self.rules, now, fastrand::f64())
    }

    pub(super) fn readmitted(&self, now: Instant) {
        lock(&self.history).readmit(now);
        self.set_trial(false);
        self.streak.success();
        self.window.clear();
        self.next_try.store(0, Relaxed);
    }

    fn may_try(&self, now: u64) -> bool {
        let may = now >= self.next_try.load(Relaxed);
        if may {
            self.next_try.store(now + RETRY_EJECTION, Relaxed);
        }
        may
    }

    fn member(&self) -> Option<(Arc<Core>, Backend)> {
        let core = self.core.upgrade()?;
        let backend = core.pool.snapshot().get(&self.id).cloned()?;
        (backend.incarnation() == self.incarnation).then_some((core, backend))
    }

    fn eject(&self, core: &Core, reason: Reason, streak: u32, max_share: f64) {
        let Some((_, backend)) = self.member() else {
            return;
        };
        let id = backend.id();
        let (code, detail) = (reason.code, reason.detail.clone());
        match core.pool.eject(&backend, reason, streak, max_share) {
            Ejection::Ejected => core.touch(self.incarnation),
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

impl Attachment for Watch {
    fn readmitted(&self) {
        Self::readmitted(self, Instant::now());
    }

    fn broken(&self, kind: ErrorKind) {
        self.broke_off(kind);
    }
}

/// In milliseconds: soon enough for when another backend comes back, rare enough for the lock.
const RETRY_EJECTION: u64 = 1_000;
