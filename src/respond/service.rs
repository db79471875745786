//! [`Respond`]: calls the inner service, and answers in its place if it fails.
//!
//! The service never fails, which servers of hyper and axum ask for. An inner service that fails in
//! `poll_ready` is the hard case: tower forbids to call it then, and an error here would end the
//! connection. So the error waits for the next call, which it answers, and the inner service is not
//! called.
//!
//! A log and metrics above see an ordinary response; the kind of the failure reaches them by the
//! record of the request (`Exchange::fail_with`).

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{ResponseBody, grpc, layer::ErrorPage, status};
use crate::{
    context::Exchange,
    error::{BoxError, Error, ErrorKind},
};

/// Answers requests whose service failed; see [`RespondLayer`](super::RespondLayer).
#[derive(Clone)]
pub struct Respond<S> {
    inner: S,
    page: Arc<ErrorPage>,
    /// The error of `poll_ready`, which the next request is answered with.
    not_ready: Option<Arc<NotReady>>,
}

struct NotReady {
    kind: ErrorKind,
    why: String,
}

impl<S> Respond<S> {
    pub(super) fn new(inner: S, page: Arc<ErrorPage>) -> Self {
        Self {
            inner,
            page,
            not_ready: None,
        }
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for Respond<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Respond")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Respond<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if let Err(error) = ready!(self.inner.poll_ready(cx)) {
            let error = self.page.classify(error.into());
            // Kept as text: an error is not `Clone`, and the service is.
            self.not_ready = Some(Arc::new(NotReady {
                kind: error.kind(),
                why: error.to_string(),
            }));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Exchange::of(request.extensions_mut());
        // Decided now: the request is gone when it has failed.
        let form = match *request.method() {
            Method::HEAD => Form::Head,
            _ if grpc::is_call(&request) => Form::Grpc,
            _ => Form::Page,
        };
        let state = match self.not_ready.take() {
            None => State::Calling {
                future: self.inner.call(request),
            },
            Some(not_ready) => State::NotReady { not_ready },
        };
        ResponseFuture {
            state,
            exchange,
            page: self.page.clone(),
            form,
        }
    }
}

/// The form of an error response.
#[derive(Clone, Copy)]
enum Form {
    Grpc,
    /// As `Page`, without its body.
    Head,
    Page,
}

pin_project! {
    /// The response of [`Respond`].
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
        exchange: Exchange,
        page: Arc<ErrorPage>,
        form: Form,
    }
}

pin_project! {
    #[project = StateProject]
    enum State<F> {
        NotReady { not_ready: Arc<NotReady> },
        Calling { #[pin] future: F },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProject::Calling { future } => match ready!(future.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response.map(ResponseBody::inner))),
                Err(error) => this.page.classify(error.into()),
            },
            StateProject::NotReady { not_ready } => {
                Error::new(not_ready.kind).with_source(not_ready.why.as_str())
            }
        };
        this.exchange.fail_with(&error);
        tracing::debug!(target: "evenkeel::respond", kind = %error.kind(), %error, "answered for");
        Poll::Ready(Ok(match this.form {
            Form::Grpc => grpc::answer(&error),
            Form::Head => answer(&error, this.page, true),
            Form::Page => answer(&error, this.page, false),
        }))
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("respond::ResponseFuture")
            .finish_non_exhaustive()
    }
}

fn answer<R>(error: &Error, page: &ErrorPage, is_head: bool) -> Response<ResponseBody<R>> {
    let status = status(error.kind());
    let text = page.text(status);
    let length = text.len();
    // The length is that of the GET (RFC 9110 §9.3.2); the body is not sent.
    let shown = if is_head { Bytes::new() } else { text };
    let mut response = Response::new(ResponseBody::own(shown));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, page.content_type.clone());
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if error.kind() == ErrorKind::MethodRefused {
        // RFC 9110 §15.5.6 asks for the list; any other method may be fine.
        let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    if let Some(after) = error.retry_after() {
        headers.insert(header::RETRY_AFTER, whole_seconds(after).into());
    }
    response
}

/// Rounds up, so that a client does not retry too early (RFC 9110 §10.2.3).
fn whole_seconds(after: Duration) -> u64 {
    after.as_secs() + u64::from(after.subsec_nanos() > 0)
}
