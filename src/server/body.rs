//! The bodies that go through the server.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

#[cfg(feature = "http2")]
use super::http2::Received;
use super::{
    http1::Upload,
    state::{Exchanging, State},
};
#[cfg(feature = "http2")]
use crate::context::Interim;
use crate::error::Error;

/// The body of a client's request. What goes wrong with it is the client's doing:
/// [`ErrorKind::ClientBody`](crate::ErrorKind::ClientBody).
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

    /// Holds the client to the pace of an upload.
    pub(super) fn expect_of_upload(&self, headers: &HeaderMap, state: &Arc<State>) {
        if let Content::Upload(upload) = &self.content {
            if has_pace(headers) {
                upload.expect(state);
            }
        }
    }

    /// Holds the client to the pace of an upload.
    #[cfg(feature = "http2")]
    pub(super) fn expect_of_stream(
        &mut self,
        headers: &HeaderMap,
        state: &State,
        interim: &Interim,
    ) {
        if let Content::Stream(received) = &mut self.content {
            if has_pace(headers) {
                received.expect(state, interim.clone());
            }
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
            Content::Stream(received) => match &this.exchanging {
                Some(exchanging) => received.poll_frame(cx, exchanging.state()),
                None => Poll::Ready(None),
            },
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

/// The client's time for a body runs, unless it is a call of gRPC: the messages of a call come when
/// the client has some.
fn has_pace(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    !content_type.is_some_and(|value| {
        value
            .get(..GRPC.len())
            .is_some_and(|value| value.eq_ignore_ascii_case(GRPC))
    })
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

const GRPC: &[u8] = b"application/grpc";
