//! HTTP on a connection: the versions behind one service.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::{
    Body,
    app::AppService,
    http1::{self, Http1},
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
    http1: Http1,
}

impl<S> Http<S> {
    /// Answers requests with this service.
    pub fn new(app: S) -> Self {
        Self {
            app,
            timeouts: Timeouts {
                head: DEFAULT_HEAD_TIMEOUT,
                idle: DEFAULT_IDLE_TIMEOUT,
                min_rate: DEFAULT_MIN_RATE,
                request: None,
            },
            http1: Http1::default(),
        }
    }

    pub(super) fn idle(&self) -> Duration {
        self.timeouts.idle
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
    /// none of what is written, or send none of a body that the service waits for. A client that
    /// moves a little has [`min_rate`](Self::min_rate) to keep.
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

    /// Sets how many bytes a second a client has to move while the server waits for it: bytes of a
    /// response that it takes, or of a request body that it sends. A client has the
    /// [idle time-out](Self::idle_timeout) in advance, and each so many bytes earn it a second
    /// more, up to the idle time-out again. Frames of HTTP/2 that carry neither (PING, SETTINGS,
    /// WINDOW_UPDATE) earn nothing. A response is cut then (over HTTP/2, its stream is reset), and
    /// a body fails with [`ClientBodyTimeout`](crate::ErrorKind::ClientBodyTimeout).
    ///
    /// For request bodies, it holds until the response begins, and not for gRPC, whose messages
    /// come when the client has some. At 0, one byte earns the whole idle time-out.
    ///
    /// Default: 240, as IIS and Kestrel have it: a tenth of what the slowest modems did.
    ///
    /// # Errors
    ///
    /// Over 1,048,576.
    pub fn min_rate(mut self, bytes: u32) -> Result<Self, ConfigError> {
        if bytes > HIGHEST_MIN_RATE {
            return Err(ConfigError::new(
                "min_rate",
                format!("{bytes}: 0 to {HIGHEST_MIN_RATE} bytes a second are accepted"),
            ));
        }
        self.timeouts.min_rate = bytes;
        Ok(self)
    }

    /// Limits how long a request may take in all, from its head to the last byte of its response,
    /// be the client or the service slow. Then the request is cancelled: with 504 where the response
    /// has not begun, for which the access log has `timeout`; else by the end of the HTTP/1.1
    /// connection or a reset of the HTTP/2 stream, for which it has `client_abort`. Not for tunnels: an upgrade, or CONNECT over HTTP/1.1.
    ///
    /// Downloads, streams of events and long polls end by it, too: allow for the longest. Costs two
    /// readings of the clock a request, and over HTTP/2 an allocation.
    ///
    /// Default: no limit.
    ///
    /// # Errors
    ///
    /// Under 10 ms or over 24 hours.
    pub fn request_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if timeout < Duration::from_millis(10) || timeout > Duration::from_secs(86_400) {
            return Err(ConfigError::new(
                "request_timeout",
                format!("{timeout:?}: 10 ms to 24 h is accepted"),
            ));
        }
        self.timeouts.request = Some(timeout);
        Ok(self)
    }

    /// Sets what the end of a client's side (a TCP FIN) means behind a complete HTTP/1.1 request.
    /// Off, the client has gone: the request is cancelled, and logged as the client's abort. On,
    /// it only sends no more, and waits for its responses; a client that has gone is then noticed
    /// by a reset, a write that fails, or a time-out, and its requests run until then.
    ///
    /// In the middle of a head or a body, the end is the client's abort in both cases.
    ///
    /// Default: off, as Envoy and Go have it; HAProxy has it on.
    pub fn half_close(mut self, on: bool) -> Self {
        self.http1.half_close = on;
        self
    }

    /// Sets whether a Host field without a value is accepted in HTTP/1.1, as some monitors send
    /// it. RFC 9112 §3.2 has 400 for it.
    ///
    /// Default: off.
    pub fn allow_empty_host(mut self, on: bool) -> Self {
        self.http1.allowed.empty_host = on;
        self
    }

    /// Sets whether UTF-8 that is not percent-encoded is accepted in an HTTP/1.1 target, as curl
    /// sends what it is given. RFC 9112 §3.2 has 400 for it, and backends read it differently.
    ///
    /// Default: off.
    pub fn allow_raw_target(mut self, on: bool) -> Self {
        self.http1.allowed.raw_target = on;
        self
    }
}

impl<S: fmt::Debug> fmt::Debug for Http<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("app", &self.app)
            .field("timeouts", &self.timeouts)
            .field("http1", &self.http1)
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
        let state = State::new(&conn.info, self.timeouts);
        let connection = Connection {
            drain: conn.take_drain(),
            service: AppService {
                app: RefCell::new(self.app.clone()),
                reporter: ConnectionReporter {
                    info: conn.info.clone(),
                    events: conn.events().cloned(),
                },
                state,
                #[cfg(feature = "http2")]
                streams_begun: Default::default(),
            },
            http1: self.http1,
        };
        let alpn = conn.info.tls().and_then(|tls| tls.alpn.as_deref());
        let stage = match alpn {
            Some(b"h2") => Stage::Serving(connection.http2(conn.io, Bytes::new())),
            Some(_) => Stage::Serving(Box::pin(connection.http1(conn.io, Bytes::new()))),
            None => Stage::Sniffing(Box::pin(connection.sniff(conn.io))),
        };
        ConnectionFuture { stage }
    }
}

/// A connection being served; one box for its life, another while the protocol is told apart.
#[must_use = "futures do nothing unless polled"]
pub struct ConnectionFuture {
    stage: Stage,
}

/// Boxes of their own, so that an idle connection holds no room for what is over.
enum Stage {
    Sniffing(Pin<Box<dyn Future<Output = Result<Option<Serving>, BoxError>> + Send>>),
    Serving(Serving),
}

type Serving = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl Future for ConnectionFuture {
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let serving = match &mut self.stage {
                Stage::Sniffing(sniffing) => ready!(sniffing.as_mut().poll(cx))?,
                Stage::Serving(serving) => return serving.as_mut().poll(cx),
            };
            match serving {
                Some(serving) => self.stage = Stage::Serving(serving),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl fmt::Debug for ConnectionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionFuture").finish_non_exhaustive()
    }
}

/// Reports how the connection ended, to the connection's events.
pub(super) struct ConnectionReporter {
    pub(super) info: ConnInfo,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl ConnectionReporter {
    /// Reports an end that no request's line tells.
    pub(super) fn report(&self, kind: ConnectionEventKind, detail: &'static str) {
        self.send(|duration| ConnectionEvent::new(self.info.clone(), kind, detail, duration));
    }

    /// Reports a request that was refused.
    pub(super) fn refuse(
        &self,
        kind: ConnectionEventKind,
        detail: &'static str,
        status: StatusCode,
        method: Option<Method>,
        path: Option<String>,
    ) {
        self.send(|duration| {
            ConnectionEvent::new(self.info.clone(), kind, detail, duration)
                .refused(status, method, path)
        });
    }

    fn send(&self, event: impl FnOnce(Duration) -> ConnectionEvent) {
        if let Some(events) = &self.events {
            events.connection_ended(&event(self.info.accepted().elapsed()));
        }
    }
}

/// What serves a connection, beside its stream.
struct Connection<S> {
    service: AppService<S>,
    drain: Option<Drain>,
    http1: Http1,
}

impl<S, B> Connection<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Tells the protocol apart; `None` where the connection ended first.
    async fn sniff<Io>(self, mut io: Io) -> Result<Option<Serving>, BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let sniffed = sniff(&mut io, &self.service.state, self.drain.as_ref()).await?;
        Ok(match sniffed {
            Sniffed::Closed => None,
            Sniffed::Http1(ahead) => Some(Box::pin(self.http1(io, ahead))),
            Sniffed::Http2(ahead) => Some(self.http2(io, ahead)),
        })
    }

    async fn http1<Io>(mut self, io: Io, ahead: Bytes) -> Result<(), BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stream = Stream::new(io, ahead, self.service.state.clone());
        let drain = self.drain.as_ref();
        match http1::serve(&mut stream, &mut self.service, drain, self.http1).await? {
            http1::End::Closed => Ok(()),
            // In a box of its own, as most connections never need it.
            http1::End::Upgrade { request, ahead } => {
                Box::pin(http1::upgrade(stream, &request, &ahead, self.service)).await
            }
        }
    }

    /// HTTP/2, whose errors are no events: each request that they end has its line.
    #[cfg(feature = "http2")]
    fn http2<Io>(self, io: Io, ahead: Bytes) -> Serving
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { service, drain, .. } = self;
        service.state.multiplex();
        Box::pin(async move {
            let served = super::http2::serve(io, ahead, service, drain.as_ref());
            served.await.map_err(Into::into)
        })
    }

    /// Without HTTP/2, a client that speaks it gets 505 in HTTP/1.1.
    #[cfg(not(feature = "http2"))]
    fn http2<Io>(self, io: Io, ahead: Bytes) -> Serving
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Box::pin(self.http1(io, ahead))
    }
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

/// Streams at once: enough for a page, and a bound on what one client can ask for.
#[cfg(feature = "http2")]
pub(super) const MAX_STREAMS: u32 = 256;
/// Enough for uploads over a long way: 1 MiB a stream.
#[cfg(feature = "http2")]
pub(super) const WINDOW: u32 = 1024 * 1024;
/// Bytes a second: no network of today is as slow as that for long.
pub(super) const DEFAULT_MIN_RATE: u32 = 240;
/// Far above what a client of the field can be asked for.
const HIGHEST_MIN_RATE: u32 = 1024 * 1024;
pub(super) const DEFAULT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
