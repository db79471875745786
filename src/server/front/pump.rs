//! An answer on its way out: as much in one write as is there, and no more than fits.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::response::Parts;
use http_body::Body as HttpBody;
use tokio::io::AsyncWrite;

use super::{
    answer::{self, Announced, Framing},
    head::keep_map,
};
use crate::{error::BoxError, wire};

pub(super) struct Pump {
    /// The head, small frames, and what stands around frames in chunks.
    out: Vec<u8>,
    at: usize,
    /// A frame that is too large to be copied; it follows `out`.
    frame: Bytes,
    framing: Framing,
    ended: bool,
    keep: bool,
}

impl Pump {
    /// Writes the head.
    pub(super) fn begin<B: HttpBody>(
        parts: Parts,
        body: &B,
        is_head: bool,
        mut keep: bool,
    ) -> Result<Self, BoxError> {
        let announced = Announced {
            is_head,
            is_empty: body.is_end_stream(),
            size: body.size_hint(),
        };
        let mut out = WRITE.take();
        let framing = answer::write(&parts, &announced, &mut keep, &mut out);
        let framing = framing.map_err(|unfit| BoxError::from(unfit.0))?;
        keep_map(parts.headers);
        let ended = announced.is_empty || framing == Framing::Length(0);
        let mut pump = Self {
            out,
            at: 0,
            frame: Bytes::new(),
            framing,
            ended: false,
            keep,
        };
        if ended {
            pump.end()?;
        }
        Ok(pump)
    }

    pub(super) fn keep(&self) -> bool {
        self.keep
    }

    /// Is ready once all is written and flushed; pending for the client or for the body.
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
            while !self.ended && self.frame.is_empty() && self.out.len() - self.at < GATHER {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        // Trailers are for clients that ask for them: those, the codec serves.
                        if let Ok(data) = frame.into_data() {
                            self.append(data);
                        }
                        if self.framing == Framing::Length(0) || body.is_end_stream() {
                            self.end()?;
                        }
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
                    Poll::Ready(None) => self.end()?,
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            ready!(self.poll_write(cx, io))?;
            if self.ended {
                ready!(Pin::new(&mut *io).poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            if waits {
                if let Poll::Ready(Err(error)) = Pin::new(&mut *io).poll_flush(cx) {
                    return Poll::Ready(Err(error.into()));
                }
                return Poll::Pending;
            }
        }
    }

    fn append(&mut self, mut data: Bytes) {
        match &mut self.framing {
            Framing::Length(left) => {
                // More than was announced would be read as another answer.
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= data.len() as u64;
            }
            // An empty chunk would be the last.
            Framing::Chunked if data.is_empty() => return,
            Framing::Chunked => {
                wire::number(data.len() as u64, 16, &mut self.out);
                self.out.extend_from_slice(b"\r\n");
            }
        }
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.after_frame();
        } else {
            self.frame = data;
        }
    }

    fn after_frame(&mut self) {
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"\r\n");
        }
    }

    /// Notes the end of the body; an error where less came than was announced.
    fn end(&mut self) -> Result<(), BoxError> {
        self.ended = true;
        match self.framing {
            Framing::Length(0) => Ok(()),
            Framing::Length(_) => Err("the body ended before its announced length".into()),
            // Behind a frame that is still to be written, `poll_write` adds it.
            Framing::Chunked if !self.frame.is_empty() => Ok(()),
            Framing::Chunked => {
                self.out.extend_from_slice(LAST_CHUNK);
                Ok(())
            }
        }
    }

    fn poll_write<Io: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<io::Result<()>> {
        loop {
            let out = &self.out[self.at..];
            if out.is_empty() && self.frame.is_empty() {
                self.out.clear();
                self.at = 0;
                return Poll::Ready(Ok(()));
            }
            let io = Pin::new(&mut *io);
            let wrote = match (out.is_empty(), self.frame.is_empty()) {
                (false, true) => io.poll_write(cx, out),
                (true, _) => io.poll_write(cx, &self.frame),
                (false, false) if io.is_write_vectored() => {
                    io.poll_write_vectored(cx, &[IoSlice::new(out), IoSlice::new(&self.frame)])
                }
                (false, false) => io.poll_write(cx, out),
            };
            let wrote = ready!(wrote)?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_out = wrote.min(out.len());
            self.at += of_out;
            if wrote > of_out || (of_out == 0 && wrote > 0) {
                self.frame.advance(wrote - of_out);
                if self.frame.is_empty() {
                    self.frame = Bytes::new();
                    self.out.clear();
                    self.at = 0;
                    self.after_frame();
                    if self.ended && self.framing == Framing::Chunked {
                        self.out.extend_from_slice(LAST_CHUNK);
                    }
                }
            }
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let mut out = std::mem::take(&mut self.out);
        if out.capacity() <= KEEP {
            out.clear();
            // An error says that the thread is about to end.
            let _ = WRITE.try_with(|write| write.replace(out));
        }
    }
}

thread_local! {
    /// What every connection of the thread writes from, unless one has to wait with it.
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// As much goes into one write where frames are small.
const GATHER: usize = 16 * 1024;
/// A larger frame is written from where it is.
const COPIED: usize = 8 * 1024;
const KEEP: usize = 64 * 1024;
