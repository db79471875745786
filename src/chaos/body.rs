//! [`ResponseBody`]: a body that breaks off, ends early or is slow.
//!
//! The order of the faults within a poll is that of a real connection: a pause passes first, then a
//! reset or an end that is due, and only then are more bytes read. A frame is cut at the byte of the
//! next fault, so that `reset(100)` fails after exactly 100 bytes whatever frames the service makes.
//!
//! A reset takes the inner body along (it is dropped, as a proxy drops its connection), and the body
//! is over behind the error.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::fault::BodyFaults;
use crate::error::{BoxError, Error, ErrorKind};

pin_project! {
    /// The response body of [`Chaos`](super::Chaos): the inner body with the faults of its request.
    pub struct ResponseBody<R> {
        #[pin]
        inner: Option<R>,
        faults: BodyFaults,
        // Bytes that were passed on.
        sent: u64,
        // Bytes that were read and not passed on yet.
        held: Bytes,
        // Boxed: pauses are rare, and a box needs no pinned field.
        pause: Option<Pin<Box<Sleep>>>,
    }
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, faults: BodyFaults) -> Self {
        Self {
            inner: Some(inner),
            faults,
            sent: 0,
            held: Bytes::new(),
            pause: None,
        }
    }

    /// Makes the body of a response that is not the inner service's.
    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            faults: BodyFaults::default(),
            sent: 0,
            held: Bytes::new(),
            pause: None,
        }
    }
}

impl<R> Default for ResponseBody<R> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if let Some(pause) = this.pause {
            ready!(pause.as_mut().poll(cx));
            *this.pause = None;
        }
        if this
            .faults
            .reset_after
            .is_some_and(|after| *this.sent >= after)
        {
            this.inner.set(None);
            this.held.clear();
            // The body fails once; a poll behind that finds its end.
            this.faults.reset_after = None;
            let error = Error::new(ErrorKind::ResponseBody).with_source("injected");
            return Poll::Ready(Some(Err(error.into())));
        }
        if this
            .faults
            .truncate_after
            .is_some_and(|after| *this.sent >= after)
        {
            this.inner.set(None);
            this.held.clear();
        }
        while this.held.is_empty() {
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                return Poll::Ready(None);
            };
            let frame = match ready!(inner.poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    this.inner.set(None);
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) => *this.held = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        // A frame is split here and the rest is held: the service makes frames of any length.
        let most = this
            .faults
            .next_length(*this.sent)
            .min(this.held.len() as u64);
        let data = this.held.split_to(most as usize);
        *this.sent += most;
        if let Some(pace) = this.faults.bytes_per_second {
            // The pause comes behind the frame, so that the first byte is not late.
            let pause = Duration::from_secs_f64(most as f64 / pace as f64);
            *this.pause = Some(Box::pin(sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        // A body that fails or pauses must be polled to its end.
        let is_pending = self.faults.reset_after.is_some() || self.pause.is_some();
        let inner = self.inner.as_ref().is_none_or(Body::is_end_stream);
        !is_pending && self.held.is_empty() && inner
    }

    fn size_hint(&self) -> SizeHint {
        let Some(inner) = &self.inner else {
            return SizeHint::with_exact(self.held.len() as u64);
        };
        if self.faults.truncate_after.is_some() {
            return SizeHint::default();
        }
        let held = self.held.len() as u64;
        let hint = inner.size_hint();
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(held));
        }
        whole.set_lower(hint.lower().saturating_add(held));
        whole
    }
}

impl BodyFaults {
    /// Returns the most bytes of the next frame, after `sent` bytes.
    fn next_length(&self, sent: u64) -> u64 {
        let ends = [self.reset_after, self.truncate_after]
            .into_iter()
            .flatten();
        let most = ends.map(|end| end.saturating_sub(sent)).min();
        // A tenth of a second at the set rate, so that a slow body has many small frames.
        let pace = self.bytes_per_second.map(|pace| (pace / 10).max(1));
        most.unwrap_or(u64::MAX)
            .min(pace.unwrap_or(u64::MAX))
            .max(1)
    }
}

impl<R> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("faults", &self.faults)
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
