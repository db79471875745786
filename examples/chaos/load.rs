//! Load at a constant rate: half of the requests from clients with a session, half without.
//!
//! The rate does not depend on the responses. A load generator that waits for a response before it
//! sends the next request measures nothing while a backend hangs.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{BoxError, chaos::Invariants, context::Exchange};
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{COOKIE, HOST, RETRY_AFTER, SET_COOKIE},
};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tower::{Service, ServiceExt};

/// The requests that ended in one phase of the experiment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phase {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    /// Responses of 503 with `Retry-After`.
    pub(crate) refused: usize,
    pub(crate) slowest: Duration,
    pub(crate) first_failure: Option<String>,
    /// How often each session moved to another backend.
    pub(crate) moves: Vec<u32>,
}

/// A client with a cookie, and the backend that answered it last.
#[derive(Clone, Default)]
struct Session {
    cookie: Option<HeaderValue>,
    home: Option<String>,
}

#[derive(Default)]
struct Records {
    phases: Vec<Phase>,
    sessions: Vec<Session>,
}

pub(crate) struct Load {
    records: Arc<Mutex<Records>>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Load {
    pub(crate) fn start<S, R>(stack: S, rate: u32, invariants: Arc<Invariants>) -> Self
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let records = Arc::new(Mutex::new(Records {
            sessions: vec![Session::default(); SESSIONS],
            ..Records::default()
        }));
        let (stop, mut stopped) = watch::channel(false);
        let shared = records.clone();
        let task = tokio::spawn(async move {
            let mut pace = interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut running = JoinSet::new();
            let mut number = 0;
            loop {
                tokio::select! {
                    _ = stopped.changed() => break,
                    _ = pace.tick() => {}
                }
                while running.try_join_next().is_some() {}
                number += 1;
                let client = Client {
                    records: shared.clone(),
                    invariants: invariants.clone(),
                    session: (number % 2 == 0).then_some(number / 2 % SESSIONS),
                };
                running.spawn(client.run(stack.clone()));
            }
            while running.join_next().await.is_some() {}
        });
        Self {
            records,
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// Begins a phase: requests that end from now on count towards it.
    pub(crate) fn next_phase(&self) {
        let moves = vec![0; SESSIONS];
        lock(&self.records).phases.push(Phase {
            moves,
            ..Phase::default()
        });
    }

    pub(crate) fn phases(&self) -> Vec<Phase> {
        lock(&self.records).phases.clone()
    }

    /// Returns how many sessions are on these backends.
    pub(crate) fn sessions_on(&self, names: &[&str]) -> usize {
        let records = lock(&self.records);
        let on = |s: &&Session| s.home.as_deref().is_some_and(|home| names.contains(&home));
        records.sessions.iter().filter(on).count()
    }

    /// Stops the load and waits for the requests in flight.
    pub(crate) async fn finish(&self) {
        self.stop.send_replace(true);
        let task = lock(&self.task).take();
        if let Some(task) = task {
            drop(task.await);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Client {
    records: Arc<Mutex<Records>>,
    invariants: Arc<Invariants>,
    session: Option<usize>,
}

enum Answer {
    From(Option<String>, Option<HeaderValue>),
    Refused,
}

impl Client {
    async fn run<S, R>(self, stack: S)
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let began = Instant::now();
        let result = timeout(CLIENT_TIMEOUT, self.send(stack)).await;
        self.end(began, result.unwrap_or_else(|error| Err(error.into())));
    }

    async fn send<S, R>(&self, stack: S) -> Result<Answer, BoxError>
    where
        S: Service<Request<Empty<Bytes>>, Response = Response<R>, Error = Infallible>,
        R: Body<Data = Bytes>,
        R::Error: Into<BoxError>,
    {
        let mut request = Request::get("/")
            .header(HOST, "experiment")
            .body(Empty::new())?;
        let session = self
            .session
            .map(|nth| lock(&self.records).sessions[nth].clone());
        if let Some(cookie) = session.and_then(|session| session.cookie) {
            request.headers_mut().insert(COOKIE, cookie);
        }
        let exchange = Exchange::of(request.extensions_mut());
        let number = self.invariants.begin(&exchange);
        let response = stack.oneshot(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await;
        self.invariants.end(number);
        body.map_err(Into::into)?;
        let text = |name: &str| {
            let value = head.headers.get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        if head.status == StatusCode::SERVICE_UNAVAILABLE && head.headers.contains_key(RETRY_AFTER)
        {
            return Ok(Answer::Refused);
        }
        if !head.status.is_success() {
            let tries: Vec<String> = exchange.attempts(|all| {
                let tries = all.iter();
                tries
                    .map(|a| format!("{} {:?}", a.backend.id(), a.outcome))
                    .collect()
            });
            return Err(format!("{} ({})", head.status, tries.join(", ")).into());
        }
        let cookie = text(SET_COOKIE.as_str());
        let cookie = cookie.and_then(|c| c.split(';').next()?.parse().ok());
        Ok(Answer::From(text("x-backend"), cookie))
    }

    fn end(&self, began: Instant, result: Result<Answer, BoxError>) {
        let mut records = lock(&self.records);
        let Records { phases, sessions } = &mut *records;
        let Some(phase) = phases.last_mut() else {
            return;
        };
        phase.requests += 1;
        phase.slowest = phase.slowest.max(began.elapsed());
        match result {
            Ok(Answer::From(from, cookie)) => {
                let Some(nth) = self.session else {
                    return;
                };
                let session = &mut sessions[nth];
                if from.is_some() && session.home.is_some() && session.home != from {
                    phase.moves[nth] += 1;
                }
                session.home = from.or_else(|| session.home.take());
                session.cookie = cookie.or_else(|| session.cookie.take());
            }
            Ok(Answer::Refused) => phase.refused += 1,
            Err(error) => {
                phase.failed += 1;
                phase.first_failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// How many clients keep a cookie.
pub(crate) const SESSIONS: usize = 120;
/// How long a client waits before its request counts as failed.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
