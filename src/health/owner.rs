//! What a layer and all its services share: the settings, the task, what traffic showed.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::Instant};

use super::{
    check::Checks,
    outlier::{History, Outliers, Streak},
    prober::Driver,
};
use crate::pool::{Attachment, AttachmentKey, Backend, Ejection, Pool, ProberGuard, Reason};

/// Owns the task that checks and readmits; the task ends with it.
pub(super) struct Owner {
    core: Arc<Core>,
    task: Mutex<Option<AbortHandle>>,
}

impl Owner {
    pub(super) fn new(core: Core) -> Self {
        Self {
            core: Arc::new(core),
            task: Mutex::new(None),
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Starts the task where it does not run: at first, and after the end of its runtime.
    pub(super) fn ensure(&self) {
        if !self.core.alive.load(Acquire) {
            self.start();
        }
    }

    #[cold]
    fn start(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut task = lock(&self.task);
        if self.core.alive.swap(true, AcqRel) {
            return;
        }
        let alive = Alive::new(self.core.clone());
        let driver = Driver::new(self.core.clone());
        let task_of_driver = async move {
            let _alive = alive;
            driver.run().await;
        };
        *task = Some(runtime.spawn(task_of_driver).abort_handle());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("checks", &self.core.checks)
            .field("outliers", &self.core.outliers)
            .field("alive", &self.core.alive)
            .finish()
    }
}

/// Lives in the task; its drop says that the task is gone, whatever ended it.
struct Alive {
    core: Arc<Core>,
    /// Held from the moment of the start, so that no backend gets traffic before its first check.
    prober: Option<ProberGuard>,
}

impl Alive {
    fn new(core: Arc<Core>) -> Self {
        let prober = core.checks.is_some().then(|| core.pool.attach_prober());
        Self { core, prober }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        drop(self.prober.take());
        self.core.alive.store(false, Release);
    }
}

/// What the services and the task both know.
pub(super) struct Core {
    pub(super) pool: Pool,
    pub(super) checks: Option<Checks>,
    pub(super) outliers: Option<Outliers>,
    /// Told when a backend was ejected.
    pub(super) wake: Notify,
    key: AttachmentKey<Watch>,
    alive: AtomicBool,
    epoch: Instant,
}

impl Core {
    pub(super) fn new(pool: Pool, checks: Option<Checks>, outliers: Option<Outliers>) -> Self {
        Self {
            pool,
            checks,
            outliers,
            wake: Notify::new(),
            key: AttachmentKey::new(),
            alive: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    /// Returns what traffic showed about a backend so far.
    pub(super) fn watch(self: &Arc<Self>, backend: &Backend) -> Arc<Watch> {
        backend.attachment(&self.key, || Watch {
            streak: Streak::default(),
            history: Mutex::default(),
            next_try: AtomicU64::new(0),
            core: Arc::downgrade(self),
            id: backend.shared_id(),
            incarnation: backend.incarnation(),
        })
    }
}

/// What one layer's traffic showed about one backend.
pub(super) struct Watch {
    streak: Streak,
    history: Mutex<History>,
    /// In milliseconds: an ejection that was refused is not tried again at each failure.
    next_try: AtomicU64,
    core: Weak<Core>,
    id: Arc<str>,
    incarnation: u64,
}

impl Watch {
    pub(super) fn success(&self) {
        self.streak.success();
    }

    #[cold]
    pub(super) fn failure(&self, reason: Reason) {
        let streak = self.streak.failure();
        let Some(core) = self.core.upgrade() else {
            return;
        };
        let Some(rules) = &core.outliers else {
            return;
        };
        if streak < rules.consecutive {
            return;
        }
        let now = core.epoch.elapsed().as_millis() as u64;
        if now < self.next_try.load(Relaxed) {
            return;
        }
        self.next_try.store(now + RETRY_EJECTION, Relaxed);
        let backend = core.pool.snapshot().get(&self.id).cloned();
        if let Some(backend) = backend.filter(|b| b.incarnation() == self.incarnation) {
            eject(&core, rules, &backend, reason, streak);
        }
    }

    /// Counts an ejection; returns how long it lasts.
    pub(super) fn ejected(&self, rules: &Outliers, now: Instant) -> Duration {
        lock(&self.history).eject(rules, now)
    }

    pub(super) fn readmitted(&self, now: Instant) {
        lock(&self.history).readmit(now);
        self.streak.success();
        self.next_try.store(0, Relaxed);
    }
}

impl Attachment for Watch {}

fn eject(core: &Core, rules: &Outliers, backend: &Backend, reason: Reason, streak: u32) {
    let id = backend.id();
    let why = reason.to_string();
    match core.pool.eject(backend, reason, streak, rules.max_share) {
        Ejection::Ejected => {
            tracing::warn!(
                target: "evenkeel::health",
                backend = id, streak, reason = why, "ejected for what live traffic showed"
            );
            core.wake.notify_one();
        }
        Ejection::Last => tracing::warn!(
            target: "evenkeel::health",
            backend = id, streak, reason = why, "fails, and is not ejected: it is the last"
        ),
        Ejection::Share => tracing::warn!(
            target: "evenkeel::health",
            backend = id, streak, reason = why, "fails, and is not ejected: too many are"
        ),
        Ejection::Already | Ejection::Gone => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In milliseconds: soon enough for when another backend comes back, rare enough for the lock.
const RETRY_EJECTION: u64 = 1_000;
