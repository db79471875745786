//! What a layer and all its services share: the settings, the task, what traffic showed.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use tokio::{runtime::Handle, sync::Notify, task::AbortHandle, time::Instant};

use super::{check::Checks, outlier::Outliers, prober::Driver, watch::Watch};
use crate::pool::{AttachmentCache, AttachmentKey, Backend, Pool, Rank, Role, RoleGuard};

/// Owns the task that checks and readmits; the task ends with it.
pub(super) struct Owner {
    core: Arc<Core>,
    task: Mutex<Option<AbortHandle>>,
    /// Not the task's: what is known stays so over the end of a runtime.
    _keeper: RoleGuard,
}

impl Owner {
    pub(super) fn new(core: Core) -> Self {
        let roles: &[Role] = match (core.checks.is_some(), core.outliers.is_some()) {
            (true, true) => &[Role::Ticker, Role::HealthOwner, Role::OutlierDetector],
            (true, false) => &[Role::Ticker, Role::HealthOwner],
            (false, true) => &[Role::Ticker, Role::OutlierDetector],
            (false, false) => &[Role::Ticker],
        };
        let keeper = core.pool.attach_roles(roles);
        Self {
            core: Arc::new(core),
            task: Mutex::new(None),
            _keeper: keeper,
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
    keeper: Option<RoleGuard>,
}

impl Alive {
    fn new(core: Arc<Core>) -> Self {
        let roles: &[Role] = match core.checks.is_some() {
            true => &[Role::Ticker, Role::HealthOwner, Role::Prober],
            false => &[Role::Ticker],
        };
        let keeper = Some(core.pool.attach_roles(roles));
        Self { core, keeper }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        drop(self.keeper.take());
        self.core.alive.store(false, Release);
    }
}

/// What the services and the task both know.
pub(super) struct Core {
    pub(super) pool: Pool,
    pub(super) checks: Option<Checks>,
    pub(super) outliers: Option<Arc<Outliers>>,
    /// Of several that check one pool, which goes first.
    pub(super) rank: Rank,
    /// Told when an ejection, a trial or a readmission was made by live traffic …
    pub(super) wake: Notify,
    /// … of these backends.
    touched: Mutex<Vec<u64>>,
    key: AttachmentKey<Watch>,
    alive: AtomicBool,
    epoch: Instant,
}

impl Core {
    pub(super) fn new(
        pool: Pool,
        checks: Option<Checks>,
        outliers: Option<Outliers>,
        rank: Rank,
    ) -> Self {
        Self {
            pool,
            checks,
            rank,
            outliers: outliers.map(Arc::new),
            wake: Notify::new(),
            touched: Mutex::default(),
            key: AttachmentKey::new(),
            alive: AtomicBool::new(false),
            epoch: Instant::now(),
        }
    }

    /// Returns what traffic showed about a backend so far; `None` where nobody looks.
    pub(super) fn watch(self: &Arc<Self>, backend: &Backend) -> Option<Arc<Watch>> {
        self.watch_again(backend, &mut AttachmentCache::default())
    }

    /// As [`watch`](Self::watch), for who asks again and again.
    pub(super) fn watch_again(
        self: &Arc<Self>,
        backend: &Backend,
        recent: &mut AttachmentCache<Watch>,
    ) -> Option<Arc<Watch>> {
        let rules = self.outliers.as_ref()?;
        let make = || Watch::new(self, rules.clone(), backend);
        Some(recent.get(backend, &self.key, make))
    }

    /// Has the task look at a backend's circuit.
    pub(super) fn touch(&self, key: u64) {
        lock(&self.touched).push(key);
        self.wake.notify_one();
    }

    pub(super) fn take_touched(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.touched))
    }

    /// Returns the milliseconds since it was made.
    pub(super) fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
