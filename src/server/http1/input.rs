//! Reads from an HTTP/1.1 client: request heads, bytes that are sent ahead, and the end.
//!
//! `read` holds bytes only between polls: a part of a head, pipelined requests, a part of a body. A
//! head that arrives whole is parsed in the thread's buffer and never copied here.

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
    server::{
        Body, last_look::LastLook, recycled, shutdown::ShutdownWatcher, state::State,
        stream::Stream,
    },
    wire::{
        framing::Framing,
        request::{self, Head, MAX_SHARED_HEAD},
        response,
    },
};

/// The next event of the connection, boxed where it is large and rare.
pub(super) enum Next {
    /// The client closed the connection within a head.
    CutOff,
    End,
    /// A request head; the request is in `Input::request`.
    Head(Head),
    Refused(Box<Refusal>),
}

/// The read side of a connection.
pub(super) struct Input {
    http1: Http1,
    pub(super) read: BytesMut,
    /// How far `read` has been searched for the end of a head.
    searched: usize,
    /// The request that was read last, until the service gets it.
    pub(super) request: Option<Request<Body>>,
    /// The sender of the current request body, unless the body arrived with its head.
    pub(super) body_sender: Option<Box<BodySender>>,
    /// `None` before the first request.
    interim: Option<InterimQueue>,
    /// Interim responses that are not written yet.
    pub(super) interim_output: InterimOutput,
    /// The client closed its write side.
    ended: bool,
    /// The end of the request body is unknown, so no further request can be read.
    pub(super) framing_lost: bool,
    last_look: LastLook,
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
            last_look: LastLook::default(),
        }
    }

    /// Ready with `Next::End` for a clean end only; bytes of an unfinished head make it `CutOff`.
    pub(super) fn poll_head<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        shutdown: &mut ShutdownWatcher<'_>,
        state: &State,
    ) -> Poll<io::Result<Next>> {
        shutdown.poll_shutdown(cx, state);
        // A request that was sent ahead is answered even if a deadline has passed.
        if self.searched < self.read.len()
            && let Some(next) = self.parse_buffered(state)
        {
            return Poll::Ready(Ok(next));
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
            if read.is_pending() {
                let is_over = self.last_look.is_under_way()
                    || state.poll_expired(cx).is_ready()
                    || shutdown.may_end(state);
                return match is_over && self.last_look.is_over(cx) {
                    true => Poll::Ready(Ok(self.head_timeout())),
                    false => Poll::Pending,
                };
            }
            // A request that the look has found begins the next wait afresh.
            self.last_look
                .renew_unless(|| next.is_none() && state.is_expired());
            if let Some(next) = next {
                return Poll::Ready(Ok(next));
            }
        }
        Poll::Ready(Ok(match self.is_blank() {
            true => Next::End,
            false => Next::CutOff,
        }))
    }

    /// Ends a wait that took too long: 408 within a head, a close before one.
    #[cold]
    fn head_timeout(&self) -> Next {
        match self.is_blank() {
            true => Next::End,
            false => Next::Refused(Box::new(Refusal::head_timeout(&self.read))),
        }
    }

    /// Parses a request from the received bytes, which follow those read before.
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
        // A head that arrives alone and complete needs no search for its end.
        let end = match received.len() <= MAX_SHARED_HEAD && received.ends_with(b"\r\n\r\n") {
            // Correct also if another head ends within: `request::read` says where this one ended.
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

    /// Enters the phase `Head`, unless the bytes may be an empty line.
    fn mark_head_started(&self, state: &State) {
        if !self.is_blank() {
            state.start_head();
        }
    }

    /// Returns true if nothing was received, or what may become an empty line.
    fn is_blank(&self) -> bool {
        matches!(&self.read[..], b"" | b"\r")
    }

    /// Frees the read-ahead buffer if all of it was used.
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

    /// Takes the request, and the bytes that follow it.
    pub(super) fn take_upgrade(&mut self) -> Option<(Box<Request<Body>>, Bytes)> {
        let request = self.request.take()?;
        let ahead = std::mem::take(&mut self.read).freeze();
        Some((Box::new(request), ahead))
    }

    /// Returns the request, with a recycled extension table.
    pub(super) fn request_mut(&mut self) -> Option<&mut Request<Body>> {
        let request = self.request.as_mut()?;
        *request.extensions_mut() = recycled::take();
        Some(request)
    }

    pub(super) fn take_request(&mut self) -> Option<Request<Body>> {
        self.request.take()
    }

    /// Adds the `Interim` extension to the request.
    pub(super) fn begin_interim(&mut self, head: &Head) {
        let queue = self.interim.get_or_insert_with(InterimQueue::new);
        let interim = queue.begin(!head.is_http10);
        if let Some(request) = &mut self.request {
            request.extensions_mut().insert(interim);
            if head.upgrades && head.framing != Framing::None {
                // RFC 9110 §7.8: a server may ignore Upgrade, and a switch within a body is impossible.
                request.headers_mut().remove(http::header::UPGRADE);
            }
        }
    }

    /// Ends the time for interim responses; returns those that are not written yet.
    pub(super) fn end_interim(&mut self) -> InterimOutput {
        if let Some(body_sender) = &mut self.body_sender {
            // The service reads the body while it sends the response.
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

    /// Returns true if the connection can carry another request after this one.
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

    /// Does what the service or its response may wait for. Ready when the caller should poll them
    /// again; ready with an error when the client has disconnected.
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

    /// Returns true if no further request can arrive.
    pub(super) fn is_over(&self) -> bool {
        self.framing_lost || (self.ended && self.read.is_empty())
    }

    /// Ready when the client has disconnected. Keeps up to 64 KiB of what it sends ahead.
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

/// Reads into the buffer of the thread, and passes the received bytes to `inspect`.
///
/// The buffer is taken out of its cell and not borrowed: the poll can run code of a stream that
/// reads on this thread again, which then allocates a buffer of its own.
fn read<Io: AsyncRead + AsyncWrite + Unpin, T>(
    cx: &mut Context<'_>,
    io: &mut Stream<Io>,
    inspect: impl FnOnce(&Poll<io::Result<()>>, &[u8]) -> T,
) -> (Poll<io::Result<()>>, T) {
    let mut scratch = READ_BUFFER
        .take()
        .unwrap_or_else(|| vec![0; HEAD_READ].into());
    let mut buf = ReadBuf::new(&mut scratch);
    let read = Pin::new(io).poll_read(cx, &mut buf);
    let inspected = inspect(&read, buf.filled());
    READ_BUFFER.set(Some(scratch));
    (read, inspected)
}

thread_local! {
    /// The buffer that every connection of the thread reads heads into. It stays in the CPU cache, and
    /// an idle connection needs no buffer.
    static READ_BUFFER: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
}

/// Most heads fit, with a small body or several pipelined requests.
const HEAD_READ: usize = 16 * 1024;
/// How much a client may send ahead. Behind more than this, the server notices a disconnect at its next
/// write only.
const MAX_READ_AHEAD: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, time::Duration};

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{
        context::{ConnInfo, Peer},
        server::{shutdown::shutdown_begun, state::Timeouts},
    };

    #[tokio::test(start_paused = true)]
    async fn a_request_that_the_last_look_finds_leaves_the_next_one_its_time() {
        let address = Peer::Tcp(([127, 0, 0, 1], 1).into());
        let timeouts = Timeouts {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            min_rate: 240,
            request: None,
        };
        let state = State::new(&ConnInfo::new(address, address), timeouts);
        let (mut client, io) = tokio::io::duplex(1_024);
        let mut io = Stream::new(io, Bytes::new(), state.clone());
        let mut shutdown_begun = pin!(shutdown_begun(None));
        let mut shutdown = ShutdownWatcher::new(None, shutdown_begun.as_mut());
        let mut input = Input::new(Http1::default());
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

        tokio::time::advance(Duration::from_secs(11)).await;
        let looks = poll_fn(|cx| Poll::Ready(input.poll_head(cx, &mut io, &mut shutdown, &state)));
        assert!(looks.await.is_pending(), "it looks once more");
        client.write_all(request).await.unwrap();
        for _ in 0..2 {
            let next = poll_fn(|cx| input.poll_head(cx, &mut io, &mut shutdown, &state));
            assert!(matches!(next.await, Ok(Next::Head(_))));
            drop(state.begin());
            let waits =
                poll_fn(|cx| Poll::Ready(input.poll_head(cx, &mut io, &mut shutdown, &state)));
            assert!(waits.await.is_pending(), "the idle time has begun");
            client.write_all(request).await.unwrap();
        }
    }
}
