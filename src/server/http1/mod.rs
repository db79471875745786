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
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Http1 {
    pub(super) allowed: Allowed,
    /// A client that closes its write side may still wait for its response.
    pub(super) half_close: bool,
}

/// How `serve` ended.
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
        let mut exchange = service.begin(request);
        let body = request.body();
        body.limit_streamed_rate(request.headers(), &state);
        let mut limit = RequestTimeout::new(state.timeouts().request);
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
        conclude(&mut response, &mut exchange, false);
        let (parts, body) = response.into_parts();
        let before = input.end_interim();
        let options = ResponseOptions {
            to_head,
            is_http10: head.is_http10,
            accepts_trailers: head.accepts_trailers,
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
