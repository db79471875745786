//! One HTTP/2 stream: calls the service with its request, and sends the response.
//!
//! ```text
//!   Answering ──(response head)──▶ Sending ──(last frame)──▶ ready: the slot is free
//!      │  service failed: RST_STREAM  │  body failed, too slow, too late: RST_STREAM
//!      │  client reset: the call is dropped
//! ```
//!
//! A stream ends for the codec when both directions have ended; the request body is a value of its
//! own and may outlive this future.

use std::{
    error::Error as StdError,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    fields,
    interim::InterimSender,
    request_body::InitialBody,
    request_head::{check, check_policy, refuse},
};
use crate::{
    error::BoxError,
    server::{
        Body,
        app::{AppService, Call},
        min_rate::RateTimer,
        recycled,
        request_timeout::RequestTimeout,
        state::{ExchangeGuard, State},
    },
};

pin_project! {
    pub(super) struct Stream<S, F, B> {
        #[pin]
        stage: Stage<S, F, B>,
        exchange: ExchangeGuard,
        // Boxed, since most servers have no limit.
        limit: Option<Box<RequestTimeout>>,
    }
}

pin_project! {
    #[project = StageProject]
    enum Stage<S, F, B> {
        Answering {
            #[pin]
            call: Call<S, F>,
            reply: SendResponse<Bytes>,
            method: MethodKind,
            interim: InterimSender,
        },
        Sending {
            #[pin]
            body: B,
            out: SendStream<Bytes>,
            // Data that the client's window has no room for.
            pending: Option<PendingData>,
            // The codec has got some of the body.
            data_sent: bool,
            // Limits the wait for the client to open its window.
            rate_timer: RateTimer,
        },
    }
}

/// The property of the method that decides the form of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    Connect,
    Head,
    Other,
}

struct PendingData {
    data: Bytes,
    last: bool,
}

impl<S, B> Stream<S, S::Future, B>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Begins the exchange; `None` if the request is refused.
    pub(super) fn new(
        service: &AppService<S>,
        request: Request<RecvStream>,
        mut reply: SendResponse<Bytes>,
    ) -> Option<Self> {
        let (mut head, stream) = request.into_parts();
        let checked = check(&mut head);
        let checked = checked.and_then(|()| check_policy(&head, &service.reporter.info));
        if let Err(refusal) = checked {
            refuse(refusal, &head, &service.reporter, &mut reply);
            return None;
        }
        let mut expectation = None;
        let mut body = match InitialBody::read(stream, &head.headers) {
            InitialBody::Whole(data) if data.is_empty() => Body::empty(),
            InitialBody::Whole(data) => Body::whole(data),
            InitialBody::Partial(mut body) => {
                expectation = body.expectation(&head.headers);
                Body::http2(body, &service.state)
            }
            InitialBody::Reset(error) => {
                log_reset(&error);
                service.count_stream();
                service.state.count_reset();
                return None;
            }
        };
        let method = match head.method {
            Method::CONNECT => MethodKind::Connect,
            Method::HEAD => MethodKind::Head,
            _ => MethodKind::Other,
        };
        let (sender, interim) = InterimSender::begin(expectation);
        body.limit_http2_rate(&head.headers, &service.state, &interim);
        let limit = service.state.timeouts().request;
        let (call, exchange) = service.call_stream(Request::from_parts(head, body), interim);
        Some(Self {
            exchange,
            limit: limit.map(|limit| Box::new(RequestTimeout::new(Some(limit)))),
            stage: Stage::Answering {
                call,
                reply,
                method,
                interim: sender,
            },
        })
    }
}

impl<S, B> Future for Stream<S, S::Future, B>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let mut stage = this.stage;
        if let StageProject::Answering {
            mut call,
            reply,
            method,
            interim,
        } = stage.as_mut().project()
        {
            let response = match call.as_mut().poll(cx) {
                Poll::Ready(Ok(response)) => response,
                Poll::Ready(Err(error)) => return reset_failed(reply, &error),
                Poll::Pending => {
                    interim.poll(cx, reply);
                    // A reset by the client cancels its request.
                    if reply.poll_reset(cx).is_ready() {
                        this.exchange.state().count_reset();
                        return Poll::Ready(());
                    }
                    if is_over(this.limit, cx) {
                        call.give_up(StatusCode::GATEWAY_TIMEOUT);
                        return send_timeout(reply, *method);
                    }
                    return Poll::Pending;
                }
            };
            // Sent before the head, or not at all.
            interim.end(reply);
            let Some((body, out)) = send_head(reply, *method, response) else {
                return Poll::Ready(());
            };
            stage.set(Stage::Sending {
                body,
                out,
                pending: None,
                data_sent: false,
                rate_timer: RateTimer::new(this.exchange.state().timeouts()),
            });
        }
        match stage.project() {
            StageProject::Sending {
                body,
                out,
                pending,
                data_sent,
                rate_timer,
            } => {
                let state = this.exchange.state();
                let sent = send(cx, body, out, pending, data_sent, (rate_timer, state));
                if sent.is_pending() && is_over(this.limit, cx) {
                    return abort(out, &TOO_LONG.into());
                }
                sent
            }
            StageProject::Answering { .. } => Poll::Ready(()),
        }
    }
}

/// True once the time of the request is over; without a limit, never.
fn is_over(limit: &mut Option<Box<RequestTimeout>>, cx: &Context<'_>) -> bool {
    limit
        .as_mut()
        .is_some_and(|limit| limit.poll(cx).is_ready())
}

/// Answers a request that reached its time-out before the service answered.
#[cold]
fn send_timeout(reply: &mut SendResponse<Bytes>, method: MethodKind) -> Poll<()> {
    let mut response = Response::new(http_body_util::Empty::<Bytes>::new());
    *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
    send_head(reply, method, response);
    Poll::Ready(())
}

#[cold]
fn log_reset(error: &h2::Error) {
    tracing::debug!(target: "evenkeel::server", %error, "a stream was reset before its request began");
}

#[cold]
fn reset_failed(reply: &mut SendResponse<Bytes>, error: &BoxError) -> Poll<()> {
    tracing::debug!(target: "evenkeel::server", %error, "a stream was reset, as the service failed");
    reply.send_reset(reason(&**error));
    Poll::Ready(())
}

/// Sends the head; returns the body if one follows.
fn send_head<B: HttpBody>(
    reply: &mut SendResponse<Bytes>,
    method: MethodKind,
    response: Response<B>,
) -> Option<(B, SendStream<Bytes>)> {
    let (mut parts, body) = response.into_parts();
    let is_empty = body.is_end_stream();
    let opens_tunnel = method == MethodKind::Connect && parts.status.is_success();
    let length = match is_empty {
        true => None,
        false => body.size_hint().exact(),
    };
    fields::normalize(&mut parts.headers, length, opens_tunnel);
    recycled::keep(mem::take(&mut parts.extensions));
    let ends = is_empty || method == MethodKind::Head;
    match reply.send_response(Response::from_parts(parts, ()), ends) {
        Ok(out) => (!ends).then_some((body, out)),
        Err(error) => {
            reset_unsent(reply, &error);
            None
        }
    }
}

#[cold]
fn reset_unsent(reply: &mut SendResponse<Bytes>, error: &h2::Error) {
    tracing::debug!(target: "evenkeel::server", %error, "a response cannot be sent");
    reply.send_reset(Reason::INTERNAL_ERROR);
}

/// Sends the body as fast as the client's window opens. Ready once the codec has all of it.
fn send<B>(
    cx: &mut Context<'_>,
    mut body: Pin<&mut B>,
    out: &mut SendStream<Bytes>,
    pending: &mut Option<PendingData>,
    data_sent: &mut bool,
    (rate_timer, state): (&mut RateTimer, &State),
) -> Poll<()>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    loop {
        while let Some(PendingData { data, last }) = pending {
            // Reserved for existing data only: a reservation takes from the window of all streams.
            out.reserve_capacity(data.len());
            let room = match poll_room(cx, out) {
                Poll::Ready(Some(room)) => room,
                Poll::Ready(None) => {
                    state.count_reset();
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    return rate_timer
                        .poll(cx, state)
                        .map(|()| _ = abort(out, &TOO_SLOW.into()));
                }
            };
            let piece = data.split_to(room.min(data.len()));
            rate_timer.moved(piece.len(), state);
            let (ends, last) = (data.is_empty(), *last);
            if ends {
                *pending = None;
            }
            let sent = out.send_data(piece, ends && last);
            if sent.is_err() || (ends && last) {
                return Poll::Ready(());
            }
        }
        let frame = match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return abort(out, &error.into()),
            Poll::Ready(None) => {
                let _ = out.send_data(Bytes::new(), true);
                return Poll::Ready(());
            }
            Poll::Pending => return out.poll_reset(cx).map(|_| state.count_reset()),
        };
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                // The codec buffers a small body until the window opens.
                if last && (data.is_empty() || (!*data_sent && data.len() <= MAX_BUFFERED_BODY)) {
                    let _ = out.send_data(data, true);
                    return Poll::Ready(());
                }
                *data_sent = true;
                if !data.is_empty() {
                    *pending = Some(PendingData { data, last });
                }
            }
            Err(frame) => {
                if let Ok(mut trailers) = frame.into_trailers() {
                    fields::normalize_trailers(&mut trailers);
                    out.reserve_capacity(0);
                    let _ = match trailers.is_empty() {
                        true => out.send_data(Bytes::new(), true),
                        false => out.send_trailers(trailers),
                    };
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// Waits for room in the client's window; `None` if the client has reset the stream.
fn poll_room(cx: &mut Context<'_>, out: &mut SendStream<Bytes>) -> Poll<Option<usize>> {
    loop {
        match out.capacity() {
            0 => {}
            room => return Poll::Ready(Some(room)),
        }
        match out.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
            Poll::Pending => return out.poll_reset(cx).map(|_| None),
        }
    }
}

/// Resets the stream, since the response cannot be completed.
///
/// A regular end would make the client take a part of the body for the whole.
#[cold]
fn abort(out: &mut SendStream<Bytes>, error: &BoxError) -> Poll<()> {
    tracing::debug!(target: "evenkeel::server", %error, "a response was cut");
    out.send_reset(reason(&**error));
    Poll::Ready(())
}

/// Returns the reason for RST_STREAM: that of an `h2` error among the sources, else INTERNAL_ERROR.
fn reason(error: &(dyn StdError + 'static)) -> Reason {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        next = error.source();
    }
    Reason::INTERNAL_ERROR
}

const TOO_LONG: &str = "the request took longer than the server allows";
const TOO_SLOW: &str = "the client takes too little of the response";
/// A complete body up to this size waits in the codec, which then buffers up to 4 MiB for the 256
/// streams of a connection.
const MAX_BUFFERED_BODY: usize = 16 * 1024;
