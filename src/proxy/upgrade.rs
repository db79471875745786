//! Upgrades: the connections of client and backend become a tunnel (RFC 9110 §7.8).
//!
//! ```text
//!    client ──▶ up   ──▶ backend        each Direction: Copying ─▶ Ending ─▶ Ended
//!    client ◀── down ◀── backend        read once, write what goes, keep the rest, read no more
//! ```
//!
//! The tunnel runs in a task of its own: the response (101) has to leave through the stack before
//! the server hands the client's connection over, and the record of the request ends with the
//! tunnel, not with the response. Its [`Tunnel`] carries the guards of the layers above and the
//! byte counts.
//!
//! A direction that ends shuts the other side's writing down and leaves the opposite direction open
//! (TCP half-close), as an echo protocol needs. The tunnel ends when both have ended, one fails, or
//! both are silent for the time-out; then both sockets are closed.
//!
//! Why not `tokio::io::copy_bidirectional`: it keeps two buffers of 8 KiB for each tunnel, silent
//! or not, and has no time-out. Here a silent tunnel holds none; a thread has one buffer for all of
//! its tunnels.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Body, http1::Conn};
use crate::{
    connect::Stream,
    context::Tunnel,
    error::{Error, ErrorKind},
    pool::OpenConnection,
    timer::sweep::Deadline,
};

/// Answers 101, and joins both connections once the server hands the client's over.
///
/// The response has the fields of the backend's 101, with `Connection: upgrade` as this hop's own.
///
/// # Errors
///
/// [`ErrorKind::Upgrade`] if the server put no `OnUpgrade` into the request; the backend's
/// connection is closed.
pub(super) fn switch(
    mut conn: Conn,
    mut parts: Parts,
    idle_timeout: Duration,
) -> Result<Response<Body>, Error> {
    let Some(client) = parts.extensions.remove::<OnUpgrade>() else {
        let error = Error::new(ErrorKind::Upgrade).after_sending();
        return Err(error.with_source("the client's connection cannot be upgraded"));
    };
    let open = conn.owner_data.open.take();
    let (backend, ahead) = conn.into_stream();
    let tunnel = Tunnel::new();
    let ends = TunnelEnds {
        client,
        backend,
        ahead,
        _open: open,
    };
    tokio::spawn(run_tunnel(ends, tunnel.clone(), idle_timeout));
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    std::mem::swap(response.headers_mut(), &mut parts.headers);
    let upgrade = HeaderValue::from_static("upgrade");
    response.headers_mut().insert(header::CONNECTION, upgrade);
    response.extensions_mut().insert(tunnel);
    Ok(response)
}

/// Both ends of a tunnel, and the bytes that the backend sent after its 101.
///
/// Dropping it closes both connections, and counts the backend's as closed.
struct TunnelEnds {
    client: OnUpgrade,
    backend: Stream,
    ahead: Bytes,
    _open: Option<OpenConnection>,
}

/// Closes the tunnel however its task ends.
///
/// The task can end by a return, a panic, or the end of the runtime: the layers that hold guards
/// learn of each.
struct CloseOnDrop(Tunnel);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Ends before it began if the client left: the server then drops its half of the upgrade.
async fn run_tunnel(ends: TunnelEnds, tunnel: Tunnel, idle_timeout: Duration) {
    let closing = CloseOnDrop(tunnel);
    let tunnel = &closing.0;
    let client = match ends.client.await {
        Ok(client) => client,
        // The backend's connection is dropped with `ends`.
        Err(error) => {
            tracing::debug!(target: "evenkeel::proxy", %error, "the client left before the tunnel");
            return;
        }
    };
    let relayed = relay(
        TokioIo::new(client),
        ends.backend,
        ends.ahead,
        tunnel,
        idle_timeout,
    );
    if let Err(error) = relayed.await {
        tracing::debug!(target: "evenkeel::proxy", %error, "a tunnel broke");
    }
}

/// # Errors
///
/// The first error of either side, or `TimedOut` after a silence of `idle_timeout` in both
/// directions.
async fn relay<C, B>(
    mut client: C,
    mut backend: B,
    ahead: Bytes,
    tunnel: &Tunnel,
    idle_timeout: Duration,
) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    // One for both directions: a tunnel is silent if neither moves.
    let deadline = Deadline::new();
    deadline.arm(idle_timeout);
    let mut down = Direction::new(ahead);
    let mut up = Direction::new(Bytes::new());
    let mut up_first = true;
    poll_fn(|cx| {
        // Alternates: a direction that is always ready uses up the budget that tokio grants a poll.
        up_first = !up_first;
        let mut to_backend = Poll::Pending;
        if up_first {
            to_backend = up.poll(&mut client, &mut backend, cx);
        }
        let to_client = down.poll(&mut backend, &mut client, cx);
        if !up_first {
            to_backend = up.poll(&mut client, &mut backend, cx);
        }
        tunnel.add_to_client(down.take_moved());
        tunnel.add_to_backend(up.take_moved());
        // `|` and not `||`: both flags have to be cleared.
        if down.take_progress() | up.take_progress() {
            deadline.arm(idle_timeout);
        }
        match (to_client, to_backend) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => deadline
                .poll_expired(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    })
    .await
}

/// One direction of a tunnel. It holds only what the other side has not taken, and reads no more until
/// that is written: a silent tunnel holds no buffer.
struct Direction {
    /// Bytes read and not yet written.
    waiting: Bytes,
    /// The number of bytes written and not yet counted.
    moved: u64,
    /// Bytes were read or written since the last call of `take_progress`.
    progress: bool,
    /// Bytes were written that the stream may keep in a buffer.
    unflushed: bool,
    stage: Stage,
}

/// Only moves forward.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    /// The reading side has ended; the writing side is shut down next.
    Ending,
    Ended,
}

impl Direction {
    fn new(ahead: Bytes) -> Self {
        Self {
            waiting: ahead,
            moved: 0,
            progress: false,
            unflushed: false,
            stage: Stage::Copying,
        }
    }

    /// Counts bytes that the other side took, not those that were read.
    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Copies while both sides are ready. Is ready once the end was passed on.
    ///
    /// Pending registers the task with whichever side it waits for. After the end it stays ready.
    fn poll<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.waiting.is_empty() {
                let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
                self.note_written(wrote)?;
                self.waiting.advance(wrote);
            }
            // Frees the memory.
            self.waiting = Bytes::new();
            match self.stage {
                Stage::Copying => {}
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.stage = Stage::Ended;
                    return Poll::Ready(Ok(()));
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
            let Poll::Ready(copied) = self.poll_copy(from, to, cx) else {
                // Only when nothing more can be read: TLS would otherwise make a record of each
                // piece.
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            };
            copied?;
        }
    }

    /// Reads once, and writes as much of it as the other side takes.
    ///
    /// Costs one read and usually one write; no memory of its own if the other side takes all.
    fn poll_copy<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // Taken out rather than borrowed: a stream may run any code when it is polled.
        let mut scratch = SCRATCH.take();
        scratch.resize(BUFFER, 0);
        let mut buf = ReadBuf::new(&mut scratch);
        let copied = match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(self.pass(buf.filled(), to, cx)),
            other => other,
        };
        SCRATCH.set(scratch);
        copied
    }

    /// What the other side does not take at once is copied out of the thread's buffer.
    fn pass<W>(&mut self, read: &[u8], to: &mut W, cx: &mut Context<'_>) -> io::Result<()>
    where
        W: AsyncWrite + Unpin,
    {
        self.progress = true;
        // The end of the stream. Bytes that wait are written before it is passed on.
        if read.is_empty() {
            self.stage = Stage::Ending;
            return Ok(());
        }
        let mut rest = read;
        while !rest.is_empty() {
            let Poll::Ready(wrote) = Pin::new(&mut *to).poll_write(cx, rest) else {
                break;
            };
            let wrote = wrote?;
            self.note_written(wrote)?;
            rest = &rest[wrote..];
        }
        self.waiting = Bytes::copy_from_slice(rest);
        Ok(())
    }

    /// # Errors
    ///
    /// `WriteZero` if the stream took nothing: it will take nothing later either.
    fn note_written(&mut self, wrote: usize) -> io::Result<()> {
        if wrote == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.moved += wrote as u64;
        self.progress = true;
        self.unflushed = true;
        Ok(())
    }
}

thread_local! {
    /// The buffer that the tunnels of the thread read into.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const BUFFER: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_busy_direction_leaves_the_other_its_turn() {
        let (mut source, from_client) = duplex(BUFFER);
        let (to_backend, mut sink) = duplex(BUFFER);
        let client = tokio::io::join(from_client, tokio::io::sink());
        let backend = tokio::io::join(tokio::io::repeat(b'x'), to_backend);
        source.write_all(b"hello").await.unwrap();
        let relaying = tokio::spawn(async move {
            let (minute, tunnel) = (Duration::from_secs(60), Tunnel::new());
            relay(client, backend, Bytes::new(), &tunnel, minute).await
        });
        let mut got = [0; 5];
        let read = tokio::time::timeout(Duration::from_secs(10), sink.read_exact(&mut got));
        read.await.expect("its turn must come").unwrap();
        assert_eq!(&got, b"hello");
        relaying.abort();
    }

    #[tokio::test]
    async fn a_direction_that_waits_for_a_slow_reader_reads_no_more() {
        let (mut source, mut from) = duplex(BUFFER * 4);
        let (mut to, mut sink) = duplex(10);
        let all: Vec<u8> = (0..BUFFER * 2).map(|i| i as u8).collect();
        source.write_all(&all).await.unwrap();
        source.shutdown().await.unwrap();
        let mut direction = Direction::new(Bytes::from_static(b"ahead"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(direction.poll(&mut from, &mut to, &mut cx).is_pending());
        assert_eq!(direction.take_moved(), 10);
        let held = direction.waiting.len();
        assert_eq!(held, BUFFER - 5, "one read, less what was written of it");
        assert!(direction.poll(&mut from, &mut to, &mut cx).is_pending());
        assert_eq!(direction.waiting.len(), held, "nothing more is read");
        let mut got = Vec::new();
        let copying = poll_fn(|cx| direction.poll(&mut from, &mut to, cx));
        let (copied, read) = tokio::join!(copying, sink.read_to_end(&mut got));
        copied.unwrap();
        read.unwrap();
        assert_eq!(got, [b"ahead", &all[..]].concat());
        assert_eq!(direction.waiting.len(), 0);
    }
}
