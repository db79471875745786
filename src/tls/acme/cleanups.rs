//! [`Cleanups`]: tasks that end what an order has begun, and that nothing cancels.

use std::{convert::Infallible, future::Future};

use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

/// Spawns the tasks. A clone is held by what may have to spawn one.
#[derive(Clone)]
pub(super) struct Cleanups {
    runtime: Handle,
    /// Dropped at the end of each task: that is all it is for.
    pending: mpsc::Sender<Infallible>,
}

/// Ends when all tasks have ended, and no clone is left to spawn one.
#[derive(Debug)]
pub(super) struct CleanupsDone(mpsc::Receiver<Infallible>);

impl Cleanups {
    pub(super) fn new() -> (Self, CleanupsDone) {
        let (pending, done) = mpsc::channel(1);
        let runtime = Handle::current();
        (Self { runtime, pending }, CleanupsDone(done))
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let pending = self.pending.clone();
        self.runtime.spawn(async move {
            task.await;
            drop(pending);
        })
    }
}

impl CleanupsDone {
    pub(super) async fn wait(&mut self) {
        // Nothing is ever sent.
        let _: Option<Infallible> = self.0.recv().await;
    }
}
