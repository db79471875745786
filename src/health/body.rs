//! What happens until the last byte: a response body that breaks off counts as a failure.
//!
//! The head was judged when it came. If the body then breaks off, the success is taken back and
//! counts as a failure within the window of shares; it does not count for failures in a row, where
//! one long download that breaks would end a streak of good answers.
//!
//! Only errors of this crate say which side failed. A foreign body type is passed through and never
//! judged.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::outlier::OutlierRecord;
use crate::error::{Error, ErrorKind};

pin_project! {
    /// The response body of the inner service.
    ///
    /// A body that breaks off by the backend's fault counts as a failure of the backend. A body that
    /// is dropped before its end counts as nothing: the client went away, or the failover layer
    /// discarded the response.
    #[derive(Default)]
    pub struct ResponseBody<R> {
        #[pin]
        inner: R,
        // Where a failure is counted; `None` if outlier detection does not judge the response.
        record: Option<Arc<OutlierRecord>>,
    }
}

impl<R> ResponseBody<R> {
    pub(super) fn new(inner: R, record: Option<Arc<OutlierRecord>>) -> Self {
        Self { inner, record }
    }

    /// Returns the inner body; its end is no longer judged.
    pub fn into_inner(self) -> R {
        self.inner
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
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Err(error)) = &frame
            // Taken: a body that is polled again after its error counts once.
            && let Some(record) = this.record.take()
        {
            count(&record, Error::of(error).map(Error::kind));
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

impl<R: fmt::Debug> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cold]
fn count(record: &OutlierRecord, kind: Option<ErrorKind>) {
    if let Some(kind @ (ErrorKind::ResponseBody | ErrorKind::ResponseBodyTimeout)) = kind {
        record.broke_off(kind);
    }
}
