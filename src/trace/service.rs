//! `Trace`: begins the span of each request, and hands it to the response's body.
//!
//! The span is entered for each poll and left with it: a span that is entered across an await would
//! count the events of other tasks of the thread. What runs outside a poll, such as a task that a
//! layer spawns, is not in it.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{ResponseBody, layer::Config, request_span::RequestSpan};
use crate::context::Tunnel;

/// The service of [`TraceLayer`](super::TraceLayer).
#[derive(Clone, Debug)]
pub struct Trace<S> {
    inner: S,
    config: Option<Arc<Config>>,
}

impl<S> Trace<S> {
    pub(super) fn new(inner: S, config: Option<Arc<Config>>) -> Self {
        Self { inner, config }
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let span = match &self.config {
            Some(config) => RequestSpan::begin(config, &mut request),
            None => None,
        };
        let inner = match &span {
            Some(span) => span.in_scope(|| self.inner.call(request)),
            None => self.inner.call(request),
        };
        ResponseFuture { inner, span }
    }
}

pin_project! {
    /// The future of [`Trace`]'s response. The span of the request is entered while it is polled.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // Dropped after the inner future, so that its attempts have ended. `None` if no subscriber
        // wants the span.
        span: Option<Box<RequestSpan>>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    E: 'static,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let inner = this.inner;
        let result = ready!(match this.span {
            None => inner.poll(cx),
            Some(span) => span.in_scope(|| inner.poll(cx)),
        });
        let mut span = this.span.take();
        if let Some(running) = &mut span {
            match &result {
                Ok(response) => {
                    running.answered(response.status());
                    if let Some(tunnel) = response.extensions().get::<Tunnel>() {
                        running.lasts_until_dropped();
                        // The body of such a response is empty, and ends at once.
                        tunnel.hold(span.take());
                    }
                }
                Err(error) => running.failed(error),
            }
        }
        Poll::Ready(result.map(|response| response.map(|body| ResponseBody::new(body, span))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("trace::ResponseFuture")
            .finish_non_exhaustive()
    }
}
