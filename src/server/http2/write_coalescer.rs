//! Coalesces the frames that the codec of HTTP/2 writes during one poll into one write. The codec alone
//! would make one system call for each frame.
//!
//! ```text
//!   h2 codec ──poll_write──▶ buf (≤ 16 KiB, a buffer of the thread) ──flush by the driver──▶ socket
//!            ──poll_flush──▶ nothing                  ▲ full: written at once
//! ```
//!
//! `h2` calls `poll_write` for each frame head and `poll_flush` after each burst. Over the codec
//! alone HTTP/2 took 1.23 of HAProxy's CPU time; with one write a poll, 0.88. A buffer exists only
//! while bytes wait: between polls an idle connection has none.
//!
//! # Errors and the codec
//!
//! The codec sees errors of reads, and of writes that overflow the buffer. An error of the driver's
//! flush is kept in `broken`, at which the driver ends the connection.
//!
//! # What counts as progress
//!
//! The least rate counts what the client takes of responses. Four PINGs every 15 s held a
//! connection with a shut window for ever before that (`pings_are_no_progress`): the answer to a
//! PING is a successful write, too. The counter therefore parses frame heads as they go by.

use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream that buffers writes until the driver of the connection flushes them.
///
/// Two handles exist: the codec reads and writes through one, the driver flushes through the other.
/// Both are used by the task of the connection only; the lock is there because the codec owns its
/// handle.
pub(super) struct WriteCoalescer<Io> {
    // The codec and the driver have a handle each, on one task: the lock is never contended.
    inner: Arc<Mutex<Inner<Io>>>,
}

/// Invariants: `written <= buf.len()`; an empty `buf` has no capacity; `control_bytes` is at most
/// what `buf` has left to write.
struct Inner<Io> {
    io: Io,
    read_ahead: Bytes,
    buf: Vec<u8>,
    written: usize,
    /// The stream below may have buffered some of the bytes, as TLS does.
    unflushed: bool,
    received: bool,
    broken: bool,
    counter: ResponseByteCounter,
    /// Bytes in `buf` that do not belong to responses.
    control_bytes: usize,
    /// Bytes of responses that the stream accepted since the last flush of the driver.
    response_bytes: usize,
}

/// Counts the bytes of responses in what the codec writes. The other bytes answer PING and SETTINGS,
/// which a client can request at any rate, so they do not count towards its least rate.
///
/// It counts the payload of DATA, HEADERS and CONTINUATION, not their frame heads, so an empty
/// frame is no progress.
#[derive(Debug, Default)]
struct ResponseByteCounter {
    /// How much of the payload of the frame is left.
    left: usize,
    /// An incomplete frame header (9 bytes), of which `have` were seen.
    head: [u8; FRAME_HEADER],
    have: usize,
    is_response: bool,
}

impl ResponseByteCounter {
    /// Parses the bytes that are written next; returns how many belong to responses.
    fn count(&mut self, mut data: &[u8]) -> usize {
        let mut of_responses = 0;
        while !data.is_empty() {
            if self.left == 0 {
                let n = data.len().min(FRAME_HEADER - self.have);
                self.head[self.have..self.have + n].copy_from_slice(&data[..n]);
                self.have += n;
                data = &data[n..];
                if self.have == FRAME_HEADER {
                    let [a, b, c, kind, ..] = self.head;
                    self.have = 0;
                    self.left = u32::from_be_bytes([0, a, b, c]) as usize;
                    self.is_response = matches!(kind, DATA | HEADERS | CONTINUATION);
                }
                continue;
            }
            let n = data.len().min(self.left);
            self.left -= n;
            data = &data[n..];
            if self.is_response {
                of_responses += n;
            }
        }
        of_responses
    }
}

/// The state of the socket after a flush.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SocketStatus {
    /// The client has sent a byte.
    pub(super) received: bool,
    /// The socket is full.
    pub(super) blocked: bool,
    /// How many bytes of responses the socket accepted since the last flush.
    pub(super) response_bytes: usize,
    /// The stream failed.
    pub(super) broken: bool,
}

impl<Io> WriteCoalescer<Io> {
    pub(super) fn new(io: Io, read_ahead: Bytes) -> Self {
        let received = !read_ahead.is_empty();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                io,
                read_ahead,
                buf: Vec::new(),
                written: 0,
                unflushed: false,
                received,
                broken: false,
                counter: ResponseByteCounter::default(),
                control_bytes: 0,
                response_bytes: 0,
            })),
        }
    }

    /// Returns another handle, for the driver.
    pub(super) fn handle(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<Io>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Io: AsyncWrite + Unpin> WriteCoalescer<Io> {
    /// Writes the buffered bytes.
    ///
    /// Registers the task with the socket if it is full; that replaces the waker of the codec, see
    /// the driver.
    pub(super) fn flush(&self, cx: &mut Context<'_>) -> SocketStatus {
        let mut inner = self.lock();
        let flushed = if !inner.buf.is_empty() || inner.unflushed {
            inner.poll_flush(cx)
        } else {
            Poll::Ready(Ok(()))
        };
        inner.broken |= matches!(flushed, Poll::Ready(Err(_)));
        SocketStatus {
            received: inner.received,
            blocked: flushed.is_pending(),
            response_bytes: mem::take(&mut inner.response_bytes),
            broken: inner.broken,
        }
    }
}

impl<Io: AsyncWrite + Unpin> Inner<Io> {
    /// # Errors
    ///
    /// Those of the stream below. The driver ends the connection then.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Can return `Pending` with a part written: `written` says how far.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buf.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buf[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            // The first bytes written are taken for control frames, wherever these are in the
            // buffer: progress is counted late rather than early, by at most what the buffer holds.
            let control_bytes = self.control_bytes.min(n);
            self.control_bytes -= control_bytes;
            self.response_bytes += n - control_bytes;
            self.unflushed = true;
        }
        self.recycle_buffer();
        Poll::Ready(Ok(()))
    }

    /// Gives the empty buffer to the next connection of the thread that writes. The buffer stays in the
    /// CPU cache, and a connection without unwritten bytes has none.
    fn recycle_buffer(&mut self) {
        self.written = 0;
        let mut buf = mem::take(&mut self.buf);
        if buf.capacity() > 0 {
            buf.clear();
            // An error means that the thread is ending.
            let _ = RECYCLED_BUFFER.try_with(|spare| spare.replace(buf));
        }
    }

    /// Takes the buffer of the thread if this connection has none, with room for `MAX_COALESCED`.
    fn append(&mut self, data: &[u8]) {
        if self.buf.capacity() == 0 {
            self.buf = RECYCLED_BUFFER.try_with(RefCell::take).unwrap_or_default();
            self.buf.reserve(MAX_COALESCED);
        }
        self.control_bytes += data.len() - self.counter.count(data);
        self.buf.extend_from_slice(data);
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for WriteCoalescer<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.read_ahead.has_remaining() {
            let n = inner.read_ahead.len().min(buf.remaining());
            let read_ahead = inner.read_ahead.split_to(n);
            buf.put_slice(&read_ahead);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut inner.io).poll_read(cx, buf);
        inner.received |= buf.filled().len() > before;
        inner.broken |= matches!(read, Poll::Ready(Err(_)));
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if inner.buf.len() + data.len() > MAX_COALESCED {
            ready!(inner.poll_drain(cx))?;
            // A large DATA frame goes out without a copy. What was before it is written.
            if data.len() >= MAX_COALESCED {
                // Whatever the write returns: TLS may still hold bytes of earlier writes.
                inner.unflushed = true;
                let wrote = ready!(Pin::new(&mut inner.io).poll_write(cx, data))?;
                inner.response_bytes += inner.counter.count(&data[..wrote]);
                return Poll::Ready(Ok(wrote));
            }
        }
        inner.append(data);
        Poll::Ready(Ok(data.len()))
    }

    /// Does nothing: the driver flushes after it has polled the codec.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.io).poll_shutdown(cx)
    }
}

thread_local! {
    static RECYCLED_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The payload of a TLS record.
const MAX_COALESCED: usize = 16 * 1024;
/// RFC 9113 §4.1.
const FRAME_HEADER: usize = 9;
/// RFC 9113 §6.1.
const DATA: u8 = 0;
/// RFC 9113 §6.2.
const HEADERS: u8 = 1;
/// RFC 9113 §6.10.
const CONTINUATION: u8 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_of_responses_count_however_they_are_sliced() {
        let mut written = Vec::new();
        // A PING, HEADERS, DATA in two frames, an empty one, SETTINGS, CONTINUATION.
        for (kind, length) in [(6, 8), (1, 20), (0, 300), (0, 5), (0, 0), (4, 0), (9, 7)] {
            written.extend_from_slice(&[0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1]);
            // A payload that looks like the head of a frame.
            written.extend(std::iter::repeat_n(1, length));
        }
        for size in 1..=written.len() {
            let mut counter = ResponseByteCounter::default();
            let passed: usize = written.chunks(size).map(|part| counter.count(part)).sum();
            assert_eq!(passed, 20 + 300 + 5 + 7, "in parts of {size} bytes");
        }
    }
}
