//! HTTP/1.1 on a connection, from its first byte to its last.
//!
//! One task owns the socket. It reads a head and calls the service. While the service and its
//! response are polled, the task reads the request body, writes interim responses, and notices a
//! client that disconnects. An idle connection has no buffer: heads are read into a buffer of the
//! thread, and written from another one.
//!
//! ```text
//!           ┌── input: head, read-ahead ──▶ service ──▶ output: head, frames, chunks ──┐
//!  socket ──┤      └─ request_body ─▶ streamed_body ─▶ Body   (while the service runs) ├─▶ socket
//!           └── refusal: malformed or late head ───────────────────────────────────────┘
//! ```
//!
//! # The steps of a request
//!
//! | step | polled together | ends with |
//! |---|---|---|
//! | 1. head | socket, deadline, shutdown | a request, a refusal, or the end of the connection |
//! | 2. readiness | the service's `poll_ready`, the client's end | the service is ready |
//! | 3. answer | the call, then body, interim responses and the client's end, then the time limit | a response, or 504 |
//! | 4. response | the response body, then as in 3 | the response is written and flushed |
//! | 5. rest | the request body, if the service still holds it or it is small | another request, or the close |
//!
//! In steps 3 and 4 the service or its body is polled first. What the connection does next can make
//! it ready again on the same task (a piece of the body arrived), so the pair is polled in a loop
//! until both wait; no waker is called for that. A deadline comes last: what is ready wins over it.
//!
//! The future of the connection can be dropped at any await. It then drops the call, which cancels
//! the request, and the sending end of the body, which fails a body that another task still reads.
//!
//! # Why one task and no codec
//!
//! A server of its own for requests without a body, with hyper's codec for the rest, was tried: every
//! difference between the two parsers was a fault at the seam, and a POST cost more than in HAProxy.
//! `hyper_parity` in the tests compares this server with hyper on the wire and lists each difference
//! with its reason. What rarely happens (a refusal, an upgrade) is boxed, so that the future of a
//! connection that waits stays small.

mod body_rate;
mod input;
mod output;
mod refusal;
mod request_body;
mod streamed_body;
mod upgrade;

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

#[cfg(feature = "http2")]
pub(super) use self::refusal::MISDIRECTED;
#[cfg(test)]
pub(super) use self::streamed_body::MAX_DISCARDED;
use self::{
    input::{Input, Next},
    output::{Output, ResponseOptions},
};
pub(super) use self::{streamed_body::StreamedBody, upgrade::serve as upgrade};
use super::{
    Body,
    app::{AppService, conclude},
    request_timeout::RequestTimeout,
    shutdown::{ShutdownWatcher, shutdown_begun},
    stream::Stream,
};
use crate::{
    context::{ShutdownSignal, service_poll},
    error::BoxError,
    wire::request::Allowed,
};

/// The settings of HTTP/1.1, except for its deadlines.
///
/// The same for all connections of a service.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Http1 {
    pub(super) allowed: Allowed,
    /// A client that closes its write side may still wait for its response.
    pub(super) half_close: bool,
}

/// How `serve` ended.
///
/// Errors are returned apart: they end the connection without a word to the client.
pub(super) enum End {
    Closed,
    /// The service may take over the connection: see [`upgrade`].
    Upgrade {
        request: Box<Request<Body>>,
        /// The bytes that the client sent behind the head.
        ahead: Bytes,
    },
}

/// Serves requests until one may upgrade, or the connection ends.
///
/// # Errors
///
/// Those of the socket, of the service and of a response that HTTP/1.1 cannot express; also the end
/// of a client in the middle of a request. The caller closes the connection without lingering.
pub(super) async fn serve<Io, S, B>(
    io: &mut Stream<Io>,
    service: &mut AppService<S>,
    signal: Option<&ShutdownSignal>,
    http1: Http1,
) -> Result<End, BoxError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let state = service.state.clone();
    let mut shutdown_begun = pin!(shutdown_begun(signal.cloned()));
    let mut shutdown = ShutdownWatcher::new(signal, shutdown_begun.as_mut());
    let mut input = Input::new(http1);
    loop {
        let next = poll_fn(|cx| input.poll_head(cx, io, &mut shutdown, &state)).await?;
        // The policy is checked once the head is complete, as it depends on the host: the TLS
        // session may cover other names (RFC 9110 §15.5.20).
        let next = refusal::check_policy(next, input.request.as_ref(), &service.reporter.info);
        let head = match next {
            Next::Head(head) => head,
            Next::End => {
                poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await?;
                return Ok(End::Closed);
            }
            Next::Refused(refusal) => {
                // Boxed, since most connections never refuse a request.
                Box::pin(refusal::answer(io, *refusal, &service.reporter)).await?;
                return Ok(End::Closed);
            }
            Next::CutOff => {
                refusal::report_cut_off(&service.reporter);
                return Ok(End::Closed);
            }
        };
        // hyper's codec has to see the head: only it can make the value that `hyper::upgrade::on`
        // returns.
        if input.may_upgrade(&head)
            && let Some((request, ahead)) = input.take_upgrade()
        {
            return Ok(End::Upgrade { request, ahead });
        }
        let Some(request) = input.request_mut() else {
            continue;
        };
        let to_head = *request.method() == Method::HEAD;
        // The exchange ends when the response and the request body are complete.
        // From here the connection is busy: no deadline of its own until the exchange ends.
        let mut exchange = service.begin(request);
        let body = request.body();
        body.limit_streamed_rate(request.headers(), &state);
        let mut limit = RequestTimeout::new(state.timeouts().request);
        // The queue is that of the connection, and each request gets a handle of its own: an
        // interim response that an earlier request sends too late is dropped.
        input.begin_interim(&head);
        let app = service.app.get_mut();
        poll_fn(|cx| match app.poll_ready(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map_err(Into::into)),
            Poll::Pending => input.poll_hang_up(cx, io).map(|gone| Err(gone.into())),
        })
        .await?;
        // Taken after the wait: a value that lives across an await point is moved once more.
        let Some(request) = input.take_request() else {
            continue;
        };
        let response = {
            let mut answer = pin!(Some(app.call(request)));
            poll_fn(|cx| {
                shutdown.poll_shutdown(cx, &state);
                loop {
                    if let Poll::Ready(response) = service_poll::poll(answer.as_mut(), cx) {
                        return Poll::Ready(response.map(Some).map_err(Into::into));
                    }
                    match input.poll_while_answering(cx, io) {
                        Poll::Ready(Ok(())) => {}
                        // The service's future is dropped with this error: the client's end cancels
                        // the request.
                        Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone.into())),
                        Poll::Pending => {
                            return limit.poll(cx).map(|()| {
                                service_poll::give_up(answer.as_mut(), refusal::TIMED_OUT);
                                Ok(None)
                            });
                        }
                    }
                }
            })
            .await?
        };
        let Some(mut response) = response else {
            drop(exchange);
            Box::pin(refusal::answer_timeout(io)).await?;
            return Ok(End::Closed);
        };
        // CONNECT never comes here: `wire` refuses one with a body, and any other may upgrade.
        conclude(&mut response, &mut exchange, false);
        let (parts, body) = response.into_parts();
        // Nothing may follow the final head but its body, so the time for interim responses ends
        // first. What is left of them is written in front of it, in one write.
        let before = input.end_interim();
        let options = ResponseOptions {
            to_head,
            is_http10: head.is_http10,
            accepts_trailers: head.accepts_trailers,
            // Decided before the head is written, as the head says `connection: close`. Later
            // reasons to close (a broken body) cannot be announced any more.
            keep: head.keep_alive && input.may_keep(),
        };
        let mut keep = {
            // Dropped with the response, since it may hold a part of the request.
            let mut body = pin!(body);
            let mut output = Output::begin(&before, parts, body.as_ref().get_ref(), options)?;
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(result) = output.poll(cx, io, body.as_mut()) {
                        return Poll::Ready(result);
                    }
                    match input.poll_while_answering(cx, io) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone.into())),
                        Poll::Pending => {
                            return limit.poll(cx).map(|()| Err(TOO_LONG.into()));
                        }
                    }
                }
            })
            .await?;
            output.keep()
        };
        if input.has_request_body() {
            // The response is complete, the request is not.
            keep &= poll_fn(|cx| input.poll_rest(cx, io, &state)).await;
        }
        if !keep || input.is_over() {
            drop(exchange);
            if input.has_lost_framing() {
                io.expect_more();
            }
            poll_fn(|cx| Pin::new(&mut *io).poll_shutdown(cx)).await?;
            return Ok(End::Closed);
        }
    }
}

const TOO_LONG: &str = "the request took longer than the server allows";
