//! What a program sees of its part in a fleet.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::task::AbortHandle;

use crate::stats::Stats;

/// The part of this instance in a fleet, begun by [`Fleet::start`](super::Fleet::start). It ends when this
/// handle is dropped: the pool stays as it is, and no order comes or goes any more.
#[must_use]
pub struct FleetHandle {
    task: AbortHandle,
    shown: Arc<Shown>,
}

/// What a gauge reads. Unlike the status, the task does not keep it alive, and it ends with the handle.
struct Shown(Arc<Status>);

impl FleetHandle {
    pub(super) fn new(task: AbortHandle, status: Arc<Status>) -> Self {
        let shown = Arc::new(Shown(status));
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

/// What the task writes and readers see.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) is_up: AtomicBool,
}
