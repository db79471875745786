//! One connection to a backend, and the exchange that it is at.

use std::{
    cell::RefCell,
    fmt, io, mem,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::Frame;

use super::{
    Outgoing, Timeouts,
    out::Out,
    send::SendError,
    sending::Sending,
    wait::{Clock, Phase},
};
use crate::{
    connect::Stream,
    error::{Error, ErrorKind},
    wire::{
        Malformed,
        chunked::{Decoder, Side, Step},
        connection::elements,
        framing::Framing,
        response::{self, Head},
    },
};

/// One connection to a backend, and the exchange that it is at. It lives in one box from dial to
/// close; the future, the response body and the idle connections hand it on.
pub(crate) struct Conn<A> {
    pub(super) stream: Stream,
    /// `None` where the caller has a deadline of its own.
    pub(super) clock: Option<Clock>,
    pub(super) read: BytesMut,
    /// How far `read` was searched for the end of the head.
    searched: usize,
    pub(super) out: Out,
    pub(super) sending: Option<Sending>,
    /// Why the request cannot be written; what the backend says may explain it better.
    pub(super) send_failed: Option<io::Error>,
    /// The request says `Expect: 100-continue`: its body waits for the backend's 100.
    pub(super) expecting: bool,
    interim: u8,
    pub(super) phase: Phase,
    pub(super) decoder: Decoder,
    /// May carry another request when this one has ended well.
    pub(super) keep: bool,
    /// Carried a request before this one.
    reused: bool,
    asked: Asked,
    /// What the owner of the connection keeps with it.
    pub(crate) attached: A,
}

/// What the owner of a connection keeps with it.
pub(crate) trait Attached {
    /// Returns the map that the response's fields go into, in the place of what is there; `None`
    /// while no request waits for a response.
    fn fields(&mut self) -> Option<&mut HeaderMap>;

    /// Takes an interim response of another status than 100 and 101.
    fn interim(&mut self, status: StatusCode, fields: HeaderMap) {
        drop((status, fields));
    }
}

/// How a request begins on a connection.
#[derive(Default)]
pub(crate) struct Start {
    pub(crate) body: Option<Outgoing>,
    /// Declared by Content-Length; `None` in chunks.
    pub(crate) length: Option<u64>,
    pub(crate) expecting: bool,
    pub(crate) is_head: bool,
    /// The value of the request's `Upgrade`, where a switch is asked for.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Sent again over a new connection if this one turns out to be closed.
    pub(crate) replaceable: bool,
}

/// What the request was, as far as it decides how its response is read.
#[derive(Default)]
struct Asked {
    head: bool,
    upgrade: Option<HeaderValue>,
    /// Sent over an idle connection, and can be sent again over a new one.
    replaceable: bool,
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

impl<A> Conn<A> {
    /// Makes a connection of a stream. Without time-outs the caller has a deadline of its own.
    pub(crate) fn new(stream: Stream, timeouts: Option<Timeouts>, attached: A) -> Box<Self> {
        Box::new(Self {
            stream,
            clock: timeouts.map(Clock::new),
            read: BytesMut::new(),
            searched: 0,
            out: Out::default(),
            sending: None,
            send_failed: None,
            expecting: false,
            interim: 0,
            phase: Phase::Idle,
            decoder: Decoder::done(),
            keep: true,
            reused: false,
            asked: Asked::default(),
            attached,
        })
    }

    /// Begins an exchange: takes the first frame of the body, where it is there, so that it
    /// leaves with the head. [`send`](Self::send) follows.
    ///
    /// # Errors
    ///
    /// When the body fails at once: nothing was written, and the connection is as before.
    pub(crate) fn start(&mut self, start: Start) -> Result<(), Error> {
        self.keep = true;
        self.searched = 0;
        self.interim = 0;
        self.asked = Asked {
            head: start.is_head,
            upgrade: start.upgrade,
            replaceable: self.reused && start.replaceable,
        };
        self.expecting = start.expecting && start.body.is_some();
        match start.body {
            Some(body) => self.begin_body(Sending::new(body, start.length)),
            None => Ok(()),
        }
    }

    /// Writes the head and what [`start`](Self::start) took of the body, as far as the socket
    /// takes it at once. What is appended to `head` is of no use to the caller.
    pub(crate) fn send(&mut self, head: &mut Vec<u8>) {
        // The future writes the rest, and registers itself.
        self.out.begin(&mut self.stream, head);
        self.enter(Phase::Head);
    }

    /// The future polls the body again where no frame is there, or more follow: no waker is needed
    /// here.
    fn begin_body(&mut self, mut sending: Sending) -> Result<(), Error> {
        if !self.expecting {
            let mut cx = Context::from_waker(Waker::noop());
            match sending.poll_fill(&mut self.out, &mut cx) {
                Poll::Ready(Ok(true)) => {
                    sending.recycle();
                    return Ok(());
                }
                Poll::Ready(Ok(false)) | Poll::Pending => {}
                Poll::Ready(Err(error)) => {
                    self.out = Out::default();
                    return Err(match error {
                        SendError::Client(error) => error,
                        SendError::Backend(error) => failed(ErrorKind::RequestWrite, error),
                    });
                }
            }
        }
        self.sending = Some(sending);
        Ok(())
    }

    /// Returns the next frame of the response body, and goes on sending the request meanwhile.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.is_sent() {
            if let Poll::Ready(Err(_)) = self.poll_send(cx) {
                // The response is on its way already; what is left of the request is not needed.
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
        if self.poll_late(cx).is_ready() {
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

    /// Returns how much of the body is left, where that is known.
    pub(crate) fn body_left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Ends the exchange; returns true if the connection may carry another.
    pub(crate) fn end(&mut self) -> bool {
        let whole = self.decoder.is_done() && self.is_sent() && self.read.is_empty();
        if !(whole && self.keep) {
            return false;
        }
        // Others read into the memory that it may still point to.
        self.read = BytesMut::new();
        // A part of the request's head.
        self.asked.upgrade = None;
        self.reused = true;
        self.enter(Phase::Idle);
        true
    }

    /// Closes the connection once the exchange has ended.
    pub(crate) fn close_after(&mut self) {
        self.keep = false;
    }

    /// Returns true if the other end closed it this very moment; costs a system call.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_closed_now(&self) -> bool {
        self.stream.has_news()
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Returns true if no byte of a response came: an idle connection had been closed.
    pub(crate) fn is_untouched(&self) -> bool {
        self.read.is_empty() && self.interim == 0
    }

    /// Gives up the stream and what was read ahead, for a tunnel.
    pub(crate) fn into_stream(self) -> (Stream, Bytes) {
        // A copy, as the tunnel's end is far off and what was read is part of a block.
        (self.stream, Bytes::copy_from_slice(&self.read))
    }

    fn is_sent(&self) -> bool {
        self.sending.is_none() && self.out.is_done()
    }

    fn answer(&mut self, head: &Head) -> Answer {
        self.keep &= head.keep_alive;
        if mem::take(&mut self.expecting) && !head.status.is_success() {
            // RFC 9110 §10.1.1: the backend has no use for the body. One that succeeds without
            // having asked for it reads it as it goes.
            self.abandon_request();
        }
        self.decoder = Decoder::new(head.framing, Side::Answer);
        let body = match head.framing {
            Framing::None => AnswerBody::None,
            Framing::Length(length) if self.read.len() as u64 == length => {
                self.decoder = Decoder::done();
                AnswerBody::Whole(mem::take(&mut self.read).freeze())
            }
            _ => AnswerBody::Streaming,
        };
        Answer {
            status: head.status,
            body,
            connection_auth: head.connection_auth,
        }
    }

    #[cold]
    fn stale(&mut self) -> Error {
        self.read.clear();
        failed(ErrorKind::ResponseClosed, STALE)
    }

    /// Says why there is no response and none to come.
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

impl<A: Attached> Conn<A> {
    /// Waits for the response head; its fields take the place of those that are attached.
    pub(crate) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Error>> {
        loop {
            if !self.is_sent() {
                if let Err(error) = self.poll_request(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            match self.poll_head(cx) {
                Poll::Ready(Ok(Some(head))) => return Poll::Ready(Ok(self.answer(&head))),
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            match self.poll_late(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.phase == Phase::Continue => {
                    // RFC 9110 §10.1.1: a client that waits need not wait for ever.
                    self.expecting = false;
                    self.enter(Phase::Head);
                }
                Poll::Ready(()) => return Poll::Ready(Err(self.timed_out())),
            }
        }
    }

    /// Reads on to the final head; `None` where the body may go out now.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Error>> {
        loop {
            if !self.read.is_empty() {
                match self.read_head() {
                    Ok(HeadRead::Final(head)) => return Poll::Ready(Ok(Some(head))),
                    Ok(HeadRead::More) => {}
                    Ok(HeadRead::Interim(interim)) => {
                        let (status, fields) = *interim;
                        if status != StatusCode::CONTINUE {
                            self.attached.interim(status, fields);
                        } else if mem::take(&mut self.expecting) {
                            return Poll::Ready(Ok(None));
                        }
                        continue;
                    }
                    Ok(HeadRead::Stale) => return Poll::Ready(Err(self.stale())),
                    Ok(HeadRead::Misplaced(why)) => {
                        return Poll::Ready(Err(failed(ErrorKind::Upgrade, why)));
                    }
                    Err(error) => {
                        return Poll::Ready(Err(failed(ErrorKind::ResponseHead, error)));
                    }
                }
            }
            match std::task::ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                end => return Poll::Ready(Err(self.cut_off(end.err()))),
            }
        }
    }

    fn read_head(&mut self) -> Result<HeadRead, Malformed> {
        let Some(end) = response::find_end(&self.read, &mut self.searched)? else {
            return Ok(HeadRead::More);
        };
        let bytes = self.read.split_to(end).freeze();
        self.searched = 0;
        FRESH.with_borrow_mut(|fresh| {
            let read = response::read(&bytes, self.asked.head, fresh);
            let judged = read.and_then(|head| self.judge(head, fresh));
            // What is left there would keep what was read in memory.
            fresh.clear();
            judged
        })
    }

    /// Decides what a head is. Only the fields of a final one replace those that were there: the
    /// request's, which another attempt may need.
    fn judge(&mut self, head: Head, fresh: &mut HeaderMap) -> Result<HeadRead, Malformed> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !switches {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Malformed::bad("more than 100 interim responses"));
            }
            let fields = mem::take(fresh);
            return Ok(HeadRead::Interim(Box::new((head.status, fields))));
        }
        // RFC 9110 §15.5.9: a client whose request was on its way may repeat it on a new
        // connection.
        if self.asked.replaceable && head.status == StatusCode::REQUEST_TIMEOUT && !head.keep_alive
        {
            return Ok(HeadRead::Stale);
        }
        if switches {
            if let Err(why) = self.may_switch(fresh) {
                return Ok(HeadRead::Misplaced(why));
            }
        }
        let Some(fields) = self.attached.fields() else {
            return Err(Malformed::bad("a response that no request waits for"));
        };
        mem::swap(fields, fresh);
        Ok(HeadRead::Final(head))
    }

    /// RFC 9110 §15.2.2 and §7.8: a backend may switch to a protocol that it was asked for, after
    /// the whole request.
    #[cold]
    fn may_switch(&self, fields: &HeaderMap) -> Result<(), &'static str> {
        let Some(asked) = &self.asked.upgrade else {
            return Err("a switch that was not asked for");
        };
        if !self.is_sent() {
            return Err("a switch amid the request");
        }
        let protocols = fields.get_all(header::UPGRADE).iter();
        let mut protocols = protocols.flat_map(|value| elements(value.as_bytes()));
        let is_offered = |protocol: &[u8]| {
            elements(asked.as_bytes()).any(|offered| offered.eq_ignore_ascii_case(protocol))
        };
        match protocols.next() {
            Some(first) if is_offered(first) && protocols.all(is_offered) => Ok(()),
            Some(_) => Err("a switch to a protocol that was not offered"),
            None => Err("a switch that names no protocol"),
        }
    }
}

impl<A> fmt::Debug for Conn<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("stream", &self.stream)
            .field("phase", &self.phase)
            .field("reused", &self.reused)
            .finish_non_exhaustive()
    }
}

/// What a head that was read is.
enum HeadRead {
    Final(Head),
    Interim(Box<(StatusCode, HeaderMap)>),
    /// A switch that may not be made.
    Misplaced(&'static str),
    /// It is not whole.
    More,
    /// No response: the backend gave up the idle connection before the request came.
    Stale,
}

#[cold]
fn failed(kind: ErrorKind, source: impl Into<crate::BoxError>) -> Error {
    Error::new(kind).with_source(source).after_sending()
}

thread_local! {
    /// The fields of the head that is read; empty in between.
    static FRESH: RefCell<HeaderMap> = RefCell::new(HeaderMap::new());
}

const STALE: &str = "408 (Request Timeout) on an idle connection";
const EARLY: &str = "closed before a whole response head";
const CUT_OFF: Malformed = Malformed::bad("closed before the end of the body");
/// No request has use for more; the client gets eight at most.
const MAX_INTERIM: u8 = 100;
