//! [`Admin`]: what is configured, and which path gives which response.
//!
//! Nothing here blocks or awaits but the metrics service and the body of an order, so `poll_ready` is
//! always ready.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tower_service::Service;

use super::{
    Body, Denied, ResponseFuture, User,
    authorize::Authorization,
    event_stream::{self, Live, NoStream, Report},
    future::{MetricsFuture, PendingOrder},
    page, response,
    route::Route,
    samples::{Counts, Samples, Traffic},
    status::{Sources, Status},
};
use crate::{
    error::{BoxError, ConfigError},
    pool::Pool,
    stats::Stats,
};

/// The operator's API and the status page of a pool: a service to mount; see the [module](super).
///
/// Clones share the readings that rates are made of, the viewers and their limit. A setter makes a
/// service with readings and viewers of its own: call setters first.
#[derive(Clone)]
#[must_use]
pub struct Admin {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: Config,
    samples: Mutex<Samples>,
    live: Live,
}

#[derive(Clone)]
pub(super) struct Config {
    pub(super) pool: Pool,
    pub(super) authorization: Authorization,
    name: Arc<str>,
    stats: Option<Stats>,
    metrics: Option<Arc<dyn Fn(Request<()>) -> MetricsFuture + Send + Sync>>,
    max_viewers: usize,
}

impl Admin {
    /// Makes a service that shows this pool and changes nothing.
    pub fn new(pool: Pool) -> Self {
        Self::with_config(Config {
            pool,
            authorization: Authorization::default(),
            name: "".into(),
            stats: None,
            metrics: None,
            max_viewers: MAX_VIEWERS,
        })
    }

    fn with_config(config: Config) -> Self {
        let inner = Inner {
            config,
            samples: Mutex::default(),
            live: Live::new(),
        };
        // So that the first viewer sees rates.
        inner.sample();
        Self {
            inner: Arc::new(inner),
        }
    }

    fn config(&self) -> Config {
        self.inner.config.clone()
    }

    /// Sets the name of this balancer, which the page shows: an operator with several open pages must
    /// not mistake one for another.
    ///
    /// Default: none.
    pub fn name(self, name: &str) -> Self {
        Self::with_config(Config {
            name: name.into(),
            ..self.config()
        })
    }

    /// Shows numbers that a [`Stats`] records: error rates, latency, sticky sessions. They are recorded
    /// by the layer that the handle was given to. Shows the certificates of its
    /// [registry](Stats::certificates), too.
    ///
    /// Default: none. The page then shows requests, requests in flight and the latency of checks, which
    /// the pool knows.
    ///
    /// # Errors
    ///
    /// When the handle was made for another pool.
    pub fn stats(self, stats: Stats) -> Result<Self, ConfigError> {
        if !stats.pool().is_same(&self.inner.config.pool) {
            let message = "the numbers of another pool: those of the same pool are accepted";
            return Err(ConfigError::new("stats", message));
        }
        Ok(Self::with_config(Config {
            stats: Some(stats),
            ..self.config()
        }))
    }

    /// Responds to `GET /metrics` with this service: that of the metrics module, or one of the
    /// program's own that writes a text.
    ///
    /// Default: none; the path is 404.
    pub fn metrics<S, R>(self, service: S) -> Self
    where
        S: Service<Request<()>, Response = Response<R>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        R: HttpBody<Data = Bytes> + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        let metrics = move |request: Request<()>| -> MetricsFuture {
            let mut service = service.clone();
            Box::pin(async move {
                let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
                let Ok(response) = service.call(request).await;
                response.map(|body| Body::other(body.map_err(Into::into).boxed()))
            })
        };
        Self::with_config(Config {
            metrics: Some(Arc::new(metrics)),
            ..self.config()
        })
    }

    /// Accepts orders with `Authorization: Bearer` and this token. `name` stands in the log line of
    /// each order; of several tokens, each should have a name of its own. The token is kept as a digest,
    /// and compared in constant time.
    ///
    /// Default: none. Without a token and an [`authorizer`](Self::authorizer), the API is read-only.
    ///
    /// # Errors
    ///
    /// When the token has fewer than 16 characters, or others than visible ASCII, and when the name is
    /// empty. The error does not show the token.
    pub fn token(self, name: &str, token: &str) -> Result<Self, ConfigError> {
        let mut config = self.config();
        config.authorization.add_token(name, token)?;
        Ok(Self::with_config(config))
    }

    /// Accepts the orders that `authorize` accepts: it sees the head of each order that no
    /// [`token`](Self::token) authorizes, and names the user. It runs on the request's thread and must
    /// not block; a layer outside that asks another system leaves its result as a request extension.
    ///
    /// What a browser sends by itself, such as a cookie or a client certificate, is safe to read here:
    /// orders from pages of other origins are refused before.
    ///
    /// Default: none.
    pub fn authorizer(
        self,
        authorize: impl Fn(&Parts) -> Result<User, Denied> + Send + Sync + 'static,
    ) -> Self {
        let mut config = self.config();
        config.authorization.set_authorizer(Arc::new(authorize));
        Self::with_config(config)
    }

    /// Sets how many viewers may get live updates at once. Others get 503, and their page tries again.
    ///
    /// Default: 64. Each costs a connection, and an update of about 1 KiB for each backend a second. The
    /// certificates, up to 100 of about 1 KiB, are sent at its beginning and when one has changed.
    ///
    /// # Errors
    ///
    /// When it is 0.
    pub fn max_viewers(self, max: usize) -> Result<Self, ConfigError> {
        if max == 0 {
            let message = "0: 1 or more is accepted";
            return Err(ConfigError::new("max_viewers", message));
        }
        Ok(Self::with_config(Config {
            max_viewers: max,
            ..self.config()
        }))
    }

    /// Returns how many viewers get live updates now.
    #[must_use]
    pub fn viewers(&self) -> usize {
        self.inner.live.viewer_count()
    }

    /// Ends the live updates of all viewers and starts no more; all other paths work as before. Call it
    /// when the server begins to shut down, which otherwise waits for the viewers until its drain
    /// time-out.
    pub fn close(&self) {
        self.inner.live.close();
    }
}

impl Inner {
    /// Reads the counters, if they were not read just now.
    fn sample(&self) {
        let now = tokio::time::Instant::now();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.is_due(now) {
            samples.add(now, self.config.counts());
        }
    }

    pub(super) fn status(&self) -> Status {
        // The state below is of now, and its rates end now.
        self.sample();
        let stats = self.config.stats.as_ref().map(Stats::snapshot);
        let measured = stats.iter().flat_map(|stats| &stats.backends);
        let sessions: HashMap<_, _> = measured
            .map(|backend| (backend.backend.incarnation(), backend.sessions))
            .collect();
        let certificates = self.config.stats.as_ref().map(Stats::certificates);
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        Status::collect(&Sources {
            name: &self.config.name,
            writable: !self.config.authorization.is_read_only(),
            snapshot: &self.config.pool.snapshot(),
            samples: &samples,
            sessions: &sessions,
            sticky_skew: stats.and_then(|stats| stats.sticky_skew),
            is_measured: self.config.stats.is_some(),
            certificates: certificates.as_ref(),
        })
    }

    fn page(&self, method: &Method) -> Response<Body> {
        let takes_token = self.config.authorization.has_token();
        let html = page::render(&self.status(), takes_token, self.config.metrics.is_some());
        let mut response = response::text(method, "text/html; charset=utf-8", html);
        if let Ok(policy) = HeaderValue::from_str(page::policy()) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}

impl Config {
    /// Reads the counters of all backends, by incarnation.
    fn counts(&self) -> HashMap<u64, Counts> {
        let mut counts: HashMap<_, _> = self
            .pool
            .snapshot()
            .backends()
            .iter()
            .map(|backend| {
                let counts = Counts {
                    requests: backend.requests(),
                    traffic: None,
                    check: backend.last_check().map(|check| check.took),
                };
                (backend.incarnation(), counts)
            })
            .collect();
        let stats = self.stats.as_ref().map(Stats::snapshot);
        for measured in stats.into_iter().flat_map(|stats| stats.backends) {
            if let Some(counts) = counts.get_mut(&measured.backend.incarnation()) {
                counts.traffic = Some(Traffic {
                    errors: measured.statuses[SERVER_ERRORS],
                    duration: measured.duration,
                });
            }
        }
        counts
    }
}

impl Report for Inner {
    fn live(&self) -> &Live {
        &self.live
    }

    fn pool(&self) -> &Pool {
        &self.config.pool
    }

    fn parts(&self) -> event_stream::Parts {
        self.status().parts()
    }
}

impl<B: HttpBody> Service<Request<B>> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture<B>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let method = &head.method;
        let route = match Route::of(head.uri.path()) {
            Some(Route::Metrics) if self.inner.config.metrics.is_none() => None,
            route => route,
        };
        let Some(route) = route else {
            return ResponseFuture::ready(response::not_found(method));
        };
        let allowed = route.methods();
        if !allowed.split(", ").any(|allowed| method == allowed) {
            return ResponseFuture::ready(response::method_not_allowed(method, allowed));
        }
        ResponseFuture::ready(match route {
            Route::Status => self.inner.page(method),
            Route::Json => {
                let json = self.inner.status().json() + "\n";
                response::text(method, "application/json", json)
            }
            Route::Events => self.events(),
            Route::Metrics => return self.read_metrics(&head),
            Route::Order { id, action } => {
                return match PendingOrder::admit(&self.inner, &head, id, action) {
                    Ok(order) => ResponseFuture::reading(body, order),
                    Err(response) => ResponseFuture::ready(*response),
                };
            }
        })
    }
}

impl Admin {
    fn events(&self) -> Response<Body> {
        match event_stream::watch(&self.inner, self.inner.config.max_viewers) {
            Ok(events) => {
                let mut response = Response::new(Body::events(events));
                let headers = response.headers_mut();
                let content_type = HeaderValue::from_static("text/event-stream");
                headers.insert(header::CONTENT_TYPE, content_type);
                // nginx would gather the updates otherwise.
                headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
                response::secured(response)
            }
            Err(NoStream::Closed) => {
                response::no_stream("closed", "this balancer shuts down, or has no runtime")
            }
            Err(NoStream::Full) => response::no_stream(
                "too_many_viewers",
                "as many viewers get live updates as are accepted",
            ),
        }
    }

    fn read_metrics<B>(&self, head: &Parts) -> ResponseFuture<B> {
        let Some(metrics) = &self.inner.config.metrics else {
            return ResponseFuture::ready(response::not_found(&head.method));
        };
        let mut request = Request::new(());
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = head.headers.clone();
        ResponseFuture::metrics(metrics(request))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.inner.config;
        f.debug_struct("Admin")
            .field("name", &config.name)
            .field("authorization", &config.authorization)
            .field("stats", &config.stats.is_some())
            .field("metrics", &config.metrics.is_some())
            .field("live", &self.inner.live)
            .finish_non_exhaustive()
    }
}

/// More people than look at one balancer during an outage.
pub(super) const MAX_VIEWERS: usize = 64;
/// The index of the class 5xx in `BackendStats::statuses`.
const SERVER_ERRORS: usize = 5;
