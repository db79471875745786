//! Reads the bodies of requests: those that arrived with their heads, and those that follow.
//!
//! ```text
//!   head complete ──┬── no body ──────────────▶ Body::empty
//!                   ├── all of it is here ────▶ Body::whole      (copied; nothing is shared)
//!                   └── a part, or nothing ───▶ Body::streamed ◀── BodySender, polled with the response
//! ```
//!
//! The connection reads a streamed body only on demand: as many frames as its reader waits for. So
//! a service that does not read holds its client back by TCP, and a body that is never polled sends
//! no 100 (Continue).
//!
//! After the response, the rest decides about the connection: up to 64 KiB of a body without a
//! reader are discarded within 2 s, so that the next request can be read; more than that costs more
//! than a new connection does. A body that another task still reads keeps the connection waiting, and
//! the least rate, which paused during the response, applies to its client again. A body that is held
//! and not read keeps it waiting without a limit of the server: nothing waits for the client then.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    input::Input,
    streamed_body::{BodySender, Delivery, Demand},
};
use crate::{
    server::{Body, state::State, stream::Stream},
    wire::{
        chunked::{Decoder, Side, Step},
        framing::Framing,
        request::Head,
    },
};

impl Input {
    /// Sets the body of the request. `rest` is what arrived with its head: a part or all of it.
    ///
    /// Out of line: a GET passes it by.
    #[inline(never)]
    pub(super) fn begin_body(&mut self, head: &Head, rest: &[u8]) {
        let decoder = match head.framing {
            Framing::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= rest.len() => {
                    self.set_body(Body::whole(copy(&rest[..length])));
                    self.read.extend_from_slice(&rest[length..]);
                    return;
                }
                _ => Decoder::new(head.framing, Side::Request),
            },
            Framing::Chunked => {
                let decoder = Decoder::new(head.framing, Side::Request);
                if let Some((body, left)) = whole(decoder.clone(), rest) {
                    self.set_body(body);
                    self.read = left;
                    return;
                }
                decoder
            }
            // A request is never framed by the close (RFC 9112 §6.3): what follows is the next
            // request.
            Framing::None | Framing::Close => {
                self.read.extend_from_slice(rest);
                return;
            }
        };
        let (sender, body) = BodySender::new(decoder, head.expects_continue);
        self.set_body(Body::streamed(body));
        self.body_sender = Some(Box::new(sender));
        self.read.extend_from_slice(rest);
    }

    /// The request is still here: the service gets it after its body is known.
    fn set_body(&mut self, body: Body) {
        if let Some(request) = &mut self.request {
            *request.body_mut() = body;
        }
    }

    /// Reads as much of the body as it asks for. Ready when this task should poll the body again.
    #[inline(never)]
    pub(super) fn poll_request_body<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<()> {
        loop {
            let Some(body_sender) = &mut self.body_sender else {
                return Poll::Pending;
            };
            match body_sender.demand(cx) {
                Demand::Nothing => return Poll::Pending,
                Demand::Continue => {
                    // If bytes of the body are there, the client did not wait for the 100 (RFC 9110
                    // §10.1.1).
                    if self.read.is_empty() {
                        self.interim_output
                            .write(|out| out.extend_from_slice(CONTINUE));
                    }
                    continue;
                }
                Demand::Discard
                    if body_sender.has_discarded_enough() || body_sender.awaits_continue() =>
                {
                    return Poll::Pending;
                }
                Demand::Discard | Demand::Frames => {}
            }
            if !self.read.is_empty() {
                match self.deliver(cx) {
                    Delivery::SameTask => return Poll::Ready(()),
                    // The frames that it has not taken suffice.
                    Delivery::OtherTask => continue,
                    Delivery::Nothing if self.body_sender.is_none() => return Poll::Pending,
                    Delivery::Nothing => {}
                }
            }
            // The client may wait for an interim response before it sends more.
            if let Poll::Ready(Err(error)) = self.interim_output.poll(cx, io) {
                return self.fail(error, cx);
            }
            match ready!(self.poll_fill(cx, io)) {
                Ok(0) => return self.fail(io::ErrorKind::UnexpectedEof.into(), cx),
                Ok(_) => {}
                Err(error) => return self.fail(error, cx),
            }
        }
    }

    /// Delivers the bytes that were read.
    fn deliver(&mut self, cx: &mut Context<'_>) -> Delivery {
        let Some(body_sender) = &mut self.body_sender else {
            return Delivery::Nothing;
        };
        let delivery = body_sender.deliver(&mut self.read, cx);
        if body_sender.is_done() {
            self.framing_lost |= body_sender.is_broken();
            self.body_sender = None;
        }
        if self.read.is_empty() {
            // Releases the block, which other connections of the thread read into.
            self.read = BytesMut::new();
        }
        delivery
    }

    /// The body fails before the request is cancelled, so that the service learns the reason. Without
    /// [`Http::half_close`](crate::server::Http::half_close), the next read finds the same end and
    /// cancels the request.
    #[cold]
    fn fail(&mut self, error: io::Error, cx: &mut Context<'_>) -> Poll<()> {
        self.framing_lost = true;
        let Some(mut body_sender) = self.body_sender.take() else {
            return Poll::Pending;
        };
        match body_sender.fail(error.into(), cx) {
            Delivery::SameTask => Poll::Ready(()),
            Delivery::OtherTask | Delivery::Nothing => Poll::Pending,
        }
    }

    /// Reads more of a body into the block of the thread, and splits the filled part off, so that no
    /// byte is copied.
    fn poll_fill<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Result<usize>> {
        if !self.read.is_empty() {
            // A part of a size line is left.
            self.read.reserve(MIN_READ);
            return poll_read_buf(cx, io, &mut self.read);
        }
        let mut block = READ_BLOCK.take();
        // Reuses the block from its beginning if all bodies in it are dropped.
        if !block.try_reclaim(BODY_READ) && block.capacity() < MIN_READ {
            block = BytesMut::with_capacity(BODY_READ);
        }
        let read = poll_read_buf(cx, io, &mut block);
        if !block.is_empty() {
            self.read = block.split();
        }
        READ_BLOCK.set(block);
        read
    }

    /// True while a streamed body has not ended; the next request is behind it.
    pub(super) fn has_request_body(&self) -> bool {
        self.body_sender.is_some()
    }

    /// Reads the rest of a body after its response. Ready when the body has ended: with true if another
    /// request may follow.
    pub(super) fn poll_rest<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        state: &State,
    ) -> Poll<bool> {
        if let Some(body_sender) = &mut self.body_sender {
            body_sender.resume_rate();
        }
        loop {
            let again = self.poll_request_body(cx, io).is_ready();
            let Some(body_sender) = &self.body_sender else {
                return Poll::Ready(!self.framing_lost);
            };
            if body_sender.is_dropped() {
                if body_sender.has_discarded_enough() || body_sender.awaits_continue() {
                    self.framing_lost = true;
                    return Poll::Ready(false);
                }
                state.limit_body_rest();
            }
            if !again {
                break;
            }
        }
        if state.poll_expired(cx).is_ready() {
            self.framing_lost = true;
            return Poll::Ready(false);
        }
        Poll::Pending
    }
}

/// Decodes a small chunked body into one frame if all of it was received without trailers; returns it
/// with the bytes that follow.
///
/// A chunked body costs a decoder and a channel when streamed; nearly all small ones arrive in one
/// piece. An error here is not reported: the streamed way finds it again, at the right place in the
/// body.
fn whole(mut decoder: Decoder, bytes: &[u8]) -> Option<(Body, BytesMut)> {
    // The bytes are copied twice here, which only small bodies repay.
    if bytes.len() > MAX_WHOLE_BODY {
        return None;
    }
    let mut read = BytesMut::from(bytes);
    let mut body = BytesMut::new();
    loop {
        match decoder.step(&mut read).ok()? {
            Step::Data(data) => body.extend_from_slice(&data),
            Step::End => {
                let body = match body.is_empty() {
                    true => Body::empty(),
                    false => Body::whole(body.freeze()),
                };
                // Copied, since a part of the same memory would keep the body's alive.
                return Some((body, BytesMut::from(&read[..])));
            }
            Step::More | Step::Trailers(_) => return None,
        }
    }
}

/// Copies a small body behind earlier ones, so that many share one allocation.
fn copy(body: &[u8]) -> Bytes {
    if body.len() > MAX_SHARED_BODY {
        return Bytes::copy_from_slice(body);
    }
    BODIES.with_borrow_mut(|bodies| {
        // Reuses the block from its beginning if all bodies in it are dropped.
        if !bodies.try_reclaim(body.len()) {
            *bodies = BytesMut::with_capacity(4 * MAX_SHARED_BODY);
        }
        bodies.extend_from_slice(body);
        bodies.split().freeze()
    })
}

fn poll_read_buf<Io: AsyncRead + AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    io: &mut Stream<Io>,
    buf: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    pin!(io.read_buf(buf)).poll(cx)
}

thread_local! {
    /// The block that every connection of the thread reads bodies into.
    static READ_BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// The block of small bodies that arrived with their heads.
    static BODIES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Fits most uploads of web pages; smaller reads would cost more system calls.
const BODY_READ: usize = 64 * 1024;
/// If a block in use has less room than this, a new one is allocated.
const MIN_READ: usize = 16 * 1024;
/// A larger chunked body is streamed.
const MAX_WHOLE_BODY: usize = 16 * 1024;
/// A larger body gets an allocation of its own.
const MAX_SHARED_BODY: usize = 4 * 1024;
