//! The balance service: how a request begins.
//!
//! `call` does all that needs no wait, so that the future of a usual request holds the inner service's
//! and its attempt, and no more:
//!
//! | step | in | on failure |
//! |---|---|---|
//! | find or insert the `Exchange` | `begin` | |
//! | pick a backend and take its slot | `BalanceState::route` | wait in the queue, or an error at once |
//! | enter the attempt in the record | `Route::begin` | |
//! | let the record's observer see the headers | `RunningAttempt::announce` | |
//! | insert `Selected`, call the inner service | the closure `call` | |
//!
//! From the second step on the slot belongs to a `Lease`, and from the third to a `RunningAttempt`
//! that holds the lease. The drop of either releases the slot: no path out of the future, the body or
//! a tunnel can forget it (`tests/it/balance.rs`, `leases_balance_whatever_happens`).

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    body::ResponseBody,
    future::{ResponseFuture, State},
    running::RunningAttempt,
    state::{BalanceState, Search},
    waiting::insert_selected,
};
use crate::{
    context::Exchange,
    error::{BoxError, Error},
};

/// Picks a backend for each request and counts it as in flight; see the [module](super).
#[derive(Clone)]
pub struct Balance<S> {
    inner: S,
    state: Arc<BalanceState>,
}

impl<S> Balance<S> {
    pub(super) fn new(inner: S, state: Arc<BalanceState>) -> Self {
        Self { inner, state }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Balance<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.begin(request, |inner, mut request, running| {
            insert_selected(&mut request, running);
            inner.call(request)
        })
    }
}

impl<S> Balance<S> {
    /// Picks a backend, and calls the inner service with `call` if there is no wait.
    ///
    /// The closure is the one difference between [`Balance`], which inserts an extension, and
    /// `StackBalance`, which passes the pick as an argument: it saves the allocation of the extension.
    #[inline]
    pub(super) fn begin<B>(
        &mut self,
        mut request: Request<B>,
        call: impl FnOnce(&mut S, Request<B>, &RunningAttempt) -> S::Future,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>> + Clone + Send + 'static,
        B: Send + 'static,
    {
        let exchange = Exchange::of(request.extensions_mut());
        let state = match self.state.route(&request, &exchange, Search::Quick) {
            Ok(route) => {
                let running = route.begin(&self.state, exchange);
                running.announce(request.headers_mut());
                State::Calling {
                    inner: call(&mut self.inner, request, &running),
                    running: Some(running),
                }
            }
            Err(why) => match self.state.admit(why, &exchange) {
                Ok(waiting) => {
                    // The instance that `poll_ready` made ready waits with the request; the clone
                    // takes its place and is polled before the next call. tower asks for this order:
                    // the clone need not be ready.
                    let next = self.inner.clone();
                    let inner = std::mem::replace(&mut self.inner, next);
                    State::Waiting {
                        wait: Box::pin(waiting.call(inner, exchange, request)),
                    }
                }
                Err(error) => State::Failed { error: Some(error) },
            },
        };
        ResponseFuture::new(state)
    }
}

impl<S: fmt::Debug> fmt::Debug for Balance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("inner", &self.inner)
            .field("state", &self.state)
            .finish()
    }
}
