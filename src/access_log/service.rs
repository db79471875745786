//! [`AccessLog`]: opens the line of a request, and hands it to the response's body.
//!
//! The time of a request begins with its call, or with the first `poll_ready` that found the inner
//! service busy: a `ConcurrencyLimit` below the log makes requests wait there, before there is a
//! request to write the time on. The service remembers since when its task waits, and the call takes
//! it over.
//!
//! The task is remembered with the time, because a service instance may pass from one task to another:
//! a task that polled once and went away must not lengthen the next one's wait.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use http::{Extensions, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{RequestBody, ResponseBody, layer::Config, line::Line};
use crate::context::{Exchange, Tunnel};

/// Logs each request as one structured line; made by [`AccessLogLayer`](super::AccessLogLayer).
pub struct AccessLog<S> {
    inner: S,
    config: Arc<Config>,
    /// The time since which a request waits for the inner service to be ready, and its task.
    waits_since: Option<(Instant, Waker)>,
}

/// A clone waits for a request of its own.
impl<S: Clone> Clone for AccessLog<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.config.clone())
    }
}

impl<S> AccessLog<S> {
    pub(super) fn new(inner: S, config: Arc<Config>) -> Self {
        Self {
            inner,
            config,
            waits_since: None,
        }
    }

    /// Notes since when a task waits. A task that only looked, or that gave up and left the service to
    /// another one, has no part in the wait of the next request.
    ///
    /// Called for a pending poll, and once more for the poll that ends the wait; a service that is
    /// always ready never gets here. A waker that wakes nothing is that of a caller which only looks.
    #[cold]
    fn note_wait(&mut self, is_pending: bool, waker: &Waker) {
        self.waits_since
            // `will_wake` may say false for the same task; the wait then begins later, and never
            // earlier.
            .take_if(|(_, waiting)| !waiting.will_wake(waker));
        if is_pending && self.waits_since.is_none() && !waker.will_wake(Waker::noop()) {
            self.waits_since = Some((Instant::now(), waker.clone()));
        }
    }

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

impl<S: fmt::Debug> fmt::Debug for AccessLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for AccessLog<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    S::Error: 'static,
    B: Body,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        if ready.is_pending() || self.waits_since.is_some() {
            self.note_wait(ready.is_pending(), cx.waker());
        }
        ready
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if let Some((since, _)) = self.waits_since.take() {
            begin_at(since, request.extensions_mut());
        }
        let line = match self.config.sink.enabled() {
            true => Line::open(&self.config, &mut request),
            // Nothing is looked up and nothing inserted for a sink that wants no lines.
            false => Line::disabled(),
        };
        let request = request.map(|body| RequestBody::new(body, &line));
        ResponseFuture {
            inner: self.inner.call(request),
            line,
        }
    }
}

/// Begins the record of a request that had to wait before it could be called, unless it has begun.
#[cold]
fn begin_at(since: Instant, extensions: &mut Extensions) {
    if extensions.get::<Exchange>().is_none() {
        extensions.insert(Exchange::began_at(since));
    }
}

pin_project! {
    /// The future of [`AccessLog`]'s response. A drop before the response logs the request as
    /// `client_abort`, or as answered by the layer that dropped it.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        line: Line,
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
        let result = ready!(this.inner.poll(cx));
        if this.line.is_disabled() {
            return Poll::Ready(result.map(|response| response.map(ResponseBody::disabled)));
        }
        // Taken out of the future: what is left there is empty, so that the drop of a finished future
        // logs nothing.
        let mut line = std::mem::take(this.line);
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                line.warn_of_order();
                line.fail(&error);
                return Poll::Ready(Err(error));
            }
        };
        line.set_response(&mut response);
        if let Some(tunnel) = response.extensions().get::<Tunnel>() {
            // The end of the empty body of such a response is not the end of the line.
            std::mem::take(&mut line).leave_to_tunnel(tunnel);
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, line))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("access_log::ResponseFuture")
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Warns, once a layer, that a service failed without a response although a backend was tried:
    /// `respond` is above the log.
    pub(super) fn warn_of_order(&self) {
        if !self.warned_order.load(Relaxed) && !self.warned_order.swap(true, Relaxed) {
            tracing::warn!(
                target: "evenkeel::access_log",
                "AccessLogLayer saw a failure without a response: put RespondLayer below it"
            );
        }
    }
}
