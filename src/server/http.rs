//! HTTP on a connection: hyper's codecs behind one function.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::{
    Body,
    app::AppService,
    http1,
    sniff::{Sniffed, sniff},
    state::{State, Timeouts},
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
    if let Some((kind, detail)) = classify(&result, &state) {
        ending.report(kind, detail);
    }
    result.map_err(Into::into)
}

/// The one function where a codec is chosen and configured.
async fn codec<Io, S, B>(
    io: Io,
    ahead: Bytes,
    is_http2: bool,
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
    if is_http2 {
        use hyper_util::rt::{TokioExecutor, TokioTimer};

        use super::{gather::Gather, http2};

        state.multiplex();
        let io = Gather::new(io, ahead);
        let gather = io.handle();
        let conn = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_SIZE as u32)
            .serve_connection(TokioIo::new(io), service);
        return http2::drive(conn, |conn| conn.graceful_shutdown(), gather, drain, state).await;
    }
    #[cfg(not(feature = "http2"))]
    let _ = is_http2;
    // No `pipeline_flush`: it takes all that a body has to give, however slow the client, and
    // keeps a response back until the next request is whole. Without `writev` there is nothing
    // left that it saves.
    let conn = hyper::server::conn::http1::Builder::new()
        .writev(false)
        .half_close(false)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(Stream::new(io, ahead, state.clone())), service)
        .with_upgrades();
    http1::drive(conn, |conn| conn.graceful_shutdown(), drain, state).await
}

/// Says what ended a connection; `None` where that is no event, or a request's log line tells.
fn classify(
    result: &Result<(), hyper::Error>,
    state: &State,
) -> Option<(ConnectionEventKind, String)> {
    if state.has_given_up() {
        return Some((ConnectionEventKind::HeadTimeout, String::new()));
    }
    let Err(error) = result else {
        return None;
    };
    let kind = if error.is_parse_too_large() {
        ConnectionEventKind::HeadTooLarge
    } else if error.is_parse() {
        ConnectionEventKind::BadRequest
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
#[cfg(feature = "http2")]
pub(super) const STREAMS: u32 = 256;
/// Enough for uploads over a long way: 1 MiB a stream.
#[cfg(feature = "http2")]
pub(super) const WINDOW: u32 = 1024 * 1024;
pub(super) const DEFAULT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
