//! [`ProxyProtocol`]: the header of a connection, then the inner connection service.

use std::{
    fmt,
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::{
    io::AsyncRead,
    time::{Instant, sleep_until},
};
use tower_service::Service;

use super::{ProxyProtocolStream, layer::HeaderConfig};
use crate::{
    context::{Conn, ShutdownSignal, Transport},
    error::BoxError,
};

/// The PROXY protocol around a connection service, or around an axum listener; see
/// [`ProxyProtocolLayer`](super::ProxyProtocolLayer).
#[derive(Clone)]
pub struct ProxyProtocol<S> {
    pub(super) inner: S,
    pub(super) config: Arc<HeaderConfig>,
}

impl<S> ProxyProtocol<S> {
    pub(super) fn new(inner: S, config: Arc<HeaderConfig>) -> Self {
        Self { inner, config }
    }

    /// Returns the inner service or listener.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service or listener.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service or listener.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for ProxyProtocol<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyProtocol")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, Io> Service<Conn<Io>> for ProxyProtocol<S>
where
    S: Service<Conn<ProxyProtocolStream<Io>>> + Clone,
    S::Error: Into<BoxError>,
    Io: Transport,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Io>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut conn: Conn<Io>) -> Self::Future {
        // The service that was polled ready is called after the header; the clone stays.
        let clone = self.inner.clone();
        let service = mem::replace(&mut self.inner, clone);
        let signal = conn.take_shutdown();
        let (info, events) = (conn.info.clone(), conn.events().cloned());
        let conn = conn.map(|io| ProxyProtocolStream::new(io, info, &self.config, events));
        let (conn, shutdown) = match signal {
            Some(signal) => {
                let silent = conn.io.is_silent();
                let silent = silent.then(|| silence_deadline(signal.clone(), conn.info.accepted()));
                (conn.with_shutdown(signal), silent)
            }
            None => (conn, None),
        };
        ResponseFuture {
            state: State::Header {
                conn: Some(conn),
                service,
                shutdown,
            },
        }
    }
}

pin_project! {
    /// The future of [`ProxyProtocol`]: the header, then the inner service's.
    pub struct ResponseFuture<S, Io>
    where
        S: Service<Conn<ProxyProtocolStream<Io>>>,
    {
        #[pin]
        state: State<S, Io, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Io, F> {
        Header {
            conn: Option<Conn<ProxyProtocolStream<Io>>>,
            service: S,
            shutdown: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        },
        Serve {
            #[pin]
            future: F,
        },
    }
}

impl<S, Io> Future for ResponseFuture<S, Io>
where
    S: Service<Conn<ProxyProtocolStream<Io>>>,
    S::Error: Into<BoxError>,
    Io: Transport,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Header {
                    conn,
                    service,
                    shutdown,
                } => {
                    if let Some(conn) = conn.as_mut() {
                        ready!(poll_header(&mut conn.io, shutdown, cx))?;
                    }
                    match conn.take() {
                        Some(conn) => service.call(conn),
                        None => return Poll::Pending,
                    }
                }
                StateProj::Serve { future } => return future.poll(cx).map_err(Into::into),
            };
            state.set(State::Serve { future: next });
        }
    }
}

impl<S, Io> fmt::Debug for ResponseFuture<S, Io>
where
    S: Service<Conn<ProxyProtocolStream<Io>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

fn poll_header<Io: AsyncRead + Unpin>(
    stream: &mut ProxyProtocolStream<Io>,
    shutdown: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if let Poll::Ready(ended) = stream.poll_header(cx) {
        return Poll::Ready(ended);
    }
    if let Some(begun) = shutdown {
        ready!(begun.as_mut().poll(cx));
        *shutdown = None;
        // A peer that has sent bytes may complete its header.
        if stream.is_silent() {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, "draining");
            return Poll::Ready(Err(error));
        }
    }
    Poll::Pending
}

/// Completes when a shutdown has begun and a peer that has been silent since `since` has used up the
/// grace.
fn silence_deadline(
    mut signal: ShutdownSignal,
    since: Instant,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        signal.begun().await;
        if let Some(until) = signal.idle_until(since) {
            sleep_until(until).await;
        }
    })
}
