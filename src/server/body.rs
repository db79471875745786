//! The bodies that go through the server.

#[cfg(feature = "http2")]
use std::sync::Arc;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

#[cfg(feature = "http2")]
use super::http2::Received;
#[cfg(feature = "http2")]
use super::state::State;
use super::{http1::Upload, state::Exchanging};
#[cfg(feature = "http2")]
use crate::error::BoxError;
use crate::error::Error;
#[cfg(feature = "http2")]
use crate::error::ErrorKind;

/// The body of a client's request. What goes wrong with it is the client's doing:
/// [`ErrorKind::ClientBody`].
pub struct Body {
    content: Content,
    /// Under HTTP/2, a stream whose body is read is under way.
    exchanging: Option<Exchanging>,
}

/// Where it comes from.
enum Content {
    /// HTTP/1.1, where it did not come with its head.
    Upload(Upload),
    /// The head says that there is none.
    None,
    #[cfg(feature = "http2")]
    Stream(Received),
    /// It came with its head, and ends here.
    Whole(Bytes),
}

impl Body {
    pub(super) fn of_upload(upload: Upload) -> Self {
        Self {
            content: Content::Upload(upload),
            exchanging: None,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            content: Content::None,
            exchanging: None,
        }
    }

    /// A body that is here to its end: it costs no shared state, and outlives the connection.
    pub(super) fn whole(data: Bytes) -> Self {
        Self {
            content: Content::Whole(data),
            exchanging: None,
        }
    }

    #[cfg(feature = "http2")]
    pub(super) fn of_stream(received: Received, state: &Arc<State>) -> Self {
        Self {
            content: Content::Stream(received),
            exchanging: Some(state.begin()),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.is_end_stream() {
            this.exchanging = None;
            return Poll::Ready(None);
        }
        let polled = match &mut this.content {
            Content::Upload(upload) => upload.poll_frame(cx),
            Content::None => Poll::Ready(None),
            #[cfg(feature = "http2")]
            Content::Stream(received) => received.poll_frame(cx).map_err(failed),
            Content::Whole(data) => {
                let data = std::mem::take(data);
                this.content = Content::None;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.exchanging = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Upload(upload) => upload.is_end_stream(),
            Content::None => true,
            Content::Whole(_) => false,
            #[cfg(feature = "http2")]
            Content::Stream(received) => received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Upload(upload) => upload.size_hint(),
            Content::None => SizeHint::with_exact(0),
            Content::Whole(data) => SizeHint::with_exact(data.len() as u64),
            #[cfg(feature = "http2")]
            Content::Stream(received) => received.size_hint(),
        }
    }
}

#[cfg(feature = "http2")]
#[cold]
fn failed(error: impl Into<BoxError>) -> Error {
    Error::new(ErrorKind::ClientBody).with_source(error)
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A response body of a request that may upgrade: its exchange ends with it.
    pub(super) struct Answering<B> {
        #[pin]
        pub(super) inner: B,
        pub(super) exchanging: Exchanging,
    }
}

impl<B: HttpBody> HttpBody for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
