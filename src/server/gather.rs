//! One write a poll for HTTP/2, where the codec would make one a frame.

use std::{
    cell::RefCell,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathers what is written until the driver of the connection flushes it.
pub(super) struct Gather<Io> {
    // The codec owns one handle and the driver one, on one task: the lock is never contended.
    inner: Arc<Mutex<Inner<Io>>>,
}

struct Inner<Io> {
    io: Io,
    ahead: Bytes,
    buf: Vec<u8>,
    written: usize,
    /// The stream below may keep some of what it took, as TLS does.
    unflushed: bool,
    received: bool,
    broken: bool,
    frames: Frames,
    /// Bytes in `buf` that are none of a response's.
    other: usize,
    /// Bytes of responses that the stream took since the driver looked.
    taken: usize,
}

/// Tells the bytes of responses apart in what the codec writes. The others answer pings and
/// settings, which a client can ask for at any rate.
#[derive(Debug, Default)]
struct Frames {
    /// What is left of the frame's payload.
    left: usize,
    /// Of a head (9 bytes) that is not whole.
    head: [u8; FRAME_HEAD],
    have: usize,
    is_response: bool,
}

impl Frames {
    /// Goes through what is written next; returns how much of it belongs to responses.
    fn pass(&mut self, mut data: &[u8]) -> usize {
        let mut of_responses = 0;
        while !data.is_empty() {
            if self.left == 0 {
                let n = data.len().min(FRAME_HEAD - self.have);
                self.head[self.have..self.have + n].copy_from_slice(&data[..n]);
                self.have += n;
                data = &data[n..];
                if self.have == FRAME_HEAD {
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

/// What the driver has to know of the stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gathered {
    /// A byte came.
    pub(super) received: bool,
    /// The client takes no more for now.
    pub(super) blocked: bool,
    /// Bytes of responses that went out.
    pub(super) taken: usize,
    /// The stream failed.
    pub(super) broken: bool,
}

impl<Io> Gather<Io> {
    pub(super) fn new(io: Io, ahead: Bytes) -> Self {
        let received = !ahead.is_empty();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                io,
                ahead,
                buf: Vec::new(),
                written: 0,
                unflushed: false,
                received,
                broken: false,
                frames: Frames::default(),
                other: 0,
                taken: 0,
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

impl<Io: AsyncWrite + Unpin> Gather<Io> {
    /// Writes what was gathered.
    pub(super) fn flush(&self, cx: &mut Context<'_>) -> Gathered {
        let mut inner = self.lock();
        let flushed = if !inner.buf.is_empty() || inner.unflushed {
            inner.poll_flush(cx)
        } else {
            Poll::Ready(Ok(()))
        };
        inner.broken |= matches!(flushed, Poll::Ready(Err(_)));
        Gathered {
            received: inner.received,
            blocked: flushed.is_pending(),
            taken: mem::take(&mut inner.taken),
            broken: inner.broken,
        }
    }
}

impl<Io: AsyncWrite + Unpin> Inner<Io> {
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buf.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buf[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            let other = self.other.min(n);
            self.other -= other;
            self.taken += n - other;
            self.unflushed = true;
        }
        self.give_back();
        Poll::Ready(Ok(()))
    }

    /// Leaves the buffer to the next connection of the thread that writes: it is in the cache,
    /// and one that has nothing to write needs none.
    fn give_back(&mut self) {
        self.written = 0;
        let mut buf = mem::take(&mut self.buf);
        if buf.capacity() > 0 {
            buf.clear();
            // An error says that the thread is about to end.
            let _ = SPARE.try_with(|spare| spare.replace(buf));
        }
    }

    fn gather(&mut self, data: &[u8]) {
        if self.buf.capacity() == 0 {
            self.buf = SPARE.try_with(RefCell::take).unwrap_or_default();
            self.buf.reserve(GATHERED);
        }
        self.other += data.len() - self.frames.pass(data);
        self.buf.extend_from_slice(data);
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Gather<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.ahead.has_remaining() {
            let n = inner.ahead.len().min(buf.remaining());
            let ahead = inner.ahead.split_to(n);
            buf.put_slice(&ahead);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut inner.io).poll_read(cx, buf);
        inner.received |= buf.filled().len() > before;
        inner.broken |= matches!(read, Poll::Ready(Err(_)));
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Gather<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        if inner.buf.len() + data.len() > GATHERED {
            ready!(inner.poll_drain(cx))?;
            if data.len() >= GATHERED {
                inner.unflushed = true;
                let wrote = ready!(Pin::new(&mut inner.io).poll_write(cx, data))?;
                inner.taken += inner.frames.pass(&data[..wrote]);
                return Poll::Ready(Ok(wrote));
            }
        }
        inner.gather(data);
        Poll::Ready(Ok(data.len()))
    }

    /// The driver flushes once it has polled the connection.
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
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A TLS record's worth.
const GATHERED: usize = 16 * 1024;
/// RFC 9113 §4.1.
const FRAME_HEAD: usize = 9;
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
            let mut frames = Frames::default();
            let passed: usize = written.chunks(size).map(|part| frames.pass(part)).sum();
            assert_eq!(passed, 20 + 300 + 5 + 7, "in parts of {size} bytes");
        }
    }
}
