//! One connection to a backend, and the exchange that it is at.

mod fill;
mod idle;
mod send;
mod wait;

use std::{
    io, mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;

use super::{
    decode::{Decoder, Step},
    head::{self, Asked, Framing, Head, Malformed},
    send::{Out, Sending},
};
use crate::{
    connect::Stream,
    context::ConnInfo,
    deadline::Watch,
    error::{Error, ErrorKind},
    pool::Address,
    proxy::{body::Outgoing, config::Settings, idle::Home, service::Carried},
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
    /// Why the request cannot be written; what the backend says may explain it better.
    send_failed: Option<io::Error>,
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
    /// Those of the exchange; an idle connection keeps none, as their key keeps it.
    settings: Option<Arc<Settings>>,
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
            send_failed: None,
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
            settings: None,
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
        // The future writes the rest, and registers itself. An error shows again at the next
        // write or read.
        let wrote = self.stream.write_now(head).unwrap_or(0);
        if self.stream.buffers_writes() {
            self.out.mark_unflushed();
        }
        if wrote < head.len() {
            self.out.keep(&head[wrote..]);
        }
        self.enter(Phase::Head);
    }

    /// Takes the request along, to be had back with the answer.
    pub(crate) fn carry(&mut self, carried: Carried, settings: Arc<Settings>) {
        self.settings = Some(settings);
        self.carried = Some(carried);
    }

    pub(crate) fn carries(&mut self) -> Option<&mut Carried> {
        self.carried.as_mut()
    }

    /// Gives back the request.
    pub(crate) fn carried(&mut self) -> Option<Carried> {
        self.carried.take()
    }

    /// Lets go of the request.
    pub(crate) fn unload(&mut self) {
        self.carried = None;
    }

    pub(crate) fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// Waits for the response head; its fields take the place of the request's.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if self.sending.is_some() || !self.out.is_done() {
            if let Err(error) = self.poll_request(cx) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            if !self.read.is_empty() {
                match self.read_head() {
                    Ok(HeadRead::Final(head)) => return Poll::Ready(self.answer(&head)),
                    Ok(HeadRead::More) => {}
                    Ok(HeadRead::Continue) if self.expecting => {
                        self.expecting = false;
                        return self.poll_answer(cx);
                    }
                    Ok(HeadRead::Continue | HeadRead::Interim) => continue,
                    Ok(HeadRead::Stale) => return Poll::Ready(Err(self.stale())),
                    Err(error) => return Poll::Ready(Err(malformed(error))),
                }
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(end) => return Poll::Ready(Err(self.cut_off(end.err()))),
                Poll::Pending => break,
            }
        }
        match self.watch.poll_expired(cx) {
            Poll::Ready(()) => self.late(cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Ends a wait that took too long, or waits for something else.
    #[cold]
    fn late(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        if self.phase == Phase::Continue {
            // RFC 9110 §10.1.1: a client that waits need not wait for ever.
            self.expecting = false;
            self.enter(Phase::Head);
            return self.poll_answer(cx);
        }
        Poll::Ready(Err(self.timed_out()))
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
        // Others read into the memory that it may still point to.
        self.read = BytesMut::new();
        self.reused = true;
        self.settings = None;
        self.enter(Phase::Idle);
        home.put(self);
    }

    fn answer(&mut self, head: &Head) -> Result<Answer, Error> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            self.may_switch()?;
        }
        self.keep &= head.keep_alive;
        if mem::take(&mut self.expecting) && !head.status.is_success() {
            // RFC 9110 §10.1.1: the backend has no use for the body. One that succeeds without
            // having asked for it reads it as it goes.
            self.abandon_request();
        }
        self.decoder = Decoder::new(head.framing);
        let body = match head.framing {
            Framing::None => AnswerBody::None,
            Framing::Length(length) if self.read.len() as u64 == length => {
                self.decoder = Decoder::Done;
                AnswerBody::Whole(mem::take(&mut self.read).freeze())
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
            return Err(failed(ErrorKind::Upgrade, "a switch that nobody asked for"));
        }
        if self.sending.is_some() || !self.out.is_done() {
            return Err(failed(ErrorKind::Upgrade, "a switch amid the request"));
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<HeadRead, Malformed> {
        let Some(carried) = &mut self.carried else {
            return Err(Malformed("an answer that nobody waits for"));
        };
        let Some(end) = head::find_end(&self.read, &mut self.scanned)? else {
            return Ok(HeadRead::More);
        };
        let bytes = self.read.split_to(end).freeze();
        self.scanned = 0;
        let head = head::parse(&bytes, self.asked, &mut carried.parts.headers)?;
        if head.stale {
            return Ok(HeadRead::Stale);
        }
        if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Malformed("more than 16 interim responses"));
            }
            return Ok(match head.status {
                StatusCode::CONTINUE => HeadRead::Continue,
                _ => HeadRead::Interim,
            });
        }
        Ok(HeadRead::Final(head))
    }

    #[cold]
    fn stale(&mut self) -> Error {
        self.read.clear();
        failed(ErrorKind::ResponseClosed, STALE)
    }

    /// Says why there is no answer and none to come.
    #[cold]
    fn cut_off(&mut self, error: Option<io::Error>) -> Error {
        match (error, self.send_failed.take()) {
            (Some(error), _) => failed(ErrorKind::ResponseClosed, error),
            (None, Some(error)) => failed(ErrorKind::RequestWrite, error),
            (None, None) => failed(ErrorKind::ResponseClosed, EARLY),
        }
    }

    #[cold]
    fn broken<T>(&mut self, source: impl Into<crate::BoxError>) -> Poll<Option<Result<T, Error>>> {
        self.keep = false;
        self.decoder.close();
        Poll::Ready(Some(Err(failed(ErrorKind::ResponseBody, source))))
    }
}

/// What a head that was read is.
enum HeadRead {
    Continue,
    Final(Head),
    Interim,
    /// It is not whole.
    More,
    Stale,
}

#[cold]
fn malformed(error: Malformed) -> Error {
    failed(ErrorKind::ResponseHead, error)
}

#[cold]
fn failed(kind: ErrorKind, source: impl Into<crate::BoxError>) -> Error {
    Error::new(kind).with_source(source).after_sending()
}

const STALE: &str = "408 (Request Timeout) on an idle connection";
const EARLY: &str = "closed before a whole response head";
const CUT_OFF: Malformed = Malformed("closed before the end of the body");
/// More interim responses than anybody has use for.
const MAX_INTERIM: u8 = 16;
