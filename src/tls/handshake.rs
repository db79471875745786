//! One handshake, from the first byte to the session or the refusal.

use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use rustls::{ServerConfig, server::Accepted};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_rustls::{Accept, StartHandshake, server::TlsStream};

use super::{
    client_hello::{Hello, HelloReader},
    deferred_tickets::DeferredTickets,
    handshake_config::{HandshakeConfig, Lookup},
    negotiated,
    refusal::{Failure, Refusal},
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
        reader: HelloReader,
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
                reader: HelloReader::default(),
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
        matches!(&self.stage, Stage::Hello { reader, .. } if reader.is_silent())
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
                Stage::Hello { io, reader } => {
                    let hello = ready!(reader.poll(io, cx))?;
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
            Stage::Hello { reader, .. } if reader.is_silent() => {
                return Poll::Ready(Failure::silent(io::ErrorKind::TimedOut));
            }
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

fn permit_wait(permits: Arc<Semaphore>) -> PermitWait {
    // Nothing closes the semaphore. If it were closed, a handshake without a permit is better than
    // one that hangs.
    Box::pin(async move { permits.acquire_owned().await.ok() })
}

/// How much a session buffers for a slow client: one record.
const SESSION_BUFFER: usize = 16 * 1024;
