//! A layer that may be left out, without another type of response.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower_service::Service;

/// A service with a layer around it, or without.
#[derive(Clone, Debug)]
pub(super) enum Maybe<W, S> {
    With(W),
    Without(S),
}

impl<W, S, R> Service<R> for Maybe<W, S>
where
    W: Service<R>,
    S: Service<R, Response = W::Response, Error = W::Error>,
{
    type Response = W::Response;
    type Error = W::Error;
    type Future = MaybeFuture<W::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), W::Error>> {
        match self {
            Self::With(with) => with.poll_ready(cx),
            Self::Without(without) => without.poll_ready(cx),
        }
    }

    fn call(&mut self, request: R) -> Self::Future {
        match self {
            Self::With(with) => MaybeFuture::With {
                future: with.call(request),
            },
            Self::Without(without) => MaybeFuture::Without {
                future: without.call(request),
            },
        }
    }
}

pin_project! {
    #[project = MaybeFutureProject]
    pub(super) enum MaybeFuture<W, S> {
        With { #[pin] future: W },
        Without { #[pin] future: S },
    }
}

impl<W, S> Future for MaybeFuture<W, S>
where
    W: Future,
    S: Future<Output = W::Output>,
{
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        match self.project() {
            MaybeFutureProject::With { future } => future.poll(cx),
            MaybeFutureProject::Without { future } => future.poll(cx),
        }
    }
}

impl<W, S> fmt::Debug for MaybeFuture<W, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaybeFuture").finish_non_exhaustive()
    }
}
