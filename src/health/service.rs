//! What happens to a request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    outlier::{Verdict, judge_error, judge_status},
    owner::{Owner, Watch},
};
use crate::{
    context::Selected,
    error::{BoxError, Error},
};

/// Judges what backends answer, and keeps their checks running; see the [module](super).
#[derive(Clone)]
pub struct Health<S> {
    inner: S,
    owner: Arc<Owner>,
}

impl<S> Health<S> {
    pub(super) fn new(inner: S, owner: Arc<Owner>) -> Self {
        Self { inner, owner }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Health<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Before the pick, so that the first request of all finds checked backends.
        self.owner.ensure();
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = self.owner.core();
        let watch = match (&core.outliers, request.extensions().get::<Selected>()) {
            (Some(_), Some(Selected(backend))) => Some(core.watch(backend)),
            _ => None,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            watch,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Health<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("inner", &self.inner)
            .field("owner", &self.owner)
            .finish()
    }
}

pin_project! {
    /// The response of a [`Health`].
    ///
    /// Dropped before its end it judges nothing: a client that goes away says nothing about the
    /// backend (invariant E).
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        watch: Option<Arc<Watch>>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx)).map_err(|e| Error::from_boxed(e.into()));
        if let Some(watch) = this.watch.take() {
            let verdict = match &result {
                Ok(response) => judge_status(response.status()),
                Err(error) => judge_error(error),
            };
            match verdict {
                Verdict::Success => watch.success(),
                Verdict::Failure(reason) => watch.failure(reason),
                Verdict::Nothing => {}
            }
        }
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
