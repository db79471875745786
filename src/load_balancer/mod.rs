//! The canonical stack behind one builder.
//!
//! ```text
//! Forwarded ─▶ AccessLog ─▶ Respond ─▶ Sticky ─▶ Failover ─▶ Balance ─▶ Health ─▶ Proxy
//! ```
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
//! It is a client, too: a program calls [`send`](LoadBalancer::send), or the
//! `Service<Request<B>>` that it is. A clone shares everything with it, so that each task has its
//! own.
//!
//! ```no_run
//! use bytes::Bytes;
//! use evenkeel::LoadBalancer;
//! use http::Request;
//! use http_body_util::{BodyExt, Full};
//!
//! # async fn run(mut balancer: LoadBalancer) -> Result<(), evenkeel::BoxError> {
//! let request = Request::post("/orders")
//!     .header("host", "shop.example")
//!     .body(Full::<Bytes>::from("one of each"))?;
//! let response = balancer.send(request).await;
//! if response.status().is_success() {
//!     let body = response.into_body().collect().await?.to_bytes();
//!     println!("{} bytes", body.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Under a server, an axum router (`fallback_service`, `nest_service`), or in a program. Layers
//! of your own go around it; one that belongs in the middle wants a stack by hand, which is these
//! eight lines.
//!
//! # Defaults
//!
//! | layer | by default |
//! |---|---|
//! | forwarded | for the peers that the proxy trusts: none; [`forwarded`](Builder::forwarded) |
//! | access log | none; [`access_log`](Builder::access_log) |
//! | respond | plain text |
//! | sticky | none, as it needs a key; [`sticky`](Builder::sticky) |
//! | failover | one more try |
//! | balance | round robin |
//! | health | GET `/health` every 5 s, and outliers of live traffic; backends without that path are down: see [`health`](Builder::health) |
//! | proxy | as [`Proxy::new`] |
//!
//! # When it fails
//!
//! It answers, with the statuses of [`respond`]; its error is `Infallible`. A
//! program that wants the [`Error`] itself leaves `RespondLayer` out of a stack of
//! its own.
//!
//! # Cost
//!
//! That of its layers: no box, no clone of the stack a request. All of them, stacked by hand over a
//! service that answers at once: about 1,000 ns and three allocations on a shared cloud core, a
//! quarter of it the log; with hedging and `HstsLayer` about 1,150 ns: produced by
//! `benches/layers.rs`.
//!
//! A `LoadBalancer` costs less than that: no other layer stands between the balancer and the proxy,
//! so the pick is passed on as an argument instead of as a
//! [`Selected`](crate::context::Selected) extension, except for a request that waited for room. That
//! saves one allocation. Two are left: the record, and the table of the request's extensions, which
//! under `serve` is that of an earlier request.

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
use tower_layer::Layer;
use tower_service::Service;

#[cfg(feature = "sticky")]
use self::optional::Optional;
#[cfg(feature = "access-log")]
use crate::access_log::{self, AccessLog, AccessLogLayer, Entry, Sink};
#[cfg(feature = "sticky")]
use crate::sticky::{Sticky, StickyLayer};
use crate::{
    balance::{self, BalanceLayer, StackBalance},
    error::{BoxError, ConfigError, Error},
    failover::{Failover, FailoverLayer},
    forwarded::{Forwarded, ForwardedLayer},
    health::{self, Health, HealthLayer},
    pool::Pool,
    proxy::{self, Proxy},
    respond::{self, Respond, RespondLayer},
};

type Core = Failover<StackBalance<Health<Proxy>>>;
#[cfg(feature = "sticky")]
type Session = Optional<Sticky<Core>, Core>;
#[cfg(not(feature = "sticky"))]
type Session = Core;
#[cfg(feature = "access-log")]
type Stack = Forwarded<AccessLog<Respond<Session>>>;
#[cfg(not(feature = "access-log"))]
type Stack = Forwarded<Respond<Session>>;

type RespondBody = respond::ResponseBody<balance::ResponseBody<health::ResponseBody<proxy::Body>>>;
#[cfg(feature = "access-log")]
type StackBody = access_log::ResponseBody<RespondBody>;
#[cfg(not(feature = "access-log"))]
type StackBody = RespondBody;

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

    /// Begins with the defaults.
    pub fn builder(pool: Pool) -> Builder {
        Builder {
            forwarded: None,
            #[cfg(feature = "access-log")]
            access_log: None,
            respond: RespondLayer::new(),
            #[cfg(feature = "sticky")]
            sticky: None,
            failover: FailoverLayer::new(),
            balance: BalanceLayer::new(pool.clone()),
            health: HealthLayer::new(pool.clone()),
            proxy: Proxy::new(),
            pool,
        }
    }
}

impl LoadBalancer {
    /// Sends a request as a client. What fails is answered for, as under a server: with the
    /// statuses of [`respond`].
    ///
    /// tower's `balancer.ready().await?.call(request)` does the same, but has to be told the type
    /// of the request: `ServiceExt::<Request<B>>::ready(&mut balancer)`. `balancer.oneshot(request)`
    /// does not, and takes a clone.
    pub async fn send<B>(&mut self, request: Request<B>) -> Response<Body>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Starts the checks where they do not run.
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

/// Puts the canonical stack together; made by [`LoadBalancer::builder`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    forwarded: Option<ForwardedLayer>,
    pool: Pool,
    #[cfg(feature = "access-log")]
    access_log: Option<AccessLogLayer>,
    respond: RespondLayer,
    #[cfg(feature = "sticky")]
    sticky: Option<StickyLayer>,
    failover: FailoverLayer,
    balance: BalanceLayer,
    health: HealthLayer,
    proxy: Proxy,
}

impl Builder {
    /// Sets how the client of a request that came by way of other balancers is found.
    ///
    /// Default: in `X-Forwarded-For`, behind the peers that the [proxy](Self::proxy) trusts
    /// ([`Proxy::trusted_peers`]).
    pub fn forwarded(mut self, layer: ForwardedLayer) -> Self {
        self.forwarded = Some(layer);
        self
    }

    /// Logs each request.
    ///
    /// Default: none.
    #[cfg(feature = "access-log")]
    pub fn access_log(mut self, layer: AccessLogLayer) -> Self {
        self.access_log = Some(layer);
        self
    }

    /// Sets how failures are answered for.
    ///
    /// Default: [`RespondLayer::new`].
    pub fn respond(mut self, layer: RespondLayer) -> Self {
        self.respond = layer;
        self
    }

    /// Keeps sessions on their backends.
    ///
    /// Default: none.
    ///
    /// # Errors
    ///
    /// When the layer was made for another pool: sessions would be bound to backends that no
    /// request is sent to.
    #[cfg(feature = "sticky")]
    pub fn sticky(mut self, layer: StickyLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("sticky", layer.pool())?;
        self.sticky = Some(layer);
        Ok(self)
    }

    /// Sets how often and when another backend is tried.
    ///
    /// Default: [`FailoverLayer::new`].
    pub fn failover(mut self, layer: FailoverLayer) -> Self {
        self.failover = layer;
        self
    }

    /// Sets the strategy and the queue.
    ///
    /// Default: [`BalanceLayer::new`].
    ///
    /// # Errors
    ///
    /// When the layer was made for another pool: requests would go to backends that are not
    /// checked.
    pub fn balance(mut self, layer: BalanceLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("balance", layer.pool())?;
        self.balance = layer;
        Ok(self)
    }

    /// Sets how backends are checked and judged. With `HealthLayer::no_checks`, backends that
    /// have nothing to check are up.
    ///
    /// Default: [`HealthLayer::new`].
    ///
    /// # Errors
    ///
    /// When the layer was made for another pool: its checks would say nothing about the backends
    /// that requests are sent to.
    pub fn health(mut self, layer: HealthLayer) -> Result<Self, ConfigError> {
        self.refuse_other_pool("health", layer.pool())?;
        self.health = layer;
        Ok(self)
    }

    /// Sets how requests are forwarded.
    ///
    /// Default: [`Proxy::new`].
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    fn refuse_other_pool(&self, field: &str, pool: &Pool) -> Result<(), ConfigError> {
        match pool.is_same(&self.pool) {
            true => Ok(()),
            false => Err(ConfigError::new(
                field,
                "made for another pool: a layer for the pool given to `LoadBalancer::builder` \
                 is accepted",
            )),
        }
    }

    /// Returns the service. Within a runtime, checks begin now; else with the first request.
    #[must_use]
    pub fn build(self) -> LoadBalancer {
        let forwarded = self
            .forwarded
            .unwrap_or_else(|| ForwardedLayer::new(self.proxy.trusts().clone()));
        let core = self.health.layer(self.proxy);
        let core = StackBalance::new(self.balance.layer(core));
        let core = self.failover.layer(core);
        #[cfg(feature = "sticky")]
        let core = match self.sticky {
            Some(sticky) => Optional::With(sticky.layer(core)),
            None => Optional::Without(core),
        };
        let stack = self.respond.layer(core);
        #[cfg(feature = "access-log")]
        let stack = self
            .access_log
            .unwrap_or_else(|| AccessLogLayer::new(NoSink))
            .layer(stack);
        LoadBalancer {
            stack: forwarded.layer(stack),
        }
    }
}

/// Where no log is wanted.
#[cfg(feature = "access-log")]
struct NoSink;

#[cfg(feature = "access-log")]
impl Sink for NoSink {
    fn enabled(&self) -> bool {
        false
    }

    fn record(&self, _entry: &Entry<'_>) {}
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
