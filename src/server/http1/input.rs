//! What comes from the client: heads, what is sent ahead, and the end.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Http1,
    output::InterimOutput,
    refusal::Refusal,
    request_body::CONTINUE,
    streamed_body::{BodySender, MAX_DISCARDED},
};
use crate::{
    context::InterimQueue,
    server::{Body, recycled, shutdown::ShutdownWatcher, state::State, stream::Stream},
    wire::{
        framing::Framing,
        request::{self, Head, MAX_SHARED_HEAD},
        response,
    },
};

/// What follows on the connection.
pub(super) enum Next {
    /// The client ended it within a head.
    CutOff,
    End,
    /// A request: it lies in its place.
    Head(Head),
    Refused(Box<Refusal>),
}

/// What was read and not used: nothing, nearly always.
pub(super) struct Input {
    http1: Http1,
    pub(super) read: BytesMut,
    /// How far `read` was searched for the end of a head.
    searched: usize,
    /// The request that was read last, until it is called.
    pub(super) request: Option<Request<Body>>,
    /// The body of the request that is answered, where it did not come with its head.
    pub(super) body_sender: Option<Box<BodySender>>,
    /// From the first request on.
    interim: Option<InterimQueue>,
    /// What goes out before the response: interim responses.
    pub(super) interim_output: InterimOutput,
    /// The client ended its side.
    ended: bool,
    /// What comes behind the request cannot be told from its body.
    pub(super) framing_lost: bool,
}

impl Input {
    pub(super) fn new(http1: Http1) -> Self {
        Self {
            http1,
            read: BytesMut::new(),
            searched: 0,
            request: None,
            body_sender: None,
            interim: None,
            interim_output: InterimOutput::default(),
            ended: false,
            framing_lost: false,
        }
    }

    pub(super) fn poll_head<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        shutdown: &mut ShutdownWatcher<'_>,
        state: &State,
    ) -> Poll<io::Result<Next>> {
        shutdown.poll_shutdown(cx, state);
        // What a client sent ahead is answered, whatever is due.
        if self.searched < self.read.len() {
            if let Some(next) = self.parse_buffered(state) {
                return Poll::Ready(Ok(next));
            }
        }
        while !self.ended {
            let (read, next) = read(cx, io, |read, received| match read {
                Poll::Ready(Ok(())) if !received.is_empty() => self.parse(received, state),
                Poll::Ready(Ok(())) if self.is_blank() => Some(Next::End),
                Poll::Ready(Ok(())) => Some(Next::CutOff),
                Poll::Ready(Err(_)) | Poll::Pending => None,
            });
            if let Poll::Ready(Err(error)) = read {
                return Poll::Ready(Err(error));
            }
            if let Some(next) = next {
                return Poll::Ready(Ok(next));
            }
            if read.is_pending() {
                if state.poll_expired(cx).is_ready() {
                    return Poll::Ready(Ok(self.head_timeout()));
                }
                if shutdown.may_end(state) {
                    return Poll::Ready(Ok(Next::End));
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(match self.is_blank() {
            true => Next::End,
            false => Next::CutOff,
        }))
    }

    /// Ends a wait that took too long: one for the rest of a head with 408, one for a request
    /// by a close.
    #[cold]
    fn head_timeout(&self) -> Next {
        match self.is_blank() {
            true => Next::End,
            false => Next::Refused(Box::new(Refusal::head_timeout(&self.read))),
        }
    }

    /// Looks for a request in what was read, behind what was read before.
    fn parse(&mut self, received: &[u8], state: &State) -> Option<Next> {
        if !self.read.is_empty() {
            self.read.extend_from_slice(received);
            return self.parse_buffered(state);
        }
        let received = match received {
            [b'\r', ..] => &received[request::blank_lines(received)..],
            _ => received,
        };
        if received.is_empty() {
            return None;
        }
        // A head that came alone and whole needs no search for its end.
        let end = match received.len() <= MAX_SHARED_HEAD && received.ends_with(b"\r\n\r\n") {
            true => received.len(),
            false => match request::find_end(received, &mut self.searched) {
                Ok(Some(end)) => end,
                Ok(None) => {
                    self.read.extend_from_slice(received);
                    self.mark_head_started(state);
                    return None;
                }
                Err(error) => {
                    return Some(Next::Refused(Box::new(Refusal::malformed(error, received))));
                }
            },
        };
        self.searched = 0;
        match request::read(&received[..end], self.http1.allowed, &mut self.request) {
            Ok(head) => {
                let rest = &received[head.length..];
                if !rest.is_empty() || head.framing != Framing::None {
                    self.begin_body(&head, rest);
                }
                Some(Next::Head(head))
            }
            Err(error) => Some(Next::Refused(Box::new(Refusal::malformed(error, received)))),
        }
    }

    #[cold]
    fn parse_buffered(&mut self, state: &State) -> Option<Next> {
        let blank = request::blank_lines(&self.read);
        self.read.advance(blank);
        self.searched = self.searched.saturating_sub(blank);
        let found = request::find_end(&self.read, &mut self.searched);
        let read = match found {
            Ok(None) if self.read.is_empty() => {
                self.release_buffer();
                return None;
            }
            Ok(None) => {
                self.mark_head_started(state);
                return None;
            }
            Ok(Some(end)) => {
                self.searched = 0;
                request::read(&self.read[..end], self.http1.allowed, &mut self.request)
            }
            Err(error) => Err(error),
        };
        let head = match read {
            Ok(head) => head,
            Err(error) => {
                return Some(Next::Refused(Box::new(Refusal::malformed(
                    error, &self.read,
                ))));
            }
        };
        let rest = std::mem::take(&mut self.read).split_off(head.length);
        match head.framing {
            Framing::None => self.read = rest,
            _ => self.begin_body(&head, &rest),
        }
        self.release_buffer();
        Some(Next::Head(head))
    }

    /// Notes that a head has begun, unless that may be an empty line.
    fn mark_head_started(&self, state: &State) {
        if !self.is_blank() {
            state.start_head();
        }
    }

    /// Nothing came, or what may become an empty line.
    fn is_blank(&self) -> bool {
        matches!(&self.read[..], b"" | b"\r")
    }

    /// Gives back the memory of what was read ahead, where all of it was used.
    fn release_buffer(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
            self.searched = 0;
        }
    }

    pub(super) fn may_upgrade(&self, head: &Head) -> bool {
        let connects = || {
            let request = self.request.as_ref();
            request.is_some_and(|request| *request.method() == http::Method::CONNECT)
        };
        head.framing == Framing::None && (head.upgrades || connects())
    }

    /// Takes the request, and what came behind it.
    pub(super) fn take_upgrade(&mut self) -> Option<(Box<Request<Body>>, Bytes)> {
        let request = self.request.take()?;
        let ahead = std::mem::take(&mut self.read).freeze();
        Some((Box::new(request), ahead))
    }

    /// Returns the request, in extensions that an earlier one left.
    pub(super) fn request_mut(&mut self) -> Option<&mut Request<Body>> {
        let request = self.request.as_mut()?;
        *request.extensions_mut() = recycled::take();
        Some(request)
    }

    pub(super) fn take_request(&mut self) -> Option<Request<Body>> {
        self.request.take()
    }

    /// Gives the request its way to interim responses.
    pub(super) fn begin_interim(&mut self, head: &Head) {
        let queue = self.interim.get_or_insert_with(InterimQueue::new);
        let interim = queue.begin(!head.is_http10);
        if let Some(request) = &mut self.request {
            request.extensions_mut().insert(interim);
            if head.upgrades && head.framing != Framing::None {
                // RFC 9110 §7.8: a server may ignore it, and no service switches amid a body.
                request.headers_mut().remove(http::header::UPGRADE);
            }
        }
    }

    /// Ends the time for interim responses; returns what is still to be written of them.
    pub(super) fn end_interim(&mut self) -> InterimOutput {
        if let Some(body_sender) = &mut self.body_sender {
            // The service keeps the body for its response.
            if body_sender.end_continue() && self.read.is_empty() {
                self.interim_output
                    .write(|out| out.extend_from_slice(CONTINUE));
            }
        }
        if let Some(queue) = &mut self.interim {
            for (status, headers) in queue.end().into_iter().flatten() {
                self.interim_output
                    .write(|out| response::write_interim(status, headers, out));
            }
        }
        std::mem::take(&mut self.interim_output)
    }

    /// Returns true unless the connection cannot go on behind this request.
    pub(super) fn may_keep(&self) -> bool {
        let body_allows = self.body_sender.as_ref().is_none_or(|body_sender| {
            let is_small = body_sender
                .left()
                .is_some_and(|left| left <= MAX_DISCARDED as u64);
            let is_read = !body_sender.is_dropped() || is_small;
            !body_sender.is_broken()
                && !body_sender.awaits_continue()
                && (body_sender.is_done() || is_read)
        });
        body_allows && !self.is_over()
    }

    /// Does what the service or its response may wait for. Is ready when they are to be polled
    /// again, with an error when the client has gone, and with it the reader of the response.
    pub(super) fn poll_while_answering<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Result<()>> {
        if let Some(queue) = &mut self.interim {
            for (status, headers) in queue.poll(cx).into_iter().flatten() {
                self.interim_output
                    .write(|out| response::write_interim(status, headers, out));
            }
        }
        if self.body_sender.is_some() && self.poll_request_body(cx, io).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(Err(error)) = self.interim_output.poll(cx, io) {
            return Poll::Ready(Err(error));
        }
        match self.body_sender {
            Some(_) => Poll::Pending,
            None => self.poll_hang_up(cx, io).map(Err),
        }
    }

    pub(super) fn has_lost_framing(&self) -> bool {
        self.framing_lost
    }

    /// Nothing that comes from here on is a request.
    pub(super) fn is_over(&self) -> bool {
        self.framing_lost || (self.ended && self.read.is_empty())
    }

    /// Is ready when the client has gone, and with it the reader of the response. What it sends
    /// ahead is kept, to a bound.
    pub(super) fn poll_hang_up<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Error> {
        while self.read.len() < MAX_READ_AHEAD && !self.ended {
            let (read, received) = read(cx, io, |_, received| {
                self.read.extend_from_slice(received);
                received.len()
            });
            if let Err(error) = ready!(read) {
                return Poll::Ready(error);
            }
            if received == 0 {
                if !self.http1.half_close {
                    return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
                }
                self.ended = true;
            }
        }
        Poll::Pending
    }
}

/// Reads into the thread's buffer, and has a look at what came.
fn read<Io: AsyncRead + AsyncWrite + Unpin, T>(
    cx: &mut Context<'_>,
    io: &mut Stream<Io>,
    parse: impl FnOnce(&Poll<io::Result<()>>, &[u8]) -> T,
) -> (Poll<io::Result<()>>, T) {
    let mut scratch = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; HEAD_READ].into());
    let mut buf = ReadBuf::new(&mut scratch);
    let read = Pin::new(io).poll_read(cx, &mut buf);
    let looked = parse(&read, buf.filled());
    READ_BUFFER.set(Some(scratch));
    (read, looked)
}

thread_local! {
    /// What every connection of the thread reads heads into: it is in the cache, and an idle
    /// connection needs none.
    static READ_BUFFER: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// Most heads fit in, with a small body or some requests that are sent ahead.
const HEAD_READ: usize = 16 * 1024;
/// What a client may send ahead before its hang-up goes unnoticed until the response.
const MAX_READ_AHEAD: usize = 64 * 1024;
