//! One request on its stream, until the head of the response.
//!
//! | phase | waits for | limit | error |
//! |---|---|---|---|
//! | `Open` | a free stream of the backend | response time-out | `QueueTimeout`, not charged |
//! | `Continue` | 100 | 1 s, then the body is sent | |
//! | `Write` | the backend's window | idle time-out | `RequestWriteTimeout` |
//! | `Client` | the client's body | idle time-out | `ClientBodyTimeout`, not charged |
//! | `Head` | the response | response time-out | `ResponseHeadTimeout` |
//!
//! The phase names the side that is waited for, so the error names the side that is to blame. Any
//! progress of the upload begins the time of a phase again.
//!
//! One poll does all: it opens the stream, sends what the window allows, and looks for interim and
//! final heads. Nothing is spawned before the head: a request whose body ends first needs no task.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Reason, RecvStream, client::ResponseFuture};
use http::{Method, Response, StatusCode};

use super::{
    fields,
    response_body::StreamBody,
    upload::{Background, Upload, UploadStopped},
};
use crate::{
    connect::http2::{OpenStream, Turn},
    context::Interim,
    error::{Error, ErrorKind},
    proxy::{
        body::{Body, ErasedBody},
        http1::Timeouts,
    },
    timer::sweep::Deadline,
    wire::framing::declared_length,
};

/// A request on its stream.
///
/// Dropped before the head, it resets the stream: the request is cancelled.
pub(super) struct StreamRequest<'a> {
    /// Held until the stream is open.
    pub(super) turn: Option<Turn>,
    pub(super) response: ResponseFuture,
    /// Counts the stream for the connection's keep-alive.
    pub(super) stream: OpenStream,
    /// `None` once the request is sent, or if it has no body.
    pub(super) upload: Option<Upload>,
    /// The request says `Expect: 100-continue`: its body waits for the response.
    pub(super) expecting: bool,
    /// Takes the interim responses.
    pub(super) interim: Option<&'a Interim>,
    /// At most `MAX_INTERIM`.
    pub(super) interims: u8,
    pub(super) timer: PhaseTimer,
}

/// The phase that a request is in, and its deadline.
pub(super) struct PhaseTimer {
    deadline: Deadline,
    timeouts: Timeouts,
    phase: Phase,
    /// The progress of the upload when the phase began.
    moves: u64,
}

/// The first that applies, in the order of `StreamRequest::phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client sends no more of its body.
    Client,
    /// The body waits for `100 (Continue)`.
    Continue,
    Head,
    /// The backend has as many streams open as it allows.
    Open,
    /// The backend's window is full, or the upload has not begun.
    Write,
}

/// Why there is no response.
///
/// The backend's errors are kept as they are: whether the request may be sent again depends on the
/// reason in them.
pub(super) enum StreamFailed {
    Backend(h2::Error),
    Otherwise(Error),
}

impl PhaseTimer {
    /// Registers a deadline with the sweep of this thread; not armed yet.
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            deadline: Deadline::new(),
            timeouts,
            phase: Phase::Open,
            moves: 0,
        }
    }

    /// Arms the deadline with the phase's whole time.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.phase = phase;
        self.deadline.arm(self.limit(phase));
    }

    fn limit(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Client | Phase::Write => self.timeouts.idle,
            Phase::Continue => CONTINUE,
            Phase::Head | Phase::Open => self.timeouts.response,
        }
    }

    /// Waits for the turn to open a stream, within the response time-out.
    pub(super) async fn for_turn<F: Future>(&mut self, future: F) -> Result<F::Output, Error> {
        self.begin(Phase::Open);
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let expired = self.deadline.poll_expired(cx);
            expired.map(|()| Err(self.timed_out()))
        })
        .await
    }

    /// `QueueTimeout` for `Open`: nothing was sent. All others say that a part of the request may
    /// have reached the backend.
    fn timed_out(&self) -> Error {
        let kind = match self.phase {
            Phase::Client => ErrorKind::ClientBodyTimeout,
            Phase::Write => ErrorKind::RequestWriteTimeout,
            Phase::Continue | Phase::Head => ErrorKind::ResponseHeadTimeout,
            // Nothing was sent: the backend is busy, which is no failure of it.
            Phase::Open => {
                let limit = self.timeouts.response;
                let cause = format!("{NO_STREAM}: the limit is {limit:?}");
                return Error::new(ErrorKind::QueueTimeout).with_source(cause);
            }
        };
        Error::timed_out(kind, self.limit(self.phase)).after_sending()
    }
}

impl StreamRequest<'_> {
    /// Sends the request and waits for the head of the response.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, StreamFailed>> {
        loop {
            if let Err(error) = self.poll_request(cx) {
                return Poll::Ready(Err(StreamFailed::Otherwise(error)));
            }
            let was_expecting = self.expecting;
            if let Poll::Ready(answer) = self.poll_head(cx) {
                return Poll::Ready(answer);
            }
            if was_expecting && !self.expecting {
                continue;
            }
            // After both polls, since either can change it.
            let (phase, moves) = self.phase();
            if phase != self.timer.phase || moves != self.timer.moves {
                self.timer.moves = moves;
                self.timer.begin(phase);
            }
            if self.timer.deadline.poll_expired(cx).is_pending() {
                return Poll::Pending;
            }
            if phase != Phase::Continue {
                return Poll::Ready(Err(StreamFailed::Otherwise(self.timer.timed_out())));
            }
            // RFC 9110 §10.1.1: the client may send the body without a 100, so it does not wait forever.
            self.expecting = false;
        }
    }

    /// Pending parts have registered the task. An upload that the backend stopped is over: the
    /// response says why.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if let Some(turn) = &mut self.turn {
            if turn.poll_open(cx).is_pending() {
                return Ok(());
            }
            self.turn = None;
            // The response time-out counts from here.
            self.timer.begin(Phase::Head);
        }
        if self.expecting {
            return Ok(());
        }
        let Some(upload) = &mut self.upload else {
            return Ok(());
        };
        match upload.poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok(()) | Err(UploadStopped::Backend)) => self.upload = None,
            Poll::Ready(Err(UploadStopped::Client(error))) => return Err(error.after_sending()),
        }
        Ok(())
    }

    /// Returns the phase, and the progress of the upload that belongs to it.
    fn phase(&self) -> (Phase, u64) {
        match &self.upload {
            _ if self.turn.is_some() => (Phase::Open, 0),
            None => (Phase::Head, self.timer.moves),
            Some(_) if self.expecting => (Phase::Continue, 0),
            Some(upload) if upload.waits_for_client() => (Phase::Client, upload.moves()),
            Some(upload) => (Phase::Write, upload.moves()),
        }
    }

    /// Passes interim responses on, and returns the final one.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, StreamFailed>> {
        loop {
            match self.response.poll_informational(cx) {
                // The poll above has registered the task for the final head as well.
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => {
                    let head = Pin::new(&mut self.response).poll(cx);
                    return head.map_err(StreamFailed::Backend);
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(StreamFailed::Backend(error)));
                }
                Poll::Ready(Some(Ok(response))) => {
                    if let Err(why) = self.interim(response) {
                        return Poll::Ready(Err(StreamFailed::Otherwise(malformed(why))));
                    }
                }
            }
        }
    }

    /// # Errors
    ///
    /// A 101, fields that must be refused, or the 101st interim response: a backend that sends them
    /// without end would hold the request.
    fn interim(&mut self, response: Response<()>) -> Result<(), &'static str> {
        self.interims += 1;
        if self.interims > MAX_INTERIM {
            return Err("more than 100 interim responses");
        }
        match response.status() {
            StatusCode::CONTINUE => self.expecting = false,
            StatusCode::SWITCHING_PROTOCOLS => {
                return Err("101 (Switching Protocols), which HTTP/2 does not have");
            }
            status => {
                if let Some(interim) = self.interim {
                    let mut fields = response.into_parts().0.headers;
                    fields::clean(status, &mut fields)?;
                    interim.send(status, fields);
                }
            }
        }
        Ok(())
    }

    /// Makes the response. The rest of the request goes on beside the response body.
    ///
    /// The upload, if it still runs, moves to a task of its own.
    ///
    /// # Errors
    ///
    /// `ResponseHead` for a head that must be refused; the stream is reset by the drop of its
    /// parts.
    pub(super) fn respond(
        self,
        response: Response<RecvStream>,
        method: &Method,
        idle_timeout: Duration,
    ) -> Result<Response<Body>, Error> {
        let (mut head, incoming) = response.into_parts();
        fields::clean(head.status, &mut head.headers).map_err(malformed)?;
        head.extensions.clear();
        if incoming.is_end_stream() {
            return Ok(Response::from_parts(head, Body::default()));
        }
        // RFC 9110 §10.1.1: a backend that refuses the request without a 100 has no use for the body.
        // One that succeeds reads it.
        let unwanted = self.expecting && !head.status.is_success();
        let no_content = *method == Method::HEAD
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let body = Body::http2(Box::new(StreamBody {
            incoming,
            left: declared_length(&head.headers).filter(|_| !no_content),
            data_ended: false,
            upload: self.upload.filter(|_| !unwanted).map(Background::spawn),
            deadline: self.timer.deadline,
            waiting: None,
            idle_timeout,
            _stream: self.stream,
        }));
        Ok(Response::from_parts(head, body))
    }

    /// Returns what another stream needs; the body only if no byte was taken from it.
    pub(super) fn into_unsent(self) -> (PhaseTimer, Option<ErasedBody>) {
        (self.timer, self.upload.and_then(Upload::into_untouched))
    }
}

impl StreamFailed {
    /// Returns true if the backend closes the connection and declares that it will not process the
    /// request (RFC 9113 §6.8).
    ///
    /// Only then is the request sent again here; REFUSED_STREAM is left to `failover`.
    pub(super) fn was_going_away(&self) -> bool {
        match self {
            Self::Backend(error) => is_going_away(error),
            Self::Otherwise(_) => false,
        }
    }

    /// REFUSED_STREAM, and a stream above the last one of a graceful GOAWAY, were not processed
    /// (RFC 9113 §8.7, §6.8): `failover` may send any method again.
    pub(super) fn into_error(self) -> Error {
        let error = match self {
            Self::Backend(error) => error,
            Self::Otherwise(error) => return error,
        };
        let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
        let unprocessed = refused || is_going_away(&error);
        // h2 itself resets a stream only for a malformed response.
        let is_malformed = error.is_library() && error.is_reset();
        let kind = match is_malformed {
            true => ErrorKind::ResponseHead,
            false => ErrorKind::ResponseClosed,
        };
        let failed = Error::new(kind).with_source(error).after_sending();
        match unprocessed {
            true => failed.unprocessed(),
            false => failed,
        }
    }
}

/// A graceful GOAWAY ends only the streams above the last one that the backend will process.
///
/// With another reason, the backend names a fault, and whether it processed the request is unknown.
fn is_going_away(error: &h2::Error) -> bool {
    error.is_remote() && error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)
}

#[cold]
fn malformed(why: &'static str) -> Error {
    Error::new(ErrorKind::ResponseHead)
        .with_source(why)
        .after_sending()
}

const NO_STREAM: &str = "the HTTP/2 backend had no free stream";
/// How long a body waits for `100 (Continue)`: as long as in HTTP/1.1.
const CONTINUE: Duration = Duration::from_secs(1);
/// The limit of HTTP/1.1.
const MAX_INTERIM: u8 = 100;
