//! The bodies that go through the server.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::state::Exchanging;
use crate::error::{Error, ErrorKind};

/// The body of a client's request. What goes wrong with it is the client's doing:
/// [`ErrorKind::ClientBody`].
pub struct Body {
    incoming: Incoming,
}

impl Body {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self { incoming }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.get_mut().incoming)
            .poll_frame(cx)
            .map_err(|error| Error::new(ErrorKind::ClientBody).with_source(error))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
