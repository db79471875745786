//! Watches every request of a stack.

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
    type Service = Watch<S>;

    /// Watches every request of this service, the outermost of a stack; instead of
    /// [`begin`](Invariants::begin) and [`end`](Invariants::end).
    fn layer(&self, inner: S) -> Watch<S> {
        Watch {
            inner,
            invariants: self.clone(),
        }
    }
}

/// A service whose requests [`Invariants`] watch: each begins with its call, and ends when its
/// response is dropped, read or not, or when it fails.
#[derive(Clone, Debug)]
pub struct Watch<S> {
    inner: S,
    invariants: Invariants,
}

impl<S> Watch<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Watch<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<WatchBody<R>>;
    type Error = S::Error;
    type Future = WatchFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(request.extensions_mut());
        let under_way = UnderWay {
            number: self.invariants.begin(&exchange),
            invariants: self.invariants.clone(),
        };
        WatchFuture {
            inner: self.inner.call(request),
            under_way: Some(under_way),
        }
    }
}

/// Ends the request when it is dropped.
struct UnderWay {
    number: usize,
    invariants: Invariants,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.invariants.end(self.number);
    }
}

pin_project! {
    /// The response of a [`Watch`].
    #[must_use = "futures do nothing unless polled"]
    pub struct WatchFuture<F> {
        // Dropped first: what it holds is part of the request.
        #[pin]
        inner: F,
        under_way: Option<UnderWay>,
    }
}

impl<F, R, E> Future for WatchFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<WatchBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let under_way = this.under_way.take();
        Poll::Ready(Ok(response.map(|inner| WatchBody { inner, under_way })))
    }
}

impl<F> fmt::Debug for WatchFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The response body of a [`Watch`].
    pub struct WatchBody<R> {
        #[pin]
        inner: R,
        under_way: Option<UnderWay>,
    }
}

impl<R: Default> Default for WatchBody<R> {
    fn default() -> Self {
        Self {
            inner: R::default(),
            under_way: None,
        }
    }
}

impl<R: Body> Body for WatchBody<R> {
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

impl<R> fmt::Debug for WatchBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchBody").finish_non_exhaustive()
    }
}
