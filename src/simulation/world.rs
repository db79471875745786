//! The world outside of the pool: backends that answer checks and requests as scheduled,
//! and clients that may go away.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep},
};
use tower_service::Service;

use super::{
    oracle::{Oracle, Ticket, Why},
    schedule::{Behaviour, Check, FIRST_PORT, PORTS, Plan, Settings, Traffic, Upload},
};
use crate::{
    context::{CallSelected, Exchange, Selected, Selection},
    error::{Error, ErrorKind},
    health::{CheckFuture, CheckReport, HealthCheck, Target},
    pool::Backend,
};

/// The backends and clients, and the oracle that observes them.
pub(super) struct World {
    began: Instant,
    /// When the last runtime ended.
    left: Mutex<Option<Instant>>,
    pub(super) settings: Settings,
    ports: Mutex<Vec<Behaviour>>,
    /// Notified when the backend at a port dies: its unfinished answers are lost.
    deaths: Vec<Notify>,
    oracle: Mutex<Oracle>,
}

impl World {
    pub(super) async fn new(settings: Settings) -> Arc<Self> {
        // Ahead of every clock that a later runtime may begin with.
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let well = Behaviour {
            check: Check::Pass(5),
            traffic: Traffic::Ok(5),
        };
        Arc::new(Self {
            began: Instant::now(),
            left: Mutex::new(None),
            oracle: Mutex::new(Oracle::new(settings.clone())),
            settings,
            ports: Mutex::new(vec![well; usize::from(PORTS)]),
            deaths: (0..PORTS).map(|_| Notify::new()).collect(),
        })
    }

    pub(super) fn at(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Turns a new runtime's clock on to where the last one's stood.
    pub(super) async fn go_on(&self) {
        self.oracle().trace.muted = false;
        let left = self.left.lock().unwrap().take();
        if let Some(left) = left {
            tokio::time::advance(left.saturating_duration_since(Instant::now())).await;
        }
    }

    /// Notes where the clock stands.
    pub(super) fn leave(&self) {
        *self.left.lock().unwrap() = Some(Instant::now());
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn behave(&self, port: u16, behaviour: Behaviour) {
        let index = usize::from(port - FIRST_PORT);
        self.ports.lock().unwrap()[index] = behaviour;
        if matches!(behaviour.traffic, Traffic::Refuse) {
            self.deaths[index].notify_waiters();
        }
    }

    fn behaviour(&self, backend: &Backend) -> Behaviour {
        self.ports.lock().unwrap()[usize::from(backend.port() - FIRST_PORT)]
    }

    fn death(&self, backend: &Backend) -> &Notify {
        &self.deaths[usize::from(backend.port() - FIRST_PORT)]
    }
}

/// The check, which asks the world.
#[derive(Clone)]
pub(super) struct ScriptedCheck(pub(super) Arc<World>);

impl std::fmt::Debug for ScriptedCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptedCheck")
    }
}

impl HealthCheck for ScriptedCheck {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        Box::pin(async move {
            let world = &self.0;
            let ticket = world.oracle().check_began(world.at(), target.backend());
            let mut running = Running {
                world,
                ticket,
                deadline: target.deadline(),
            };
            let report = match world.behaviour(target.backend()).check {
                Check::Pass(after) => {
                    sleep(Duration::from_millis(after)).await;
                    CheckReport::pass("L7OK", "")
                }
                Check::Fail(after) => {
                    sleep(Duration::from_millis(after)).await;
                    CheckReport::fail("L4CON", "")
                }
                Check::Hang => std::future::pending().await,
            };
            if let Some(ticket) = running.ticket.take() {
                let at = world.at();
                world.oracle().check_ended(at, ticket, report.is_pass());
            }
            report
        })
    }
}

/// A check that runs. Dropped at its deadline it failed, dropped before it was cancelled.
struct Running<'a> {
    world: &'a World,
    ticket: Option<Ticket>,
    deadline: Instant,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let at = self.world.at();
        if Instant::now() >= self.deadline {
            self.world.oracle().check_ended(at, ticket, false);
        } else {
            self.world.oracle().check_dropped(at, ticket);
        }
    }
}

/// One client's request, a request extension.
pub(super) struct ClientRequest {
    pub(super) number: usize,
    pub(super) plan: Plan,
    /// The client went away: what is dropped from now on is its doing.
    pub(super) gone: AtomicBool,
    /// Attempts of which a backend's application may have seen something.
    pub(super) seen: AtomicU32,
    /// Attempts that a backend was chosen for.
    pub(super) begun: AtomicU32,
    /// Those that are a load on it: a connection was accepted, or may have been.
    pub(super) loads: AtomicU32,
}

/// The service in the proxy's place.
#[derive(Clone)]
pub(super) struct Backends(pub(super) Arc<World>);

impl<B> Service<Request<B>> for Backends
where
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<Answer>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match request.extensions().get().cloned() {
            Some(Selected(backend)) => self.ask(request, backend),
            None => Box::pin(async { Err(ErrorKind::NotRouted.into()) }),
        }
    }
}

impl<B> CallSelected<Request<B>> for Backends
where
    B: Body<Data = Bytes> + Send + 'static,
{
    fn call_selected(&mut self, request: Request<B>, selection: Selection<'_>) -> Self::Future {
        let exchange = request.extensions().get::<Exchange>();
        let noted = exchange.expect("each has one").attempts(|all| {
            let attempt = &all[selection.number];
            attempt.outcome.is_none() && attempt.backend.is_same(selection.backend)
        });
        assert!(noted, "the record says the same");
        self.ask(request, selection.backend.clone())
    }
}

impl Backends {
    fn ask<B>(&self, request: Request<B>, backend: Backend) -> <Self as Service<Request<B>>>::Future
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let world = self.0.clone();
        let asked: Arc<ClientRequest> = request.extensions().get().cloned().expect("each has one");
        // In the pick's own breath: nothing can have changed since.
        let at = world.at();
        world.oracle().sent(at, &backend, asked.number, &asked.plan);
        let attempt = Attempt {
            number: asked.begun.fetch_add(1, Relaxed),
            world,
            backend,
            asked,
            over: false,
        };
        Box::pin(attempt.run(request))
    }
}

/// An attempt under way at a backend.
struct Attempt {
    world: Arc<World>,
    backend: Backend,
    asked: Arc<ClientRequest>,
    /// Among those of its request.
    number: u32,
    over: bool,
}

impl Attempt {
    async fn run<B>(mut self, request: Request<B>) -> Result<Response<Answer>, Error>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let world = self.world.clone();
        let backend = self.backend.clone();
        let (head, body) = request.into_parts();
        let mut body = Box::pin(body);
        let behaviour = world.behaviour(&backend);
        let answer = async {
            if matches!(behaviour.traffic, Traffic::Refuse) {
                return Err(Error::new(ErrorKind::Connect));
            }
            if self.asked.loads.fetch_add(1, Relaxed) > 0 {
                world.oracle().cost(world.at(), self.asked.number);
            }
            if matches!(behaviour.traffic, Traffic::BlackHole) {
                sleep(Duration::from_millis(world.settings.connect_timeout)).await;
                return Err(Error::new(ErrorKind::ConnectTimeout));
            }
            self.asked.seen.fetch_add(1, Relaxed);
            while let Some(frame) = body.frame().await {
                if frame.is_err() {
                    return Err(Error::new(ErrorKind::ClientBody).after_sending());
                }
            }
            let head_timeout = sleep(Duration::from_millis(world.settings.head_timeout));
            tokio::select! {
                biased;
                answer = answer(behaviour.traffic, &self.asked.plan) => answer,
                () = head_timeout => {
                    Err(Error::new(ErrorKind::ResponseHeadTimeout).after_sending())
                }
            }
        };
        let death = world.death(&backend).notified();
        let result = {
            let mut result = pin!(async {
                tokio::select! {
                    biased;
                    result = answer => result,
                    () = death => Err(Error::new(ErrorKind::ResponseClosed).after_sending()),
                }
            });
            // A waiting attempt offers its head to a hedge that may begin, as the proxy does.
            poll_fn(|cx| {
                let polled = result.as_mut().poll(cx);
                if let (true, Some(exchange)) = (polled.is_pending(), head.extensions.get()) {
                    Exchange::offer_head_copy(exchange, &head, self.asked.seen.load(Relaxed) > 0);
                }
                polled
            })
            .await
        };
        self.end(&result);
        result.map_err(|error| error.with_unsent(head))
    }

    /// Judges as the design has it, not as the code does.
    fn end(&mut self, result: &Result<Response<Answer>, Error>) {
        self.over = true;
        let (fails, how) = match result {
            Ok(response) => match response.status().as_u16() {
                502..=504 => (Some(true), "503"),
                500 => (Some(false), "500"),
                _ => (Some(false), "200"),
            },
            Err(error) => match error.kind() {
                kind @ ErrorKind::ClientBody => (None, kind.as_str()),
                kind => (Some(true), kind.as_str()),
            },
        };
        let at = self.world.at();
        let number = self.asked.number;
        self.world
            .oracle()
            .answered(at, &self.backend, number, fails, how);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.over {
            let at = self.world.at();
            let number = self.asked.number;
            let why = if self.asked.gone.load(Relaxed) {
                Why::HungUp
            } else if self.asked.begun.load(Relaxed) > self.number + 1 {
                Why::Outrun
            } else {
                Why::NotNeeded
            };
            self.world.oracle().dropped(at, &self.backend, number, why);
        }
    }
}

async fn answer(traffic: Traffic, plan: &Plan) -> Result<Response<Answer>, Error> {
    let (after, status) = match traffic {
        Traffic::Ok(after) | Traffic::Break(after) => (after, StatusCode::OK),
        Traffic::Unavailable(after) => (after, StatusCode::SERVICE_UNAVAILABLE),
        Traffic::Error(after) => (after, StatusCode::INTERNAL_SERVER_ERROR),
        Traffic::Reset(after) => {
            sleep(Duration::from_millis(after)).await;
            return Err(Error::new(ErrorKind::ResponseClosed).after_sending());
        }
        Traffic::Hang | Traffic::Refuse | Traffic::BlackHole => std::future::pending().await,
    };
    sleep(Duration::from_millis(after)).await;
    let mut response = Response::new(Answer {
        frames: plan.frames,
        pace: Duration::from_millis(plan.pace),
        sleep: None,
        breaks: matches!(traffic, Traffic::Break(_)),
    });
    *response.status_mut() = status;
    Ok(response)
}

/// A response body: some frames, each after a time.
#[derive(Default)]
pub(super) struct Answer {
    frames: u32,
    pace: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    breaks: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if this.frames == 0 {
            let broken = std::mem::take(&mut this.breaks);
            return Poll::Ready(broken.then(|| Err(ErrorKind::ResponseBody.into())));
        }
        if !this.pace.is_zero() {
            let pace = this.pace;
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep(pace)));
            ready!(sleep.as_mut().poll(cx));
            this.sleep = None;
        }
        this.frames -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"frame")))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames == 0 && !self.breaks
    }
}

/// A request body.
pub(super) struct RequestBody {
    upload: Upload,
}

impl RequestBody {
    pub(super) fn new(upload: Upload) -> Self {
        Self { upload }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(match std::mem::replace(&mut self.upload, Upload::None) {
            Upload::None => None,
            Upload::Whole => Some(Ok(Frame::data(Bytes::from_static(b"upload")))),
            Upload::Breaks => Some(Err(ErrorKind::ClientBody.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.upload, Upload::None)
    }
}
