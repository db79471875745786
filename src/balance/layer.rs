//! What is configured.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tower_layer::Layer;

use super::{
    queue::Queue, round_robin::RoundRobin, service::Balance, state::BalanceState,
    strategy::Strategy,
};
use crate::pool::Pool;

/// Picks a backend for each request; see the [module](super).
#[must_use]
#[derive(Clone)]
pub struct BalanceLayer {
    pool: Pool,
    strategy: Option<Arc<dyn Strategy>>,
    queue_size: usize,
    queue_timeout: Duration,
    /// Made at the first `layer()`, and shared by all services from then on.
    state: Arc<OnceLock<Arc<BalanceState>>>,
}

impl BalanceLayer {
    /// Makes a layer that picks from this pool.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            strategy: None,
            queue_size: QUEUE_SIZE,
            queue_timeout: QUEUE_TIMEOUT,
            state: Arc::default(),
        }
    }

    /// Sets how a backend is chosen among those that can take the request.
    ///
    /// The strategy's tables hang on the pool's snapshots from now on.
    ///
    /// Default: [`RoundRobin`].
    pub fn strategy(mut self, mut strategy: impl Strategy) -> Self {
        strategy.attach(&self.pool);
        self.strategy = Some(Arc::new(strategy));
        self.reset_services()
    }

    /// Sets how many requests may wait at once for a backend to have room, or for a first check;
    /// more are turned away with [`Overloaded`](crate::ErrorKind::Overloaded). 0: none waits.
    /// Each costs its own size, and the client's patience.
    ///
    /// Default: 1,024.
    pub fn queue_size(mut self, size: usize) -> Self {
        self.queue_size = size;
        self.reset_services()
    }

    /// Sets how long a request may wait for a backend to have room; it fails with
    /// [`QueueTimeout`](crate::ErrorKind::QueueTimeout) then. A wait for a first check is 10 s at
    /// most.
    ///
    /// Default: 5 s.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self.reset_services()
    }

    /// Returns the pool that the layer was made for.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What was made with the settings until now does not hold any more.
    fn reset_services(mut self) -> Self {
        self.state = Arc::default();
        self
    }

    fn build_state(&self) -> BalanceState {
        let strategy = self.strategy.clone().unwrap_or_else(|| {
            let mut strategy = RoundRobin::new();
            strategy.attach(&self.pool);
            Arc::new(strategy)
        });
        BalanceState {
            pool: self.pool.clone(),
            strategy,
            queue: Arc::new(Queue::new(self.queue_size, self.queue_timeout)),
        }
    }
}

impl<S> Layer<S> for BalanceLayer {
    type Service = Balance<S>;

    fn layer(&self, inner: S) -> Balance<S> {
        let state = self.state.get_or_init(|| Arc::new(self.build_state()));
        Balance::new(inner, state.clone())
    }
}

impl fmt::Debug for BalanceLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceLayer")
            .field("pool", &self.pool)
            .field("strategy", &self.strategy)
            .field("queue_size", &self.queue_size)
            .field("queue_timeout", &self.queue_timeout)
            .finish_non_exhaustive()
    }
}

/// Two seconds of 500 requests/s: more would wait longer than a client does.
pub const QUEUE_SIZE: usize = 1_024;
/// Short of what people and most clients give up after.
pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// Two intervals of active checks: a backend that was not measured by then will not be soon.
pub const HELD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client is told to wait where no backend can take its request.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
