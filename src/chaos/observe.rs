//! [`Observe`]: reports every request of a stack to [`Invariants`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::Invariants;
use crate::context::Exchange;

impl<S> Layer<S> for Invariants {
    type Service = Observe<S>;

    /// Wraps the outermost service of a stack and reports each of its requests; no calls of
    /// [`begin`](Invariants::begin) and [`end`](Invariants::end) are needed.
    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            invariants: self.clone(),
        }
    }
}

/// A service that reports its requests to [`Invariants`]. A request begins with its call. It ends
/// when it fails, or when its response body is dropped, read to the end or not.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    invariants: Invariants,
}

impl<S> Observe<S> {
    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Observe<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ObserveBody<R>>;
    type Error = S::Error;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(request.extensions_mut());
        // From here on the end is reported, whichever way the future or the body goes.
        let guard = EndGuard {
            number: self.invariants.begin(&exchange),
            invariants: self.invariants.clone(),
        };
        ObserveFuture {
            inner: self.inner.call(request),
            guard: Some(guard),
        }
    }
}

/// Reports the end of a request when it is dropped.
struct EndGuard {
    number: usize,
    invariants: Invariants,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.invariants.end(self.number);
    }
}

pin_project! {
    /// The response future of [`Observe`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ObserveFuture<F> {
        // Dropped before the guard: it may hold a lease of the request.
        #[pin]
        inner: F,
        guard: Option<EndGuard>,
    }
}

impl<F, R, E> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ObserveBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let guard = this.guard.take();
        Poll::Ready(Ok(response.map(|inner| ObserveBody { inner, guard })))
    }
}

impl<F> fmt::Debug for ObserveFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The response body of [`Observe`].
    pub struct ObserveBody<R> {
        #[pin]
        inner: R,
        guard: Option<EndGuard>,
    }
}

impl<R: Default> Default for ObserveBody<R> {
    fn default() -> Self {
        Self {
            inner: R::default(),
            guard: None,
        }
    }
}

impl<R: Body> Body for ObserveBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<R> fmt::Debug for ObserveBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObserveBody").finish_non_exhaustive()
    }
}
