//! Tells browsers to come by https only.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, header::STRICT_TRANSPORT_SECURITY};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::context::ConnInfo;

/// Adds `Strict-Transport-Security` to what is answered over TLS (RFC 6797): a browser that saw
/// it comes by https only, and lets nobody click past a bad certificate.
///
/// Never over cleartext, which RFC 6797 §7.2 forbids, nor where the connection is unknown; never
/// in place of one that the application set. Put it outside the layer that answers errors, so
/// that those carry it too.
///
/// **Deployment caveat.** A browser keeps it for as long as it says, for every port of the host. To
/// go back to cleartext, serve [`max_age`](Self::max_age) zero over https first. A trial on
/// `localhost` is better off without it.
#[derive(Clone, Debug)]
#[must_use]
pub struct HstsLayer {
    max_age: Duration,
    subdomains: bool,
    preload: bool,
}

impl HstsLayer {
    /// Makes a layer that asks for https on this host, for a year.
    pub fn new() -> Self {
        Self {
            max_age: HSTS_MAX_AGE,
            subdomains: false,
            preload: false,
        }
    }

    /// Asks for this long, in whole seconds, from each response; zero takes back what was asked.
    ///
    /// Default: 365 days.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Asks for it on all subdomains too, those that other people run included.
    ///
    /// Default: false.
    pub fn include_subdomains(mut self, include: bool) -> Self {
        self.subdomains = include;
        self
    }

    /// Agrees that browsers ship this host in their own list, which is hard to leave. The list
    /// wants subdomains included and a year or more.
    ///
    /// Default: false.
    pub fn preload(mut self, preload: bool) -> Self {
        self.preload = preload;
        self
    }

    fn value(&self) -> HeaderValue {
        let mut value = format!("max-age={}", self.max_age.as_secs());
        if self.subdomains {
            value.push_str("; includeSubDomains");
        }
        if self.preload {
            value.push_str("; preload");
        }
        // Digits and letters: always a valid value.
        HeaderValue::from_maybe_shared(value.into_bytes())
            .unwrap_or(const { HeaderValue::from_static("max-age=31536000") })
    }
}

impl Default for HstsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for HstsLayer {
    type Service = Hsts<S>;

    fn layer(&self, inner: S) -> Hsts<S> {
        Hsts {
            inner,
            value: self.value(),
        }
    }
}

/// The service of [`HstsLayer`].
#[derive(Clone, Debug)]
pub struct Hsts<S> {
    inner: S,
    value: HeaderValue,
}

impl<S, B, R> Service<Request<B>> for Hsts<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let tls = ConnInfo::of(request.extensions()).and_then(ConnInfo::tls);
        ResponseFuture {
            value: tls.map(|_| self.value.clone()),
            future: self.inner.call(request),
        }
    }
}

pin_project! {
    /// The future of [`Hsts`].
    pub struct ResponseFuture<F> {
        #[pin]
        future: F,
        value: Option<HeaderValue>,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        if let Some(value) = this.value.take() {
            let headers = response.headers_mut();
            headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(value);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("hsts::ResponseFuture")
            .finish_non_exhaustive()
    }
}

/// A year, as the browsers' own list wants it at least.
pub(super) const HSTS_MAX_AGE: Duration = Duration::from_secs(31_536_000);
