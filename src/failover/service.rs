//! What happens to a request.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    attempts::{Attempts, Monitor},
    future::ResponseFuture,
    layer::Settings,
    replay::{Replay, ReplayBody},
};
use crate::{
    context::Exchange,
    error::{BoxError, Error},
};

/// Tries another backend when one fails; see the [module](super).
#[derive(Clone)]
pub struct Failover<S> {
    inner: S,
    shared: Arc<FailoverState<S>>,
}

/// What each request takes along: one handle.
pub(super) struct FailoverState<S> {
    pub(super) settings: Settings,
    /// Cloned for each retry, which is rarer than cloning the service for each request.
    clone_source: Mutex<S>,
}

impl<S: Clone> FailoverState<S> {
    pub(super) fn clone_inner(&self) -> S {
        let source = self.clone_source.lock();
        source.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Clone> Failover<S> {
    pub(super) fn new(inner: S, settings: Settings) -> Self {
        let clone_source = Mutex::new(inner.clone());
        Self {
            inner,
            shared: Arc::new(FailoverState {
                settings,
                clone_source,
            }),
        }
    }
}

impl<S> Failover<S> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Failover<S>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let settings = &self.shared.settings;
        let mut replay = None;
        let mut request = if settings.max_attempts > 1 {
            settings.budget.deposit();
            let room = match settings.policy.keeps_body(request.method()) {
                true => settings.replay_limit,
                false => 0,
            };
            request.map(|body| {
                let (body, again) = ReplayBody::new(body, room);
                replay = Some(again);
                body
            })
        } else {
            request.map(ReplayBody::passing)
        };
        let monitor = monitor(settings, &mut request, replay.as_ref());
        let shared = (replay.is_some() || monitor.is_some()).then(|| self.shared.clone());
        ResponseFuture::new(
            self.inner.call(request),
            Attempts::new(shared, replay, monitor),
        )
    }
}

/// What is needed beside a plain retry, where anything is.
fn monitor<B>(
    settings: &Settings,
    request: &mut Request<ReplayBody<B>>,
    replay: Option<&Replay<B>>,
) -> Option<Monitor> {
    let method = request.method();
    let hedge = settings
        .hedge
        .as_ref()
        .filter(|hedge| matches!(replay, Some(Replay::Empty)) && hedge.rule.concerns(method));
    let copies = replay.is_some() && settings.retry_statuses.is_some() && method.is_idempotent();
    if hedge.is_none() && !copies && !settings.has_deadlines() {
        return None;
    }
    let (hedges, sampled) = (hedge.is_some(), hedge.is_some_and(|hedge| hedge.samples()));
    let exchange = Exchange::of(request.extensions_mut());
    let copy = copies.then(|| {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        head.extensions = request.extensions().clone();
        Box::new(head)
    });
    Some(Monitor::new(exchange, hedges, sampled, copy))
}

impl<S: fmt::Debug> fmt::Debug for Failover<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("inner", &self.inner)
            .field("settings", &self.shared.settings)
            .finish()
    }
}
