//! The response body: a text, a stream of events, or the body of the metrics service.
//!
//! A text is one frame and is over when it was taken, so that a server sees the end at the head of an
//! empty one. A stream of events never says that it is over before it is: its length is not known.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::BoxBody;

use super::event_stream::EventStream;
use crate::error::BoxError;

/// The response body of [`Admin`](super::Admin).
#[derive(Default)]
pub struct Body {
    kind: Kind,
}

enum Kind {
    Events(EventStream),
    /// Of the metrics service.
    Other(BoxBody<Bytes, BoxError>),
    Text(Bytes),
}

impl Body {
    pub(super) fn text(text: Bytes) -> Self {
        Self {
            kind: Kind::Text(text),
        }
    }

    pub(super) fn events(events: EventStream) -> Self {
        Self {
            kind: Kind::Events(events),
        }
    }

    pub(super) fn other(body: BoxBody<Bytes, BoxError>) -> Self {
        Self {
            kind: Kind::Other(body),
        }
    }
}

impl Default for Kind {
    fn default() -> Self {
        Self::Text(Bytes::new())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().kind {
            Kind::Events(events) => events
                .poll_next(cx)
                .map(|text| Some(Ok(Frame::data(text?)))),
            Kind::Other(body) => Pin::new(body).poll_frame(cx),
            Kind::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Events(_) => false,
            Kind::Other(body) => body.is_end_stream(),
            Kind::Text(text) => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Events(_) => SizeHint::default(),
            Kind::Other(body) => body.size_hint(),
            Kind::Text(text) => SizeHint::with_exact(text.len() as u64),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Events(_) => "events",
            Kind::Other(_) => "metrics",
            Kind::Text(_) => "text",
        };
        f.debug_struct("Body")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}
