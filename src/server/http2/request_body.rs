//! The request body of an HTTP/2 stream.
//!
//! The codec reads what the socket has before it returns a request. Most bodies are therefore
//! complete at once, and such a body becomes a plain value: no stream, no counting of the exchange,
//! no timer. Anything else streams from the codec.
//!
//! The client's window opens by what the service takes ([`RequestBody::release`]), not by what
//! arrives: 1 MiB of a stream waits here at most, and 4 MiB of a connection.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};

use super::{fields, interim::Expectation};
use crate::{
    context::Interim,
    error::{Error, ErrorKind},
    server::{min_rate::RateTimer, state::State},
    wire::framing,
};

/// The part of a body that was received when its request begins. The codec reads all that the socket has
/// before it returns a request, so DATA that was sent with HEADERS is included.
pub(super) enum InitialBody {
    /// All of the body; empty if there is none.
    Whole(Bytes),
    Partial(RequestBody),
    /// The stream has ended: the client reset it, or the codec did since it is malformed.
    Reset(h2::Error),
}

impl InitialBody {
    /// Never waits. `headers` are those of the request, for the length that it announces.
    pub(super) fn read(mut stream: RecvStream, headers: &HeaderMap) -> Self {
        // The reader of the body registers its waker later.
        let cx = &mut Context::from_waker(Waker::noop());
        let mut ahead = Bytes::new();
        let mut data_ended = false;
        // A client can send a body in frames of one byte; each turn copies what was joined before
        // it.
        for _ in 0..MAX_INITIAL_FRAMES {
            if stream.is_end_stream() {
                // A WINDOW_UPDATE that follows is written together with the frames of this round.
                let _ = stream.flow_control().release_capacity(ahead.len());
                return Self::Whole(ahead);
            }
            // The rest streams; what is here is its first frame.
            if ahead.len() > MAX_JOINED {
                break;
            }
            match stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => ahead = join(ahead, data),
                Poll::Ready(Some(Err(error))) => return Self::Reset(error),
                Poll::Ready(None) => {
                    data_ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        Self::Partial(RequestBody {
            stream,
            ahead,
            left: framing::declared_length(headers),
            data_ended,
            expectation: None,
            rate_timer: None,
        })
    }
}

/// Copies only if both have bytes: the usual body is one frame.
fn join(ahead: Bytes, data: Bytes) -> Bytes {
    if ahead.is_empty() {
        return data;
    }
    if data.is_empty() {
        return ahead;
    }
    let mut joined = BytesMut::with_capacity(ahead.len() + data.len());
    joined.extend_from_slice(&ahead);
    joined.extend_from_slice(&data);
    joined.freeze()
}

/// A body that is not complete yet.
pub(in crate::server) struct RequestBody {
    stream: RecvStream,
    /// Data that was received with the head.
    ahead: Bytes,
    /// The announced length, less what was returned.
    left: Option<u64>,
    /// Only trailers are left.
    data_ended: bool,
    /// The client waits for 100 (Continue).
    expectation: Option<Arc<Expectation>>,
    /// The least rate of the client, which applies until the response begins.
    rate_timer: Option<(RateTimer, Interim)>,
}

impl RequestBody {
    /// Applies the least rate until the response begins.
    pub(in crate::server) fn limit_rate(&mut self, state: &State, interim: Interim) {
        self.rate_timer = Some((RateTimer::new(state.timeouts()), interim));
    }

    /// Returns the client's expectation of 100 (Continue), unless some of the body was received.
    pub(super) fn expectation(&mut self, headers: &HeaderMap) -> Option<Arc<Expectation>> {
        let expect = headers.get(header::EXPECT)?;
        let waits = self.ahead.is_empty() && !self.data_ended;
        if !waits || !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return None;
        }
        let expectation = Arc::<Expectation>::default();
        self.expectation = Some(expectation.clone());
        Some(expectation)
    }

    /// Can be polled on any task. The error is the client's: `ClientBody`, or `ClientBodyTimeout`
    /// below the least rate.
    pub(in crate::server) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        state: &State,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = self.poll_next(cx);
        let Some((rate_timer, interim)) = &mut self.rate_timer else {
            return polled.map_err(failed);
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                rate_timer.moved(frame.data_ref().map_or(0, Bytes::len), state);
            }
            // `Interim` closes when the final response begins: the sign that the client's rate
            // counts no more.
            Poll::Pending if interim.is_open() => {
                ready!(rate_timer.poll(cx, state));
                return Poll::Ready(Some(Err(rate_timer.too_slow(state))));
            }
            Poll::Pending | Poll::Ready(_) => {}
        }
        polled.map_err(failed)
    }

    /// Data, then trailers, then the end; the parts that came with the head first.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.ahead.is_empty() {
            let data = std::mem::take(&mut self.ahead);
            return Poll::Ready(Some(Ok(self.release(data))));
        }
        if !self.data_ended {
            let polled = self.stream.poll_data(cx);
            // Only if nothing arrived: a client that sends the body does not wait for 100.
            if let Some(expectation) = self.expectation.take()
                && polled.is_pending()
            {
                expectation.want_body();
            }
            match ready!(polled) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(self.release(data)))),
                Some(Err(error)) => return Poll::Ready(error_or_end(error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                fields::normalize_trailers(&mut trailers);
                let any = !trailers.is_empty();
                Poll::Ready(any.then(|| Ok(Frame::trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(error_or_end(error)),
        }
    }

    /// Returns the data as a frame, and opens the client's window by its length.
    ///
    /// An error means that the stream has ended, and no window is left to open.
    fn release(&mut self, data: Bytes) -> Frame<Bytes> {
        let _ = self.stream.flow_control().release_capacity(data.len());
        let came = data.len() as u64;
        self.left = self.left.map(|left| left.saturating_sub(came));
        Frame::data(data)
    }

    /// True once the codec has seen the end and all data was taken; trailers that still wait keep
    /// it false.
    pub(in crate::server) fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.stream.is_end_stream()
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cold]
fn failed(error: h2::Error) -> Error {
    Error::new(ErrorKind::ClientBody).with_source(error)
}

/// Returns the error, or `None` for a reset with NO_ERROR, which ends the body (RFC 9113 §8.1).
///
/// A server may answer early and reset with NO_ERROR; the same from a client means that it sends no
/// more.
fn error_or_end<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

/// Frames are joined up to this size only: those of a large upload, 16 KiB each, are not copied.
const MAX_JOINED: usize = 8 * 1024;
/// How many frames are joined at most; a body in more pieces is streamed.
const MAX_INITIAL_FRAMES: usize = 8;
