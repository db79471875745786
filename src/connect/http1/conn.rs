//! `Conn`: one HTTP/1.1 connection to a backend, and its current exchange.
//!
//! # When the connection may carry another request
//!
//! All of these, or it is closed: the response is complete, the request was sent completely,
//! nothing was received behind the response, `Connection` and the version allow it, no error came
//! up, and the owner did not forbid it (`close_after`). Bytes behind a response belong to no
//! request: a backend that is out of step by one would answer each client with the response of
//! another.

use std::{
    fmt, io,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Frame;

use super::{
    ErasedBody, Timeouts,
    phases::{Phase, PhaseTimer},
    request_body_writer::RequestBodyWriter,
    request_writer::WriteError,
    write_queue::WriteQueue,
};
use crate::{
    connect::Stream,
    error::{Error, ErrorKind},
    wire::{
        Malformed,
        chunked::{Decoder, Step},
    },
};

/// One HTTP/1.1 connection to a backend, and its current exchange. It lives in one box from dial to
/// close: the future of the response, the response body and the idle connections pass the box on.
pub(crate) struct Conn<A> {
    pub(super) stream: Stream,
    /// `None` if the caller has a deadline of its own.
    ///
    /// A check has one deadline for everything, and needs none for each phase.
    pub(super) timer: Option<PhaseTimer>,
    /// Bytes received and not yet used; empty while the connection is idle.
    pub(super) read: BytesMut,
    /// How much of `read` was searched for the end of the head.
    pub(super) searched: usize,
    /// What is written next; empty while the connection is idle.
    pub(super) out: WriteQueue,
    /// The request body, until its last frame was taken.
    pub(super) body_writer: Option<RequestBodyWriter>,
    /// The error of writing the request. Kept until the response is read, as the backend's response may
    /// explain it.
    pub(super) write_error: Option<io::Error>,
    /// The client broke off its request while the response was sent.
    client_failed: bool,
    /// The request says `Expect: 100-continue`: its body waits for the backend's 100.
    pub(super) awaits_continue: bool,
    /// How many interim responses came.
    pub(super) interim: u8,
    /// `Idle` also marks that a wait begins again: the next `Pending` arms its deadline.
    pub(super) phase: Phase,
    /// Finds the end of the response body; `done` between exchanges.
    pub(super) decoder: Decoder,
    /// Fields of the response that end at this hop: they do not pass as trailers either.
    pub(super) nominated: Vec<HeaderName>,
    /// True if the connection may carry another request after this one.
    ///
    /// It only ever goes from true to false within an exchange.
    pub(super) reusable: bool,
    /// True if the connection has carried a request before this one.
    reused: bool,
    pub(super) request: RequestTraits,
    /// The data of the connection's owner: the proxy or a check.
    pub(crate) owner_data: A,
}

/// The data that the owner of a connection keeps with it.
///
/// Called within polls; must not poll the connection.
pub(crate) trait ConnOwner {
    /// Returns the map that the response's fields replace; `None` while no request waits for a response.
    fn fields(&mut self) -> Option<&mut HeaderMap>;

    /// Takes an interim response with another status than 100 and 101.
    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        drop((status, fields));
    }
}

/// The parts of a request that the connection needs beside the bytes of its head.
#[derive(Default)]
pub(crate) struct Start {
    /// `None` if the request has no body.
    pub(crate) body: Option<ErasedBody>,
    /// The declared `Content-Length`; `None` if the body is sent in chunks.
    pub(crate) length: Option<u64>,
    pub(crate) awaits_continue: bool,
    /// The response has no body, whatever it declares.
    pub(crate) is_head: bool,
    /// The value of `Upgrade`, if the request asks for a switch.
    pub(crate) upgrade: Option<HeaderValue>,
    /// True if the request may be sent again on a new connection.
    pub(crate) replaceable: bool,
    /// Fields that end at this hop: they do not pass as trailers either.
    pub(crate) nominated: Vec<HeaderName>,
}

/// The traits of the request that decide how its response is read.
#[derive(Default)]
pub(super) struct RequestTraits {
    pub(super) head: bool,
    pub(super) upgrade: Option<HeaderValue>,
    /// The request went out on an idle connection, and may be sent again on a new one.
    pub(super) replaceable: bool,
}

impl<A> Conn<A> {
    /// Makes a connection of a stream. Without time-outs, the caller has a deadline of its own.
    pub(crate) fn new(stream: Stream, timeouts: Option<Timeouts>, owner_data: A) -> Box<Self> {
        Box::new(Self {
            stream,
            timer: timeouts.map(PhaseTimer::new),
            read: BytesMut::new(),
            searched: 0,
            out: WriteQueue::default(),
            body_writer: None,
            write_error: None,
            client_failed: false,
            awaits_continue: false,
            interim: 0,
            phase: Phase::Idle,
            decoder: Decoder::done(),
            nominated: Vec::new(),
            reusable: true,
            reused: false,
            request: RequestTraits::default(),
            owner_data,
        })
    }

    /// Begins an exchange. Takes the first frame of the body, if it is ready, so that it leaves with the
    /// head. The caller calls [`send`](Self::send) next.
    ///
    /// # Errors
    ///
    /// If the body fails at once. Nothing was written, and the connection is as before.
    ///
    /// The pool or the dial has just given the connection out: `end` has left it without a rest of
    /// an earlier exchange.
    pub(crate) fn start(&mut self, start: Start) -> Result<(), Error> {
        self.reusable = true;
        self.searched = 0;
        self.interim = 0;
        self.client_failed = false;
        self.request = RequestTraits {
            head: start.is_head,
            upgrade: start.upgrade,
            // A new connection is not given up by the backend before the request: what it does is
            // its answer.
            replaceable: self.reused && start.replaceable,
        };
        self.awaits_continue = start.awaits_continue && start.body.is_some();
        match start.body {
            Some(body) => {
                self.begin_body(RequestBodyWriter::new(body, start.length, start.nominated))
            }
            None => Ok(()),
        }
    }

    /// Writes the head and the frame that [`start`](Self::start) took, as much as the socket takes at
    /// once. The contents of `head` are undefined afterwards.
    ///
    /// Never waits. An error of the socket is kept until the response was looked for.
    pub(crate) fn send(&mut self, head: &mut Vec<u8>) {
        // The future of the response writes the rest and registers its waker.
        if let Err(error) = self.out.begin(&mut self.stream, head) {
            // The response of the backend may explain the error.
            self.abandon_request();
            // A backend that refuses a large upload answers and closes: the write fails, and the
            // answer can still be read.
            self.write_error = Some(error);
        }
        self.enter(Phase::Head);
    }

    /// No waker is needed here: the future of the response polls the body again.
    ///
    /// The error of a body that fails at once leaves the connection usable.
    fn begin_body(&mut self, mut body_writer: RequestBodyWriter) -> Result<(), Error> {
        if !self.awaits_continue {
            // The body is polled again by the future of the response, with a waker, if this poll is
            // pending.
            let mut cx = Context::from_waker(Waker::noop());
            match body_writer.poll_read(&mut self.out, &mut cx) {
                Poll::Ready(Ok(true)) => {
                    body_writer.recycle();
                    return Ok(());
                }
                Poll::Ready(Ok(false)) | Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    self.out = WriteQueue::default();
                    return Err(match error {
                        WriteError::Client(error) => error,
                        WriteError::Backend(error) => failed(ErrorKind::RequestWrite, error),
                    });
                }
            }
        }
        self.body_writer = Some(body_writer);
        Ok(())
    }

    /// Returns the next frame of the response body, and sends the rest of the request meanwhile.
    ///
    /// Call it only if the head said that the body is streaming, and not again after `None` or an
    /// error.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.is_sent()
            && let Poll::Ready(Err(error)) = self.poll_write_request(cx)
        {
            // The response has begun, so the rest of the request is not needed, unless the backend waits
            // for it.
            self.client_failed = matches!(error, WriteError::Client(_));
            self.abandon_request();
        }
        loop {
            match self.decoder.step(&mut self.read) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                // The decoder has left out what may not be a trailer; these are the fields that
                // `Connection` named.
                Ok(Step::Trailers(mut map)) => {
                    for name in &self.nominated {
                        map.remove(name);
                    }
                    if !map.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::trailers(map))));
                    }
                    continue;
                }
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return self.broken(error),
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    self.reusable = false;
                    // A body that the end of the connection ends (RFC 9112 §6.3): this is its end.
                    if self.decoder.close() {
                        return Poll::Ready(None);
                    }
                    return self.broken(CUT_OFF);
                }
                Poll::Ready(Ok(_)) => self.phase = Phase::Idle,
                Poll::Ready(Err(error)) => return self.broken(error),
                Poll::Pending => break,
            }
        }
        if self.phase != Phase::Body {
            self.enter(Phase::Body);
        }
        if self.poll_expired(cx).is_ready() {
            self.reusable = false;
            self.decoder.close();
            let kind = if self.client_failed {
                ErrorKind::ClientBody
            // The wait is for the side that owes something: here the client owes the rest of its
            // body.
            } else if self.body_writer.is_some() && self.out.left() == 0 {
                // The backend has all data that came, and may be waiting for the rest.
                ErrorKind::ClientBodyTimeout
            } else {
                ErrorKind::ResponseBodyTimeout
            };
            return Poll::Ready(Some(Err(self.over_limit(kind))));
        }
        Poll::Pending
    }

    pub(crate) fn is_body_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Returns the number of bytes left of the body, if it is known.
    pub(crate) fn body_left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Ends the exchange. Returns true if the connection may carry another.
    ///
    /// Call it once, when the response is complete.
    pub(crate) fn end(&mut self) -> bool {
        let whole = self.decoder.is_done() && self.is_sent() && self.read.is_empty();
        if !(whole && self.reusable) {
            return false;
        }
        // It may point into a block that other connections read into.
        self.read = BytesMut::new();
        // It points into the block of the request's head.
        self.request.upgrade = None;
        self.nominated = Vec::new();
        self.reused = true;
        self.enter(Phase::Idle);
        true
    }

    /// Closes the connection when the exchange has ended.
    pub(crate) fn close_after(&mut self) {
        self.reusable = false;
    }

    /// Returns true if the backend has closed the connection by now. Costs one system call.
    #[cfg(feature = "__sockets")]
    pub(crate) fn is_closed_now(&self) -> bool {
        self.stream.has_news()
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Returns true if no byte of a response has come: the idle connection was closed before.
    pub(crate) fn is_untouched(&self) -> bool {
        self.read.is_empty() && self.interim == 0
    }

    /// Returns the stream and the bytes that were read ahead, for a tunnel.
    ///
    /// Ends HTTP on the connection.
    pub(crate) fn into_stream(self) -> (Stream, Bytes) {
        // Copied, as a tunnel lasts long and the bytes are a part of a block.
        (self.stream, Bytes::copy_from_slice(&self.read))
    }

    pub(super) fn is_sent(&self) -> bool {
        self.body_writer.is_none() && self.out.is_done()
    }

    #[cold]
    fn broken<T>(&mut self, source: impl Into<crate::BoxError>) -> Poll<Option<Result<T, Error>>> {
        self.reusable = false;
        self.decoder.close();
        let kind = match self.client_failed {
            true => ErrorKind::ClientBody,
            false => ErrorKind::ResponseBody,
        };
        Poll::Ready(Some(Err(failed(kind, source))))
    }
}

impl<A> fmt::Debug for Conn<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("stream", &self.stream)
            .field("phase", &self.phase)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

/// Marks the error as one after sending: a part of the request may have arrived.
#[cold]
pub(super) fn failed(kind: ErrorKind, source: impl Into<crate::BoxError>) -> Error {
    Error::new(kind).with_source(source).after_sending()
}

const CUT_OFF: Malformed = Malformed::bad("closed before the end of the body");
