//! The response future: one attempt, sometimes two side by side.
//!
//! The order within a poll: the first attempt, then the hedge, then the clock. Each of them may lead
//! to another step of the loop, and the loop ends when all of them wait or the request has its result.
//!
//! The first attempt is stored in place, pinned with the future; a hedge and a retry are boxed,
//! because few requests have one and the future of each request would be larger. A dropped future
//! drops both attempts; balance then frees their slots and records them as cancelled.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_service::Service;

use super::{
    attempts::{Attempts, Role, Step, TimeoutStep},
    replay::ReplayBody,
};
use crate::error::{BoxError, Error};

pin_project! {
    /// The response of a [`Failover`](super::Failover).
    ///
    /// If it is dropped before its end, it drops the attempts that run: every lease comes back, and
    /// no backend is charged.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        // Of the attempts that run, the one that began first.
        #[pin]
        attempt: AttemptFuture<S, B, S::Future>,
        attempts: Attempts<S, B>,
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) fn new(future: S::Future, attempts: Attempts<S, B>) -> Self {
        Self {
            attempt: AttemptFuture::Calling { future },
            attempts,
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let step = if let Poll::Ready(result) = this.attempt.as_mut().poll(cx) {
                match result {
                    // The common case, apart so that the response is moved once.
                    Ok(response) if this.attempts.accept(&response) => {
                        this.attempt.set(AttemptFuture::Gone);
                        return Poll::Ready(Ok(response));
                    }
                    result => this.attempts.attempt_ended(Role::First, result),
                }
            } else if let Poll::Ready(result) = this.attempts.poll_hedge(cx) {
                this.attempts.attempt_ended(Role::Hedge, result)
            } else {
                match this.attempts.poll_timeouts(cx) {
                    TimeoutStep::Wait => return Poll::Pending,
                    TimeoutStep::PollAgain => continue,
                    TimeoutStep::TimedOut(role, error) => {
                        // Its end is in the record already: the layers below read it on drop.
                        if role == Role::First {
                            this.attempt.set(AttemptFuture::Gone);
                        }
                        this.attempts.attempt_ended(role, Err(error))
                    }
                    TimeoutStep::End(result) => Step::End(result),
                }
            };
            match step {
                Step::End(result) => {
                    this.attempt.set(AttemptFuture::Gone);
                    return Poll::Ready(result);
                }
                Step::Try(next) => this
                    .attempt
                    .set(AttemptFuture::Readying { next: Some(next) }),
                Step::AwaitOther(Role::First) => this.attempt.set(AttemptFuture::Gone),
                Step::AwaitOther(Role::Hedge) => {}
            }
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

pin_project! {
    #[project = AttemptProjection]
    pub(super) enum AttemptFuture<S, B, F> {
        Calling { #[pin] future: F },
        // It has ended, and the hedge runs.
        Gone,
        // Boxed, because few requests have one.
        Readying { next: Option<Box<PendingAttempt<S, B>>> },
    }
}

/// An attempt that waits until it may be sent, and for the service to be ready.
pub(super) struct PendingAttempt<S, B> {
    pub(super) service: S,
    pub(super) request: Request<ReplayBody<B>>,
    pub(super) backoff: Option<Pin<Box<Sleep>>>,
}

impl<S, B> AttemptFuture<S, B, S::Future>
where
    S: Service<Request<ReplayBody<B>>>,
    S::Error: Into<BoxError>,
{
    pub(super) fn is_calling(&self) -> bool {
        matches!(self, Self::Calling { .. })
    }

    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, Error>> {
        loop {
            let next = match self.as_mut().project() {
                // A response is moved once.
                AttemptProjection::Calling { future } => {
                    return match future.poll(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                        Poll::Ready(Err(error)) => {
                            Poll::Ready(Err(Error::from_boxed(error.into())))
                        }
                    };
                }
                AttemptProjection::Gone => return Poll::Pending,
                AttemptProjection::Readying { next } => {
                    if let Some(waiting) = next {
                        if let Some(backoff) = &mut waiting.backoff {
                            ready!(backoff.as_mut().poll(cx));
                            // The wait is over once; the service may still need several polls.
                            waiting.backoff = None;
                        }
                        if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                            return Poll::Ready(Err(Error::from_boxed(error.into())));
                        }
                    }
                    let Some(next) = next.take() else {
                        return Poll::Pending;
                    };
                    // The clone that was polled until it is ready is the one that is called.
                    let mut service = next.service;
                    Self::Calling {
                        future: service.call(next.request),
                    }
                }
            };
            self.set(next);
        }
    }
}
