//! The response body, which holds the request's span until the last byte.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::request_span::RequestSpan;

pin_project! {
    /// The inner service's response body, with the span of the request: the span ends with the last
    /// byte, with a failure, or with a drop. Its frames pass unchanged.
    #[derive(Default)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        // Dropped after the inner body, so that its attempt has ended.
        span: Option<Box<RequestSpan>>,
    }
}

impl<B: Body> ResponseBody<B> {
    #[inline]
    pub(super) fn new(inner: B, mut span: Option<Box<RequestSpan>>) -> Self {
        // hyper drops an ended body without polling it.
        if inner.is_end_stream() {
            RequestSpan::finish(&mut span);
        }
        Self { inner, span }
    }
}

impl<B: Body> Body for ResponseBody<B>
where
    B::Error: 'static,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(span) = this.span.as_mut() else {
            return this.inner.poll_frame(cx);
        };
        let frame = ready!(span.in_scope(|| this.inner.as_mut().poll_frame(cx)));
        match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => {}
            Some(Err(error)) => {
                span.failed(error);
                *this.span = None;
            }
            _ => RequestSpan::finish(this.span),
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
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
