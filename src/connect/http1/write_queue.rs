//! What is to be written next.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::connect::Stream;

/// What is to be written next: what was made here, a frame of the body as it came, and a line end.
#[derive(Default)]
pub(super) struct WriteQueue {
    pub(super) head: Vec<u8>,
    written: usize,
    pub(super) data: Bytes,
    pub(super) tail: &'static [u8],
    /// Something is left here, or was written that the stream may keep in a buffer (TLS).
    pub(super) busy: bool,
}

impl WriteQueue {
    /// Returns how many bytes are still to be written.
    pub(super) fn left(&self) -> usize {
        self.head.len() - self.written + self.data.len() + self.tail.len()
    }

    /// Returns true if nothing is left here or in the stream's own buffer.
    pub(super) fn is_done(&self) -> bool {
        !self.busy
    }

    /// Writes a request's head and what is here behind it, as much as the socket takes at once.
    ///
    /// # Errors
    ///
    /// When the stream takes nothing any more. TLS may have taken the head all the same: it must not
    /// be written again.
    pub(super) fn begin(&mut self, stream: &mut Stream, head: &mut Vec<u8>) -> io::Result<()> {
        if self.left() <= JOINED {
            head.extend_from_slice(&self.head);
            head.extend_from_slice(&self.data);
            head.extend_from_slice(self.tail);
            self.clear();
        }
        let wrote = match self.left() {
            0 => stream.write_now(head),
            _ => {
                let slices = [
                    IoSlice::new(head),
                    IoSlice::new(&self.head),
                    IoSlice::new(&self.data),
                    IoSlice::new(self.tail),
                ];
                stream.write_vectored_now(&slices)
            }
        };
        let wrote = match wrote {
            Ok(wrote) => wrote,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        match head.get(wrote..) {
            Some([]) | None => self.advance(wrote - head.len()),
            Some(rest) => {
                let mut rest = rest.to_vec();
                rest.append(&mut self.head);
                self.head = rest;
            }
        }
        self.busy = self.left() > 0 || stream.buffers_writes();
        Ok(())
    }

    pub(super) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left() > 0 {
            let slices = [
                IoSlice::new(&self.head[self.written..]),
                IoSlice::new(&self.data),
                IoSlice::new(self.tail),
            ];
            let n = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        if self.busy {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.busy = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        let head = n.min(self.head.len() - self.written);
        self.written += head;
        n -= head;
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
        let data = n.min(self.data.len());
        if data == self.data.len() {
            // Lets go of the block that the frame is a part of.
            self.data = Bytes::new();
        } else {
            self.data.advance(data);
        }
        self.tail = &self.tail[n - data..];
    }

    fn clear(&mut self) {
        self.head.clear();
        self.written = 0;
        self.data = Bytes::new();
        self.tail = b"";
    }
}

/// Up to this many bytes of a body are copied behind the head: that takes less than a second
/// buffer costs the kernel, and TLS makes one record of them.
const JOINED: usize = 4 * 1024;
