//! Bodies of requests: those that came with their heads, and those that still come.

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
    /// Gives the request its body, of which some or all came with its head.
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

    fn set_body(&mut self, body: Body) {
        if let Some(request) = &mut self.request {
            *request.body_mut() = body;
        }
    }

    /// Reads the body as far as it is wanted. Is ready when the task is to poll it again.
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
                    // What it has not taken is enough.
                    Delivery::OtherTask => continue,
                    Delivery::Nothing if self.body_sender.is_none() => return Poll::Pending,
                    Delivery::Nothing => {}
                }
            }
            // The client may be waiting for what was to go out first.
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

    /// Hands on what was read.
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
            // Others read into the memory that it may still point to.
            self.read = BytesMut::new();
        }
        delivery
    }

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

    /// Reads more of a body: into the thread's block, of which the part that was filled is taken,
    /// so that nothing is copied.
    fn poll_fill<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Result<usize>> {
        if !self.read.is_empty() {
            // Some of a chunk's line.
            self.read.reserve(MIN_READ);
            return poll_read_buf(cx, io, &mut self.read);
        }
        let mut block = READ_BLOCK.take();
        // From its beginning again, where all that was read into it is gone.
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

    pub(super) fn has_request_body(&self) -> bool {
        self.body_sender.is_some()
    }

    /// Goes on with a body that outlives its response. Is ready when the body is over: with true
    /// if another request may follow.
    pub(super) fn poll_rest<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        state: &State,
    ) -> Poll<bool> {
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

/// Takes a small chunked body off the bytes if all of it is there, as one frame without trailers;
/// returns it with what stands behind it.
fn whole(mut decoder: Decoder, bytes: &[u8]) -> Option<(Body, BytesMut)> {
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
                // Not a part of the same memory, which would live as long as the connection.
                return Some((body, BytesMut::from(&read[..])));
            }
            Step::More | Step::Trailers(_) => return None,
        }
    }
}

/// Copies a small body to behind those that came before it: one allocation for many.
fn copy(body: &[u8]) -> Bytes {
    if body.len() > MAX_SHARED_BODY {
        return Bytes::copy_from_slice(body);
    }
    BODIES.with_borrow_mut(|bodies| {
        // From its beginning again, once all of them are gone.
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
    /// What every connection of the thread reads bodies into.
    static READ_BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// Bodies that came with their heads.
    static BODIES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// What most uploads of a page come in: smaller reads would cost system calls.
const BODY_READ: usize = 64 * 1024;
/// With less than this left of a block that is in use, the next one is begun.
const MIN_READ: usize = 16 * 1024;
/// A larger chunked body is handed over as it comes.
const MAX_WHOLE_BODY: usize = 16 * 1024;
/// A larger body has memory of its own.
const MAX_SHARED_BODY: usize = 4 * 1024;
