//! The body of the response, whose end is the request's.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{context::Ended, stats::Recording};

pin_project! {
    /// The body of a response. It ends the request with the last byte, with a failure, or with its
    /// drop; its frames pass unchanged.
    #[derive(Default)]
    pub struct ResponseBody<B> {
        // Dropped first, so that the layers below have ended their attempts.
        #[pin]
        inner: B,
        recording: Recording,
    }
}

impl<B: Body> ResponseBody<B> {
    pub(super) fn new(inner: B, mut recording: Recording) -> Self {
        match inner.is_end_stream() {
            true => recording.end_at_head(),
            false => recording.head(),
        }
        Self { inner, recording }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let ends = this.recording.ends();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        // hyper drops a body of known length after its last frame, without a poll that returns `None`.
        match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => {}
            Some(Err(_)) => this.recording.end(Ended::Failed),
            Some(Ok(_)) | None => this.recording.end_in_poll(Ended::Whole, ends),
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

impl<B: fmt::Debug> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("metrics::ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
