//! What happens to a request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    layer::Settings,
    policy::{Decision, Failed},
    replay::{Replay, ReplayBody},
};
use crate::{
    context::Exchange,
    error::{BoxError, Error, ErrorKind},
};

/// Tries another backend when one fails; see the [module](super).
#[derive(Clone)]
pub struct Failover<S> {
    inner: S,
    shared: Arc<Shared<S>>,
}

/// What each request takes along: one handle.
struct Shared<S> {
    settings: Settings,
    /// Cloned for each retry, which is rarer than cloning the service for each request.
    spare: Mutex<S>,
}

impl<S: Clone> Failover<S> {
    pub(super) fn new(inner: S, settings: Settings) -> Self {
        let spare = Mutex::new(inner.clone());
        Self {
            inner,
            shared: Arc::new(Shared { settings, spare }),
        }
    }
}

impl<S> Failover<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Failover<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let settings = &self.shared.settings;
        let mut retry = None;
        let request = if settings.max_attempts > 1 {
            settings.budget.deposit();
            let room = match settings.policy.keeps_body(request.method()) {
                true => settings.replay_limit,
                false => 0,
            };
            request.map(|body| {
                let (body, replay) = ReplayBody::new(body, room);
                retry = Some(Retry {
                    replay,
                    shared: self.shared.clone(),
                });
                body
            })
        } else {
            request.map(ReplayBody::passing)
        };
        ResponseFuture {
            state: State::Calling {
                future: self.inner.call(request),
            },
            retry,
            attempts: 1,
            first: None,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Failover<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("inner", &self.inner)
            .field("settings", &self.shared.settings)
            .finish()
    }
}

pin_project! {
    /// The response of a [`Failover`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
        // `None` once there can be no further attempt.
        retry: Option<Retry<S, B>>,
        attempts: u32,
        // Why the first attempt failed.
        first: Option<Error>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B, F> {
        Calling { #[pin] future: F },
        // Boxed, as it is rare.
        Readying { next: Option<Box<Next<S, B>>> },
    }
}

/// A retry that waits for the service to be ready.
struct Next<S, B> {
    service: S,
    request: Request<ReplayBody<B>>,
}

/// What a further attempt needs.
struct Retry<S, B> {
    shared: Arc<Shared<S>>,
    replay: Replay<B>,
}

impl<S: Clone, B: Body> Retry<S, B> {
    /// Makes the next attempt of what failed, or returns the error that stands.
    fn plan(&self, mut error: Error, attempts: u32) -> Result<(Box<Next<S, B>>, Error), Error> {
        let settings = &self.shared.settings;
        if attempts >= settings.max_attempts || error.is_client() {
            return Err(error);
        }
        let Some(head) = error.take_unsent() else {
            return Err(error);
        };
        let failed = Failed::new(&error, &head, self.replay.is_untouched());
        let wanted = settings.policy.decide(&failed) == Decision::Retry;
        if !wanted || !self.replay.is_possible() {
            return Err(error.with_unsent(head));
        }
        let exchange = head.extensions.get::<Exchange>();
        let backend = exchange.and_then(Exchange::backend);
        let backend = backend.as_ref().map(|backend| backend.id());
        if !settings.budget.withdraw(Instant::now()) {
            tracing::debug!(
                target: "evenkeel::failover",
                backend, attempts, error = %error.kind(), "no retry: the budget is used up"
            );
            return Err(error.with_unsent(head));
        }
        tracing::debug!(
            target: "evenkeel::failover",
            backend, attempts, error = %error.kind(), "trying another backend"
        );
        let body = self.replay.next(attempts + 1 == settings.max_attempts);
        let spare = self.shared.spare.lock();
        let service = spare.unwrap_or_else(PoisonError::into_inner).clone();
        let request = Request::from_parts(head, body);
        Ok((Box::new(Next { service, request }), error))
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
            let state = match this.state.as_mut().project() {
                StateProjection::Calling { future } => {
                    let error = match ready!(future.poll(cx)) {
                        Ok(response) => {
                            if let Some(retry) = this.retry.take() {
                                retry.replay.give_up();
                            }
                            return Poll::Ready(Ok(response));
                        }
                        Err(error) => Error::from_boxed(error.into()),
                    };
                    let Some(retry) = &this.retry else {
                        return Poll::Ready(Err(error));
                    };
                    match retry.plan(error, *this.attempts) {
                        Ok((next, error)) => {
                            *this.attempts += 1;
                            this.first.get_or_insert(error);
                            State::Readying { next: Some(next) }
                        }
                        Err(error) => return Poll::Ready(Err(what_stands(this.first, error))),
                    }
                }
                StateProjection::Readying { next } => {
                    if let Some(waiting) = next {
                        if let Err(error) = ready!(waiting.service.poll_ready(cx)) {
                            let error = Error::from_boxed(error.into());
                            return Poll::Ready(Err(this.first.take().unwrap_or(error)));
                        }
                    }
                    let Some(next) = next.take() else {
                        // Polled after the end.
                        return Poll::Ready(Err(ErrorKind::Service.into()));
                    };
                    let Next {
                        mut service,
                        request,
                    } = *next;
                    State::Calling {
                        future: service.call(request),
                    }
                }
            };
            this.state.set(state);
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

/// That there is no other backend says less than why the first one failed.
fn what_stands(first: &mut Option<Error>, last: Error) -> Error {
    match last.kind() {
        ErrorKind::NoBackend => first.take().unwrap_or(last),
        _ => last,
    }
}
