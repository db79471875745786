//! For those who check us: `/live` and `/ready`, as a service to mount or a layer in front.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, endpoints::{Endpoints, Readiness}};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let readiness = Readiness::new(pool);
//! let admin = Endpoints::new(readiness.clone()); // a service: serve it on a port of its own
//! assert!(readiness.check().is_ready());
//! readiness.fail("shutting down"); // first thing at the end: traffic goes elsewhere
//! assert!(!readiness.check().is_ready());
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! On a listener of its own ([`Endpoints`] is a service), or as [`EndpointsLayer`] in front of
//! the request stack of a public listener, above the access log if checks shall not be logged.
//! Fit for keepalived, Route 53, Kubernetes, and a load balancer before this one.
//!
//! # Defaults
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 while the process can answer at all |
//! | `/ready` | 200 while it can route: a backend is usable, and nobody called [`fail`](Readiness::fail); else 503 |
//!
//! The answer is JSON: `{"ready":false,"usable":0,"backends":3,"reasons":["no usable backend"]}`.
//! GET and HEAD are answered, other methods get 405; other paths 404, or the inner service.
//!
//! # When it fails
//!
//! It does not. It says nothing of the backends but how many there are; still, who may ask is
//! the listener's business.
//!
//! # Cost
//!
//! For a request to another path, two comparisons.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::pool::Pool;

/// Whether this instance should get traffic; a handle, shared by all who ask and tell.
#[derive(Clone)]
pub struct Readiness {
    pool: Pool,
    reasons: Arc<Mutex<Vec<String>>>,
}

impl Readiness {
    /// Is ready while the pool has a usable backend.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            reasons: Arc::default(),
        }
    }

    /// Adds a reason not to be ready: what a shutdown does first, so that whoever stands in front
    /// sends its traffic elsewhere before connections end.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut reasons = self.reasons();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// Takes a reason back.
    pub fn restore(&self, reason: &str) {
        self.reasons().retain(|r| r != reason);
    }

    /// Returns how things are now.
    #[must_use]
    pub fn check(&self) -> Report {
        let snapshot = self.pool.snapshot();
        let mut reasons = self.reasons().clone();
        if snapshot.usable() == 0 {
            reasons.push(match snapshot.held() {
                0 => "no usable backend".into(),
                _ => "no backend has passed its first check".into(),
            });
        }
        Report {
            usable: snapshot.usable(),
            backends: snapshot.backends().len(),
            reasons,
        }
    }

    fn reasons(&self) -> MutexGuard<'_, Vec<String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.check()).finish()
    }
}

/// Whether this instance should get traffic, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Backends that can take new traffic.
    pub usable: usize,
    /// All backends.
    pub backends: usize,
    /// Why not; empty when ready.
    pub reasons: Vec<String>,
}

impl Report {
    /// Returns true if there is no reason against it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    fn json(&self) -> String {
        let reasons: Vec<String> = self.reasons.iter().map(|r| quote(r)).collect();
        format!(
            "{{\"ready\":{},\"usable\":{},\"backends\":{},\"reasons\":[{}]}}\n",
            self.is_ready(),
            self.usable,
            self.backends,
            reasons.join(",")
        )
    }
}

/// A JSON string (RFC 8259 §7).
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Answers `/live` and `/ready`, and 404 for the rest; a service to mount.
#[derive(Clone, Debug)]
pub struct Endpoints {
    readiness: Readiness,
}

impl Endpoints {
    /// Answers with what `readiness` says.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness }
    }
}

impl<B> Service<Request<B>> for Endpoints {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let response = answer(&request, &self.readiness);
        ready(Ok(response.unwrap_or_else(|| {
            reply(
                StatusCode::NOT_FOUND,
                "{\"error\":\"not found\"}\n".into(),
                &request,
            )
        })))
    }
}

/// Answers `/live` and `/ready` before the inner service sees them.
#[derive(Clone, Debug)]
#[must_use]
pub struct EndpointsLayer {
    readiness: Readiness,
}

impl EndpointsLayer {
    /// Answers with what `readiness` says.
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness }
    }
}

impl<S> Layer<S> for EndpointsLayer {
    type Service = WithEndpoints<S>;

    fn layer(&self, inner: S) -> WithEndpoints<S> {
        WithEndpoints {
            inner,
            readiness: self.readiness.clone(),
        }
    }
}

/// A service behind [`EndpointsLayer`].
#[derive(Clone, Debug)]
pub struct WithEndpoints<S> {
    inner: S,
    readiness: Readiness,
}

impl<S, B, R> Service<Request<B>> for WithEndpoints<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match answer(&request, &self.readiness) {
            Some(response) => ResponseFuture::Own {
                response: Some(response),
            },
            None => ResponseFuture::Inner {
                future: self.inner.call(request),
            },
        }
    }
}

pin_project! {
    /// The response of [`WithEndpoints`].
    #[project = ResponseFutureProject]
    #[expect(missing_docs, clippy::exhaustive_enums, reason = "an opaque future in effect")]
    #[derive(Debug)]
    pub enum ResponseFuture<F> {
        Inner { #[pin] future: F },
        Own { response: Option<Response<Body>> },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ResponseFutureProject::Inner { future } => future.poll(cx).map_ok(|response| {
                response.map(|body| ResponseBody {
                    inner: Some(body),
                    own: Body::default(),
                })
            }),
            ResponseFutureProject::Own { response } => match response.take() {
                Some(response) => {
                    Poll::Ready(Ok(response.map(|own| ResponseBody { inner: None, own })))
                }
                None => Poll::Pending,
            },
        }
    }
}

/// A short text.
#[derive(Clone, Debug, Default)]
pub struct Body {
    text: Bytes,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let text = std::mem::take(&mut self.get_mut().text);
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}

pin_project! {
    /// The inner service's body, or a short text.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        own: Body,
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            own: Body::default(),
        }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        match this.inner.as_pin_mut() {
            Some(inner) => inner.poll_frame(cx),
            None => Pin::new(this.own)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Some(inner) => inner.is_end_stream(),
            None => self.own.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => self.own.size_hint(),
        }
    }
}

fn answer<B>(request: &Request<B>, readiness: &Readiness) -> Option<Response<Body>> {
    let path = request.uri().path();
    if path != LIVE && path != READY {
        return None;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, String::new(), request);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return Some(response);
    }
    if path == LIVE {
        return Some(reply(StatusCode::OK, "{\"live\":true}\n".into(), request));
    }
    let report = readiness.check();
    let status = match report.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Some(reply(status, report.json(), request))
}

fn reply<B>(status: StatusCode, text: String, request: &Request<B>) -> Response<Body> {
    let length = text.len();
    let text = match *request.method() == Method::HEAD {
        true => Bytes::new(),
        false => text.into(),
    };
    let mut response = Response::new(Body { text });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const LIVE: &str = "/live";
const READY: &str = "/ready";
