//! What comes from the client: heads, bodies, and the end.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::{
    Http1,
    output::Outbox,
    refuse::Refusal,
    upload::{DISCARDED, Needs, Receiver},
};
use crate::{
    context::{InterimQueue, spare},
    server::{Body, draining::Draining, state::State, stream::Stream},
    wire::{
        chunked::{Decoder, Side, Step},
        framing::Framing,
        request::{self, Head, SHARES},
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
    Refused(Refusal),
}

/// What was read and not used: nothing, nearly always.
pub(super) struct Input {
    http1: Http1,
    read: BytesMut,
    /// How far `read` was searched for the end of a head.
    searched: usize,
    /// The request that was read last, until it is called.
    request: Option<Request<Body>>,
    /// The body of the request that is answered, where it did not come with its head.
    upload: Option<Box<Receiver>>,
    /// From the first request on.
    interim: Option<InterimQueue>,
    /// What goes out before the response: interim responses.
    outbox: Outbox,
    /// The client ended its side.
    ended: bool,
    /// What comes behind the request cannot be told from its body.
    lost: bool,
}

impl Input {
    pub(super) fn new(http1: Http1) -> Self {
        Self {
            http1,
            read: BytesMut::new(),
            searched: 0,
            request: None,
            upload: None,
            interim: None,
            outbox: Outbox::default(),
            ended: false,
            lost: false,
        }
    }

    pub(super) fn poll_head<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
        draining: &mut Draining<'_>,
        state: &State,
    ) -> Poll<io::Result<Next>> {
        draining.notice(cx, state);
        // What a client sent ahead is answered, whatever is due.
        if self.searched < self.read.len() {
            if let Some(next) = self.look_at_kept(state) {
                return Poll::Ready(Ok(next));
            }
        }
        while !self.ended {
            let (read, next) = read(cx, io, |read, came| match read {
                Poll::Ready(Ok(())) if !came.is_empty() => self.look(came, state),
                Poll::Ready(Ok(())) if self.read.is_empty() => Some(Next::End),
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
                    return Poll::Ready(Ok(self.late()));
                }
                if draining.ends(state) {
                    return Poll::Ready(Ok(Next::End));
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(match self.read.is_empty() {
            true => Next::End,
            false => Next::CutOff,
        }))
    }

    /// Ends a wait that took too long: one for the rest of a head with 408, one for a request
    /// without a word.
    #[cold]
    fn late(&self) -> Next {
        match self.read.is_empty() {
            true => Next::End,
            false => Next::Refused(Refusal::late(&self.read)),
        }
    }

    /// Looks for a request in what was read, behind what was read before.
    fn look(&mut self, came: &[u8], state: &State) -> Option<Next> {
        if !self.read.is_empty() {
            self.read.extend_from_slice(came);
            return self.look_at_kept(state);
        }
        let came = match came {
            [b'\r', ..] => &came[request::blank_lines(came)..],
            _ => came,
        };
        if came.is_empty() {
            return None;
        }
        // A head that came alone and whole needs no search for its end.
        let end = match came.len() <= SHARES && came.ends_with(b"\r\n\r\n") {
            true => came.len(),
            false => match request::find_end(came, &mut self.searched) {
                Ok(Some(end)) => end,
                Ok(None) => {
                    self.read.extend_from_slice(came);
                    state.head_begins();
                    return None;
                }
                Err(error) => return Some(Next::Refused(Refusal::malformed(error, came))),
            },
        };
        self.searched = 0;
        match request::read(&came[..end], self.http1.allowed, &mut self.request) {
            Ok(head) => {
                let rest = &came[head.length..];
                if !rest.is_empty() || head.framing != Framing::None {
                    self.begin_body(&head, rest);
                }
                Some(Next::Head(head))
            }
            Err(error) => Some(Next::Refused(Refusal::malformed(error, came))),
        }
    }

    #[cold]
    fn look_at_kept(&mut self, state: &State) -> Option<Next> {
        if self.searched == 0 {
            let blank = request::blank_lines(&self.read);
            self.read.advance(blank);
        }
        let found = request::find_end(&self.read, &mut self.searched);
        let read = match found {
            Ok(None) if self.read.is_empty() => {
                self.let_go();
                return None;
            }
            Ok(None) => {
                state.head_begins();
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
            Err(error) => return Some(Next::Refused(Refusal::malformed(error, &self.read))),
        };
        let rest = std::mem::take(&mut self.read).split_off(head.length);
        match head.framing {
            Framing::None => self.read = rest,
            _ => self.begin_body(&head, &rest),
        }
        self.let_go();
        Some(Next::Head(head))
    }

    /// Gives back the memory of what was read ahead, where all of it was used.
    fn let_go(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
            self.searched = 0;
        }
    }

    /// Gives the request its body, of which some or all came with its head.
    #[inline(never)]
    fn begin_body(&mut self, head: &Head, rest: &[u8]) {
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

    pub(super) fn may_upgrade(&self, head: &Head) -> bool {
        let connects = || {
            let request = self.request.as_ref();
            request.is_some_and(|request| *request.method() == http::Method::CONNECT)
        };
        head.framing == Framing::None && !head.old && (head.upgrades || connects())
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
        *request.extensions_mut() = spare::take();
        Some(request)
    }

    pub(super) fn take_request(&mut self) -> Option<Request<Body>> {
        self.request.take()
    }

    /// Gives the request its way to interim responses.
    pub(super) fn begin_interim(&mut self, head: &Head) {
        let queue = self.interim.get_or_insert_with(InterimQueue::new);
        let interim = queue.begin(!head.old);
        if let Some(request) = &mut self.request {
            interim.note(request.extensions_mut());
            if head.upgrades && head.framing != Framing::None {
                // RFC 9110 §7.8: a server may ignore it, and no service switches amid a body.
                request.headers_mut().remove(http::header::UPGRADE);
            }
        }
    }

    /// Ends the time for interim responses; returns what is still to be written of them.
    pub(super) fn end_interim(&mut self) -> Outbox {
        if let Some(queue) = &mut self.interim {
            for (status, headers) in queue.end() {
                self.outbox
                    .write(|out| response::write_interim(status, &headers, out));
            }
        }
        std::mem::take(&mut self.outbox)
    }

    /// Returns true unless the connection cannot go on behind this request.
    pub(super) fn may_keep(&self) -> bool {
        let upload_may = self.upload.as_ref().is_none_or(|upload| {
            let is_small = upload.left().is_some_and(|left| left <= DISCARDED as u64);
            let is_read = !upload.is_dropped() || (is_small && !upload.is_unasked());
            !upload.is_broken() && (upload.is_done() || is_read)
        });
        upload_may && !self.lost && !self.ended
    }

    /// Does what the service or its response may wait for. Is ready when they are to be polled
    /// again, with an error when the client has gone, and with it the reader of the response.
    pub(super) fn poll_meanwhile<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Result<()>> {
        if let Some(queue) = &mut self.interim {
            while let Poll::Ready((status, headers)) = queue.poll_next(cx) {
                self.outbox
                    .write(|out| response::write_interim(status, &headers, out));
            }
        }
        if self.upload.is_some() {
            if self.poll_upload(cx, io).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        if let Poll::Ready(Err(error)) = self.outbox.poll(cx, io) {
            return Poll::Ready(Err(error));
        }
        match self.upload {
            Some(_) => Poll::Pending,
            None => self.poll_hang_up(cx, io).map(Err),
        }
    }

    /// Reads the body as far as it is wanted. Is ready when the task is to poll it again.
    #[inline(never)]
    fn poll_upload<Io: AsyncRead + AsyncWrite + Unpin>(
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
            if !self.read.is_empty() && self.receive(cx) {
                return Poll::Ready(());
            }
            if self.upload.is_none() {
                return Poll::Pending;
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

    /// Hands on what was read; returns true if the task is to poll the body again.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(upload) = &mut self.upload else {
            return false;
        };
        let again = upload.receive(&mut self.read, cx);
        if upload.is_done() {
            self.lost |= upload.is_broken();
            self.upload = None;
        }
        if self.read.is_empty() {
            // Others read into the memory that it may still point to.
            self.read = BytesMut::new();
        }
        again
    }

    #[cold]
    fn fail(&mut self, error: io::Error, cx: &mut Context<'_>) -> Poll<()> {
        self.lost = true;
        let Some(mut upload) = self.upload.take() else {
            return Poll::Pending;
        };
        match upload.fail(error.into(), cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
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

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Nothing that comes from here on is a request.
    pub(super) fn is_over(&self) -> bool {
        self.lost || (self.ended && self.read.is_empty())
    }

    /// Is ready when the client has gone, and with it the reader of the response. What it sends
    /// ahead is kept, to a bound.
    pub(super) fn poll_hang_up<Io: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Stream<Io>,
    ) -> Poll<io::Error> {
        while self.read.len() < AHEAD && !self.ended {
            let (read, came) = read(cx, io, |_, came| {
                self.read.extend_from_slice(came);
                came.len()
            });
            if let Err(error) = ready!(read) {
                return Poll::Ready(error);
            }
            if came == 0 {
                if !self.http1.half_close {
                    return Poll::Ready(io::ErrorKind::UnexpectedEof.into());
                }
                self.ended = true;
            }
        }
        Poll::Pending
    }
}

/// Takes a chunked body off the bytes if all of it is there, as one frame without trailers; returns
/// it with what stands behind it.
fn whole(mut decoder: Decoder, bytes: &[u8]) -> Option<(Body, BytesMut)> {
    let mut read = BytesMut::from(bytes);
    let mut body = Bytes::new();
    loop {
        match decoder.step(&mut read).ok()? {
            Step::Data(data) if body.is_empty() => body = data,
            Step::Data(data) => body = [&body[..], &data[..]].concat().into(),
            Step::End => {
                let body = match body.is_empty() {
                    true => Body::empty(),
                    false => Body::whole(body),
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
    let read = std::pin::pin!(io.read_buf(buf));
    Future::poll(read, cx)
}

/// Reads into the thread's buffer, and has a look at what came.
fn read<Io: AsyncRead + AsyncWrite + Unpin, T>(
    cx: &mut Context<'_>,
    io: &mut Stream<Io>,
    look: impl FnOnce(&Poll<io::Result<()>>, &[u8]) -> T,
) -> (Poll<io::Result<()>>, T) {
    let mut scratch = READ.take().unwrap_or_else(|| vec![0; HEAD_READ].into());
    let mut buf = ReadBuf::new(&mut scratch);
    let read = Pin::new(io).poll_read(cx, &mut buf);
    let looked = look(&read, buf.filled());
    READ.set(Some(scratch));
    (read, looked)
}

thread_local! {
    /// What every connection of the thread reads heads into: it is in the cache, and an idle
    /// connection needs none.
    static READ: RefCell<Option<Box<[u8]>>> = const { RefCell::new(None) };
    /// What every connection of the thread reads bodies into.
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    /// Bodies that came with their heads.
    static BODIES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Most heads fit in, with a small body or some requests that are sent ahead.
const HEAD_READ: usize = 16 * 1024;
/// Two thirds of what clients have under way on a fast network: fewer would cost system calls,
/// more memory.
const BODY_READ: usize = 64 * 1024;
/// With less than this left of a block that is in use, the next one is begun.
const LEAST: usize = 16 * 1024;
/// A larger body has memory of its own.
const SHARED_BODY: usize = 4 * 1024;
/// What a client may send ahead before its hang-up goes unnoticed until the response.
const AHEAD: usize = 64 * 1024;
