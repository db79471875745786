//! What happens to a request.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep, timeout_at};
use tower_service::Service;

use super::{
    body::{ResponseBody, Running},
    layer::{HELD_TIMEOUT, RETRY_AFTER},
    queue::{Place, Queue},
    session::{rehome, settle, try_half_open},
    strategy::{Ended, Pick, Strategy},
};
use crate::{
    context::{Exchange, Outcome, Selected, StickyVerdict, Tunnel, Unasked},
    error::{BoxError, Error, ErrorKind},
    pool::{Lease, Locality, Pool, Snapshot},
};

/// Picks a backend for each request and counts it as in flight; see the [module](super).
#[derive(Clone)]
pub struct Balance<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Balance<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>) -> Self {
        Self { inner, shared }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Balance<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.begin(request, |inner, mut request, running| {
            note(&mut request, running);
            inner.call(request)
        })
    }
}

impl<S> Balance<S> {
    /// Picks a backend, and calls the inner service by `call` where there is no wait for one.
    #[inline]
    pub(super) fn begin<B>(
        &mut self,
        mut request: Request<B>,
        call: impl FnOnce(&mut S, Request<B>, &Running) -> S::Future,
    ) -> ResponseFuture<S::Future>
    where
        S: Service<Request<B>> + Clone + Send + 'static,
        B: Send + 'static,
    {
        let exchange = Exchange::of(request.extensions_mut());
        let state = match self.shared.route(&request, &exchange, Search::Quick) {
            Ok(route) => {
                let running = route.begin(&self.shared, exchange);
                State::Calling {
                    inner: call(&mut self.inner, request, &running),
                    running: Some(running),
                }
            }
            Err(why) => match self.shared.admit(why, &exchange) {
                Ok(waiting) => {
                    let next = self.inner.clone();
                    let inner = std::mem::replace(&mut self.inner, next);
                    State::Waiting {
                        wait: Box::pin(waiting.call(inner, exchange, request)),
                    }
                }
                Err(error) => State::Failed { error: Some(error) },
            },
        };
        ResponseFuture { state }
    }
}

impl<S: fmt::Debug> fmt::Debug for Balance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("inner", &self.inner)
            .field("shared", &self.shared)
            .finish()
    }
}

/// What all services of one layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) strategy: Arc<dyn Strategy>,
    pub(super) queue: Arc<Queue>,
}

impl Shared {
    fn route<B>(
        &self,
        request: &Request<B>,
        exchange: &Exchange,
        search: Search,
    ) -> Result<Route, Blocked> {
        let bounds = exchange.bounds();
        let snapshot = self.pool.snapshot();
        // Behind those in line; a retry stood in it before.
        if search == Search::Quick && self.queue.has_line() && bounds.tried.is_empty() {
            return Err(Blocked::by(&snapshot, &[]));
        }
        let trial = match snapshot.trials() {
            [] => None,
            _ if !bounds.tried.is_empty() || !request.method().is_idempotent() => None,
            trials => try_half_open(trials, bounds.wanted.as_ref()),
        };
        let (kept, verdict) = match bounds.wanted {
            None => (trial, None),
            Some(_) if trial.is_some() => (trial, Some(StickyVerdict::Valid)),
            Some(wanted) => settle(wanted, &snapshot),
        };
        let lease = kept.or_else(|| {
            let mut pick = Pick::new(request).excluding(&bounds.tried);
            if search == Search::Thorough {
                pick = pick.thorough();
            }
            let moves = verdict == Some(StickyVerdict::Down) && self.strategy.yields_to_sessions();
            let away = match bounds.tried.len() {
                0 | 1 => None,
                _ => self.pick_away(&snapshot, &pick, exchange, moves),
            };
            away.or_else(|| self.choose(&snapshot, &pick, moves))
        });
        match lease {
            Some(lease) => Ok(Route {
                lease,
                verdict,
                strategy: match snapshot.in_panic_mode() {
                    false => self.strategy.name(),
                    true => PANIC,
                },
                candidates: snapshot.usable(),
            }),
            None => Err(Blocked::by(&snapshot, &bounds.tried)),
        }
    }

    fn choose(&self, snapshot: &Snapshot, pick: &Pick<'_>, moves: bool) -> Option<Lease> {
        let home = match moves {
            true => rehome(snapshot, pick),
            false => None,
        };
        home.or_else(|| self.strategy.pick(snapshot, pick))
    }

    /// Picks far from where it failed: one failure says that a backend is gone, two say that
    /// their rack, zone or region may be, and there may be no third attempt after this.
    #[cold]
    fn pick_away(
        &self,
        snapshot: &Snapshot,
        pick: &Pick<'_>,
        exchange: &Exchange,
        moves: bool,
    ) -> Option<Lease> {
        let places: Vec<Locality> = exchange.attempts(|all| {
            let places = all.iter().map(|a| a.backend.configured_locality());
            places.flatten().cloned().collect()
        });
        if places.is_empty() {
            return None;
        }
        // In another region, then in another zone, then in another rack.
        (0..LOCALITY_SEGMENTS).find_map(|shared| {
            let pick = pick.clone().away_from(&places, shared).thorough();
            self.choose(snapshot, &pick, moves)
        })
    }

    fn admit(self: &Arc<Self>, why: Blocked, exchange: &Exchange) -> Result<Waiting, Error> {
        let at_most = match why {
            Blocked::Full => self.queue.timeout(),
            Blocked::Held => HELD_TIMEOUT,
            Blocked::Nothing => return Err(refusal(ErrorKind::NoBackend)),
        };
        let is_retry = !exchange.attempts(<[_]>::is_empty);
        let Some(place) = self.queue.enter(!is_retry) else {
            return Err(refusal(ErrorKind::Overloaded));
        };
        Ok(Waiting {
            shared: self.clone(),
            place,
            is_retry,
            at_most,
        })
    }
}

/// A backend that was found, and how.
struct Route {
    lease: Lease,
    verdict: Option<StickyVerdict>,
    strategy: &'static str,
    candidates: usize,
}

impl Route {
    fn begin(self, shared: &Arc<Shared>, exchange: Exchange) -> Running {
        let backend = self.lease.backend().clone();
        let number = exchange.route(self.strategy, self.candidates, self.verdict, backend);
        let watched = shared.strategy.wants_ends().then(|| shared.clone());
        Running::new(self.lease, exchange, number, watched)
    }
}

fn note<B>(request: &mut Request<B>, running: &Running) {
    let backend = running.backend().clone();
    request.extensions_mut().insert(Selected(backend));
}

/// How far a pick goes to find a backend with room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// A bounded number of looks.
    Quick,
    /// Every backend: for the rare request that waits.
    Thorough,
}

/// Why there is no backend for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocked {
    /// Every candidate is at its cap.
    Full,
    /// None is usable, and some wait for their first check.
    Held,
    /// There is none that was not tried.
    Nothing,
}

impl Blocked {
    fn by(snapshot: &Snapshot, tried: &[u64]) -> Self {
        // Ends at the first that was not tried, so after as many looks as there were attempts.
        let mut usable = snapshot.groups().iter().flat_map(|g| g.backends());
        if usable.any(|b| !tried.contains(&b.incarnation())) {
            Self::Full
        } else if snapshot.usable() == 0 && snapshot.held() > 0 {
            Self::Held
        } else {
            Self::Nothing
        }
    }
}

/// A request in the queue.
struct Waiting {
    shared: Arc<Shared>,
    place: Place,
    is_retry: bool,
    at_most: Duration,
}

impl Waiting {
    /// Waits until a backend has room, then calls the inner service.
    async fn call<S, B>(
        self,
        mut inner: S,
        exchange: Exchange,
        request: Request<B>,
    ) -> Result<(S::Future, Running), Error>
    where
        S: Service<Request<B>>,
    {
        // A body may be `Send` alone; what is lent while waiting must be `Sync`.
        let (head, body) = request.into_parts();
        let head = Request::from_parts(head, ());
        let until = Instant::now() + self.at_most;
        let route = match timeout_at(until, self.route(&exchange, &head)).await {
            Ok(Some(route)) => route,
            Ok(None) => return Err(refusal(ErrorKind::NoBackend)),
            Err(_elapsed) => return Err(refusal(ErrorKind::QueueTimeout)),
        };
        drop(self.place);
        let mut request = head.map(|()| body);
        let running = route.begin(&self.shared, exchange);
        note(&mut request, &running);
        Ok((inner.call(request), running))
    }

    /// Waits for a backend; `None` once there is none to wait for.
    async fn route(&self, exchange: &Exchange, request: &Request<()>) -> Option<Route> {
        let _turn = self.place.turn().await;
        loop {
            // Listens before it looks: what changes in between is not missed.
            let mut changed = pin!(self.shared.pool.changed());
            if !self.is_retry {
                changed.as_mut().enable();
            }
            match self.shared.route(request, exchange, Search::Thorough) {
                Ok(route) => return Some(route),
                Err(Blocked::Nothing) => return None,
                // A free slot wakes one waiter. One that must not use it, for it tried that
                // backend, would keep it from another: it looks now and then instead.
                Err(Blocked::Full | Blocked::Held) if self.is_retry => sleep(RETRY_LOOK).await,
                Err(Blocked::Full | Blocked::Held) => changed.await,
            }
        }
    }
}

fn refusal(kind: ErrorKind) -> Error {
    Error::new(kind).with_retry_after(RETRY_AFTER)
}

pin_project! {
    /// The response to come: the inner service's, or the wait for a backend before it.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling {
            #[pin]
            inner: F,
            running: Option<Running>,
        },
        // Boxed because it is rare, and large.
        Waiting {
            wait: Pin<Box<dyn Future<Output = Result<(F, Running), Error>> + Send>>,
        },
        Failed {
            error: Option<Error>,
        },
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                // A response is moved once.
                StateProj::Calling { inner, running } => {
                    return match inner.poll(cx) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(Ok(response)) => Poll::Ready(Ok(answer(response, running))),
                        Poll::Ready(Err(error)) => {
                            Poll::Ready(Err(fail(Error::from_boxed(error.into()), running)))
                        }
                    };
                }
                StateProj::Waiting { wait } => {
                    let next = match ready!(wait.as_mut().poll(cx)) {
                        Ok((inner, running)) => State::Calling {
                            inner,
                            running: Some(running),
                        },
                        Err(error) => State::Failed { error: Some(error) },
                    };
                    state.set(next);
                }
                StateProj::Failed { error } => {
                    let error = error.take();
                    return Poll::Ready(Err(
                        error.unwrap_or_else(|| Error::new(ErrorKind::NoBackend))
                    ));
                }
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Calling { .. } => "calling",
            State::Waiting { .. } => "waiting",
            State::Failed { .. } => "failed",
        };
        f.debug_tuple("ResponseFuture").field(&state).finish()
    }
}

#[inline]
fn answer<R: Body>(
    response: Response<R>,
    running: &mut Option<Running>,
) -> Response<ResponseBody<R>> {
    let mut running = running.take();
    if response.extensions().get::<Unasked>().is_some() {
        // Dropped without a word, the attempt was cancelled.
        drop(running.take());
    }
    if let Some(running) = &mut running {
        running.tell(Ended::Answered(response.status()));
    }
    if let Some(tunnel) = response.extensions().get::<Tunnel>() {
        if let Some(running) = running.take() {
            tunnel.hold(running.until_dropped());
        }
    }
    response.map(|body| ResponseBody::new(body, running))
}

#[cold]
fn fail(error: Error, running: &mut Option<Running>) -> Error {
    if let Some(mut running) = running.take() {
        running.tell(Ended::Failed(error.kind()));
        running.end(Outcome::Failed(error.kind()));
    }
    error
}

/// What stands for the strategy's name while the pool panics.
const PANIC: &str = "panic";
/// Region, zone and rack.
const LOCALITY_SEGMENTS: usize = 3;
/// Soon enough for a retry, seldom enough to cost nothing.
const RETRY_LOOK: Duration = Duration::from_millis(20);
