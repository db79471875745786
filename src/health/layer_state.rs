//! What a layer and its services share: the settings, the task, and the outlier records.
//!
//! ```text
//!   HealthLayer ─┐
//!   Health<S> ───┼─▶ HealthTask ─▶ HealthState ◀─ Driver (a tokio task)
//!   Health<S> ───┘    (aborts the     │  ▲
//!                      task at drop)  │  └ Weak ─ OutlierRecord, at each backend
//!                                     └─▶ Pool
//! ```
//!
//! The services hold the [`HealthTask`], and the task holds the [`HealthState`] only: with the last
//! service the `HealthTask` is dropped and aborts the task. A record holds the state weakly, as the
//! pool, which the state holds, holds the record.
//!
//! Roles say to the pool what its members may expect. They are held twice: by the `HealthTask` for
//! as long as the layer exists (so that the state of the backends outlives a runtime), and by
//! [`Alive`] while the task runs (so that backends that were never checked are held only while
//! something will check them).

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

use super::{check::Checks, outlier::OutlierRecord, outlier::Outliers, prober::Driver};
use crate::pool::{AttachmentCache, AttachmentKey, Backend, Pool, Rank, Role, RoleGuard};

/// Owns the task that checks and readmits; the task ends with it.
pub(super) struct HealthTask {
    state: Arc<HealthState>,
    task: Mutex<Option<AbortHandle>>,
    /// Not the task's: what is known stays so over the end of a runtime.
    _roles: RoleGuard,
}

impl HealthTask {
    pub(super) fn new(state: HealthState) -> Self {
        let roles: &[Role] = match (state.checks.is_some(), state.outliers.is_some()) {
            (true, true) => &[Role::Ticker, Role::HealthOwner, Role::OutlierDetector],
            (true, false) => &[Role::Ticker, Role::HealthOwner],
            (false, true) => &[Role::Ticker, Role::OutlierDetector],
            (false, false) => &[Role::Ticker],
        };
        let roles = state.pool.attach_roles(roles);
        Self {
            state: Arc::new(state),
            task: Mutex::new(None),
            _roles: roles,
        }
    }

    pub(super) fn state(&self) -> &Arc<HealthState> {
        &self.state
    }

    /// Starts the task where it does not run: at first, and after the end of its runtime.
    ///
    /// Called for each `poll_ready`: one atomic load in the usual case.
    pub(super) fn ensure(&self) {
        if !self.state.alive.load(Acquire) {
            self.start();
        }
    }

    /// Does nothing outside of a runtime; the next call inside one starts the task.
    #[cold]
    fn start(&self) {
        // A layer may be built before the runtime is.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut task = lock(&self.task);
        // Another thread was faster; the lock is held, so its handle is stored before this one
        // returns.
        if self.state.alive.swap(true, AcqRel) {
            return;
        }
        // Made before the spawn, so that the roles are attached when this call returns; it moves
        // into the task, whose end, by whatever cause, drops it.
        let alive = Alive::new(self.state.clone());
        let driver = Driver::new(self.state.clone());
        let task_of_driver = async move {
            let _alive = alive;
            driver.run().await;
        };
        *task = Some(runtime.spawn(task_of_driver).abort_handle());
    }
}

impl Drop for HealthTask {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for HealthTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthTask")
            .field("checks", &self.state.checks)
            .field("outliers", &self.state.outliers)
            .field("alive", &self.state.alive)
            .finish()
    }
}

/// Lives in the task; its drop says that the task is gone, whatever ended it.
struct Alive {
    state: Arc<HealthState>,
    /// Held from the moment of the start, so that no backend gets traffic before its first check.
    roles: Option<RoleGuard>,
}

impl Alive {
    fn new(state: Arc<HealthState>) -> Self {
        let roles: &[Role] = match state.checks.is_some() {
            true => &[Role::Ticker, Role::HealthOwner, Role::Prober],
            false => &[Role::Ticker],
        };
        let roles = Some(state.pool.attach_roles(roles));
        Self { state, roles }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // Before `alive` is cleared: a start that follows at once attaches roles of its own.
        drop(self.roles.take());
        self.state.alive.store(false, Release);
    }
}

/// What the services and the task both know.
pub(super) struct HealthState {
    pub(super) pool: Pool,
    pub(super) checks: Option<Checks>,
    pub(super) outliers: Option<Arc<Outliers>>,
    /// Of several that check one pool, which goes first.
    pub(super) rank: Rank,
    /// Notified when live traffic changed a circuit …
    pub(super) wake: Notify,
    /// … of one of these backends.
    touched: Mutex<Vec<u64>>,
    key: AttachmentKey<OutlierRecord>,
    /// The task runs. Cleared with Release by the drop of [`Alive`], behind the roles; read with
    /// Acquire.
    alive: AtomicBool,
    epoch: Instant,
}

impl HealthState {
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

    /// Returns the outlier record of a backend; `None` without outlier detection.
    pub(super) fn record(self: &Arc<Self>, backend: &Backend) -> Option<Arc<OutlierRecord>> {
        self.cached_record(backend, &mut AttachmentCache::default())
    }

    /// As [`record`](Self::record), with a cache for a caller that asks often.
    pub(super) fn cached_record(
        self: &Arc<Self>,
        backend: &Backend,
        recent: &mut AttachmentCache<OutlierRecord>,
    ) -> Option<Arc<OutlierRecord>> {
        let rules = self.outliers.as_ref()?;
        let make = || OutlierRecord::new(self, rules.clone(), backend);
        Some(recent.get(backend, &self.key, make))
    }

    /// Has the task look at a backend's circuit.
    ///
    /// Callable from any thread; takes a lock for one push. Called for changes of a circuit only,
    /// which are rare.
    pub(super) fn touch(&self, key: u64) {
        lock(&self.touched).push(key);
        self.wake.notify_one();
    }

    /// Returns each key as often as it was touched.
    pub(super) fn take_touched(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.touched))
    }

    /// Returns the milliseconds since it was made.
    ///
    /// The clock of ejections that were refused; it needs no more than milliseconds, and fits an
    /// atomic.
    pub(super) fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
