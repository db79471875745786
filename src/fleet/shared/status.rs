//! What a program sees of its part in a fleet, and what it shares with the task of that part.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::{
    order::Now,
    order_book::{ExportedOrder, OrderBook},
    secrets::SharedSecret,
};
use crate::{error::ConfigError, pool::Pool, stats::Stats};

/// The part of this instance in a fleet, begun by [`Fleet::start`](super::Fleet::start). It ends when this
/// handle is dropped: the pool stays as it is, and no order comes or goes any more.
///
/// A process that is replaced hands over what it knows: its successor may find the store down.
///
/// ```no_run
/// use evenkeel::{Pool, fleet::{Fleet, RedisStore}};
///
/// # async fn run(pool: Pool, of_the_next: Pool) -> Result<(), evenkeel::ConfigError> {
/// let store = || RedisStore::new("redis://redis.internal");
/// let old = Fleet::new(store()?, pool).start().await;
/// let exported = old.export();
/// // In the next process, before its listeners open:
/// let new = Fleet::new(store()?, of_the_next).start().await;
/// new.import(&exported)?;
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct FleetHandle {
    task: AbortHandle,
    shown: Arc<Shown>,
}

/// What a gauge reads. Unlike the part itself, the task does not keep it alive, and it ends with the
/// handle.
struct Shown(Arc<Part>);

/// What goes to a successor.
#[derive(Serialize, Deserialize)]
struct Exported {
    fleet: String,
    orders: Vec<ExportedOrder>,
    secrets: BTreeMap<String, Vec<u8>>,
}

impl FleetHandle {
    pub(super) fn new(task: AbortHandle, part: Arc<Part>) -> Self {
        let shown = Arc::new(Shown(part));
        Self { task, shown }
    }

    /// Returns true if the store answered when it was last asked.
    #[must_use]
    pub fn is_store_up(&self) -> bool {
        self.shown.0.is_up.load(Relaxed)
    }

    /// Adds the gauge `evenkeel_fleet_store_up`, which is 1 while the store answers, else 0. It ends with
    /// this handle.
    pub fn add_gauge(&self, stats: &Stats) {
        stats.add_to_gauge(
            "evenkeel_fleet_store_up",
            "1 if the store of the fleet answered when it was last asked.",
            &self.shown,
            |shown| f64::from(u8::from(shown.0.is_up.load(Relaxed))),
        );
    }

    /// Returns the orders and the secrets that this instance knows, for [`import`](Self::import) in the
    /// process that replaces it. **They have the secrets of the fleet in them**: hand them over on a
    /// channel that no other user can read, and do not store them.
    ///
    /// Costs a copy of about 100 bytes for each order, and a lock that the exchange with the store takes
    /// as well, for microseconds.
    #[must_use]
    pub fn export(&self) -> Vec<u8> {
        let part = &self.shown.0;
        // What was ordered a moment ago goes over with its own time.
        part.observe();
        let secrets = part.secrets.iter();
        let exported = Exported {
            fleet: part.fleet.clone(),
            orders: part.book().export(),
            secrets: secrets.filter_map(SharedSecret::export).collect(),
        };
        serde_json::to_vec(&exported).unwrap_or_default()
    }

    /// Takes over what the predecessor of this process [exported](Self::export): orders that are later
    /// than those that this instance knows, with the times at which they were given, and the secrets
    /// that are still accepted. So an order that the predecessor missed while it was cut off from the
    /// store holds here as soon as the store answers, and its own orders do not undo later ones.
    ///
    /// It may be called several times, at any time. Nothing waits: the store gets what it misses with
    /// the next exchange.
    ///
    /// # Errors
    ///
    /// If the bytes are not those of an export, or those of a fleet with another
    /// [prefix](super::RedisStore::prefix). Nothing changes then.
    pub fn import(&self, exported: &[u8]) -> Result<(), ConfigError> {
        let wrong = |why: String| ConfigError::new("fleet", why);
        let exported: Exported = serde_json::from_slice(exported)
            .map_err(|error| wrong(format!("{error}: the bytes of an export are accepted")))?;
        let part = &self.shown.0;
        if exported.fleet != part.fleet {
            return Err(wrong(format!(
                "an export of the fleet {:?}, and this one is {:?}",
                exported.fleet, part.fleet
            )));
        }
        part.observe();
        part.book().import(exported.orders);
        part.apply();
        for secret in &part.secrets {
            secret.import(&exported.secrets);
        }
        Ok(())
    }
}

impl Drop for FleetHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for FleetHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetHandle")
            .field("is_store_up", &self.is_store_up())
            .finish_non_exhaustive()
    }
}

/// What an instance knows. The task and the handle share it.
pub(super) struct Part {
    pub(super) is_up: AtomicBool,
    pub(super) pool: Pool,
    pub(super) secrets: Vec<SharedSecret>,
    /// The prefix of the keys.
    fleet: String,
    book: Mutex<OrderBook>,
}

impl Part {
    pub(super) fn new(fleet: &str, instance: &str, pool: Pool, secrets: Vec<SharedSecret>) -> Self {
        Self {
            is_up: AtomicBool::new(false),
            pool,
            secrets,
            fleet: fleet.to_owned(),
            book: Mutex::new(OrderBook::new(instance, super::wall_clock())),
        }
    }

    /// Returns the book. The lock is never held over a call of the store.
    pub(super) fn book(&self) -> MutexGuard<'_, OrderBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the pool for orders that were given here. Members that joined follow the orders that
    /// are known.
    pub(super) fn observe(&self) {
        let mut book = self.book();
        book.observe(&self.pool, Now::read());
        book.apply(&self.pool, Now::read());
    }

    /// Makes the pool follow what was merged.
    pub(super) fn apply(&self) {
        self.book().apply(&self.pool, Now::read());
    }
}
