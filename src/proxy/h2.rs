//! HTTP/2 with a backend: hyper's, one connection a backend.

mod body;

use std::{
    error,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::Poll,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use http_body::Body as HttpBody;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};

pub(super) use self::body::StreamBody;
use self::body::{BACKEND, CLIENT, Progress, RequestBody};
use super::{
    Body,
    config::Settings,
    h1::Timeouts,
    headers::{Facts, Length},
    idle::Home,
    service::Pending,
};
use crate::{
    connect::Connected,
    context::Exchange,
    deadline::Watch,
    error::{Error, ErrorKind},
    pool::{Address, Backend},
};

/// One backend's HTTP/2 connection.
#[derive(Default)]
pub(super) struct Shared {
    /// HTTP/2 was selected by ALPN: the next request need not ask.
    known: AtomicBool,
    current: Mutex<Current>,
    /// Lets one request dial; the others wait for what it gets.
    dialing: tokio::sync::Mutex<()>,
    /// How many dials failed: who waited for one has its answer.
    failures: AtomicU64,
}

#[derive(Default)]
struct Current {
    sender: Option<Sender>,
    /// Where `sender` or `fresh` leads.
    address: Option<Address>,
    /// How the last dial failed.
    failed: Option<ErrorKind>,
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
    pub(super) fn offer(&self, connected: Connected, address: Address) {
        self.known.store(true, Relaxed);
        let mut current = self.current();
        if current.address.is_none() {
            current.fresh = Some(connected);
            current.address = Some(address);
        }
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

    fn live(&self, backend: &Backend) -> Option<Sender> {
        let mut current = self.current();
        if current.address.as_ref().is_some_and(|a| !a.is_of(backend)) {
            *current = Current::default();
        }
        current.used = Some(Instant::now());
        current.sender.clone().filter(|sender| !sender.is_closed())
    }

    /// Returns a connection, and whether it was there before. Takes no longer than a connection
    /// may take, however many wait.
    async fn sender(
        &self,
        settings: &Settings,
        backend: &Backend,
    ) -> Result<(Sender, bool), Error> {
        if let Some(sender) = self.live(backend) {
            return Ok((sender, true));
        }
        match timeout(settings.connector.limit(), self.wait(settings, backend)).await {
            Ok(result) => result,
            Err(_) => Err(ErrorKind::ConnectTimeout.into()),
        }
    }

    async fn wait(&self, settings: &Settings, backend: &Backend) -> Result<(Sender, bool), Error> {
        let failures = self.failures.load(Acquire);
        let _one_at_a_time = self.dialing.lock().await;
        if let Some(sender) = self.live(backend) {
            return Ok((sender, true));
        }
        if self.failures.load(Acquire) != failures {
            let kind = self.current().failed.unwrap_or(ErrorKind::Connect);
            return Err(Error::new(kind).with_source("as another request found out meanwhile"));
        }
        let dialled = self.dial(settings, backend).await;
        match &dialled {
            Ok(sender) => {
                let mut current = self.current();
                current.sender = Some(sender.clone());
                current.address = Some(backend.address());
            }
            Err(error) => {
                self.current().failed = Some(error.kind());
                self.failures.fetch_add(1, Release);
            }
        }
        Ok((dialled?, false))
    }

    async fn dial(&self, settings: &Settings, backend: &Backend) -> Result<Sender, Error> {
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
        handshake(connected).await
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
        .initial_max_send_streams(UNTIL_TOLD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(connected.into_stream()))
        .await
        .map_err(|error| Error::new(ErrorKind::ResponseClosed).with_source(error))?;
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
    let progress = Arc::new(Progress::new(pending.body.is_none()));
    // Without a body it can be made again, where it is certain that the backend did not act on it.
    let mut repeatable = pending.body.is_none();
    let mut request = make(settings, backend, parts, pending, progress.clone())?;
    loop {
        let (mut sender, reused) = home.http2.sender(settings, backend).await?;
        let sent = sender.try_send_request(request);
        progress.touch();
        match within(settings.timeouts, &progress, sent).await? {
            Ok(response) => return Ok(respond(response, progress, settings.timeouts.idle)),
            Err(mut error) => match error.take_message() {
                // The connection was closed before the request went out.
                Some(unsent) if reused => request = unsent,
                // The backend took the connection: that it has no load of it is not certain.
                Some(_) => {
                    let closed = Error::new(ErrorKind::ResponseClosed);
                    return Err(closed.with_source(error.into_error()));
                }
                None if repeatable && was_going_away(error.error()) => {
                    repeatable = false;
                    let pending = Pending {
                        body: None,
                        exact: Some(0),
                    };
                    request = make(settings, backend, parts, pending, progress.clone())?;
                }
                None => return Err(failed(error.into_error(), &progress)),
            },
        }
    }
}

/// Waits for the head, as long as whoever it waits for may take.
async fn within<F: Future>(
    limits: Timeouts,
    progress: &Progress,
    future: F,
) -> Result<F::Output, Error> {
    let mut future = std::pin::pin!(future);
    loop {
        let (limit, kind) = match progress.waits_for() {
            BACKEND => (limits.idle, ErrorKind::RequestWriteTimeout),
            CLIENT => (limits.idle, ErrorKind::ClientBodyTimeout),
            _ => (limits.response, ErrorKind::ResponseHeadTimeout),
        };
        let now = Instant::now();
        let due = progress.moved() + limit;
        if due <= now {
            return Err(Error::new(kind).after_sending());
        }
        // Whom it waits for may change meanwhile.
        let look = due.min(now + limits.response);
        if let Ok(output) = timeout_at(look, future.as_mut()).await {
            return Ok(output);
        }
    }
}

/// Returns true if the backend says that it did not act on the request (RFC 9113 §8.7, §6.8).
fn is_unprocessed(error: &hyper::Error) -> bool {
    is_refused(error) || was_going_away(error)
}

fn is_refused(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|e| e.is_remote() && e.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// A graceful GOAWAY ends only the streams over the last that the backend will act on.
fn was_going_away(error: &hyper::Error) -> bool {
    cause(error).is_some_and(|e| {
        e.is_remote() && e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR)
    })
}

fn cause(error: &hyper::Error) -> Option<&h2::Error> {
    error::Error::source(error)?.downcast_ref()
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

fn make(
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

fn respond(
    response: Response<Incoming>,
    progress: Arc<Progress>,
    idle_timeout: Duration,
) -> Response<Body> {
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
            waiting: None,
            progress,
            idle_timeout,
        }))
    };
    Response::from_parts(head, body)
}

/// Enough for a fast network's delay at a gigabit: 1 MiB.
const WINDOW: u32 = 1024 * 1024;
/// Streams at once until the backend says how many it takes, which is the first that it says:
/// what it does not take it refuses, and whoever waits is not refused.
const UNTIL_TOLD: usize = 1;
/// A peer that is gone is noticed within PING + PONG while streams are open.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(5);
