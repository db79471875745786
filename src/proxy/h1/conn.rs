//! One connection to a backend, and the exchange that it is at.

mod fill;
mod idle;
mod wait;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::{
    decode::{Decoder, Step},
    head::{self, Asked, Framing, Head, Malformed},
    send::{Out, SendError, Sending, Waiting},
};
use crate::{
    connect::Stream,
    context::ConnInfo,
    deadline::Watch,
    error::{Error, ErrorKind},
    pool::Address,
    proxy::{body::Outgoing, idle::Home, service::Carried},
};

/// One connection to a backend, and the exchange that it is at. Lives in one box from dial to
/// close; the future, the response body and the idle stack hand it on.
pub(crate) struct Conn {
    stream: Stream,
    watch: Watch,
    read: BytesMut,
    /// How far `read` was searched for the end of the head.
    scanned: usize,
    out: Out,
    sending: Option<Sending>,
    /// The request says `Expect: 100-continue`: its body waits for the backend's word.
    expecting: bool,
    interim: u8,
    phase: Phase,
    decoder: Decoder,
    /// May carry another request when this one has ended well.
    keep: bool,
    /// Carried a request before this one.
    reused: bool,
    asked: Asked,
    /// Where it goes when it is idle; `None` while it is there.
    home: Option<Arc<Home>>,
    /// Who is at the other end.
    address: Address,
    /// What the home's epoch was when it was dialled.
    epoch: u64,
    /// Authenticated for one client's connection, and of use to that one only.
    owner: Option<ConnInfo>,
    timeouts: Timeouts,
    /// The request of the exchange, until it is answered.
    carried: Option<Carried>,
}

/// What the exchange waits for, and so which time-out is armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Body,
    ClientBody,
    Continue,
    Head,
    Idle,
    Write,
}

/// The time-outs of an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) response: Duration,
    pub(crate) idle: Duration,
}

/// How a request begins on a connection.
pub(crate) struct Start {
    pub(crate) body: Option<Outgoing>,
    /// Declared by Content-Length; `None` in chunks.
    pub(crate) length: Option<u64>,
    pub(crate) expecting: bool,
    pub(crate) is_head: bool,
    pub(crate) upgrades: bool,
    /// Sent again over a new connection if this one turns out to be closed.
    pub(crate) replaceable: bool,
}

/// A whole response head, and whether its body came along.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: AnswerBody,
    pub(crate) connection_auth: bool,
}

pub(crate) enum AnswerBody {
    None,
    Streaming,
    Whole(Bytes),
}

impl Conn {
    pub(crate) fn new(
        stream: Stream,
        timeouts: Timeouts,
        address: Address,
        epoch: u64,
    ) -> Box<Self> {
        Box::new(Self {
            stream,
            watch: Watch::new(),
            read: BytesMut::new(),
            scanned: 0,
            out: Out::default(),
            sending: None,
            expecting: false,
            interim: 0,
            phase: Phase::Idle,
            decoder: Decoder::Done,
            keep: true,
            reused: false,
            asked: Asked::default(),
            home: None,
            address,
            epoch,
            owner: None,
            timeouts,
            carried: None,
        })
    }

    /// Begins an exchange: writes what the socket takes at once.
    pub(crate) fn start(&mut self, head: &[u8], start: Start, home: Arc<Home>) {
        self.home = Some(home);
        self.keep = true;
        self.scanned = 0;
        self.interim = 0;
        self.asked = Asked {
            head: start.is_head,
            upgrade: start.upgrades,
            replaceable: self.reused && start.replaceable,
        };
        self.expecting = start.expecting && start.body.is_some();
        self.sending = start.body.map(|body| Sending::new(body, start.length));
        // The future writes the rest; if the socket is full, it registers itself, too.
        let mut cx = Context::from_waker(Waker::noop());
        let wrote = match Pin::new(&mut self.stream).poll_write(&mut cx, head) {
            Poll::Ready(Ok(n)) => n,
            // An error shows again at the next write or read.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        if self.stream.buffers_writes() {
            self.out.mark_unflushed();
        }
        if wrote < head.len() {
            self.out.keep(&head[wrote..]);
        }
        self.enter(Phase::Head);
    }

    /// Takes the request along, to be had back with the answer.
    pub(crate) fn carry(&mut self, carried: Carried) {
        self.carried = Some(carried);
    }

    pub(crate) fn carries(&self) -> Option<&Carried> {
        self.carried.as_ref()
    }

    /// Gives back the request.
    pub(crate) fn carried(&mut self) -> Option<Carried> {
        self.carried.take()
    }

    /// Waits for the response head; its fields take the place of the request's.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        let mut send_failed = None;
        let sent = match self.poll_send(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(SendError::Client(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(Err(SendError::Backend(error))) => {
                send_failed = Some(error);
                true
            }
            Poll::Pending => false,
        };
        if sent && self.phase != Phase::Head {
            self.enter(Phase::Head);
        }
        loop {
            match self.read_head() {
                Ok(Some(HeadRead::Final(head))) => return Poll::Ready(self.answer(&head)),
                Ok(Some(HeadRead::Continue)) if self.expecting => {
                    self.expecting = false;
                    return self.poll_answer(cx);
                }
                Ok(Some(HeadRead::Continue | HeadRead::Interim)) => continue,
                Ok(Some(HeadRead::Stale)) => {
                    self.read.clear();
                    return Poll::Ready(Err(self.failed(ErrorKind::ResponseClosed, STALE)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(self.failed(ErrorKind::ResponseHead, error))),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    let error = match send_failed {
                        Some(error) => self.failed(ErrorKind::RequestWrite, error),
                        None => self.failed(ErrorKind::ResponseClosed, EARLY),
                    };
                    return Poll::Ready(Err(error));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.failed(ErrorKind::ResponseClosed, error)));
                }
                Poll::Pending => break,
            }
        }
        if self.watch.poll_expired(cx).is_ready() {
            if self.phase == Phase::Continue {
                // RFC 9110 §10.1.1: a client that waits need not wait for ever.
                self.expecting = false;
                self.enter(Phase::Head);
                return self.poll_answer(cx);
            }
            return Poll::Ready(Err(self.timed_out()));
        }
        Poll::Pending
    }

    /// Returns the next frame of the response body, and goes on sending the request meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.sending.is_some() || !self.out.is_done() {
            if let Poll::Ready(Err(_)) = self.poll_send(cx) {
                // The answer is on its way already; what is left of the request is not needed.
                self.abandon_request();
            }
        }
        loop {
            match self.decoder.step(&mut self.read) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::Trailers(map)) => return Poll::Ready(Some(Ok(Frame::trailers(map)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return self.broken(error),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    self.keep = false;
                    if self.decoder.close() {
                        return Poll::Ready(None);
                    }
                    return self.broken(CUT_OFF);
                }
                Poll::Ready(Ok(_)) => self.phase = Phase::Idle,
                Poll::Ready(Err(error)) => return self.broken(error),
                Poll::Pending => break,
            }
        }
        if self.phase != Phase::Body {
            self.enter(Phase::Body);
        }
        if self.watch.poll_expired(cx).is_ready() {
            self.keep = false;
            self.decoder.close();
            let kind = if self.sending.is_some() && self.out.left() == 0 {
                // The backend has all that came, and may be waiting for the rest.
                ErrorKind::ClientBodyTimeout
            } else {
                ErrorKind::ResponseBodyTimeout
            };
            return Poll::Ready(Some(Err(kind.into())));
        }
        Poll::Pending
    }

    pub(crate) fn is_body_done(&self) -> bool {
        self.decoder.is_done()
    }

    pub(crate) fn body_left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Ends the exchange: home, if it may be used again, else closed.
    pub(crate) fn finish(mut self: Box<Self>) {
        let whole = self.decoder.is_done()
            && self.sending.is_none()
            && self.out.is_done()
            && self.read.is_empty();
        let Some(home) = self.home.take() else { return };
        if !(whole && self.keep) {
            return;
        }
        if self.read.capacity() > KEEP_BUFFER {
            self.read = BytesMut::new();
        }
        self.reused = true;
        self.enter(Phase::Idle);
        home.put(self);
    }

    fn answer(&mut self, head: &Head) -> Result<Answer, Error> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.may_switch()?;
        }
        self.keep &= head.keep_alive;
        if std::mem::take(&mut self.expecting) && !head.status.is_success() {
            // RFC 9110 §10.1.1: the backend has no use for the body. One that succeeds without
            // having asked for it reads it as it goes.
            self.abandon_request();
        }
        self.decoder = Decoder::new(head.framing);
        let body = match head.framing {
            Framing::None => AnswerBody::None,
            Framing::Length(length) if self.read.len() as u64 == length => {
                self.decoder = Decoder::Done;
                AnswerBody::Whole(self.read.split().freeze())
            }
            _ => AnswerBody::Streaming,
        };
        Ok(Answer {
            status: head.status,
            body,
            connection_auth: head.connection_auth,
        })
    }

    /// RFC 9110 §15.2.2 and §7.8: only who was asked switches, and only after the whole request.
    fn may_switch(&self) -> Result<(), Error> {
        if !self.asked.upgrade {
            return Err(self.failed(ErrorKind::Upgrade, "a switch that nobody asked for"));
        }
        if self.sending.is_some() || !self.out.is_done() {
            return Err(self.failed(ErrorKind::Upgrade, "a switch amid the request"));
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<Option<HeadRead>, Malformed> {
        if self.read.is_empty() {
            return Ok(None);
        }
        let Some(carried) = &mut self.carried else {
            return Err(Malformed("an answer that nobody waits for"));
        };
        let Some(end) = head::find_end(&self.read, &mut self.scanned)? else {
            return Ok(None);
        };
        let bytes = self.read.split_to(end).freeze();
        self.scanned = 0;
        let head = head::parse(&bytes, self.asked, &mut carried.parts.headers)?;
        if head.stale {
            return Ok(Some(HeadRead::Stale));
        }
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Malformed("more than 16 interim responses"));
            }
            return Ok(Some(match head.status {
                StatusCode::CONTINUE => HeadRead::Continue,
                _ => HeadRead::Interim,
            }));
        }
        Ok(Some(HeadRead::Final(head)))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        loop {
            let left = self.out.left();
            let wrote = self.out.poll_write(&mut self.stream, cx);
            if self.out.left() < left {
                // Progress: the next wait is a new one.
                self.phase = Phase::Idle;
            }
            match wrote {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.keep = false;
                    return Poll::Ready(Err(SendError::Backend(error)));
                }
                Poll::Pending => {
                    self.wait(Waiting::Backend);
                    return Poll::Pending;
                }
            }
            let Some(sending) = &mut self.sending else {
                return Poll::Ready(Ok(()));
            };
            if self.expecting {
                if self.phase != Phase::Continue {
                    self.enter(Phase::Continue);
                }
                return Poll::Pending;
            }
            match sending.poll_fill(&mut self.out, cx) {
                Poll::Ready(Ok(ended)) => {
                    self.phase = Phase::Idle;
                    if ended {
                        self.sending = None;
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.keep = false;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.wait(Waiting::Client);
                    return Poll::Pending;
                }
            }
        }
    }

    fn failed(&self, kind: ErrorKind, source: impl Into<crate::BoxError>) -> Error {
        Error::new(kind).with_source(source).after_sending()
    }

    fn broken<T>(&mut self, source: impl Into<crate::BoxError>) -> Poll<Option<Result<T, Error>>> {
        self.keep = false;
        self.decoder.close();
        let error = Error::new(ErrorKind::ResponseBody).with_source(source);
        Poll::Ready(Some(Err(error.after_sending())))
    }

    fn abandon_request(&mut self) {
        self.keep = false;
        self.sending = None;
        self.out = Out::default();
    }
}

/// What a head that was read is.
enum HeadRead {
    Continue,
    Final(Head),
    Interim,
    Stale,
}

const STALE: &str = "408 (Request Timeout) on an idle connection";
const EARLY: &str = "closed before a whole response head";
const CUT_OFF: Malformed = Malformed("closed before the end of the body");
const KEEP_BUFFER: usize = 16 * 1024;
/// More interim responses than anybody has use for.
const MAX_INTERIM: u8 = 16;
