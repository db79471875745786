//! A layer that is present or absent at run time, with the same response type.
//!
//! tower's `Either` does the same, but this crate depends on tower only with the feature `tower`.

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
pub(super) enum Optional<W, S> {
    With(W),
    Without(S),
}

impl<W, S, R> Service<R> for Optional<W, S>
where
    W: Service<R>,
    S: Service<R, Response = W::Response, Error = W::Error>,
{
    type Response = W::Response;
    type Error = W::Error;
    type Future = OptionalFuture<W::Future, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), W::Error>> {
        match self {
            Self::With(with) => with.poll_ready(cx),
            Self::Without(without) => without.poll_ready(cx),
        }
    }

    fn call(&mut self, request: R) -> Self::Future {
        match self {
            Self::With(with) => OptionalFuture::With {
                future: with.call(request),
            },
            Self::Without(without) => OptionalFuture::Without {
                future: without.call(request),
            },
        }
    }
}

pin_project! {
    #[project = OptionalFutureProject]
    pub(super) enum OptionalFuture<W, S> {
        With { #[pin] future: W },
        Without { #[pin] future: S },
    }
}

impl<W, S> Future for OptionalFuture<W, S>
where
    W: Future,
    S: Future<Output = W::Output>,
{
    type Output = W::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        match self.project() {
            OptionalFutureProject::With { future } => future.poll(cx),
            OptionalFutureProject::Without { future } => future.poll(cx),
        }
    }
}

impl<W, S> fmt::Debug for OptionalFuture<W, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptionalFuture").finish_non_exhaustive()
    }
}
