//! HTTP on a connection: the common requests of HTTP/1.1 by `front`, all others by hyper's codecs,
//! behind one function.

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
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::{
    Body,
    app::AppService,
    front, http1,
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
        let state = State::new(&conn.info, self.timeouts);
        let connection = Connection {
            drain: conn.take_drain(),
            ending: Ending {
                info: conn.info.clone(),
                events: conn.events().cloned(),
            },
            service: AppService {
                app: RefCell::new(self.app.clone()),
                info: conn.info.clone(),
                state,
            },
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

/// Who is told how the connection ended.
struct Ending {
    info: ConnInfo,
    events: Option<Arc<dyn ConnectionEvents>>,
}

impl Ending {
    /// Reports what ended the connection, where that is an event.
    fn conclude(&self, result: Result<(), hyper::Error>, state: &State) -> Result<(), BoxError> {
        if let Some((kind, detail)) = classify(&result, state) {
            self.report(kind, detail);
        }
        result.map_err(Into::into)
    }

    fn report(&self, kind: ConnectionEventKind, detail: String) {
        if let Some(events) = &self.events {
            let duration = self.info.accepted().elapsed();
            let event = ConnectionEvent::new(self.info.clone(), kind, detail, duration);
            events.connection_ended(&event);
        }
    }
}

/// What serves a connection, beside its stream.
struct Connection<S> {
    service: AppService<S>,
    ending: Ending,
    drain: Option<Drain>,
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

    /// HTTP/1.1: without the codec until something odd comes.
    async fn http1<Io>(mut self, io: Io, ahead: Bytes) -> Result<(), BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let state = self.service.state.clone();
        let mut stream = Stream::new(io, ahead, state.clone());
        let drain = self.drain.clone();
        let service = &mut self.service;
        match front::serve(&mut stream, service, drain.as_ref(), &state).await? {
            front::End::Closed => Ok(()),
            // In a box of its own, as most connections never need it.
            front::End::Odd => Box::pin(self.codec(stream)).await,
        }
    }

    /// Here HTTP/1.1's codec is chosen and configured.
    async fn codec<Io>(self, stream: Stream<Io>) -> Result<(), BoxError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            service,
            ending,
            drain,
        } = self;
        let state = service.state.clone();
        // No `pipeline_flush`: it takes all that a body has to give, however slow the client, and
        // keeps a response back until the next request is whole. Without `writev` there is
        // nothing left that it saves.
        let mut conn = hyper::server::conn::http1::Builder::new()
            .writev(false)
            .half_close(false)
            .max_buf_size(HEAD_SIZE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let driven = http1::drive(
            Pin::new(&mut conn),
            |conn| conn.graceful_shutdown(),
            drain.as_ref(),
            &state,
        );
        let result = driven.await;
        drop(conn);
        http1::tunnel(&state).await;
        // Only now, as who waits for the end of connections waits for tunnels, too.
        drop(drain);
        ending.conclude(result, &state)
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

    /// Without HTTP/2, who asks for it is told in HTTP/1.1 that it is not understood.
    #[cfg(not(feature = "http2"))]
    fn http2<Io>(self, io: Io, ahead: Bytes) -> Serving
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Box::pin(self.http1(io, ahead))
    }
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
