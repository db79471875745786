//! The failover service: how a request begins.
//!
//! Three kinds of requests, decided in `call`:
//!
//! | the request | its attempts | needs the record |
//! |---|---|---|
//! | `max_attempts` is 1, and there is no deadline | `PassThrough` | no |
//! | may be retried after an error | `Retrying` | no |
//! | has a deadline, may be hedged, or a status of its response may be retried | `Monitored` | yes |
//!
//! Only the third kind inserts an `Exchange` here; for the others the balancer does, which stands
//! below.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use tower_service::Service;

use super::{
    attempts::{Attempts, Monitored, Retries},
    future::ResponseFuture,
    layer::Settings,
    replay::{Replay, ReplayBody},
};
use crate::{
    context::Exchange,
    error::{BoxError, Error},
};

/// Retries failed requests on another backend; see the [module](super).
// It has no `get_mut`: retries and hedges call clones of `clone_source`, which a change of `inner`
// would not reach.
#[derive(Clone)]
pub struct Failover<S> {
    inner: S,
    shared: Arc<FailoverState<S>>,
}

/// What all requests of a service share; each holds one handle.
pub(super) struct FailoverState<S> {
    pub(super) settings: Settings,
    /// Cloned for each retry. A clone of the service for each request would cost more.
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

    /// Returns the inner service.
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
            // Every request earns, also one that is never retried: the share is of all requests.
            settings.budget.deposit();
            // 0 keeps nothing: the body can be sent again only while nothing of it was read.
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
        let monitoring = Monitoring::of(settings, &mut request, replay.as_ref());
        let attempts = match (monitoring, replay) {
            (None, None) => Attempts::PassThrough,
            (None, Some(replay)) => Attempts::Retrying(Retries::new(self.shared.clone(), replay)),
            (Some(monitoring), replay) => {
                let replay = replay.unwrap_or(Replay::Empty);
                monitoring.begin(Retries::new(self.shared.clone(), replay))
            }
        };
        ResponseFuture::new(self.inner.call(request), attempts)
    }
}

/// What a request needs beside plain retries.
struct Monitoring {
    exchange: Exchange,
    hedges: bool,
    sampled: bool,
    head_copy: Option<Box<Parts>>,
}

impl Monitoring {
    /// Returns `None` where plain retries are all.
    fn of<B>(
        settings: &Settings,
        request: &mut Request<ReplayBody<B>>,
        replay: Option<&Replay<B>>,
    ) -> Option<Self> {
        let method = request.method();
        let hedge = settings
            .hedge
            .as_ref()
            // A body has one reader; two attempts side by side would need two.
            .filter(|hedge| matches!(replay, Some(Replay::Empty)) && hedge.rule.concerns(method));
        let copies =
            replay.is_some() && settings.retry_statuses.is_some() && method.is_idempotent();
        if hedge.is_none() && !copies && !settings.has_deadlines() {
            return None;
        }
        let (hedges, sampled) = (hedge.is_some(), hedge.is_some_and(|hedge| hedge.samples()));
        Some(Self {
            exchange: Exchange::of(request.extensions_mut()),
            hedges,
            sampled,
            head_copy: copies.then(|| Box::new(copy_of_head(request))),
        })
    }

    fn begin<S, B>(self, retries: Retries<S, B>) -> Attempts<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
    {
        Attempts::Monitored(Monitored::new(
            retries,
            self.exchange,
            self.hedges,
            self.sampled,
            self.head_copy,
        ))
    }
}

/// The extensions are cloned as well, and with them the handle of the exchange: the copy is of the
/// same request. A head that is made with `into_parts` of an empty request is the only way to make
/// `Parts`.
fn copy_of_head<B>(request: &Request<B>) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = request.method().clone();
    head.uri = request.uri().clone();
    head.version = request.version();
    head.headers = request.headers().clone();
    head.extensions = request.extensions().clone();
    head
}

impl<S: fmt::Debug> fmt::Debug for Failover<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("inner", &self.inner)
            .field("settings", &self.shared.settings)
            .finish()
    }
}
