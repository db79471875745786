//! `Body`: the response body, one concrete type for all protocols.
//!
//! The body is the reader of the connection: there is no task between the two, so a client that
//! does not read stops the reads from the backend by TCP, and at most one read (32 KiB) is held.
//!
//! | dropped before its end | consequence |
//! |---|---|
//! | `Streaming` | the connection is closed: the rest of the response would be read as the next one |
//! | `Http2` | the stream is reset, the connection goes on |
//! | `Whole`, `Empty` | none; the connection is idle already |

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::http1::Conn;
#[cfg(feature = "http2")]
use super::http2::StreamBody;
pub(super) use crate::connect::http1::{ErasedBody, erase};
use crate::error::Error;

/// The body of a backend's response. It reads from the connection to the backend itself, and returns
/// the connection to the idle ones at its end. Dropped before its end, it closes an HTTP/1.1
/// connection and resets an HTTP/2 stream.
#[derive(Default)]
pub struct Body {
    kind: Kind,
}

/// The variants with a connection are boxed already, so the body is three words.
#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    #[cfg(feature = "http2")]
    Http2(Box<StreamBody>),
    Streaming(Box<Conn>),
    /// The whole body came with the head; the connection is idle again.
    Whole(Bytes),
}

impl Body {
    /// One frame; the connection does not wait for it.
    pub(super) fn whole(data: Bytes) -> Self {
        Self {
            kind: Kind::Whole(data),
        }
    }

    /// Takes the connection until the last frame.
    pub(super) fn streaming(conn: Box<Conn>) -> Self {
        Self {
            kind: Kind::Streaming(conn),
        }
    }

    #[cfg(feature = "http2")]
    pub(super) fn http2(stream: Box<StreamBody>) -> Self {
        Self {
            kind: Kind::Http2(stream),
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
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            #[cfg(feature = "http2")]
            Kind::Http2(stream) => Pin::new(&mut **stream).poll_frame(cx),
            Kind::Streaming(conn) => {
                let frame = std::task::ready!(conn.poll_frame(cx));
                // Known with the last frame where the length is announced. The connection is then
                // idle before the client has the last byte, so that the client's next request finds
                // it.
                let ended = conn.is_body_done() || !matches!(frame, Some(Ok(_)));
                if ended && let Kind::Streaming(conn) = std::mem::take(&mut this.kind) {
                    conn.finish();
                }
                Poll::Ready(frame)
            }
            Kind::Whole(data) => {
                let data = std::mem::take(data);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            #[cfg(feature = "http2")]
            Kind::Http2(stream) => stream.is_end_stream(),
            Kind::Streaming(_) | Kind::Whole(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            #[cfg(feature = "http2")]
            Kind::Http2(stream) => stream.size_hint(),
            Kind::Streaming(conn) => conn
                .body_left()
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Kind::Whole(data) => SizeHint::with_exact(data.len() as u64),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &self.size_hint())
            .finish_non_exhaustive()
    }
}
