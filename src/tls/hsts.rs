//! HTTP Strict Transport Security (RFC 6797): browsers use https for this host only.

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

/// Adds `Strict-Transport-Security` to responses over TLS (RFC 6797). A browser that has seen the
/// field uses https only, and lets no user override a certificate error.
///
/// The layer adds nothing to responses over cleartext, which RFC 6797 §7.2 forbids, or on
/// connections without a [`ConnInfo`], and it keeps a field that the application set. Put it
/// outside the layer that answers errors, so that those responses have the field too.
///
/// ```
/// use evenkeel::{context::{ConnInfo, Peer}, tls::HstsLayer};
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let service = HstsLayer::new().layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// }));
/// // Without TLS, the response has no such field.
/// let mut request = Request::new(());
/// request.extensions_mut().insert(ConnInfo::new(Peer::Unknown, Peer::Unknown));
/// let response = service.oneshot(request).await?;
/// assert!(!response.headers().contains_key("strict-transport-security"));
/// # Ok(())
/// # }
/// ```
///
/// **Deployment caveat.** A browser remembers the field for its `max-age`, for every port of the
/// host. To go back to cleartext, first serve [`max_age`](Self::max_age) zero over https. Do not use
/// it for a trial on `localhost`.
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

    /// Sets how long a browser remembers the field after each response, in whole seconds. Zero makes it
    /// forget.
    ///
    /// Default: 365 days.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Sets whether the field holds for all subdomains, those of other operators included.
    ///
    /// Default: `false`.
    pub fn include_subdomains(mut self, include: bool) -> Self {
        self.subdomains = include;
        self
    }

    /// Sets whether browsers may ship this host in their preload list, which is hard to leave. The list
    /// requires [`include_subdomains`](Self::include_subdomains) and a year or more.
    ///
    /// Default: `false`.
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
        // Digits and letters are always a valid value.
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

/// A year: the least that the preload list accepts.
pub(super) const HSTS_MAX_AGE: Duration = Duration::from_secs(31_536_000);
