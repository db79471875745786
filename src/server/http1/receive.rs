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
    upload::{Needs, Received, Receiver},
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
        let (receiver, upload) = Receiver::new(decoder, head.expects_continue);
        self.set_body(Body::of_upload(upload));
        self.upload = Some(Box::new(receiver));
        self.read.extend_from_slice(rest);
    }

    fn set_body(&mut self, body: Body) {
        if let Some(request) = &mut self.request {
            *request.body_mut() = body;
        }
    }

    /// Reads the body as far as it is wanted. Is ready when the task is to poll it again.
    #[inline(never)]
    pub(super) fn poll_upload<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<()> {
        loop {
            let Some(upload) = &mut self.upload else {
                return Poll::Pending;
            };
            match upload.needs(cx) {
                Needs::Nothing => return Poll::Pending,
                Needs::Continue => {
                    if self.read.is_empty() {
                        self.outbox.write(|out| out.extend_from_slice(CONTINUE));
                    }
                    continue;
                }
                Needs::Discard if upload.has_discarded_enough() || upload.is_unasked() => {
                    return Poll::Pending;
                }
                Needs::Discard | Needs::Frames => {}
            }
            if !self.read.is_empty() {
                match self.receive(cx) {
                    Received::Waited => return Poll::Ready(()),
                    // What it has not taken is enough.
                    Received::Elsewhere => continue,
                    Received::Nothing if self.upload.is_none() => return Poll::Pending,
                    Received::Nothing => {}
                }
            }
            // The client may be waiting for what was to go out first.
            if let Poll::Ready(Err(error)) = self.outbox.poll(cx, io) {
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
    fn receive(&mut self, cx: &mut Context<'_>) -> Received {
        let Some(upload) = &mut self.upload else {
            return Received::Nothing;
        };
        let received = upload.receive(&mut self.read, cx);
        if upload.is_done() {
            self.lost |= upload.is_broken();
            self.upload = None;
        }
        if self.read.is_empty() {
            // Others read into the memory that it may still point to.
            self.read = BytesMut::new();
        }
        received
    }

    #[cold]
    fn fail(&mut self, error: io::Error, cx: &mut Context<'_>) -> Poll<()> {
        self.lost = true;
        let Some(mut upload) = self.upload.take() else {
            return Poll::Pending;
        };
        match upload.fail(error.into(), cx) {
            Received::Waited => Poll::Ready(()),
            Received::Elsewhere | Received::Nothing => Poll::Pending,
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
            self.read.reserve(LEAST);
            return poll_read_buf(cx, io, &mut self.read);
        }
        let mut block = BLOCK.take();
        // From its beginning again, where all that was read into it is gone.
        if !block.try_reclaim(BODY_READ) && block.capacity() < LEAST {
            block = BytesMut::with_capacity(BODY_READ);
        }
        let read = poll_read_buf(cx, io, &mut block);
        if !block.is_empty() {
            self.read = block.split();
        }
        BLOCK.set(block);
        read
    }

    pub(super) fn has_upload(&self) -> bool {
        self.upload.is_some()
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
            let again = self.poll_upload(cx, io).is_ready();
            let Some(upload) = &self.upload else {
                return Poll::Ready(!self.lost);
            };
            if upload.is_dropped() {
                if upload.has_discarded_enough() || upload.is_unasked() {
                    self.lost = true;
                    return Poll::Ready(false);
                }
                state.linger_once();
            }
            if !again {
                break;
            }
        }
        if state.poll_expired(cx).is_ready() {
            self.lost = true;
            return Poll::Ready(false);
        }
        Poll::Pending
    }
}

/// Takes a small chunked body off the bytes if all of it is there, as one frame without trailers;
/// returns it with what stands behind it.
fn whole(mut decoder: Decoder, bytes: &[u8]) -> Option<(Body, BytesMut)> {
    if bytes.len() > SMALL {
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
    if body.len() > SHARED_BODY {
        return Bytes::copy_from_slice(body);
    }
    BODIES.with_borrow_mut(|bodies| {
        // From its beginning again, once all of them are gone.
        if !bodies.try_reclaim(body.len()) {
            *bodies = BytesMut::with_capacity(4 * SHARED_BODY);
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
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// Bodies that came with their heads.
    static BODIES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// What most uploads of a page come in: smaller reads would cost system calls.
const BODY_READ: usize = 64 * 1024;
/// With less than this left of a block that is in use, the next one is begun.
const LEAST: usize = 16 * 1024;
/// A larger chunked body is handed over as it comes.
const SMALL: usize = 16 * 1024;
/// A larger body has memory of its own.
const SHARED_BODY: usize = 4 * 1024;
