//! The stream below a session, which sends tickets together with the first response.
//!
//! rustls writes the tickets (RFC 8446 §4.6.1) as soon as the client has finished the handshake. They
//! would cost a packet and a system call of their own. This stream keeps them until the session
//! writes something else, and sends both at once.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(super) struct DeferredTickets<Io> {
    io: Io,
    stage: Stage,
    /// The client has sent bytes since the last write of the handshake.
    client_spoke: bool,
    /// Tickets that are not written yet.
    deferred: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The next write begins a record.
    Handshake,
    /// The next write continues a record that the socket took in part.
    HandshakeCut,
    /// Tickets wait for the next write.
    Deferred,
    Open,
}

impl<Io> DeferredTickets<Io> {
    pub(super) fn new(io: Io) -> Self {
        Self {
            io,
            stage: Stage::Handshake,
            client_spoke: false,
            deferred: Vec::new(),
        }
    }

    pub(super) fn get_ref(&self) -> &Io {
        &self.io
    }

    /// Ends the handshake: deferred tickets are sent with the next write.
    pub(super) fn open(&mut self) {
        self.stage = match self.deferred.is_empty() {
            true => Stage::Open,
            false => Stage::Deferred,
        };
    }
}

impl<Io: AsyncWrite + Unpin> DeferredTickets<Io> {
    #[cold]
    fn poll_write_early(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        match self.stage {
            Stage::Handshake if self.client_spoke && is_tickets(bufs) => {
                self.defer(bufs);
                Poll::Ready(Ok(len))
            }
            Stage::Handshake | Stage::HandshakeCut => {
                ready!(self.poll_write_deferred(cx))?;
                let wrote = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
                self.client_spoke = false;
                self.stage = match wrote < len {
                    true => Stage::HandshakeCut,
                    false => Stage::Handshake,
                };
                Poll::Ready(Ok(wrote))
            }
            Stage::Deferred => {
                self.defer(bufs);
                self.stage = Stage::Open;
                // The rest is written before the next write or with the flush, which also report an
                // error.
                let _ = self.poll_write_deferred(cx);
                Poll::Ready(Ok(len))
            }
            Stage::Open => {
                ready!(self.poll_write_deferred(cx))?;
                Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn defer(&mut self, bufs: &[IoSlice<'_>]) {
        bufs.iter()
            .for_each(|buf| self.deferred.extend_from_slice(buf));
    }

    #[cold]
    fn poll_write_deferred(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.deferred.is_empty() {
            let wrote = ready!(Pin::new(&mut self.io).poll_write(cx, &self.deferred))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.deferred.drain(..wrote);
        }
        // An idle connection keeps no buffer.
        self.deferred = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn is_plain(&self) -> bool {
        self.stage == Stage::Open && self.deferred.is_empty()
    }
}

/// Tickets are encrypted records longer than an alert. An alert must not be deferred.
fn is_tickets(bufs: &[IoSlice<'_>]) -> bool {
    let mut records = bufs.iter().filter(|buf| !buf.is_empty());
    records.all(|record| record[0] == APPLICATION_DATA && record.len() > MAX_ALERT)
}

impl<Io: AsyncRead + Unpin> AsyncRead for DeferredTickets<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if self.stage != Stage::Open {
            self.client_spoke |= buf.filled().len() > before;
        }
        read
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for DeferredTickets<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_plain() {
            return self.poll_write_early(cx, &[IoSlice::new(buf)]);
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_plain() {
            return self.poll_write_early(cx, bufs);
        }
        match bufs {
            // Nearly always one record: `send` costs the kernel less than `writev`.
            [record] => Pin::new(&mut self.io).poll_write(cx, record),
            _ => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Tickets alone are not flushed.
        if self.stage == Stage::Open && !self.deferred.is_empty() {
            ready!(self.poll_write_deferred(cx))?;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_deferred(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The type of an encrypted record (RFC 8446 §5.2).
const APPLICATION_DATA: u8 = 23;
/// An encrypted alert is 24 bytes long, a ticket some hundred.
const MAX_ALERT: usize = 64;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// A record of this type, all in all as long.
    fn record(kind: u8, len: usize) -> Vec<u8> {
        let mut record = vec![kind, 3, 3, 0, 0];
        record.resize_with(len, || fastrand::u8(..));
        record
    }

    fn received(far: &mut DuplexStream) -> usize {
        let mut bytes = [0; 4_096];
        let read = tokio_test::task::spawn(far.read(&mut bytes)).poll();
        match read {
            Poll::Ready(read) => read.unwrap(),
            Poll::Pending => 0,
        }
    }

    #[tokio::test]
    async fn tickets_go_out_with_the_next_write_and_nothing_else_waits() {
        const HANDSHAKE: u8 = 22;
        let (ticket, alert) = ((APPLICATION_DATA, 230), (APPLICATION_DATA, 24));
        // What is written at the end of a handshake, whether the client has spoken before, and
        // whether it is kept.
        for (records, client_spoke, is_deferred) in [
            (&[ticket, ticket][..], true, true),
            (&[ticket, ticket], false, false),
            (&[ticket, alert], true, false),
            (&[alert], true, false),
            (&[(HANDSHAKE, 230)], true, false),
        ] {
            let (near, mut far) = duplex(4_096);
            let mut io = DeferredTickets::new(near);
            io.write_all(&record(HANDSHAKE, 900)).await.unwrap();
            io.flush().await.unwrap();
            assert_eq!(received(&mut far), 900, "the flight does not wait");
            if client_spoke {
                far.write_all(b"finished").await.unwrap();
                let read = io.read(&mut [0; 64]).await.unwrap();
                assert_eq!(read, 8);
            }
            let records: Vec<_> = records
                .iter()
                .map(|&(kind, len)| record(kind, len))
                .collect();
            let bufs: Vec<_> = records.iter().map(|record| IoSlice::new(record)).collect();
            let len: usize = records.iter().map(Vec::len).sum();
            let mut wrote = io.write_vectored(&bufs).await.unwrap();
            if wrote < len {
                let rest = records.concat();
                io.write_all(&rest[wrote..]).await.unwrap();
                wrote = len;
            }
            io.flush().await.unwrap();
            let at_once = if is_deferred { 0 } else { wrote };
            assert_eq!(received(&mut far), at_once, "{records:?}");
            io.open();
            io.flush().await.unwrap();
            assert_eq!(received(&mut far), 0, "there is nothing to say yet");
            io.write_all(&record(APPLICATION_DATA, 100)).await.unwrap();
            assert_eq!(received(&mut far), wrote - at_once + 100, "together");
            assert_eq!((io.deferred.capacity(), io.stage), (0, Stage::Open));
        }
    }

    #[tokio::test]
    async fn a_flight_that_the_socket_takes_in_parts_goes_on_at_once() {
        let (near, mut far) = duplex(100);
        let mut io = DeferredTickets::new(near);
        let flight = [record(22, 90), record(APPLICATION_DATA, 300)].concat();
        let mut flying = flight.as_slice();
        let mut out = Vec::new();
        while !flying.is_empty() {
            let wrote = io.write(flying).await.unwrap();
            flying = &flying[wrote..];
            let mut part = [0; 100];
            let read = far.read(&mut part).await.unwrap();
            assert_eq!(read, wrote, "none of it is deferred");
            out.extend_from_slice(&part[..read]);
        }
        assert!(out == flight && io.deferred.is_empty());
    }

    #[tokio::test]
    async fn whatever_the_socket_takes_all_arrives_in_order() {
        for room in [1, 7, 64, 1_000] {
            let (near, mut far) = duplex(room);
            let mut sent = record(22, 400);
            let tickets = [record(APPLICATION_DATA, 150), record(APPLICATION_DATA, 150)];
            sent.extend(tickets.concat());
            let answers: Vec<_> = (0..5).map(|_| record(APPLICATION_DATA, 333)).collect();
            sent.extend(answers.concat());
            let writes = async move {
                let mut io = DeferredTickets::new(near);
                io.write_all(&sent[..400]).await.unwrap();
                io.client_spoke = true;
                for ticket in &tickets {
                    io.write_all(ticket).await.unwrap();
                }
                io.flush().await.unwrap();
                io.open();
                for answer in &answers {
                    io.write_all(answer).await.unwrap();
                }
                io.shutdown().await.unwrap();
                sent
            };
            let mut got = Vec::new();
            let (sent, read) = tokio::join!(writes, far.read_to_end(&mut got));
            read.unwrap();
            assert!(got == sent, "with room for {room}");
        }
    }
}
