//! The canonical stack behind one builder: all layers of the crate in the order that works.
//!
//! ```text
//! Forwarded ─▶ Trace ─▶ Metrics ─▶ AccessLog ─▶ Respond ─▶ Sticky ─▶ Failover ─▶ Balance ─▶ Health ─▶ Proxy
//! ```
//!
//! [The front page](crate#how-the-parts-fit-together) gives the reasons for the order.
//!
//! # Example
//!
//! ```no_run
//! use evenkeel::{Backend, LoadBalancer, Pool};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! evenkeel::serve(listener, LoadBalancer::new(pool)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A load balancer is also a client: a program calls [`send`](LoadBalancer::send), or uses it as a
//! `Service<Request<B>>`. Clones share all state, so each task can have its own.
//!
//! ```
//! use bytes::Bytes;
//! use evenkeel::{Backend, LoadBalancer, Pool, health::HealthLayer};
//! use http::Request;
//! use http_body_util::{BodyExt, Full};
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let backend = TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("http://{}", backend.local_addr()?);
//! let app = axum::Router::new().fallback(async |body: String| format!("got {body}"));
//! tokio::spawn(async { axum::serve(backend, app).await });
//!
//! let pool = Pool::new([Backend::new("a", &url)?])?;
//! // This backend has no health page: live traffic judges it.
//! let health = HealthLayer::new(pool.clone()).no_checks();
//! let mut balancer = LoadBalancer::builder(pool).health(health)?.build();
//!
//! let request = Request::post("/orders")
//!     .header("host", "shop.example")
//!     .body(Full::<Bytes>::from("one of each"))?;
//! let response = balancer.send(request).await;
//! assert_eq!(response.status(), 200);
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "got one of each");
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Under [`serve`](crate::serve), under an axum router (`fallback_service`, `nest_service`), or in a
//! program. Layers of your own go around it. For a layer of your own between two of these, build the
//! stack by hand: one line for each layer, in the order of the diagram.
//!
//! # Defaults
//!
//! | layer | by default |
//! |---|---|
//! | forwarded | trusts the peers that the proxy trusts: none; [`forwarded`](Builder::forwarded) |
//! | trace | none, and trace context passes as the client sent it; [`trace`](Builder::trace) |
//! | access log | none; [`access_log`](Builder::access_log) |
//! | metrics | none; [`metrics`](Builder::metrics) (feature `metrics`) |
//! | respond | plain text |
//! | sticky | none, as it needs a key; [`sticky`](Builder::sticky) |
//! | failover | one more attempt, on another backend |
//! | balance | round robin |
//! | health | GET `/health` every 5 s, and outliers of live traffic; backends without that path are down: see [`health`](Builder::health) |
//! | proxy | as [`Proxy::new`] |
//!
//! # When it fails
//!
//! A load balancer answers every request, with the statuses of [`respond`] for failures; its error
//! type is `Infallible`. A program that needs the [`Error`] itself builds the stack by hand without
//! `RespondLayer`. [`Builder::sticky`], [`Builder::balance`], [`Builder::health`] and `Builder::metrics` return a
//! [`ConfigError`](crate::ConfigError) for a layer that was made for another pool.
//!
//! # Cost
//!
//! The sum of its layers. A request causes no boxed future and no clone of the stack. All layers,
//! stacked by hand over a service that answers at once, cost about 1,000 ns and three allocations on a
//! shared cloud core; a quarter of it is the log. With hedging and `HstsLayer` it is about 1,150 ns. The
//! figures are produced by `benches/layers.rs`.
//!
//! A `LoadBalancer` costs less. No layer of another crate stands between balance and the proxy, so the
//! selected backend is an argument of the call instead of a
//! [`Selected`](crate::context::Selected) extension, except for a request that waited in the queue. This
//! saves one allocation. Two remain, for the [`Exchange`](crate::context::Exchange) and its entry in the
//! extensions; under `serve` they are reused from an earlier request.

mod builder;
#[cfg(feature = "sticky")]
mod optional;

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

pub use self::builder::Builder;
#[cfg(feature = "sticky")]
use self::optional::Optional;
#[cfg(feature = "access-log")]
use crate::access_log::{self, AccessLog};
#[cfg(feature = "metrics")]
use crate::metrics::{self, Metrics};
#[cfg(feature = "sticky")]
use crate::sticky::Sticky;
use crate::{
    balance::{self, StackBalance},
    error::{BoxError, Error},
    failover::Failover,
    forwarded::Forwarded,
    health::{self, Health},
    pool::Pool,
    proxy::{self, Proxy},
    respond::{self, Respond},
    trace::{self, Trace},
};

type Core = Failover<StackBalance<Health<Proxy>>>;
#[cfg(feature = "sticky")]
type Session = Optional<Sticky<Core>, Core>;
#[cfg(not(feature = "sticky"))]
type Session = Core;
#[cfg(feature = "access-log")]
type Logged = AccessLog<Respond<Session>>;
#[cfg(not(feature = "access-log"))]
type Logged = Respond<Session>;
#[cfg(feature = "metrics")]
type Stack = Forwarded<Trace<Metrics<Logged>>>;
#[cfg(not(feature = "metrics"))]
type Stack = Forwarded<Trace<Logged>>;

type RespondBody = respond::ResponseBody<balance::ResponseBody<health::ResponseBody<proxy::Body>>>;
#[cfg(feature = "access-log")]
type LoggedBody = access_log::ResponseBody<RespondBody>;
#[cfg(not(feature = "access-log"))]
type LoggedBody = RespondBody;
#[cfg(feature = "metrics")]
type StackBody = trace::ResponseBody<metrics::ResponseBody<LoggedBody>>;
#[cfg(not(feature = "metrics"))]
type StackBody = trace::ResponseBody<LoggedBody>;

/// The canonical stack: a service that balances requests over a pool. Cheap to clone; clones
/// share everything.
#[derive(Clone)]
pub struct LoadBalancer {
    stack: Stack,
}

impl LoadBalancer {
    /// Balances over this pool with the defaults.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self::builder(pool).build()
    }

    /// Returns a builder with the defaults of the module's table.
    pub fn builder(pool: Pool) -> Builder {
        Builder::new(pool)
    }
}

impl LoadBalancer {
    /// Sends a request as a client. A failure becomes a response, as under a server, with a status
    /// of [`respond`].
    ///
    /// tower's `balancer.ready().await?.call(request)` does the same, but needs the type of the
    /// request: `ServiceExt::<Request<B>>::ready(&mut balancer)`. `balancer.oneshot(request)` infers
    /// the type, and consumes a clone.
    pub async fn send<B>(&mut self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Starts the checks if they do not run yet.
        let Ok(()) = poll_fn(|cx| Service::<Request<B>>::poll_ready(self, cx)).await;
        let Ok(response) = self.call(request).await;
        response
    }
}

impl fmt::Debug for LoadBalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadBalancer").finish_non_exhaustive()
    }
}

impl<B> Service<Request<B>> for LoadBalancer
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.stack, cx)
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture<B> {
        ResponseFuture {
            inner: self.stack.call(request),
        }
    }
}

pin_project! {
    /// The response of a [`LoadBalancer`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<B>
    where
        B: HttpBody<Data = Bytes>,
        B: Send,
        B: 'static,
        B::Error: Into<BoxError>,
    {
        #[pin]
        inner: <Stack as Service<Request<B>>>::Future,
    }
}

impl<B> Future for ResponseFuture<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = std::task::ready!(self.project().inner.poll(cx));
        Poll::Ready(response.map(|response| response.map(|inner| Body { inner })))
    }
}

impl<B> fmt::Debug for ResponseFuture<B>
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("load_balancer::ResponseFuture")
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The response body of a [`LoadBalancer`].
    #[derive(Default)]
    pub struct Body {
        #[pin]
        inner: StackBody,
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("size_hint", &self.inner.size_hint())
            .finish_non_exhaustive()
    }
}
