//! [`OutermostLayer`]: lets a log under any server distinguish a layer that gives a request up from a
//! client that goes away.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::service_poll;

/// Stands outside all layers under a server of another crate, so that a time-out layer above the log is
/// not taken for a client that goes away.
///
/// Both drop the log's future. `evenkeel::serve` marks the time in which it polls its service, and the log
/// reads the mark. Under hyper or `axum::serve`, this layer sets the mark; under `evenkeel::serve` it is not
/// needed and changes nothing. It has no effect on a layer that runs its inner service in another task.
///
/// Costs two writes to a thread-local variable for each poll, and no allocation.
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, http::StatusCode, routing::get};
/// use evenkeel::access_log::{AccessLogLayer, OutermostLayer, TracingSink};
/// use tower_http::timeout::TimeoutLayer;
///
/// let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(30));
/// // In axum, the layer that is added last is the outermost.
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(AccessLogLayer::new(TracingSink::new()))
///     .layer(timeout)
///     .layer(OutermostLayer::new());
/// # drop(app);
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct OutermostLayer {}

impl OutermostLayer {
    /// Makes the layer.
    pub fn new() -> Self {
        Self {}
    }
}

impl<S> Layer<S> for OutermostLayer {
    type Service = Outermost<S>;

    fn layer(&self, inner: S) -> Outermost<S> {
        Outermost { inner }
    }
}

/// Marks the time in which its inner service is polled; made by [`OutermostLayer`].
#[derive(Clone, Debug)]
pub struct Outermost<S> {
    inner: S,
}

impl<S> Outermost<S> {
    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Outermost<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = OutermostFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        OutermostFuture {
            inner: Some(self.inner.call(request)),
        }
    }
}

pin_project! {
    /// The future of [`Outermost`]'s response.
    pub struct OutermostFuture<F> {
        #[pin]
        inner: Option<F>,
    }
}

impl<F, R, E> Future for OutermostFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        service_poll::poll(self.project().inner, cx)
    }
}

impl<F> fmt::Debug for OutermostFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutermostFuture").finish_non_exhaustive()
    }
}
