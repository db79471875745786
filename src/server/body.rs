//! The bodies that go through the server.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::state::{Exchanging, State};
use crate::error::{Error, ErrorKind};

/// The body of a client's request. What goes wrong with it is the client's doing:
/// [`ErrorKind::ClientBody`].
pub struct Body {
    /// `None` where the head says that there is none.
    incoming: Option<Incoming>,
    /// An upload may outlive its response: until it ends, what comes in is no head.
    exchanging: Option<Exchanging>,
}

impl Body {
    pub(super) fn new(incoming: Incoming, state: &Arc<State>) -> Self {
        let exchanging = (!incoming.is_end_stream()).then(|| state.begin());
        Self {
            incoming: Some(incoming),
            exchanging,
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            incoming: None,
            exchanging: None,
        }
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
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(None);
        };
        // The codec says so only with the next head where the response has ended before.
        if incoming.is_end_stream() {
            this.exchanging = None;
            return Poll::Ready(None);
        }
        let polled = Pin::new(incoming).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.exchanging = None;
        }
        polled.map_err(|error| Error::new(ErrorKind::ClientBody).with_source(error))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(HttpBody::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A response body that says when it ends.
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
        let this = self.project();
        let polled = this.inner.poll_frame(cx);
        this.exchanging
            .offer(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
