//! The request service, as the connections of HTTP/1.1 and HTTP/2 call it.
//!
//! Three callers need the service in three ways:
//!
//! | caller | how it calls |
//! |---|---|
//! | HTTP/1.1 ([`http1::serve`](super::http1)) | borrows the service itself: one task, one request at a time, and it can wait for readiness while it watches the client |
//! | HTTP/2 | [`AppService::call_stream`], once for each stream; the streams share one service |
//! | an upgrade or CONNECT over HTTP/1.1 | hyper's codec, through `hyper::service::Service` |
//!
//! A tower service may be called only after its `poll_ready` has returned ready. Under HTTP/2 that
//! wait cannot stay with the connection, as the next stream would wait behind it, so a request that
//! has to wait takes the service along as [`Call::Waiting`], and the connection goes on with a
//! clone. The clone, and not the original, stays: the original may hold a place in a queue (a
//! permit of `ConcurrencyLimit`, for example) that only its own `poll_ready` can take up.
//! `a_stream_that_waits_for_the_service_gets_its_turn` holds this.
//!
//! Dropping a [`Call`] is how a request is cancelled: by the client's end, a reset, the end of the
//! connection or a time-out. `give_up` differs from a drop only in what the layers above learn.

#[cfg(feature = "http2")]
use std::cell::Cell;
use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{
    Body,
    body::TrackedBody,
    http::ConnectionReporter,
    state::{ExchangeGuard, State},
};
#[cfg(feature = "http2")]
use crate::context::Interim;
#[cfg(feature = "http2")]
use crate::server::recycled;
use crate::{context::service_poll, error::BoxError};

/// The request service as hyper calls it.
pub(super) struct AppService<S> {
    // One task at a time calls it. To clone the service for each request would cost more than the
    // borrow flag.
    pub(super) app: RefCell<S>,
    /// Where refusals of this connection are reported.
    pub(super) reporter: ConnectionReporter,
    /// The state of the connection: exchanges, deadlines, shutdown.
    pub(super) state: Arc<State>,
    /// The number of HTTP/2 streams whose requests were read.
    ///
    /// Read by the driver, for the limit of resets and for the idle time-out. It wraps.
    #[cfg(feature = "http2")]
    pub(super) streams_begun: Cell<u32>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for AppService<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: HttpBody,
{
    type Response = Response<TrackedBody<B>>;
    type Error = BoxError;
    type Future = UpgradeFuture<S, S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // A request that may upgrade has no body.
        let mut request = request.map(|_| Body::empty());
        let exchange = Some(self.begin(&mut request));
        let connect = request.method() == Method::CONNECT;
        UpgradeFuture {
            call: self.answer(request),
            exchange,
            connect,
        }
    }
}

impl<S> AppService<S> {
    /// Begins the exchange of a request, and writes the `ConnInfo` to its extensions.
    ///
    /// The guard has to live until response and request body are complete: its drop starts the idle
    /// time.
    pub(super) fn begin<B>(&self, request: &mut Request<B>) -> ExchangeGuard {
        request.extensions_mut().insert(self.reporter.info.clone());
        self.state.begin()
    }

    /// Calls the service with the request of an HTTP/2 stream.
    #[cfg(feature = "http2")]
    pub(super) fn call_stream<B>(
        &self,
        mut request: Request<Body>,
        interim: Interim,
    ) -> (Call<S, S::Future>, ExchangeGuard)
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
    {
        // A table with content is kept: the codec puts the protocol of an extended CONNECT there.
        if request.extensions().is_empty() {
            *request.extensions_mut() = recycled::take();
        }
        self.count_stream();
        request.extensions_mut().insert(interim);
        let exchange = self.begin(&mut request);
        (self.answer(request), exchange)
    }

    /// Counts a stream whose request is read. One that the client resets counts as begun as well: it would
    /// otherwise be missed among those that were answered.
    #[cfg(feature = "http2")]
    pub(super) fn count_stream(&self) {
        self.streams_begun
            .set(self.streams_begun.get().wrapping_add(1));
    }

    /// Polls the service once without a waker, since in the usual case it is ready and the waker
    /// would be registered for nothing. If it is not, the returned [`Call`] polls again, with the
    /// waker of its task.
    fn answer<B>(&self, request: Request<Body>) -> Call<S, S::Future>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone,
        S::Error: Into<BoxError>,
    {
        let mut app = self.app.borrow_mut();
        match app.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Call::Running {
                future: Some(app.call(request)),
            },
            Poll::Ready(Err(error)) => Call::Failed {
                error: Some(error.into()),
            },
            Poll::Pending => {
                // The service that is waited for goes with the request: it may have a place in a queue,
                // which no other task would take up.
                let fresh = app.clone();
                Call::Waiting {
                    app: std::mem::replace(&mut *app, fresh),
                    request: Some(request),
                }
            }
        }
    }
}

pin_project! {
    /// A call of the service.
    ///
    /// Dropping it cancels the request.
    #[project = CallProject]
    pub(super) enum Call<S, F> {
        Running { #[pin] future: Option<F> },
        Failed { error: Option<BoxError> },
        // The service was not ready: the call waits until it is.
        Waiting { app: S, request: Option<Request<Body>> },
    }
}

#[cfg(feature = "http2")]
impl<S, F> Call<S, F> {
    /// Drops the future of the service; the server answers with `status` in its place.
    ///
    /// A layer such as the access log then knows the status that the client gets, and does not take
    /// the drop for a client that disconnected.
    pub(super) fn give_up(self: Pin<&mut Self>, status: StatusCode) {
        if let CallProject::Running { future } = self.project() {
            service_poll::give_up(future, status);
        }
    }
}

impl<S, B> Future for Call<S, S::Future>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<B>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let future = match self.as_mut().project() {
                CallProject::Running { future } => {
                    return service_poll::poll(future, cx).map_err(Into::into);
                }
                CallProject::Failed { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => return Poll::Pending,
                },
                CallProject::Waiting { app, request } => {
                    ready!(app.poll_ready(cx)).map_err(Into::into)?;
                    match request.take() {
                        Some(request) => app.call(request),
                        None => return Poll::Pending,
                    }
                }
            };
            let future = Some(future);
            self.set(Self::Running { future });
        }
    }
}

pin_project! {
    /// The exchange of a request that may upgrade.
    ///
    /// Holds the exchange until the response body takes it over.
    pub(super) struct UpgradeFuture<S, F> {
        #[pin]
        call: Call<S, F>,
        exchange: Option<ExchangeGuard>,
        connect: bool,
    }
}

impl<S, B> Future for UpgradeFuture<S, S::Future>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<TrackedBody<B>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.call.poll(cx))?;
        // A poll after completion, which hyper does not make.
        let Some(mut exchange) = this.exchange.take() else {
            return Poll::Pending;
        };
        conclude(&mut response, &mut exchange, *this.connect);
        Poll::Ready(Ok(response.map(|inner| TrackedBody { inner, exchange })))
    }
}

/// Decides what follows the response in HTTP/1.1: a tunnel, more requests, or a close.
///
/// `connect` says whether the method is CONNECT: any 2xx to it opens a tunnel (RFC 9110 §9.3.6).
/// Call it before the head is written, since it can add a field.
pub(super) fn conclude<B>(response: &mut Response<B>, exchange: &mut ExchangeGuard, connect: bool) {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success()) {
        exchange.opens_tunnel();
    } else if exchange.state().is_draining() {
        let close = HeaderValue::from_static("close");
        // Appended, so that the fields which the service names there still end at this hop.
        response.headers_mut().append(CONNECTION, close);
    }
}
