//! The settings of balance, and the layer that makes services with them.
//!
//! Each setter is consuming and forgets the shared state, because a state that services already use
//! cannot change under them. Services made before a setter keep the former strategy, queue and counts;
//! services made after it share new ones. Clones of a layer share one state once `layer()` was called
//! on either of them.

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
    /// Made at the first `layer()`; all services share it from then on.
    state: Arc<OnceLock<Arc<BalanceState>>>,
}

impl BalanceLayer {
    /// The default of [`queue_size`](Self::queue_size): two seconds of 500 requests a second. Requests
    /// beyond that would wait longer than their clients.
    pub const QUEUE_SIZE: usize = 1_024;
    /// The default of [`queue_timeout`](Self::queue_timeout): people and most clients wait longer than
    /// this.
    pub const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long a request waits for a first check: two intervals of active checks. A backend without a
    /// result by then will not have one soon.
    pub const HELD_TIMEOUT: Duration = Duration::from_secs(10);
    /// The `Retry-After` of an error, if no backend can take the request.
    pub const RETRY_AFTER: Duration = Duration::from_secs(1);

    /// Makes a layer that picks from this pool.
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            strategy: None,
            queue_size: Self::QUEUE_SIZE,
            queue_timeout: Self::QUEUE_TIMEOUT,
            state: Arc::default(),
        }
    }

    /// Sets how a backend is chosen among those that can take the request.
    ///
    /// Attaches the strategy to the pool, which builds its tables with each snapshot from now on.
    ///
    /// Default: [`RoundRobin`].
    ///
    /// The services that the layer makes share one strategy, and so one order of turns: axum calls
    /// `layer()` for each route, and a round robin for each route would send the first request of each
    /// to the same backend.
    pub fn strategy(mut self, mut strategy: impl Strategy) -> Self {
        strategy.attach(&self.pool);
        self.strategy = Some(Arc::new(strategy));
        self.reset_services()
    }

    /// Sets how many requests may wait at once for a backend with room, or for a first check. Further
    /// ones fail at once with [`Overloaded`](crate::ErrorKind::Overloaded). With 0, none waits.
    ///
    /// Each waiting request costs an allocation of its own size.
    ///
    /// Default: 1,024.
    pub fn queue_size(mut self, size: usize) -> Self {
        self.queue_size = size;
        self.reset_services()
    }

    /// Sets how long a request may wait for a backend with room, before it fails with
    /// [`QueueTimeout`](crate::ErrorKind::QueueTimeout). A wait for a first check always ends after
    /// 10 s.
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

    /// Returns how many requests wait now for a backend, in all services that the layer made.
    ///
    /// Reads one counter; 0 before the first `layer()`. The number is a moment's, for a gauge: a
    /// request may join or leave the queue while it is read.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.get().map_or(0, |state| state.waiting())
    }

    /// Returns what all services that the layer makes share.
    ///
    /// Attaches the default strategy at the first call, which makes the pool build a table for it: a
    /// layer with the default strategy that is never used costs the pool nothing.
    pub(crate) fn state(&self) -> &Arc<BalanceState> {
        self.state.get_or_init(|| Arc::new(self.build_state()))
    }

    /// Forgets the state that was made with the former settings.
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
        Balance::new(inner, self.state().clone())
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
