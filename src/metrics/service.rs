//! [`Metrics`]: begins to record a request, and hands the record to the response's body.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::ResponseBody;
use crate::{
    context::{ConnInfo, Ended, Exchange, Tunnel},
    stats::{Recording, Stats},
};

/// Counts and times each request; made by [`MetricsLayer`](super::MetricsLayer).
#[derive(Clone, Debug)]
pub struct Metrics<S> {
    inner: S,
    stats: Option<Stats>,
    listener: Option<usize>,
}

impl<S> Metrics<S> {
    pub(super) fn new(inner: S, stats: Option<Stats>, listener: Option<usize>) -> Self {
        Self {
            inner,
            stats,
            listener,
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

    #[inline]
    fn begin<B>(&self, stats: &Stats, request: &mut Request<B>) -> Recording {
        let exchange = Exchange::of(request.extensions_mut());
        let listener = self
            .listener
            .unwrap_or_else(|| stats.listener_of(ConnInfo::of(request.extensions())));
        stats.begin(listener, exchange)
    }
}

impl<S, B, R> Service<Request<B>> for Metrics<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let recording = match &self.stats {
            Some(stats) => self.begin(stats, &mut request),
            None => Recording::default(),
        };
        ResponseFuture {
            inner: self.inner.call(request),
            recording,
        }
    }
}

pin_project! {
    /// The future of [`Metrics`]' response. A drop before the response counts the request as
    /// `client_abort`, or as answered by the layer that dropped it.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        recording: Recording,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        let mut recording = std::mem::take(this.recording);
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                recording.end(Ended::Failed);
                return Poll::Ready(Err(error));
            }
        };
        recording.status(response.status());
        if let Some(tunnel) = response.extensions().get::<Tunnel>() {
            let mut recording = std::mem::take(&mut recording);
            recording.head();
            recording.tunnel();
            tunnel.hold(TunnelRecording(recording));
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, recording))))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("metrics::ResponseFuture")
            .finish_non_exhaustive()
    }
}

/// The record of a request that a tunnel holds, and drops as it closes.
struct TunnelRecording(Recording);

impl Drop for TunnelRecording {
    fn drop(&mut self) {
        self.0.end(Ended::Whole);
    }
}
