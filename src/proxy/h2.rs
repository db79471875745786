//! HTTP/2 with a backend: hyper's, one connection a backend.

use std::{
    error,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout};

use super::{
    Body,
    body::Outgoing,
    config::Settings,
    headers::{Facts, Length},
    idle::Home,
    service::Pending,
};
use crate::{
    connect::Connected,
    context::Exchange,
    deadline::Watch,
    error::{BoxError, Error, ErrorKind},
    pool::Backend,
};

/// One backend's HTTP/2 connection.
#[derive(Default)]
pub(super) struct Shared {
    /// HTTP/2 was selected by ALPN: the next request need not ask.
    known: AtomicBool,
    current: Mutex<Current>,
    /// Lets one request dial; the others wait for what it gets.
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
    sender: Option<Sender>,
    used: Option<Instant>,
    /// Connected, but no HTTP/2 spoken yet.
    fresh: Option<Connected>,
}

type Sender = SendRequest<RequestBody>;

impl Shared {
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// Takes a connection on which ALPN selected HTTP/2.
    pub(super) fn offer(&self, connected: Connected) {
        self.known.store(true, Relaxed);
        self.current().fresh = Some(connected);
    }

    pub(super) fn retire(&self) {
        // Streams that are open keep the connection until they end.
        drop(std::mem::take(&mut *self.current()));
    }

    /// Lets go of a connection that nobody used for a while.
    pub(super) fn reap(&self, idle_timeout: Duration) {
        let mut current = self.current();
        if current
            .used
            .is_some_and(|used| used.elapsed() > idle_timeout)
        {
            *current = Current::default();
        }
    }

    fn live(&self) -> Option<Sender> {
        let mut current = self.current();
        current.used = Some(Instant::now());
        current.sender.clone().filter(|sender| !sender.is_closed())
    }

    async fn sender(
        &self,
        settings: &Settings,
        backend: &Backend,
    ) -> Result<(Sender, bool), Error> {
        if let Some(sender) = self.live() {
            return Ok((sender, true));
        }
        let _one_at_a_time = self.dialing.lock().await;
        if let Some(sender) = self.live() {
            return Ok((sender, true));
        }
        let fresh = self.current().fresh.take();
        let connected = match fresh {
            Some(connected) => connected,
            None => settings.connector.connect(backend).await?,
        };
        if !connected.is_http2() {
            self.known.store(false, Relaxed);
            return Err(Error::new(ErrorKind::ConnectTls)
                .with_source("the backend no longer selects h2 by ALPN"));
        }
        let sender = handshake(connected).await?;
        self.current().sender = Some(sender.clone());
        Ok((sender, false))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn handshake(connected: Connected) -> Result<Sender, Error> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(connected.into_stream()))
        .await
        .map_err(|error| Error::new(ErrorKind::Connect).with_source(error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(target: "evenkeel::proxy", %error, "an HTTP/2 backend connection broke");
        }
    });
    Ok(sender)
}

/// Sends one request; gives the head back beside the result.
pub(super) async fn exchange(
    settings: Arc<Settings>,
    home: Arc<Home>,
    backend: Backend,
    parts: Parts,
    pending: Pending,
) -> (Parts, Result<Response<Body>, Error>) {
    let result = {
        let exchange = parts.extensions.get::<Exchange>();
        let mut sending = pin!(send(&settings, &home, &backend, &parts, pending));
        poll_fn(|cx| {
            let polled = sending.as_mut().poll(cx);
            if let (Poll::Pending, Some(exchange)) = (&polled, exchange) {
                // What hyper has taken it may have sent.
                exchange.lend_head(&parts, true);
            }
            polled
        })
        .await
    };
    home.keep_reaping();
    (parts, result)
}

async fn send(
    settings: &Settings,
    home: &Home,
    backend: &Backend,
    parts: &Parts,
    pending: Pending,
) -> Result<Response<Body>, Error> {
    let progress = Arc::new(Progress::default());
    let mut request = request(settings, backend, parts, pending, progress.clone())?;
    loop {
        let (mut sender, reused) = home.http2.sender(settings, backend).await?;
        let sent = sender.try_send_request(request);
        match within(settings.timeouts.response, &progress, sent).await? {
            Ok(response) => return Ok(respond(response, settings.timeouts.idle)),
            Err(mut error) => match error.take_message() {
                // The connection was closed before the request went out.
                Some(unsent) if reused => request = unsent,
                Some(_) => {
                    return Err(Error::new(ErrorKind::Connect).with_source(error.into_error()));
                }
                None => return Err(failed(error.into_error(), &progress)),
            },
        }
    }
}

/// Waits for the head; a request that is still being sent has not begun to wait.
async fn within<F: Future>(
    limit: Duration,
    progress: &Progress,
    future: F,
) -> Result<F::Output, Error> {
    let mut future = std::pin::pin!(future);
    let mut seen = progress.frames.load(Relaxed);
    loop {
        match timeout(limit, future.as_mut()).await {
            Ok(output) => return Ok(output),
            Err(_) => {
                let now = progress.frames.load(Relaxed);
                if now == seen {
                    return Err(Error::new(ErrorKind::ResponseHeadTimeout).after_sending());
                }
                seen = now;
            }
        }
    }
}

fn failed(error: hyper::Error, progress: &Progress) -> Error {
    let kind = if progress.client_failed.load(Relaxed) {
        ErrorKind::ClientBody
    } else if error.is_parse() {
        ErrorKind::ResponseHead
    } else {
        ErrorKind::ResponseClosed
    };
    let unprocessed = is_unprocessed(&error);
    let failed = Error::new(kind).with_source(error).after_sending();
    match unprocessed {
        true => failed.unprocessed(),
        false => failed,
    }
}

/// Whether the backend said that it did not process the request (RFC 9113 §8.7): its stream was
/// refused, or is above the last one that a GOAWAY names. Streams below that one end otherwise:
/// with a reset of their own, or with the connection.
fn is_unprocessed(error: &hyper::Error) -> bool {
    let cause = error::Error::source(error);
    let cause = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (refused || cause.is_go_away())
    })
}

fn request(
    settings: &Settings,
    backend: &Backend,
    parts: &Parts,
    pending: Pending,
    progress: Arc<Progress>,
) -> Result<Request<RequestBody>, Error> {
    let facts = Facts::read(parts, settings)?;
    let length = facts.length(pending.body.is_some(), pending.exact)?;
    let mut target = Vec::new();
    facts.write_target(backend, &mut target);
    // Apart, as `*` after an authority would read as more of it.
    let uri = Uri::builder()
        .scheme(backend.scheme().as_str())
        .authority(facts.host_for(backend, settings))
        .path_and_query(target)
        .build()
        .map_err(|error| Error::new(ErrorKind::BadRequest).with_source(error))?;
    let mut fields = HeaderMap::with_capacity(parts.headers.len() + 4);
    facts.fields(settings, &mut fields);
    if let Length::Exact(length) = length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    if facts.accepts_trailers() {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let body = RequestBody {
        body: pending.body,
        progress,
    };
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = fields;
    Ok(request)
}

fn respond(response: Response<Incoming>, idle_timeout: Duration) -> Response<Body> {
    let (mut head, incoming) = response.into_parts();
    // RFC 9113 §8.2.2: none may come; none goes on.
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
    ] {
        head.headers.remove(name);
    }
    head.extensions.clear();
    let body = if incoming.is_end_stream() {
        Body::default()
    } else {
        Body::http2(Box::new(StreamBody {
            incoming,
            watch: Watch::new(),
            waiting: false,
            idle_timeout,
        }))
    };
    Response::from_parts(head, body)
}

/// What became of the request body, seen from outside of hyper.
#[derive(Default)]
struct Progress {
    frames: AtomicU64,
    client_failed: AtomicBool,
}

pub(super) struct RequestBody {
    body: Option<Outgoing>,
    progress: Arc<Progress>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(body.as_mut().poll_frame(cx));
        this.progress.frames.fetch_add(1, Relaxed);
        if let Some(Err(_)) = frame {
            this.progress.client_failed.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The response body of one stream.
pub(super) struct StreamBody {
    incoming: Incoming,
    watch: Watch,
    waiting: bool,
    idle_timeout: Duration,
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.waiting = false;
            let broken = |error: hyper::Error| {
                Error::new(ErrorKind::ResponseBody)
                    .with_source(error)
                    .after_sending()
            };
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        if !this.waiting {
            this.waiting = true;
            this.watch.arm(this.idle_timeout);
        }
        this.watch
            .poll_expired(cx)
            .map(|()| Some(Err(ErrorKind::ResponseBodyTimeout.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Enough for a fast network's delay at a gigabit: 1 MiB.
const WINDOW: u32 = 1024 * 1024;
/// A peer that is gone is noticed within PING + PONG while streams are open.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
