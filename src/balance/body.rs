//! The response body, which holds the lease until the last byte.
//!
//! When a request ends, for the count of requests in flight and for the record:
//!
//! | the inner body | the attempt ends |
//! |---|---|
//! | has ended when the head arrives (`is_end_stream`) | at the head, `ok` |
//! | has ended behind a frame | with that frame, `ok` |
//! | yields `None` | then, `ok` |
//! | yields an error | then, with the error's kind |
//! | is dropped before | then, `cancelled` |
//!
//! The second row is not an optimization: hyper drops a body of known length after the last frame and
//! never polls for `None`, so that each such request would count as cancelled. A body that yields an
//! error and is polled again is the inner body's affair; the attempt has ended once by then.
//! `tests/it/balance.rs`, `a_request_is_in_flight_until_its_body_is_over`, drives each row.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::running::RunningAttempt;
use crate::{
    context::Outcome,
    error::{Error, ErrorKind},
};

pin_project! {
    /// The inner service's response body, with the lease: the request is in flight until the
    /// body ends, fails or is dropped.
    #[derive(Debug, Default)]
    pub struct ResponseBody<R> {
        #[pin]
        inner: R,
        running: Option<RunningAttempt>,
    }
}

impl<R: Body> ResponseBody<R> {
    /// `running` is `None` for a tunnel, which holds the attempt itself.
    #[inline]
    pub(super) fn new(inner: R, mut running: Option<RunningAttempt>) -> Self {
        // hyper drops an ended body without polling it.
        if inner.is_end_stream()
            && let Some(running) = running.take()
        {
            running.end_at_head();
        }
        Self { inner, running }
    }

    /// Returns the inner body, and releases the lease: the attempt ends as cancelled, unless the body
    /// had ended.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

/// Finds an [`Error`] behind a reference of the error or of its sources, so that a foreign body around
/// the proxy's keeps the kind. All else is the kind `Service`.
#[cold]
fn fail<E: 'static>(error: &E, running: &mut Option<RunningAttempt>) {
    if let Some(running) = running.take() {
        match Error::of(error) {
            Some(error) => running.fail(error),
            None => running.fail(&ErrorKind::Service.into()),
        }
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body,
    R::Error: 'static,
{
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        // Frames pass as they came: nothing is buffered, and trailers are frames as well.
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => {}
            Some(Ok(_)) | None => {
                if let Some(running) = this.running.take() {
                    running.end(Outcome::Ok);
                }
            }
            Some(Err(error)) => fail(error, this.running),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
