//! One handshake, from the first byte to the session or the refusal.

use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use rustls::{
    ServerConfig,
    server::{Accepted, Acceptor},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::{Accept, StartHandshake, server::TlsStream};

use super::{
    deferred_tickets::DeferredTickets,
    handshake_config::{HandshakeConfig, Lookup},
    negotiated,
    refusal::{Answer, Failure, Refusal},
};
use crate::context::{ConnInfo, ConnectionEvents, HandshakeFailure};

/// An established session.
pub(super) type Session<Io> = TlsStream<DeferredTickets<Io>>;

pin_project! {
    /// A handshake in progress.
    pub(super) struct Handshake<Io> {
        // Created at the first poll, since a timer needs a runtime.
        #[pin]
        deadline: Option<Sleep>,
        stage: Stage<Io>,
        sni: Option<Box<str>>,
        // The number of the policy that the server name chose.
        policy: usize,
        // The configuration for a certificate authority's check, which ends with the handshake.
        check: Option<Arc<ServerConfig>>,
        conn: ConnInfo,
        shared: Arc<HandshakeConfig>,
        events: Option<Arc<dyn ConnectionEvents>>,
    }
}

enum Stage<Io> {
    /// Reads the ClientHello. It holds no permit, so that a silent client delays no other.
    Hello {
        io: Io,
        acceptor: Acceptor,
        first: Option<u8>,
        /// How many bytes were received.
        received: usize,
    },
    /// Waits for the certificate that the client asks for.
    Lookup {
        start: StartHandshake<DeferredTickets<Io>>,
        lookup: Lookup,
    },
    /// Waits for a permit.
    Permit {
        start: StartHandshake<DeferredTickets<Io>>,
        permit_wait: PermitWait,
    },
    /// The server's flight is written; the client has to answer.
    Finish(Accept<DeferredTickets<Io>>),
    /// Sends the client the reason of a refusal.
    Refuse(Refusal<Io>),
    Done,
}

type PermitWait = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

impl<Io> Handshake<Io> {
    pub(super) fn new(
        io: Io,
        conn: ConnInfo,
        shared: Arc<HandshakeConfig>,
        events: Option<Arc<dyn ConnectionEvents>>,
    ) -> Self {
        Self {
            deadline: None,
            stage: Stage::Hello {
                io,
                acceptor: Acceptor::default(),
                first: None,
                received: 0,
            },
            sni: None,
            policy: 0,
            check: None,
            conn,
            events: events.or_else(|| shared.events.clone()),
            shared,
        }
    }

    /// Returns the information about the connection.
    pub(super) fn conn(&self) -> &ConnInfo {
        &self.conn
    }

    /// Returns true until the client has sent a byte.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Hello { first: None, .. })
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Handshake<Io> {
    /// Drives the handshake. Writes its result to the `ConnInfo`, or reports its failure to the events.
    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Session<Io>>> {
        let ended = match self.as_mut().poll_stage(cx) {
            Poll::Ready(ended) => ended,
            // The stage is polled first: a handshake that completed in time wins.
            Poll::Pending => Err(ready!(self.as_mut().poll_deadline(cx))),
        };
        let this = self.project();
        *this.stage = Stage::Done;
        Poll::Ready(match ended {
            Ok(mut session) if this.check.is_some() => {
                session.get_mut().0.open();
                // The check has what it needs even if the close_notify is lost.
                let _ = Pin::new(&mut session).poll_shutdown(cx);
                let failure = Failure::checked();
                failure.report(this.conn, this.sni.as_deref(), None);
                Err(failure.into())
            }
            Ok(mut session) => {
                session.get_mut().0.open();
                session.get_mut().1.set_buffer_limit(Some(SESSION_BUFFER));
                let policy = this.shared.configs.conn_policy(*this.policy);
                negotiated::record(this.conn, session.get_ref().1, this.sni.take(), policy);
                if let Some(events) = this.events {
                    events.handshake_ended(this.conn);
                }
                Ok(session)
            }
            Err(failure) => {
                failure.report(this.conn, this.sni.as_deref(), this.events.as_deref());
                Err(failure.into())
            }
        })
    }

    fn poll_stage(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Session<Io>, Failure>> {
        loop {
            let this = self.as_mut().project();
            match this.stage {
                Stage::Hello {
                    io,
                    acceptor,
                    first,
                    received,
                } => {
                    let hello = ready!(poll_hello(io, acceptor, first, received, cx))?;
                    let Stage::Hello { io, .. } = mem::replace(this.stage, Stage::Done) else {
                        continue;
                    };
                    *this.stage = match hello {
                        Hello::Accepted(accepted) => {
                            return self.accept(accepted, io, cx);
                        }
                        Hello::Refused(answer, failure) => {
                            let limit = Instant::now() + Refusal::<Io>::LINGER;
                            let mut deadline = this.deadline;
                            let sooner = deadline.as_ref().as_pin_ref();
                            if sooner.is_none_or(|sleep| sleep.deadline() > limit) {
                                deadline.set(Some(sleep_until(limit)));
                            }
                            Stage::Refuse(Refusal::new(io, answer, failure))
                        }
                    };
                }
                Stage::Lookup { lookup, .. } => {
                    let config = ready!(lookup.as_mut().poll(cx));
                    let Stage::Lookup { start, .. } = mem::replace(this.stage, Stage::Done) else {
                        continue;
                    };
                    *this.check = config;
                    return self.admit(start, cx);
                }
                Stage::Permit { permit_wait, .. } => {
                    let permit = ready!(permit_wait.as_mut().poll(cx));
                    let Stage::Permit { start, .. } = mem::replace(this.stage, Stage::Done) else {
                        continue;
                    };
                    return self.begin(start, permit, cx);
                }
                Stage::Finish(accept) => {
                    let polled = Pin::new(accept).poll(cx);
                    return polled.map_err(|error| Failure::from_session(&error));
                }
                Stage::Refuse(refusal) => return refusal.poll(cx).map(Err),
                Stage::Done => {
                    let over = Failure::lost(HandshakeFailure::Other, "the handshake is over");
                    return Poll::Ready(Err(over));
                }
            }
        }
    }

    /// Goes on with what the ClientHello asks for.
    fn accept(
        mut self: Pin<&mut Self>,
        accepted: Accepted,
        io: Io,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Session<Io>, Failure>> {
        let this = self.as_mut().project();
        let hello = accepted.client_hello();
        *this.sni = hello.server_name().map(Box::from);
        *this.policy = this.shared.configs.find(hello.server_name());
        let lookup = this.shared.lookup(&hello);
        let start = StartHandshake::from_parts(accepted, DeferredTickets::new(io));
        match lookup {
            Some(lookup) => {
                *this.stage = Stage::Lookup { start, lookup };
                self.poll_stage(cx)
            }
            None => self.admit(start, cx),
        }
    }

    /// Begins as soon as there is a permit.
    fn admit(
        mut self: Pin<&mut Self>,
        start: StartHandshake<DeferredTickets<Io>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Session<Io>, Failure>> {
        let this = self.as_mut().project();
        let permits = this.shared.permits.clone();
        match permits.clone().try_acquire_owned() {
            Ok(permit) => self.begin(start, Some(permit), cx),
            Err(_) => {
                *this.stage = Stage::Permit {
                    start,
                    permit_wait: permit_wait(permits),
                };
                self.poll_stage(cx)
            }
        }
    }

    /// Signs, and writes the server's flight. The permit is dropped here: the rest waits for the
    /// client, and a slow client must not hold a permit. A flight that the socket takes in part
    /// counts as written, since the client decides when it takes the rest.
    fn begin(
        self: Pin<&mut Self>,
        start: StartHandshake<DeferredTickets<Io>>,
        _permit: Option<OwnedSemaphorePermit>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Session<Io>, Failure>> {
        let this = self.project();
        let config = match this.check {
            Some(config) => config.clone(),
            None => this.shared.configs.get(*this.policy),
        };
        let mut accept = start.into_stream(config);
        let polled = Pin::new(&mut accept).poll(cx);
        *this.stage = Stage::Finish(accept);
        polled.map_err(|error| Failure::from_session(&error))
    }

    fn poll_deadline(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Failure> {
        let mut this = self.project();
        if this.deadline.is_none() {
            let at = this.conn.accepted() + this.shared.timeout;
            this.deadline.set(Some(sleep_until(at)));
        }
        if let Some(deadline) = this.deadline.as_pin_mut() {
            ready!(deadline.poll(cx));
        }
        let timeout = HandshakeFailure::Timeout;
        let (cause, detail) = match mem::replace(this.stage, Stage::Done) {
            Stage::Refuse(refusal) => return Poll::Ready(refusal.into_failure()),
            Stage::Hello { first: None, .. } => (timeout, "the client said nothing"),
            Stage::Hello { .. } => (
                timeout,
                "the client stopped in the middle of its ClientHello",
            ),
            Stage::Lookup { .. } => (timeout, "no certificate was found in time"),
            Stage::Permit { .. } => {
                let cause = HandshakeFailure::TooManyHandshakes;
                (cause, "too many handshakes at once")
            }
            Stage::Finish(_) | Stage::Done => (timeout, "the client did not finish the handshake"),
        };
        Poll::Ready(Failure::timeout(cause, detail))
    }
}

/// A complete ClientHello, or the reason to refuse it.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment")]
enum Hello {
    Accepted(Accepted),
    Refused(Answer, Failure),
}

impl Hello {
    fn too_large() -> Self {
        let malformed = HandshakeFailure::Malformed;
        let failure = Failure::handshake(malformed, "a ClientHello of more than 64 KiB");
        Self::Refused(Answer::too_large(), failure)
    }
}

fn poll_hello<Io: AsyncRead + Unpin>(
    io: &mut Io,
    acceptor: &mut Acceptor,
    first: &mut Option<u8>,
    received: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Hello, Failure>> {
    // On the stack: rustls would keep a buffer for each silent client.
    let mut bytes = [0; HELLO_READ];
    loop {
        let mut buf = ReadBuf::new(&mut bytes[..next_read(*received)]);
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(Hello::too_large()));
        }
        let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut buf));
        let mut read = match (read, *first) {
            (Ok(()), _) => buf.filled(),
            (Err(_), None) => return Poll::Ready(Err(Failure::silent())),
            (Err(error), Some(_)) => return Poll::Ready(Err(Failure::from_session(&error))),
        };
        let Some(byte) = first.or_else(|| read.first().copied()) else {
            return Poll::Ready(Err(Failure::silent()));
        };
        if read.is_empty() {
            let detail = "the client closed in the middle of its ClientHello";
            return Poll::Ready(Err(Failure::closed(detail)));
        }
        *first = Some(byte);
        if byte.is_ascii_uppercase() {
            let cause = HandshakeFailure::PlaintextHttp;
            let failure = Failure::handshake(cause, "plaintext HTTP on the TLS port");
            return Poll::Ready(Ok(Hello::Refused(Answer::plaintext(), failure)));
        }
        *received += read.len();
        let seen = read;
        match acceptor.read_tls(&mut read) {
            Ok(_) if read.is_empty() => {}
            // A record longer than TLS allows left no room for the rest.
            Ok(_) => return Poll::Ready(Ok(Hello::too_large())),
            Err(error) => {
                let failure = Failure::handshake(HandshakeFailure::Malformed, error.to_string());
                return Poll::Ready(Ok(Hello::Refused(Answer::too_large(), failure)));
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Poll::Ready(Ok(Hello::Accepted(accepted))),
            Ok(None) => {}
            Err((error, alert)) => {
                let failure = Failure::of_hello(&error);
                let answer = Answer::alert(alert, &error, seen);
                return Poll::Ready(Ok(Hello::Refused(answer, failure)));
            }
        }
    }
}

/// Returns how much to read after this many bytes. Until `accept` has seen the first record, rustls
/// takes no more than the longest record; bytes of a read that it does not take would be lost.
fn next_read(received: usize) -> usize {
    match received < MAX_RECORD - HELLO_READ {
        true => HELLO_READ,
        false => (MAX_CLIENT_HELLO - received).min(READ_AFTER_FIRST_RECORD),
    }
}

fn permit_wait(permits: Arc<Semaphore>) -> PermitWait {
    // Nothing closes the semaphore. If it were closed, a handshake without a permit is better than
    // one that hangs.
    Box::pin(async move { permits.acquire_owned().await.ok() })
}

/// The longest that rustls accepts: 64 KiB less one byte, record headers included. HAProxy and nginx
/// accept the same; clients with many post-quantum key shares send about 10 KiB.
pub(super) const MAX_CLIENT_HELLO: usize = 0xffff;
/// The longest record in cleartext (RFC 8446 §5.1), without its header.
const MAX_RECORD: usize = 16 * 1024;
/// Nearly every ClientHello arrives in one read of this size.
const HELLO_READ: usize = 4_096;
/// The room that rustls has left after all but the last byte of the longest record.
const READ_AFTER_FIRST_RECORD: usize = 2_048;
/// How much a session buffers for a slow client: one record.
const SESSION_BUFFER: usize = 16 * 1024;
