//! Writes a response to an HTTP/1.1 client: head and body frames that are ready share one write.
//!
//! ```text
//!   out:   interim responses │ head │ small frames, size lines     ≤ 16 KiB gathered, a copy
//!   frame:                            one large frame              > 8 KiB, not copied
//!   tail:                                            CRLF, or the last chunk
//!          └──────────────────────── one vectored write ──────────────────────────┘
//! ```
//!
//! A frame of over 8 KiB ends the gathering, since `out` precedes it on the wire; it is polled for
//! again only when all three are written. A writer without vectored writes (TLS) gets the three one
//! after the other.
//!
//! The client's speed holds the body back: no frame is taken while more than 16 KiB wait
//! (`a_client_that_does_not_read_holds_the_body_back`). A body that has no frame for now is
//! flushed, so that an event stream arrives event by event.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, response::Parts};
use http_body::{Body as HttpBody, Frame};
use tokio::io::AsyncWrite;

use crate::{
    error::BoxError,
    server::{date, recycled},
    wire::{
        self,
        chunked::{self, LAST_CHUNK},
        framing::Framing,
        request::recycle_map,
        response::{self, BodyInfo},
        trailers,
    },
};

/// The properties of the request that decide the form of its response.
///
/// Taken from the request's head before the service consumes the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseOptions {
    pub(super) to_head: bool,
    /// The request is of HTTP/1.0.
    pub(super) is_http10: bool,
    pub(super) accepts_trailers: bool,
    pub(super) keep: bool,
}

/// A response that is being written.
pub(super) struct Output {
    /// The head, small frames, and the size lines of chunks.
    out: Vec<u8>,
    written: usize,
    /// A frame that is too large to copy; it follows `out`.
    frame: Bytes,
    /// The bytes that follow the frame.
    tail: &'static [u8],
    framing: Framing,
    accepts_trailers: bool,
    ended: bool,
    keep: bool,
}

impl Output {
    /// Writes the head, behind interim responses that are not written yet.
    ///
    /// # Errors
    ///
    /// If HTTP/1.1 cannot express the response (an interim status, two lengths); nothing was
    /// written then.
    pub(super) fn begin<B: HttpBody>(
        before: &InterimOutput,
        parts: Parts,
        body: &B,
        options: ResponseOptions,
    ) -> Result<Self, BoxError> {
        let announced = BodyInfo {
            to_head: options.to_head,
            is_empty: body.is_end_stream(),
            size: body.size_hint(),
            is_http10: options.is_http10,
        };
        let mut out = WRITE_BUFFER.take();
        if !before.is_empty() {
            out.extend_from_slice(&before.out[before.written..]);
        }
        let mut keep = options.keep;
        let reason = match parts.extensions.is_empty() {
            true => None,
            false => parts.extensions.get::<hyper::ext::ReasonPhrase>(),
        };
        let reason = reason.map(|reason| reason.as_bytes());
        let framing = response::write(
            parts.status,
            reason,
            &parts.headers,
            &announced,
            &mut keep,
            |out| date::with(|now| wire::write_field(out, "date", now.as_bytes())),
            &mut out,
        )?;
        // Head and extensions are used up: their memory serves the next request of the thread.
        recycle_map(parts.headers);
        recycled::keep(parts.extensions);
        let ended = announced.is_empty || framing == Framing::None;
        let mut output = Self {
            out,
            written: 0,
            frame: Bytes::new(),
            tail: b"",
            framing,
            accepts_trailers: options.accepts_trailers,
            ended: false,
            keep,
        };
        if ended {
            output.end(None)?;
        }
        Ok(output)
    }

    /// Returns true if the connection may carry another request.
    pub(super) fn keep(&self) -> bool {
        self.keep
    }

    /// Ready once the response is written and flushed; pending while the client does not read or the body
    /// has no frame.
    pub(super) fn poll<Io, B>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
        mut body: Pin<&mut B>,
    ) -> Poll<Result<(), BoxError>>
    where
        Io: AsyncWrite + Unpin,
        B: HttpBody<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        loop {
            let mut waits = false;
            while !self.ended && self.frame.is_empty() && self.out.len() - self.written < WRITE_SIZE
            {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        self.take(frame)?;
                        // The end can be known with the last frame: then the last chunk leaves in
                        // the same write, and the body is not polled for `None`.
                        if !self.ended && (self.is_full() || body.is_end_stream()) {
                            self.end(None)?;
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                    Poll::Ready(None) => self.end(None)?,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            match self.poll_write(cx, io) {
                Poll::Ready(written) => written?,
                Poll::Pending => {
                    self.release_memory();
                    return Poll::Pending;
                }
            }
            if self.ended {
                // TLS may hold the last record until a flush.
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            if waits {
                if let Poll::Ready(Err(error)) = Pin::new(&mut *io).poll_flush(cx) {
                    return Poll::Ready(Err(error.into()));
                }
                self.release_memory();
                return Poll::Pending;
            }
        }
    }

    /// Returns true if the body has as many bytes as the head announced.
    fn is_full(&self) -> bool {
        self.framing == Framing::Length(0)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), BoxError> {
        match frame.into_data() {
            Ok(data) => {
                self.append(data);
                Ok(())
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => self.end(Some(&trailers)),
                Err(_) => Ok(()),
            },
        }
    }

    /// Bytes beyond the announced length are dropped.
    fn append(&mut self, mut data: Bytes) {
        match &mut self.framing {
            Framing::Length(left) => {
                // The client would read further bytes as another response.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            // An empty chunk would end the body.
            Framing::Chunked if data.is_empty() => return,
            Framing::Chunked => chunked::write_size(data.len(), &mut self.out),
            Framing::Close | Framing::None => {}
        }
        let is_chunk = self.framing == Framing::Chunked;
        let tail: &[u8] = if is_chunk { b"\r\n" } else { b"" };
        if data.len() <= MAX_COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            self.frame = data;
            self.tail = tail;
        }
    }

    /// Ends the body; an error if it is shorter than announced.
    ///
    /// With an error the connection breaks: a client must not take a part of the body for the
    /// whole. A longer body is cut to the announced length (`append`).
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), BoxError> {
        self.ended = true;
        match self.framing {
            Framing::Length(1..) => Err("the body ended before its announced length".into()),
            Framing::Chunked => {
                match trailers.filter(|_| self.accepts_trailers) {
                    // Trailers are a frame of their own, and the previous frame is written.
                    Some(trailers) => trailers::write(trailers, &mut self.out),
                    None if self.frame.is_empty() => self.out.extend_from_slice(LAST_CHUNK),
                    None => self.tail = b"\r\n0\r\n\r\n",
                }
                Ok(())
            }
            Framing::Close | Framing::Length(0) | Framing::None => Ok(()),
        }
    }

    fn poll_write<Io: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<io::Result<()>> {
        loop {
            let out = &self.out[self.written..];
            let io = Pin::new(&mut *io);
            let wrote = match (out.is_empty(), self.frame.is_empty()) {
                (true, true) if self.tail.is_empty() => {
                    self.out.clear();
                    self.written = 0;
                    return Poll::Ready(Ok(()));
                }
                (true, true) => io.poll_write(cx, self.tail),
                (false, true) => io.poll_write(cx, out),
                _ if io.is_write_vectored() => {
                    let slices = [out, &self.frame, self.tail].map(IoSlice::new);
                    io.poll_write_vectored(cx, &slices)
                }
                (true, false) => io.poll_write(cx, &self.frame),
                (false, false) => io.poll_write(cx, out),
            };
            match ready!(wrote)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                wrote => self.advance(wrote),
            }
        }
    }

    fn advance(&mut self, mut wrote: usize) {
        let of_out = wrote.min(self.out.len() - self.written);
        self.written += of_out;
        wrote -= of_out;
        let of_frame = wrote.min(self.frame.len());
        if of_frame == self.frame.len() {
            // Releases the block of memory that the frame is a part of.
            self.frame = Bytes::new();
        } else {
            self.frame.advance(of_frame);
        }
        self.tail = &self.tail[wrote - of_frame..];
    }

    /// Gives the buffer of the thread back while this connection waits, and copies the unwritten bytes to
    /// a buffer of their size.
    ///
    /// An event stream or a slow client would otherwise keep 16 KiB or more for as long as it
    /// waits.
    fn release_memory(&mut self) {
        let left = self.out.len() - self.written;
        if self.out.capacity() <= 2 * left {
            return;
        }
        let rest = self.out[self.written..].to_vec();
        recycle_buffer(std::mem::replace(&mut self.out, rest));
        self.written = 0;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        recycle_buffer(std::mem::take(&mut self.out));
    }
}

/// Interim responses that wait to be written: 100 (Continue), 102, 103. Nearly always empty.
#[derive(Default)]
pub(super) struct InterimOutput {
    out: Vec<u8>,
    written: usize,
}

impl InterimOutput {
    /// Returns true if there is nothing to write or flush.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    #[cold]
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.out);
    }

    pub(super) fn poll<Io: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<io::Result<()>> {
        if self.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_some(cx, io)
    }

    #[cold]
    fn poll_some<Io: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let wrote = ready!(Pin::new(&mut *io).poll_write(cx, &self.out[self.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
        }
        ready!(Pin::new(io).poll_flush(cx))?;
        *self = Self::default();
        Poll::Ready(Ok(()))
    }
}

/// The larger of two buffers stays. One over 64 KiB is freed: a thread would otherwise keep the memory
/// of its largest burst for ever.
fn recycle_buffer(mut out: Vec<u8>) {
    if out.capacity() <= MAX_RECYCLED {
        out.clear();
        // An error means that the thread is ending.
        let _ = WRITE_BUFFER.try_with(|write| {
            let mut write = write.borrow_mut();
            if write.capacity() < out.capacity() {
                *write = out;
            }
        });
    }
}

thread_local! {
    /// The buffer that every connection of the thread writes from, unless a connection waits with it.
    static WRITE_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Small frames are joined up to this size.
const WRITE_SIZE: usize = 16 * 1024;
/// A larger frame is written without a copy.
const MAX_COPIED: usize = 8 * 1024;
const MAX_RECYCLED: usize = 64 * 1024;
