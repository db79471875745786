//! The bodies of the request and of the response: they count bytes, and the response's ends the line.
//!
//! The request's body counts into the exchange and not into the line: it may outlive the line, or end
//! after it, and both may be on different threads (a relaxed addition). The response's body owns the
//! line: the two are dropped together, so that no line can be forgotten.
//!
//! Bytes are counted as frames pass this layer. A compression layer outside the log therefore makes
//! `sent` the bytes before compression; the module's docs have the table of orders.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf as _;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::line::Line;
use crate::context::Exchange;

pin_project! {
    /// The body of a request. It counts its bytes; its frames pass unchanged.
    #[derive(Debug)]
    pub struct RequestBody<B> {
        #[pin]
        inner: B,
        // `None` if the body is empty or the request is not logged.
        exchange: Option<Exchange>,
    }
}

impl<B: Body> RequestBody<B> {
    pub(super) fn new(inner: B, line: &Line) -> Self {
        let counted = line.exchange().filter(|_| !inner.is_end_stream());
        Self {
            exchange: counted.cloned(),
            inner,
        }
    }
}

impl<B: Default> Default for RequestBody<B> {
    fn default() -> Self {
        Self {
            inner: B::default(),
            exchange: None,
        }
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let (Some(Ok(frame)), Some(exchange)) = (&frame, this.exchange)
            && let Some(data) = frame.data_ref()
        {
            exchange.add_received(data.remaining() as u64);
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

pin_project! {
    /// The body of a response. It counts its bytes and ends the line with the last one, with a
    /// failure, or with its drop; its frames pass unchanged.
    pub struct ResponseBody<B> {
        #[pin]
        inner: B,
        // Empty once it is written, and if the request is not logged.
        line: Line,
    }
}

impl<B: Body> ResponseBody<B> {
    pub(super) fn new(inner: B, mut line: Line) -> Self {
        if inner.is_end_stream() {
            line.finish_at_head();
        }
        Self { inner, line }
    }

    /// Returns the body of a response that is not logged.
    #[inline]
    pub(super) fn disabled(inner: B) -> Self {
        let line = Line::disabled();
        Self { inner, line }
    }
}

impl<B: Default> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            inner: B::default(),
            line: Line::disabled(),
        }
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
        if this.line.is_disabled() {
            return this.inner.poll_frame(cx);
        }
        // If an attempt ends within this poll, its end is the line's, and the clock need not be read
        // twice.
        let ends = this.line.ends();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.line.add_sent(data.remaining());
        }
        // hyper drops a body of known length after its last frame, without a poll that returns `None`.
        match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => {}
            Some(Err(error)) => this.line.fail(error),
            _ => this.line.finish_in_poll(ends),
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

impl<B: std::fmt::Debug> std::fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
