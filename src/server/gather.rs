//! One write a poll for HTTP/2, where the codec would make one a frame.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathers what is written until whoever drives the connection flushes it.
pub(super) struct Gather<Io> {
    // The codec owns one handle and the driver one, on one task: the lock is never contended.
    inner: Arc<Mutex<Inner<Io>>>,
}

struct Inner<Io> {
    io: Io,
    ahead: Bytes,
    buf: Vec<u8>,
    written: usize,
}

impl<Io> Gather<Io> {
    pub(super) fn new(io: Io, ahead: Bytes) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                io,
                ahead,
                buf: Vec::new(),
                written: 0,
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
    /// Writes what was gathered; frees the buffer of a connection that has nothing to do.
    pub(super) fn poll_gathered(
        &self,
        cx: &mut Context<'_>,
        is_active: bool,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.buf.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(inner.poll_drain(cx))?;
        if !is_active {
            inner.buf = Vec::new();
        }
        Pin::new(&mut inner.io).poll_flush(cx)
    }
}

impl<Io: AsyncWrite + Unpin> Inner<Io> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buf.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buf[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.buf.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
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
        Pin::new(&mut inner.io).poll_read(cx, buf)
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
                return Pin::new(&mut inner.io).poll_write(cx, data);
            }
        }
        inner.buf.extend_from_slice(data);
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

/// A TLS record's worth.
const GATHERED: usize = 16 * 1024;
