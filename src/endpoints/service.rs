//! [`Endpoints`] and [`WithEndpoints`]: the services that respond to checks.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{Body, Readiness, ResponseBody, json_response::reply, layer::Paths};

/// A service that responds to `/live` and `/ready`, and with 404 to other paths.
#[derive(Clone, Debug)]
pub struct Endpoints {
    readiness: Readiness,
    paths: Paths,
}

impl Endpoints {
    /// Makes a service that responds with the state of `readiness`.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self {
            readiness,
            paths: Paths::default(),
        }
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
        let response = own_response(&request, &self.readiness, &self.paths);
        ready(Ok(response.unwrap_or_else(|| {
            let text = "{\"error\":\"not found\"}\n".into();
            reply(StatusCode::NOT_FOUND, text, request.method())
        })))
    }
}

/// A service with endpoints in front of it; made by [`EndpointsLayer`](super::EndpointsLayer).
#[derive(Clone, Debug)]
pub struct WithEndpoints<S> {
    inner: S,
    readiness: Readiness,
    paths: Paths,
}

impl<S> WithEndpoints<S> {
    pub(super) fn new(inner: S, readiness: Readiness, paths: Paths) -> Self {
        Self {
            inner,
            readiness,
            paths,
        }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Consumes `self` and returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
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
        match own_response(&request, &self.readiness, &self.paths) {
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
    /// The response future of [`WithEndpoints`].
    #[project = ResponseFutureProject]
    #[expect(missing_docs, clippy::exhaustive_enums, reason = "an opaque future in effect")]
    #[must_use = "futures do nothing unless polled"]
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
            ResponseFutureProject::Inner { future } => future
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::inner)),
            ResponseFutureProject::Own { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(ResponseBody::own))),
                None => Poll::Pending,
            },
        }
    }
}

/// Returns the response of an endpoint, or `None` if the path is not one of an endpoint.
fn own_response<B>(
    request: &Request<B>,
    readiness: &Readiness,
    paths: &Paths,
) -> Option<Response<Body>> {
    let path = request.uri().path();
    let is = |own: &Option<_>| own.as_deref() == Some(path);
    let live = is(&paths.live);
    if !live && !is(&paths.ready) {
        return None;
    }
    let method = request.method();
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, String::new(), method);
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(header::ALLOW, allowed);
        return Some(response);
    }
    if live {
        return Some(reply(StatusCode::OK, "{\"live\":true}\n".into(), method));
    }
    let report = readiness.check();
    let status = match report.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Some(reply(status, report.json(), method))
}
