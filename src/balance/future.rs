//! The response to come: the inner service's, or the wait for a backend before it.
//!
//! ```text
//! Calling ──────────────────────────────▶ response or error
//! Waiting ──▶ Calling (a slot was free) ─▶ …
//!         └─▶ Failed  (time-out, or nothing to wait for)
//! Failed ───────────────────────────────▶ error
//! ```
//!
//! A future that is dropped in any state leaves nothing behind: in `Calling` the drop of the
//! `RunningAttempt` records a cancelled attempt and frees its slot; in `Waiting` the drop of the queue
//! entry gives its place and its turn to the next request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{body::ResponseBody, running::RunningAttempt, strategy::Ended};
use crate::{
    context::{LocalReply, Tunnel},
    error::{BoxError, Error, ErrorKind},
};

pin_project! {
    /// The response to come: the inner service's, or the wait for a backend before it.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(state: State<F>) -> Self {
        Self { state }
    }
}

pin_project! {
    #[project = StateProjection]
    pub(super) enum State<F> {
        Calling {
            #[pin]
            inner: F,
            running: Option<RunningAttempt>,
        },
        // Boxed because it is rare, and large.
        Waiting {
            wait: Pin<Box<dyn Future<Output = Result<(F, RunningAttempt), Error>> + Send>>,
        },
        Failed {
            error: Option<Error>,
        },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                // A response is moved once.
                StateProjection::Calling { inner, running } => {
                    return match inner.poll(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(Ok(response)) => Poll::Ready(Ok(answer(response, running))),
                        Poll::Ready(Err(error)) => {
                            Poll::Ready(Err(fail(Error::from_boxed(error.into()), running)))
                        }
                    };
                }
                StateProjection::Waiting { wait } => {
                    let next = match ready!(wait.as_mut().poll(cx)) {
                        Ok((inner, running)) => State::Calling {
                            inner,
                            running: Some(running),
                        },
                        Err(error) => State::Failed { error: Some(error) },
                    };
                    state.set(next);
                }
                StateProjection::Failed { error } => {
                    let error = error.take();
                    return Poll::Ready(Err(
                        error.unwrap_or_else(|| Error::new(ErrorKind::NoBackend))
                    ));
                }
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Waiting { .. } => "waiting",
            State::Failed { .. } => "failed",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}

/// Decides what the attempt ends with. The order matters: a response of the proxy's own is no result
/// of the backend, so it must not be reported to the strategy; a tunnel is reported by its head, and
/// holds the slot from then on in place of the body.
#[inline]
fn answer<R: Body>(
    response: Response<R>,
    running: &mut Option<RunningAttempt>,
) -> Response<ResponseBody<R>> {
    let mut running = running.take();
    // The two looks into the extensions cost nothing for most responses: an empty map has no table.
    if response.extensions().get::<LocalReply>().is_some() {
        // No backend was asked.
        if let Some(running) = running.take() {
            running.end_without_backend();
        }
    }
    if let Some(running) = &mut running {
        running.answered(response.status());
    }
    if let Some(tunnel) = response.extensions().get::<Tunnel>()
        && let Some(running) = running.take()
    {
        tunnel.hold(running.until_dropped());
    }
    response.map(|body| ResponseBody::new(body, running))
}

/// The strategy is informed with the kind before the attempt ends: the attempt's drop would report a
/// cancellation.
#[cold]
fn fail(error: Error, running: &mut Option<RunningAttempt>) -> Error {
    if let Some(mut running) = running.take() {
        running.report(Ended::Failed(error.kind()));
        running.fail(&error);
    }
    error
}
