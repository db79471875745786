//! [`Chaos`]: injects the faults that a request meets.
//!
//! A fault that does not pass the request on drops its body unread, as a backend does that refuses.
//! The head goes back with the error, so that a failover above can try again: without it, an injected
//! failure could not be retried as a real one is.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::{
    ResponseBody,
    fault::{BodyFaults, Injection},
    layer::FaultState,
};
use crate::error::{BoxError, Error, ErrorKind};

/// Injects faults into requests; made by [`ChaosLayer`](super::ChaosLayer).
#[derive(Clone, Debug)]
pub struct Chaos<S> {
    inner: S,
    faults: Arc<FaultState>,
}

impl<S> Chaos<S> {
    pub(super) fn new(inner: S, faults: Arc<FaultState>) -> Self {
        Self { inner, faults }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Chaos<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The usual case in production: the request is not even taken apart.
        if self.faults.is_empty() {
            return ResponseFuture::new(self.inner.call(request));
        }
        let (head, body) = request.into_parts();
        let drawn = self.faults.draw(&head).unwrap_or_default();
        let state = match drawn.injection {
            Injection::Abort(kind) => State::Failing {
                error: Some(injected_error(kind).with_unsent(head)),
            },
            Injection::Hang => State::Hanging,
            Injection::Pass => State::Calling {
                future: self.inner.call(Request::from_parts(head, body)),
            },
            Injection::Status(status) => State::Answering { status },
        };
        ResponseFuture {
            delay: (!drawn.delay.is_zero()).then(|| sleep(drawn.delay)),
            state,
            body: drawn.body,
        }
    }
}

/// Returns an error of this kind as the proxy would report it.
///
/// The list has every kind, so that a new one must be decided about here.
fn injected_error(kind: ErrorKind) -> Error {
    let error = Error::new(kind).with_source("injected");
    match kind {
        ErrorKind::RequestWrite
        | ErrorKind::RequestWriteTimeout
        | ErrorKind::ResponseBody
        | ErrorKind::ResponseBodyTimeout
        | ErrorKind::ResponseClosed
        | ErrorKind::ResponseHead
        | ErrorKind::ResponseHeadTimeout
        | ErrorKind::Service
        | ErrorKind::Timeout
        | ErrorKind::Upgrade => error.after_sending(),
        ErrorKind::BadRequest
        | ErrorKind::BodyTooLarge
        | ErrorKind::ClientBody
        | ErrorKind::ClientBodyTimeout
        | ErrorKind::Connect
        | ErrorKind::ConnectTimeout
        | ErrorKind::ConnectTls
        | ErrorKind::LoadShed
        | ErrorKind::Local
        | ErrorKind::MethodRefused
        | ErrorKind::NoBackend
        | ErrorKind::NotRouted
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout => error,
    }
}

pin_project! {
    /// The response future of [`Chaos`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        delay: Option<Sleep>,
        #[pin]
        state: State<F>,
        body: BodyFaults,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Answering { status: StatusCode },
        Calling { #[pin] future: F },
        Failing { error: Option<Error> },
        Hanging,
    }
}

impl<F> ResponseFuture<F> {
    fn new(future: F) -> Self {
        Self {
            delay: None,
            state: State::Calling { future },
            body: BodyFaults::default(),
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(delay) = this.delay.as_mut().as_pin_mut() {
            ready!(delay.poll(cx));
            this.delay.set(None);
        }
        Poll::Ready(match this.state.project() {
            StateProjection::Answering { status } => {
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = *status;
                Ok(response)
            }
            StateProjection::Calling { future } => match ready!(future.poll(cx)) {
                Ok(response) => Ok(response.map(|body| ResponseBody::new(body, *this.body))),
                Err(error) => Err(Error::from_boxed(error.into())),
            },
            // No waker is kept: only a drop ends it, by a time-out above or by the client.
            StateProjection::Hanging => return Poll::Pending,
            // The error is taken at the first poll; a poll after completion gets another one.
            StateProjection::Failing { error } => {
                Err(error.take().unwrap_or_else(|| ErrorKind::Service.into()))
            }
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
