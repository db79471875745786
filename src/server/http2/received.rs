//! What a client sends in a request's body.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

pub(in crate::server) struct Received {
    stream: RecvStream,
    /// As announced, less what came.
    left: Option<u64>,
    /// Only trailers are left.
    data_ended: bool,
}

impl Received {
    /// `None` where there is no body.
    pub(in crate::server) fn new(stream: RecvStream, headers: &HeaderMap) -> Option<Self> {
        if stream.is_end_stream() {
            return None;
        }
        Some(Self {
            stream,
            left: length(headers),
            data_ended: false,
        })
    }

    pub(in crate::server) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window is open again as soon as it is taken from here.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    let came = data.len() as u64;
                    self.left = self.left.map(|left| left.saturating_sub(came));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(told(error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(told(error)),
        }
    }

    pub(in crate::server) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A reset without an error ends the body (RFC 9113 §8.1).
fn told<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

/// The codec has it that what comes is as long as announced.
fn length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    value.parse().ok()
}
