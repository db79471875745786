//! Refuses requests for hosts that the TLS session of their connection does not cover.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::ResponseBody;
use crate::context::{ConnInfo, TlsInfo};

/// Answers a request with 421 (RFC 9110 §15.5.20) if the policy of its host is not the one that its
/// connection's handshake followed; see [`TlsConfig::host`](super::TlsConfig::host).
///
/// `evenkeel::serve` does so itself, and needs no such layer. Under `axum::serve` and other servers, put
/// it outside all layers that act on requests. Requests over cleartext, and those without a [`ConnInfo`],
/// go to the inner service, as do all requests if every host has the same policy.
///
/// ```
/// use evenkeel::tls::MisdirectedLayer;
/// use http::{Request, Response};
/// use http_body_util::Empty;
/// use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let service = MisdirectedLayer::new().layer(service_fn(|_: Request<()>| async {
///     Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
/// }));
/// let response = service.oneshot(Request::get("/").header("host", "a.test").body(())?).await?;
/// assert_eq!(response.status(), 200, "not over TLS");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct MisdirectedLayer {
    _private: (),
}

impl MisdirectedLayer {
    /// Makes the layer. The policies come with each connection.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for MisdirectedLayer {
    type Service = Misdirected<S>;

    fn layer(&self, inner: S) -> Misdirected<S> {
        Misdirected { inner }
    }
}

/// The service of [`MisdirectedLayer`].
#[derive(Clone, Debug)]
pub struct Misdirected<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Misdirected<S>
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
        let tls = ConnInfo::of(request.extensions()).and_then(ConnInfo::tls);
        let covers = |tls: &TlsInfo| tls.covers_request(request.uri(), request.headers());
        let kind = match tls.is_none_or(covers) {
            true => Kind::Inner {
                future: self.inner.call(request),
            },
            false => Kind::Own,
        };
        ResponseFuture { kind }
    }
}

pin_project! {
    /// The future of [`Misdirected`].
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProject]
    enum Kind<F> {
        Inner { #[pin] future: F },
        Own,
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project().kind.project() {
            KindProject::Inner { future } => ready!(future.poll(cx))?.map(ResponseBody::inner),
            KindProject::Own => misdirected(),
        }))
    }
}

fn misdirected<B>() -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody::own(MISDIRECTED));
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    let text = const { HeaderValue::from_static("text/plain") };
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("misdirected::ResponseFuture")
            .finish_non_exhaustive()
    }
}

const MISDIRECTED: &[u8] = b"The TLS connection was made for another host.\n";
