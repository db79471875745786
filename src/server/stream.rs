//! The byte stream of an HTTP/1.1 connection: it returns bytes that were read ahead, has a deadline for
//! clients that do not read, and closes without a reset.
//!
//! ```text
//!   No ──(poll_shutdown)──▶ Shut
//!    │ expect_more()
//!    ▼
//!   Expecting ──(poll_shutdown: the write side is shut)──▶ Lingering ──▶ dropped, at the client's end
//!                                                                        or 2 s later
//! ```
//!
//! Between `Shut` and the drop, one read may show that the client is still sending: then the stream
//! lingers as well. A close with unread bytes in the receive buffer makes the kernel send a reset,
//! and a reset makes the client's kernel throw away the response that it has not read yet: the
//! reason for the whole of [`Closing`].
//!
//! All time-outs of writes are here, and not at the callers, so that a response, an interim
//! response, a refusal and hyper's codec have the same. Once the connection is a tunnel, all of
//! that is off: the owner of the tunnel holds this stream, and only the drop of the connection's
//! task ends its reads.
//!
//! # Cost
//!
//! A write that does not block costs two comparisons. The budget is made at the first write that
//! blocks, and the deadline is armed once for a wait.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    min_rate::RateBudget,
    state::{Phase, State},
};

/// `ahead` holds bytes that protocol detection read, or that were sent behind an upgrade's head;
/// reads return them first.
pub(super) struct Stream<Io> {
    io: Io,
    ahead: Bytes,
    state: Arc<State>,
    /// The budget of a client that does not read; `None` while writes succeed.
    blocked: Option<RateBudget>,
    closing: Closing,
}

/// Only moves forward: a stream that lingers or is shut never expects more again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// Nothing is closed yet, and the client is still sending.
    Expecting,
    /// The write side is shut, and received bytes are discarded.
    Lingering,
    No,
    Shut,
}

impl<Io> Stream<Io> {
    /// The state outlives the stream in bodies and guards; the drop of the stream is what ends a
    /// tunnel.
    pub(super) fn new(io: Io, ahead: Bytes, state: Arc<State>) -> Self {
        Self {
            io,
            ahead,
            state,
            blocked: None,
            closing: Closing::No,
        }
    }

    /// Puts `bytes` in front of those that are read next.
    ///
    /// The earlier bytes are copied only if both are there, which happens when an upgrade was
    /// detected within what `sniff` read.
    pub(super) fn put_back(&mut self, bytes: Bytes) {
        if self.ahead.is_empty() {
            self.ahead = bytes;
        } else if !bytes.is_empty() {
            self.ahead = [&bytes[..], &self.ahead[..]].concat().into();
        }
    }

    /// Makes a close wait for a while, since the client is still sending.
    ///
    /// For a refusal, and for a request body that was not read to its end.
    pub(super) fn expect_more(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Expecting;
        }
    }
}

impl<Io> Drop for Stream<Io> {
    fn drop(&mut self) {
        self.state.closed.notify_one();
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Stream<Io> {
    /// Reads and discards for a while if the client is still sending. A close would reset the
    /// connection, and the client could lose the response (RFC 9112 §9.6).
    ///
    /// Never returns an error: the response is written, and what the client does now concerns
    /// nothing any more.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // On the stack: the wait holds no memory of the connection.
        let mut waste = [0; 4_096];
        self.ahead = Bytes::new();
        loop {
            let mut buf = ReadBuf::new(&mut waste);
            let read = Pin::new(&mut self.io).poll_read(cx, &mut buf);
            match read {
                // The client is still sending, which was not known before this read.
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.linger(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.closing == Closing::Lingering => {
                    return self.state.poll_expired(cx);
                }
                Poll::Pending => return Poll::Ready(()),
            }
            // A client that sends faster than this loop reads would otherwise never be closed.
            if self.state.is_expired() {
                return Poll::Ready(());
            }
        }
    }

    /// Arms the deadline once: a client that keeps sending does not prolong it.
    fn linger(&mut self) {
        if self.closing != Closing::Lingering {
            self.closing = Closing::Lingering;
            self.state.linger(LINGER);
        }
    }

    /// Counts the bytes of a write towards the least rate.
    ///
    /// A write that took all that was offered ends the wait: the budget is dropped, and the next
    /// wait begins with the whole credit. Only a client that takes a part each time is measured.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
        offered: usize,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(some)) if self.blocked.is_some() && some < offered => {
                let state = &self.state;
                if let Some(pace) = &mut self.blocked {
                    pace.moved(state.now(), some, state.timeouts());
                }
                wrote
            }
            wrote => self.went(cx, wrote),
        }
    }

    /// Sets the deadline if the write blocks, and removes it if it does not.
    ///
    /// Also for flushes and shutdowns, which block on the client just as writes do.
    fn went<T>(&mut self, cx: &mut Context<'_>, went: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.state.phase() == Phase::Tunnel {
            // The owner of a tunnel sets its time-outs.
            return went;
        }
        if went.is_ready() {
            if self.blocked.take().is_some() {
                self.state.write_unblocked();
            }
            return went;
        }
        let state = &self.state;
        let pace = self
            .blocked
            .get_or_insert_with(|| RateBudget::new(state.timeouts()));
        if !pace.is_waiting() {
            state.write_blocked(pace.wait(state.now()));
        }
        // Registers the task as well, so that the deadline wakes it.
        ready!(state.poll_expired(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.has_remaining() {
            let n = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..n]);
            this.ahead.advance(n);
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        // No deadline here: the one that reads knows what it waits for (a head, a body, nothing).
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if read.is_pending() && this.state.phase() == Phase::Tunnel {
            ready!(this.state.poll_expired(cx));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(cx, wrote, buf.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(cx, wrote, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.went(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.closing, Closing::No | Closing::Expecting) {
            let shut = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.went(cx, shut))?;
            // The client's bytes may still be on their way: read until its end, or for `LINGER`.
            match this.closing {
                Closing::Expecting => this.linger(),
                _ => this.closing = Closing::Shut,
            }
        }
        if this.state.phase() == Phase::Tunnel {
            // A tunnel goes on in the other direction.
            return Poll::Ready(Ok(()));
        }
        this.poll_linger(cx).map(Ok)
    }
}

/// Bytes that are on their way arrive within this time. A client that sends for longer does not read
/// the response.
const LINGER: Duration = Duration::from_secs(2);
