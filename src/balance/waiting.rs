//! A request that waits in the queue for a backend.
//!
//! A request waits as a future of its own task and not on a list of requests, so that a client that
//! goes away leaves the queue by dropping it.
//!
//! How one request gets a slot:
//!
//! 1. It enters [`Queue`](super::queue::Queue) in `call` (`BalanceState::admit`), or fails at once.
//! 2. It waits for the turn; the lock behind the turn is fair, so turns come in the order of arrival.
//! 3. It registers for the next change of the pool, then looks, then waits for that change, and so on.
//! 4. With a slot, it gives the turn back and calls the inner service in its own task.
//!
//! Of those in line, only the one that has the turn listens for changes, so that a slot that becomes
//! free wakes one task and not all that wait. Retries stand beside the line and look every 20 ms.

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use tokio::time::{Instant, sleep, timeout_at};
use tower_service::Service;

use super::{
    layer::BalanceLayer,
    queue::QueueEntry,
    running::RunningAttempt,
    state::{BalanceState, Blocked, Route, Search},
};
use crate::{
    context::{Exchange, Selected},
    error::{Error, ErrorKind},
};

/// A request in the queue.
///
/// `is_retry` requests wait beside the line; `at_most` counts from the call and covers the wait for
/// the turn as well.
pub(super) struct Waiting {
    pub(super) state: Arc<BalanceState>,
    pub(super) entry: QueueEntry,
    pub(super) is_retry: bool,
    pub(super) at_most: Duration,
}

impl Waiting {
    /// Waits until a backend has room, then calls the inner service.
    ///
    /// Cancel-safe: a drop leaves the queue, and no slot is held across an await.
    ///
    /// # Errors
    ///
    /// `QueueTimeout` after `at_most`; `NoBackend` once nothing is left to wait for, such as when the
    /// last backend was removed meanwhile.
    pub(super) async fn call<S, B>(
        self,
        mut inner: S,
        exchange: Exchange,
        request: Request<B>,
    ) -> Result<(S::Future, RunningAttempt), Error>
    where
        S: Service<Request<B>>,
    {
        // The body may not be `Sync`, and the head is borrowed across an await.
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        let until = Instant::now() + self.at_most;
        let route = match timeout_at(until, self.route(&exchange, &head)).await {
            Ok(Some(route)) => route,
            Ok(None) => return Err(no_backend(&exchange)),
            Err(_elapsed) => {
                let late = Error::timed_out(ErrorKind::QueueTimeout, self.at_most);
                return Err(late.with_retry_after(BalanceLayer::RETRY_AFTER));
            }
        };
        // Before the inner service is called: the next in line may look for a slot while that call
        // runs.
        drop(self.entry);
        let mut request = head.map(|()| body);
        let running = route.begin(&self.state, exchange);
        running.announce(request.headers_mut());
        insert_selected(&mut request, &running);
        Ok((inner.call(request), running))
    }

    /// Waits for a backend; returns `None` once there is none to wait for.
    ///
    /// Ends early with a slot or with nothing to wait for; the time-out is the caller's. The guard of
    /// the turn lives until this future ends, also if the time-out drops it.
    async fn route(&self, exchange: &Exchange, request: &Request<()>) -> Option<Route> {
        let _turn = self.entry.turn().await;
        loop {
            // Listens before it looks, so that no change in between is missed.
            let mut changed = pin!(self.state.pool.changed());
            if !self.is_retry {
                changed.as_mut().enable();
            }
            // Thorough: a bounded look may miss the one free slot among many backends, and no later
            // change would wake this request again.
            match self.state.route(request, exchange, Search::Thorough) {
                Ok(route) => return Some(route),
                Err(Blocked::Nothing) => return None,
                // A free slot wakes one waiting request. A retry may have tried that backend, and
                // would keep the slot from others: it looks at intervals instead.
                Err(Blocked::Full | Blocked::Held) if self.is_retry => sleep(RETRY_LOOK).await,
                Err(Blocked::Full | Blocked::Held) => changed.await,
            }
        }
    }
}

/// Costs the one allocation of the layer: extensions are boxed. `StackBalance` does without.
pub(super) fn insert_selected<B>(request: &mut Request<B>, running: &RunningAttempt) {
    let backend = running.backend().clone();
    request.extensions_mut().insert(Selected(backend));
}

/// Returns the error of a request that no backend can take, with what the last pick left out.
#[cold]
pub(super) fn no_backend(exchange: &Exchange) -> Error {
    let excluded = exchange.excluded();
    let counts = excluded
        .counts()
        .map(|(why, count)| format!("{count} {why}"));
    let why = match excluded.is_empty() {
        true => "the pool is empty".to_owned(),
        false => counts.collect::<Vec<_>>().join(", "),
    };
    let error = Error::new(ErrorKind::NoBackend).with_source(why);
    error.with_retry_after(BalanceLayer::RETRY_AFTER)
}

/// How often a waiting retry looks for a backend: soon enough for a client, and rare enough to cost
/// nothing.
const RETRY_LOOK: Duration = Duration::from_millis(20);
