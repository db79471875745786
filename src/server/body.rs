//! [`Body`]: the body of a client's request, over HTTP/1.1 and HTTP/2.
//!
//! | what arrived | content | cost |
//! |---|---|---|
//! | no body | `Empty` | none |
//! | all of it with the head | `Whole` | a copy into a block that many small bodies share; no state shared with the connection |
//! | HTTP/1.1, a part or nothing so far | `Streamed` | a channel with one lock, and a box |
//! | HTTP/2, a part or nothing so far | `Http2` | the codec's own stream |
//!
//! A body can be polled on any task, and later than its response: the connection reads on as long
//! as the body is held. Under HTTP/1.1 the connection then waits with the next request.

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
use super::http2::RequestBody;
use super::{
    http1::StreamedBody,
    state::{ExchangeGuard, State},
};
#[cfg(feature = "http2")]
use crate::context::Interim;
use crate::error::Error;

/// The body of a client's request.
///
/// Its errors are the client's: [`ErrorKind::ClientBody`](crate::ErrorKind::ClientBody) if the client
/// disconnected or sent a malformed body, and
/// [`ErrorKind::ClientBodyTimeout`](crate::ErrorKind::ClientBodyTimeout) if it was too slow. An unread
/// body may outlive its connection.
pub struct Body {
    content: Content,
    /// Under HTTP/2, the stream counts as active until its body has ended.
    exchange: Option<ExchangeGuard>,
}

/// The source of the data.
enum Content {
    /// HTTP/1.1, and the body did not arrive together with its head.
    Streamed(StreamedBody),
    /// The head announces no body.
    Empty,
    #[cfg(feature = "http2")]
    Http2(RequestBody),
    /// All of the body, which arrived together with its head.
    Whole(Bytes),
}

impl Body {
    /// The exchange of HTTP/1.1 is held by the connection's own loop, not by the body.
    pub(super) fn streamed(body: StreamedBody) -> Self {
        Self {
            content: Content::Streamed(body),
            exchange: None,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            content: Content::Empty,
            exchange: None,
        }
    }

    /// Makes a complete body: it needs no state that is shared with the connection.
    ///
    /// Its `is_end_stream` is false until the one frame is taken; an empty body has to be made with
    /// [`empty`](Self::empty).
    pub(super) fn whole(data: Bytes) -> Self {
        Self {
            content: Content::Whole(data),
            exchange: None,
        }
    }

    /// Applies the least rate to an HTTP/1.1 body.
    ///
    /// Call it before the service gets the body. A body that arrived whole has nothing to wait for.
    pub(super) fn limit_streamed_rate(&self, headers: &HeaderMap, state: &Arc<State>) {
        if let Content::Streamed(body) = &self.content
            && has_min_rate(headers)
        {
            body.limit_rate(state);
        }
    }

    /// Applies the least rate to an HTTP/2 body.
    #[cfg(feature = "http2")]
    pub(super) fn limit_http2_rate(
        &mut self,
        headers: &HeaderMap,
        state: &State,
        interim: &Interim,
    ) {
        if let Content::Http2(body) = &mut self.content
            && has_min_rate(headers)
        {
            body.limit_rate(state, interim.clone());
        }
    }

    /// Begins an exchange: the connection counts as in use until the body has ended or is dropped.
    #[cfg(feature = "http2")]
    pub(super) fn http2(body: RequestBody, state: &Arc<State>) -> Self {
        Self {
            content: Content::Http2(body),
            exchange: Some(state.begin()),
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
        // The end may be known without a poll, by the announced length: the stream stops counting
        // here.
        if this.is_end_stream() {
            this.exchange = None;
            return Poll::Ready(None);
        }
        let polled = match &mut this.content {
            Content::Streamed(body) => body.poll_frame(cx),
            Content::Empty => Poll::Ready(None),
            #[cfg(feature = "http2")]
            Content::Http2(body) => match &this.exchange {
                Some(exchange) => body.poll_frame(cx, exchange.state()),
                None => Poll::Ready(None),
            },
            Content::Whole(data) => {
                let data = std::mem::take(data);
                this.content = Content::Empty;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        };
        // The end or a failure: the exchange of the body is over, although the service may hold the
        // value.
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.exchange = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Streamed(body) => body.is_end_stream(),
            Content::Empty => true,
            Content::Whole(_) => false,
            #[cfg(feature = "http2")]
            Content::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Streamed(body) => body.size_hint(),
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(data) => SizeHint::with_exact(data.len() as u64),
            #[cfg(feature = "http2")]
            Content::Http2(body) => body.size_hint(),
        }
    }
}

/// Returns true if the least rate applies to the body. It does not for calls of gRPC, whose messages
/// come when the client has some.
///
/// A prefix: `application/grpc+proto`, `application/grpc-web` and the like count as gRPC.
fn has_min_rate(headers: &HeaderMap) -> bool {
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
    /// The response body of a request that may upgrade; the exchange ends when it is dropped.
    pub(super) struct TrackedBody<B> {
        #[pin]
        pub(super) inner: B,
        // Dropped with the body, which ends the exchange or makes the connection a tunnel.
        pub(super) exchange: ExchangeGuard,
    }
}

impl<B: HttpBody> HttpBody for TrackedBody<B> {
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
