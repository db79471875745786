//! [`Http`]: the settings of HTTP/1.1 and HTTP/2, and the choice between them on a connection.

use std::{
    borrow::Cow,
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
    context::{
        Conn, ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, ShutdownSignal,
    },
    error::{BoxError, ConfigError},
};

/// Serves HTTP on a connection: a connection service around a request service.
///
/// A connection speaks HTTP/2 if ALPN selected it, or if a cleartext connection begins with the
/// preface of HTTP/2 (RFC 9113 §3.4). Otherwise it speaks HTTP/1.1.
#[derive(Clone)]
#[must_use]
pub struct Http<S> {
    app: S,
    pub(super) timeouts: Timeouts,
    http1: Http1,
}

impl<S> Http<S> {
    /// Makes a connection service that answers requests with `app`.
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

    /// Sets how long a client may take to send a request head. The time of the first head runs from
    /// accept and includes protocol detection; that of a later head runs from its first byte. An
    /// incomplete head gets 408, a connection without a byte is closed.
    ///
    /// Default: 10 s.
    ///
    /// # Errors
    ///
    /// If the time is under 10 ms or over an hour.
    pub fn head_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.timeouts.head = in_range("head_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how long a connection may wait for its next request, and how long a client may read
    /// nothing of a response or send nothing of a body that the service waits for.
    /// [`min_rate`](Self::min_rate) limits a client that reads or sends a little.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// If the time is under 10 ms or over an hour.
    pub fn idle_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        self.timeouts.idle = in_range("idle_timeout", timeout)?;
        Ok(self)
    }

    /// Sets how many bytes a second a client has to transfer while the server waits for it: bytes of a
    /// response that it reads, or of a request body that it sends. A client starts with the
    /// [idle time-out](Self::idle_timeout) as credit, and each `bytes` earn it one second more, up to
    /// the idle time-out again. HTTP/2 frames that carry neither (PING, SETTINGS, WINDOW_UPDATE) earn
    /// nothing. A client without credit loses its response (the connection closes, or the stream is
    /// reset), or its body fails with [`ClientBodyTimeout`](crate::ErrorKind::ClientBodyTimeout).
    ///
    /// The rate of a request body counts until the response begins, and under HTTP/1.1 again once the
    /// response is complete, with the whole credit. It does not count for gRPC, whose messages come when
    /// the client has some. With 0, one byte earns the whole idle time-out.
    ///
    /// Default: 240, as in IIS and Kestrel: a tenth of the rate of the slowest modems.
    ///
    /// # Errors
    ///
    /// If `bytes` is over 1,048,576.
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

    /// Limits the time of a request in all, from its head to the last byte of its response, whether the
    /// client or the service is slow. After this time the server answers 504 if the response has not
    /// begun; the access log then has `timeout`. Otherwise the server closes the HTTP/1.1 connection
    /// or resets the HTTP/2 stream, and the access log has `client_abort`. Tunnels (an upgrade, or
    /// CONNECT over HTTP/1.1) have no limit.
    ///
    /// The limit also ends downloads, event streams and long polls: allow for the longest. It costs two
    /// readings of the clock a request, and an allocation over HTTP/2.
    ///
    /// Default: no limit.
    ///
    /// # Errors
    ///
    /// If the time is under 10 ms or over 24 hours.
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

    /// Sets what the end of the client's write side (a TCP FIN) means behind a complete HTTP/1.1
    /// request. With `false`, the client has disconnected: the server cancels the request, and the
    /// access log has the client's abort. With `true`, the client still waits for its responses; the
    /// server then notices a disconnect by a reset, a failed write or a time-out, and runs the request
    /// until then.
    ///
    /// Within a head or a body, the end is the client's abort in both cases.
    ///
    /// Default: `false`, as in Envoy and Go; HAProxy has `true`.
    pub fn half_close(mut self, on: bool) -> Self {
        self.http1.half_close = on;
        self
    }

    /// Sets whether HTTP/1.1 requests with an empty Host field are accepted, which some monitors send.
    /// RFC 9112 §3.2 requires 400.
    ///
    /// Default: `false`.
    pub fn allow_empty_host(mut self, on: bool) -> Self {
        self.http1.allowed.empty_host = on;
        self
    }

    /// Sets whether an HTTP/1.1 target may contain UTF-8 that is not percent-encoded, as curl sends it.
    /// RFC 9112 §3.2 requires 400, and backends read such a target differently.
    ///
    /// Default: `false`.
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
            signal: conn.take_shutdown(),
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
        // The stage is chosen here and not in the future: a connection with ALPN pays for no
        // detection.
        let alpn = conn.info.tls().and_then(|tls| tls.alpn.as_deref());
        let stage = match alpn {
            Some(b"h2") => Stage::Serving(connection.http2(conn.io, Bytes::new())),
            Some(_) => Stage::Serving(Box::pin(connection.http1(conn.io, Bytes::new()))),
            None => Stage::Sniffing(Box::pin(connection.sniff(conn.io))),
        };
        ConnectionFuture { stage }
    }
}

/// The future of [`Http`]: a connection that is being served. It holds one box for the life of the
/// connection, and another one during protocol detection.
#[must_use = "futures do nothing unless polled"]
pub struct ConnectionFuture {
    stage: Stage,
}

/// The stages are boxed, so that an idle connection has no room for a stage that is over.
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

/// Reports the end of the connection, and refused requests, to [`ConnectionEvents`].
pub(super) struct ConnectionReporter {
    pub(super) info: ConnInfo,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl ConnectionReporter {
    /// Reports an end that has no request, and so no line in the access log.
    pub(super) fn report(&self, kind: ConnectionEventKind, detail: impl Into<Cow<'static, str>>) {
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

/// The parts that serve a connection, except for its stream.
struct Connection<S> {
    service: AppService<S>,
    signal: Option<ShutdownSignal>,
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
    /// Detects the protocol; returns `None` if the connection ended before that.
    async fn sniff<Io>(self, mut io: Io) -> Result<Option<Serving>, BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let sniffed = sniff(&mut io, &self.service.state, self.signal.as_ref()).await?;
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
        let signal = self.signal.as_ref();
        match http1::serve(&mut stream, &mut self.service, signal, self.http1).await? {
            http1::End::Closed => Ok(()),
            // Boxed, since most connections never upgrade.
            http1::End::Upgrade { request, ahead } => {
                Box::pin(http1::upgrade(stream, &request, &ahead, self.service)).await
            }
        }
    }

    /// Serves HTTP/2. Of its errors, those of the client are reported. Each request that any of them ends
    /// has its own line in the access log.
    #[cfg(feature = "http2")]
    fn http2<Io>(self, io: Io, ahead: Bytes) -> Serving
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            service, signal, ..
        } = self;
        service.state.multiplex();
        Box::pin(async move {
            let served = super::http2::serve(io, ahead, service, signal.as_ref());
            served.await.map_err(Into::into)
        })
    }

    /// Without the feature `http2`, a client that speaks HTTP/2 gets 505 in HTTP/1.1.
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

/// HTTP/2 streams at once: enough for a web page, and a limit on the work of one client.
#[cfg(feature = "http2")]
pub(super) const MAX_STREAMS: u32 = 256;
/// Flow-control window of a stream in bytes: 1 MiB allows 80 Mbit/s at a round trip of 100 ms.
#[cfg(feature = "http2")]
pub(super) const WINDOW: u32 = 1024 * 1024;
/// Bytes a second: no network in use is that slow for long.
const DEFAULT_MIN_RATE: u32 = 240;
/// Bytes a second: a higher limit would disconnect clients on mobile networks.
const HIGHEST_MIN_RATE: u32 = 1024 * 1024;
const DEFAULT_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
