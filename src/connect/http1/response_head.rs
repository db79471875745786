//! Reading of the response head, and of the interim responses before it.
//!
//! Order of what is looked at in a poll: the request (more of it may be needed for an answer), the
//! head, the deadline. A head that is there wins over a deadline that has passed.
//!
//! | head | what follows |
//! |---|---|
//! | 100 | the body that waits for it is sent; otherwise it is dropped |
//! | 102, 103, other 1xx | to the owner; at most 100 of them |
//! | 101, asked for | a final head; the stream is a tunnel |
//! | 101, not asked for, or within the request | `Upgrade` error: the backend speaks another protocol from here on |
//! | 408 on an idle connection, with a close | no answer: the request may be sent again |
//! | any other | a final head |

use std::{
    cell::RefCell,
    io, mem,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::{Conn, ConnOwner, conn::failed, phases::Phase};
use crate::{
    error::{Error, ErrorKind},
    local_fault::LocalFault,
    wire::{
        Malformed,
        chunked::{Decoder, Side},
        connection::elements,
        framing::Framing,
        response::{self, Head},
    },
};

/// A whole response head, and the body if it came with the head.
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) body: ResponseContent,
    pub(crate) connection_auth: bool,
}

/// How the body comes.
pub(crate) enum ResponseContent {
    None,
    Streaming,
    Whole(Bytes),
}

impl<A: ConnOwner> Conn<A> {
    /// Waits for the response head. Its fields replace those in [`ConnOwner::fields`].
    ///
    /// Ready once. After an error the connection must be dropped.
    ///
    /// # Errors
    ///
    /// `ResponseHead` for a malformed head, `ResponseClosed` or `RequestWrite` if the connection
    /// ended, `Upgrade` for a switch that is refused, those of the request body, and the time-out
    /// of the phase.
    pub(crate) fn poll_response_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, Error>> {
        loop {
            if !self.is_sent()
                && let Err(error) = self.poll_request(cx)
            {
                return Poll::Ready(Err(error));
            }
            match self.poll_head(cx) {
                Poll::Ready(Ok(Some(head))) => return Poll::Ready(Ok(self.answer(head))),
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            match self.poll_expired(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.phase == Phase::Continue => {
                    // RFC 9110 §10.1.1: the client may send the body without a 100, so it does not wait forever.
                    self.awaits_continue = false;
                    self.enter(Phase::Head);
                }
                Poll::Ready(()) => return Poll::Ready(Err(self.timed_out())),
            }
        }
    }

    /// Reads up to the final head; `None` if the body may be sent now.
    ///
    /// A head may arrive in pieces: `searched` keeps the search linear.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Error>> {
        loop {
            if !self.read.is_empty() {
                match self.read_head() {
                    Ok(HeadRead::Final(head)) => return Poll::Ready(Ok(Some(head))),
                    Ok(HeadRead::More) => {}
                    Ok(HeadRead::Interim(interim)) => {
                        let (status, fields) = *interim;
                        if status != StatusCode::CONTINUE {
                            self.owner_data.interim(status, fields);
                        } else if mem::take(&mut self.awaits_continue) {
                            return Poll::Ready(Ok(None));
                        }
                        continue;
                    }
                    Ok(HeadRead::Stale) => return Poll::Ready(Err(self.stale())),
                    Ok(HeadRead::RefusedSwitch(why)) => {
                        return Poll::Ready(Err(failed(ErrorKind::Upgrade, why)));
                    }
                    Err(error) => {
                        return Poll::Ready(Err(failed(ErrorKind::ResponseHead, error)));
                    }
                }
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                end => return Poll::Ready(Err(self.closed_early(end.err()))),
            }
        }
    }

    fn read_head(&mut self) -> Result<HeadRead, Malformed> {
        let Some(end) = response::find_end(&self.read, &mut self.searched)? else {
            return Ok(HeadRead::More);
        };
        // No copy: the values are slices of the block that was read into.
        let bytes = self.read.split_to(end).freeze();
        self.searched = 0;
        PARSED_FIELDS.with_borrow_mut(|parsed| {
            let read = response::read(&bytes, self.request.head, parsed);
            let classified = read.and_then(|head| self.classify(head, parsed));
            // Fields that stayed here would keep the block of the read alive.
            parsed.clear();
            classified
        })
    }

    /// Classifies a head. Only the fields of a final head replace those of the request, which another
    /// attempt may need.
    fn classify(&mut self, head: Head, parsed: &mut HeaderMap) -> Result<HeadRead, Malformed> {
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !switches {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Malformed::bad("more than 100 interim responses"));
            }
            let fields = mem::take(parsed);
            return Ok(HeadRead::Interim(Box::new((head.status, fields))));
        }
        // RFC 9110 §15.5.9: a client whose request was on its way may repeat it on a new
        // connection.
        if self.request.replaceable
            && head.status == StatusCode::REQUEST_TIMEOUT
            && !head.keep_alive
        {
            return Ok(HeadRead::Stale);
        }
        if switches && let Err(why) = self.may_switch(parsed) {
            return Ok(HeadRead::RefusedSwitch(why));
        }
        let Some(fields) = self.owner_data.fields() else {
            return Err(Malformed::bad("a response that no request waits for"));
        };
        mem::swap(fields, parsed);
        Ok(HeadRead::Final(head))
    }

    /// Refuses a switch to a protocol that was not asked for, or before the end of the request (RFC 9110
    /// §15.2.2 and §7.8).
    #[cold]
    fn may_switch(&self, fields: &HeaderMap) -> Result<(), &'static str> {
        let Some(offered) = &self.request.upgrade else {
            return Err("a switch that was not asked for");
        };
        if !self.is_sent() {
            return Err("a switch before the end of the request");
        }
        let protocols = fields.get_all(header::UPGRADE).iter();
        let mut protocols = protocols.flat_map(|value| elements(value.as_bytes()));
        let is_offered = |protocol: &[u8]| {
            elements(offered.as_bytes()).any(|element| element.eq_ignore_ascii_case(protocol))
        };
        match protocols.next() {
            Some(first) if is_offered(first) && protocols.all(is_offered) => Ok(()),
            Some(_) => Err("a switch to a protocol that was not offered"),
            None => Err("a switch that names no protocol"),
        }
    }

    fn answer(&mut self, head: Head) -> ResponseHead {
        self.reusable &= head.keep_alive;
        if mem::take(&mut self.awaits_continue) && !head.status.is_success() {
            // RFC 9110 §10.1.1: the backend does not need the body. One that succeeds without a 100 reads
            // it.
            self.abandon_request();
        }
        self.decoder = Decoder::new(head.framing, Side::Response);
        self.nominated = head.nominated;
        let body = match head.framing {
            Framing::None => ResponseContent::None,
            Framing::Length(length) if self.read.len() as u64 == length => {
                // The body came with the head, in one read: the connection can go back before the
                // caller sees it.
                self.decoder = Decoder::done();
                ResponseContent::Whole(mem::take(&mut self.read).freeze())
            }
            _ => ResponseContent::Streaming,
        };
        ResponseHead {
            status: head.status,
            body,
            connection_auth: head.connection_auth,
        }
    }

    /// Clears what was read, so that the connection counts as untouched and the request may be sent
    /// again.
    #[cold]
    fn stale(&mut self) -> Error {
        self.read.clear();
        failed(ErrorKind::ResponseClosed, STALE)
    }

    /// Returns the reason why no response will come.
    ///
    /// The error of the write is returned only if the read found none of its own.
    #[cold]
    fn closed_early(&mut self, error: Option<io::Error>) -> Error {
        match (error, self.write_error.take()) {
            // The error of the read is the later one, and names the state of the connection.
            (Some(error), _) => socket_error(ErrorKind::ResponseClosed, error),
            (None, Some(error)) => socket_error(ErrorKind::RequestWrite, error),
            (None, None) => failed(ErrorKind::ResponseClosed, EARLY),
        }
    }
}

/// Returns an error of the socket: a local fault, or `kind`.
///
/// A reset is the backend's; ENOBUFS and the like are not.
fn socket_error(kind: ErrorKind, error: io::Error) -> Error {
    match LocalFault::of(&error) {
        Some(fault) => fault.error(&error).after_sending(),
        None => failed(kind, error),
    }
}

/// The class of a head.
enum HeadRead {
    Final(Head),
    Interim(Box<(StatusCode, HeaderMap)>),
    /// A switch that is refused.
    RefusedSwitch(&'static str),
    /// The head is not complete.
    More,
    /// The backend gave up the idle connection before the request came: this is no response to it.
    Stale,
}

thread_local! {
    /// The fields of the head that is read; empty between reads.
    static PARSED_FIELDS: RefCell<HeaderMap> = RefCell::new(HeaderMap::new());
}

const STALE: &str = "408 (Request Timeout) on an idle connection";
const EARLY: &str = "closed before a whole response head";
/// A request needs fewer. The client gets at most eight.
const MAX_INTERIM: u8 = 100;
