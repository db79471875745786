//! The bytes that are written next.
//!
//! ```text
//!    head (a Vec): framing, the rest of a head │ data: one frame, not copied │ tail: CRLF, last chunk
//! ```
//!
//! All three leave in one vectored write. A frame of up to 4 KiB joins the head in one buffer
//! first: the kernel handles one buffer in less time than two, and TLS makes one record of it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::connect::Stream;

/// The bytes that are written next: framing from this module, a frame of the body, and a line end.
#[derive(Default)]
pub(super) struct WriteQueue {
    pub(super) head: Vec<u8>,
    written: usize,
    pub(super) data: Bytes,
    pub(super) tail: &'static [u8],
    /// True if bytes are left, or if the stream may hold some in a buffer (TLS).
    pub(super) busy: bool,
}

impl WriteQueue {
    /// Returns the number of bytes left.
    pub(super) fn left(&self) -> usize {
        self.head.len() - self.written + self.data.len() + self.tail.len()
    }

    /// Returns true if no bytes are left, neither here nor in the stream's buffer.
    ///
    /// False while TLS may hold bytes, although the queue is empty.
    pub(super) fn is_done(&self) -> bool {
        !self.busy
    }

    /// Writes the head of a request and then the queue, as much as the socket takes at once.
    ///
    /// # Errors
    ///
    /// If the stream fails. TLS may have sent the head all the same: do not write it again.
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
            // All of it is kept, and written by the future of the response.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        match head.get(wrote..) {
            // The head is written; the rest of the count is of the queue.
            Some([]) | None => self.advance(wrote - head.len()),
            Some(rest) => {
                // The socket took only a part of the head, which seldom happens.
                let mut rest = rest.to_vec();
                rest.append(&mut self.head);
                self.head = rest;
            }
        }
        self.busy = self.left() > 0 || stream.buffers_writes();
        Ok(())
    }

    /// Ready when the queue is empty and the stream flushed.
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

    /// `n` is at most [`left`](Self::left).
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
            // Frees the block that the frame is a part of.
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

/// Frames up to this size are copied behind the head. A copy costs less than a second buffer costs the
/// kernel, and TLS makes one record of both.
const JOINED: usize = 4 * 1024;
