//! HTTP on a connection: hyper's codecs behind one function.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tower_service::Service;

use super::{
    Body,
    app::AppService,
    gather::Gather,
    sniff::{Sniffed, sniff},
    state::{Phase, State, Timeouts},
    stream::Stream,
};
use crate::{
    context::{Conn, ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Drain},
    error::{BoxError, ConfigError},
};

/// Serves HTTP on a connection: a connection service around a request service.
///
/// HTTP/2 is spoken where ALPN selected it, or where a cleartext connection begins with its
/// preface; HTTP/1.1 otherwise.
#[derive(Clone)]
#[must_use]
pub struct Http<S> {
    app: S,
    timeouts: Timeouts,
}

impl<S> Http<S> {
    /// Answers requests with this service.
    pub fn new(app: S) -> Self {
        Self {
            app,
            timeouts: Timeouts {
                head: DEFAULT_HEAD_TIMEOUT,
                idle: DEFAULT_IDLE_TIMEOUT,
            },
        }
    }

    /// Sets how long a client may take to send a request head: from accept for the first, from
    /// its first byte for the others. Counts while the protocol is told apart, too.
    ///
    /// Default: 10 s.
    ///
    /// # Errors
    ///
    /// Under 10 ms or over an hour.
    pub fn head_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.timeouts.head = in_range("head_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how long a connection may wait for its next request, and how long a client may take
    /// none of what is written.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// Under 10 ms or over an hour.
    pub fn idle_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.timeouts.idle = in_range("idle_timeout", timeout)?;
        Ok(self)
    }
}

impl<S: fmt::Debug> fmt::Debug for Http<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("app", &self.app)
            .field("timeouts", &self.timeouts)
            .finish()
    }
}

impl<S, B, Io> Service<Conn<Io>> for Http<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = ();
    type Error = BoxError;
    type Future = ConnectionFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut conn: Conn<Io>) -> ConnectionFuture {
        let ending = Ending {
            info: conn.info.clone(),
            events: conn.events().cloned(),
        };
        let drain = conn.take_drain();
        let state = State::new(&conn.info, self.timeouts);
        let serve = serve(conn.io, self.app.clone(), ending, drain, state);
        ConnectionFuture {
            inner: Box::pin(serve),
        }
    }
}

/// A connection being served; one box for its whole life.
#[must_use = "futures do nothing unless polled"]
pub struct ConnectionFuture {
    inner: Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>,
}

impl Future for ConnectionFuture {
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for ConnectionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFuture").finish_non_exhaustive()
    }
}

/// Who is told how the connection ended.
struct Ending {
    info: ConnInfo,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl Ending {
    fn report(&self, kind: ConnectionEventKind, detail: String) {
        if let Some(events) = &self.events {
            let duration = self.info.accepted().elapsed();
            let event = ConnectionEvent::new(self.info.clone(), kind, detail, duration);
            events.connection_ended(&event);
        }
    }
}

async fn serve<Io, S, B>(
    mut io: Io,
    app: S,
    ending: Ending,
    drain: Option<Drain>,
    state: Arc<State>,
) -> Result<(), BoxError>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let alpn = ending.info.tls().and_then(|tls| tls.alpn.clone());
    let (http2, ahead) = match alpn {
        Some(protocol) => (&protocol[..] == b"h2", Bytes::new()),
        None => match sniff(&mut io, &state, drain.as_ref()).await? {
            Sniffed::Closed => return Ok(()),
            Sniffed::Http1(ahead) => (false, ahead),
            Sniffed::Http2(ahead) => (true, ahead),
        },
    };
    let service = AppService {
        app: RefCell::new(app),
        info: ending.info.clone(),
        state: state.clone(),
    };
    let result = codec(io, ahead, http2, service, drain).await;
    match &result {
        Err(error) => {
            if let Some((kind, detail)) = classify(error, &state) {
                ending.report(kind, detail);
            }
        }
        // An early end that hyper takes for a client that went away.
        Ok(()) if state.is_expired() && state.phase() == Phase::Head => {
            ending.report(ConnectionEventKind::HeadTimeout, String::new());
        }
        Ok(()) => {}
    }
    result.map_err(Into::into)
}

/// The one function where a codec is chosen and configured.
async fn codec<Io, S, B>(
    io: Io,
    ahead: Bytes,
    http2: bool,
    service: AppService<S>,
    drain: Option<Drain>,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = service.state.clone();
    #[cfg(feature = "http2")]
    if http2 {
        let io = Gather::new(io, ahead);
        let gathered = io.handle();
        let conn = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_SIZE as u32)
            .serve_connection(TokioIo::new(io), service);
        let mut conn = pin!(conn);
        let mut draining = Draining::new(drain);
        return poll_fn(|cx| {
            // Idle for too long is a reason to end like any other.
            let expired = !state.is_active() && state.poll_expired(cx).is_ready();
            if draining.begins(cx, expired) {
                conn.as_mut().graceful_shutdown();
            }
            let polled = conn.as_mut().poll(cx);
            // A broken socket shows at the next read; the codec tells then.
            let _ = gathered.poll_gathered(cx, state.is_active());
            polled
        })
        .await;
    }
    let _ = http2;
    let io = Stream::new(io, ahead, state);
    let conn = hyper::server::conn::http1::Builder::new()
        .pipeline_flush(true)
        .writev(false)
        .half_close(false)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut conn = pin!(conn);
    let mut draining = Draining::new(drain);
    poll_fn(|cx| {
        if draining.begins(cx, false) {
            conn.as_mut().graceful_shutdown();
        }
        conn.as_mut().poll(cx)
    })
    .await
}

/// Notices once that the connection should end; registers once, then costs one load a poll.
struct Draining {
    drain: Option<Drain>,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    registered: bool,
    begun: bool,
}

impl Draining {
    fn new(drain: Option<Drain>) -> Self {
        let waiting = drain.clone().map(|mut drain| {
            let waiting: Pin<Box<dyn Future<Output = ()> + Send>> =
                Box::pin(async move { drain.begun().await });
            waiting
        });
        Self {
            drain,
            waiting,
            registered: false,
            begun: false,
        }
    }

    fn begins(&mut self, cx: &mut Context<'_>, also: bool) -> bool {
        if self.begun {
            return false;
        }
        let Some(drain) = &self.drain else {
            self.begun = also;
            return also;
        };
        if let Some(waiting) = &mut self.waiting {
            if !self.registered {
                self.registered = true;
                let _ = waiting.as_mut().poll(cx);
            }
        }
        self.begun = also || drain.has_begun();
        if self.begun {
            self.waiting = None;
        }
        self.begun
    }
}

/// Says what ended a connection; `None` where that is no event, or a request's log line tells.
fn classify(error: &hyper::Error, state: &State) -> Option<(ConnectionEventKind, String)> {
    let kind = if error.is_parse_too_large() {
        ConnectionEventKind::HeadTooLarge
    } else if error.is_parse() {
        ConnectionEventKind::BadRequest
    } else if state.phase() == Phase::Head && state.is_expired() {
        ConnectionEventKind::HeadTimeout
    } else if state.is_active() || error.is_user() || error.is_canceled() {
        return None;
    } else if error.is_incomplete_message() || error.is_closed() {
        ConnectionEventKind::Io
    } else {
        return None;
    };
    Some((kind, error.to_string()))
}

fn in_range(field: &str, timeout: Duration) -> Result<Duration, ConfigError> {
    if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(3_600) {
        return Err(ConfigError::new(
            field,
            format!("{timeout:?}: 10 ms to 1 h is accepted"),
        ));
    }
    Ok(timeout)
}

/// What a request head may come to; longer ones get 431.
pub(super) const HEAD_SIZE: usize = 32 * 1024;
/// Streams at once: enough for a page, and a bound on what one client can ask for.
const STREAMS: u32 = 256;
/// Enough for uploads over a long way: 1 MiB a stream.
const WINDOW: u32 = 1024 * 1024;
const DEFAULT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
