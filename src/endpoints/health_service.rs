//! [`HealthService`]: the `/health` of a backend.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    future::{Future, ready},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::{sync::watch, task::AbortHandle};
use tower_service::Service;

use super::{
    Body, Dependency,
    check_run::{RunReport, run},
    json_response::reply,
    overall::{self, Overall},
};
use crate::error::ConfigError;

/// Checks the dependencies of an application and responds with their state. Mount the service in
/// the application, usually as `/health`; see the [module](super#for-a-backend).
///
/// Clones share the checks, their last results and the state of [`drain`](Self::drain). A setter
/// makes a service with results of its own.
#[derive(Clone)]
#[must_use]
pub struct HealthService {
    state: Arc<HealthState>,
}

/// State shared by the clones of a service.
struct HealthState {
    config: HealthConfig,
    draining: AtomicBool,
    last: Mutex<LastRun>,
}

/// The settings of a service.
#[derive(Clone)]
struct HealthConfig {
    dependencies: Arc<[Dependency]>,
    deadline: Duration,
    cache: Duration,
    with_errors: bool,
}

#[derive(Default)]
struct LastRun {
    report: Option<Arc<RunReport>>,
    /// The run in flight, if there is one: requests wait for its result.
    running: Option<Running>,
}

struct Running {
    result: watch::Receiver<Option<Arc<RunReport>>>,
    task: AbortHandle,
}

impl HealthService {
    /// Makes a service that checks these dependencies. Without any, the health is `pass` while the
    /// process can respond at all.
    ///
    /// # Errors
    ///
    /// When two dependencies have the same name.
    pub fn new(dependencies: impl IntoIterator<Item = Dependency>) -> Result<Self, ConfigError> {
        let dependencies: Arc<[Dependency]> = dependencies.into_iter().collect();
        let mut seen = HashSet::new();
        if let Some(twice) = dependencies.iter().find(|d| !seen.insert(&d.name)) {
            let message = format!("{:?}: each dependency needs a name of its own", twice.name);
            return Err(ConfigError::new("dependency.name", message));
        }
        Ok(Self::with_config(HealthConfig {
            dependencies,
            deadline: DEADLINE,
            cache: CACHE,
            with_errors: true,
        }))
    }

    fn with_config(config: HealthConfig) -> Self {
        Self {
            state: Arc::new(HealthState {
                config,
                draining: AtomicBool::new(false),
                last: Mutex::default(),
            }),
        }
    }

    /// Sets how long a run of all checks may take. A check without a result by then has failed. The
    /// deadline must be below the time-out of the balancer, which otherwise sees a time-out instead
    /// of a reason.
    ///
    /// Default: 1.5 s; [`health::Checks`](crate::health::Checks) time out after 2 s.
    ///
    /// # Errors
    ///
    /// When it is 0 or longer than a minute.
    pub fn deadline(self, deadline: Duration) -> Result<Self, ConfigError> {
        if deadline.is_zero() || deadline > MAX_DURATION {
            let message = format!("{deadline:?}: above 0, up to {MAX_DURATION:?} is accepted");
            return Err(ConfigError::new("deadline", message));
        }
        Ok(Self::with_config(HealthConfig {
            deadline,
            ..self.state.config.clone()
        }))
    }

    /// Sets how long the result of a run is reused. Requests within this time get it at once, so
    /// that several balancers which check each second cost one run a second. With 0, only requests
    /// during a run share its result. The time adds to the time until a balancer notices a failure.
    ///
    /// Default: 1 s.
    ///
    /// # Errors
    ///
    /// When it is longer than a minute.
    pub fn cache(self, cache: Duration) -> Result<Self, ConfigError> {
        if cache > MAX_DURATION {
            let message = format!("{cache:?}: up to {MAX_DURATION:?} is accepted");
            return Err(ConfigError::new("cache", message));
        }
        Ok(Self::with_config(HealthConfig {
            cache,
            ..self.state.config.clone()
        }))
    }

    /// Leaves the texts of errors out of the response: they can reveal hosts, users and files.
    ///
    /// Default: the response has them.
    pub fn no_error_texts(self) -> Self {
        Self::with_config(HealthConfig {
            with_errors: false,
            ..self.state.config.clone()
        })
    }

    /// Asks balancers for no new traffic, before the application ends or is serviced: the response
    /// is 503 with `x-evenkeel-health: drain` until [`resume`](Self::resume). The check of
    /// [`health`](crate::health) drains the backend and lets its sessions stay; other balancers see
    /// a failed check. No dependency is checked meanwhile.
    pub fn drain(&self) {
        self.state.draining.store(true, Relaxed);
    }

    /// Undoes [`drain`](Self::drain).
    pub fn resume(&self) {
        self.state.draining.store(false, Relaxed);
    }

    /// Returns true between [`drain`](Self::drain) and [`resume`](Self::resume).
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state.draining.load(Relaxed)
    }
}

impl HealthState {
    /// Returns the last run, after taking over the result of a run that has ended.
    fn last(&self) -> MutexGuard<'_, LastRun> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = last.running.take() {
            let ended = running.result.borrow().clone();
            match ended {
                Some(report) => last.report = Some(report),
                // A run whose runtime has ended never sends a result.
                None if running.result.has_changed().is_ok() => last.running = Some(running),
                None => {}
            }
        }
        last
    }

    /// Returns a result that may be reused, or the receiver of a run, which it starts if there is
    /// none.
    fn cached_or_running(&self) -> Result<Arc<RunReport>, watch::Receiver<Option<Arc<RunReport>>>> {
        let mut last = self.last();
        if let Some(report) = &last.report
            && report.ended.elapsed() < self.config.cache
        {
            return Ok(report.clone());
        }
        if let Some(running) = &last.running {
            return Err(running.result.clone());
        }
        let (sender, result) = watch::channel(None);
        let config = self.config.clone();
        // In a task of its own: the request that started the run may be dropped while others wait.
        let task = tokio::spawn(async move {
            let report = run(config.dependencies, config.deadline).await;
            sender.send_replace(Some(Arc::new(report)));
        });
        last.running = Some(Running {
            result: result.clone(),
            task: task.abort_handle(),
        });
        Err(result)
    }

    fn response(&self, report: &RunReport, method: &Method) -> Response<Body> {
        let results = &report.results;
        let overall = &report.overall;
        let text = overall::json(overall.as_str(), results, self.config.with_errors);
        let status = match overall {
            Overall::Pass | Overall::Degraded(_) => StatusCode::OK,
            Overall::Fail => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = reply(status, text, method);
        let headers = response.headers_mut();
        let health = match overall {
            Overall::Pass => Some(HeaderValue::from_static("pass")),
            Overall::Degraded(share) => HeaderValue::try_from(format!("degraded={share}")).ok(),
            Overall::Fail => None,
        };
        if let Some(health) = health {
            headers.insert(HEALTH_HEADER, health);
        }
        let failed = HeaderValue::try_from(overall::failed_names(results)).ok();
        if let Some(failed) = failed.filter(|names| !names.is_empty()) {
            headers.insert(FAILED_DEPENDENCY_HEADER, failed);
        }
        if *overall == Overall::Fail {
            headers.insert(header::RETRY_AFTER, self.retry_after(report));
        }
        response
    }

    /// Returns the seconds until a new run: an earlier request would get the same result.
    fn retry_after(&self, report: &RunReport) -> HeaderValue {
        let good = self.config.cache.saturating_sub(report.ended.elapsed());
        let seconds = good.as_millis().div_ceil(1_000).max(1);
        HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))
    }

    /// Makes the response of a draining service, with the results of the last run.
    fn drain_response(&self, method: &Method) -> Response<Body> {
        let report = self.last().report.clone();
        let results = report.as_ref().map_or(&[][..], |o| &o.results);
        let text = overall::json("drain", results, self.config.with_errors);
        let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, text, method);
        let headers = response.headers_mut();
        headers.insert(HEALTH_HEADER, HeaderValue::from_static("drain"));
        response
    }
}

impl Drop for HealthState {
    fn drop(&mut self) {
        if let Some(running) = self.last().running.take() {
            running.task.abort();
        }
    }
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = HealthFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> HealthFuture {
        let method = request.method().clone();
        if !matches!(method, Method::GET | Method::HEAD) {
            let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, String::new(), &method);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return HealthFuture::now(response);
        }
        if self.is_draining() {
            return HealthFuture::now(self.state.drain_response(&method));
        }
        let mut result = match self.state.cached_or_running() {
            Ok(report) => return HealthFuture::now(self.state.response(&report, &method)),
            Err(result) => result,
        };
        let state = self.state.clone();
        HealthFuture {
            inner: Box::pin(async move {
                let report = result.wait_for(Option::is_some).await;
                match report.ok().and_then(|report| report.clone()) {
                    Some(report) => state.response(&report, &method),
                    // The runtime of the run has ended.
                    None => {
                        let text = overall::json("fail", &[], false);
                        reply(StatusCode::SERVICE_UNAVAILABLE, text, &method)
                    }
                }
            }),
        }
    }
}

impl fmt::Debug for HealthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.state.config;
        f.debug_struct("HealthService")
            .field("dependencies", &config.dependencies)
            .field("deadline", &config.deadline)
            .field("cache", &config.cache)
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

/// The response future of [`HealthService`]. It holds a box: balancers ask about once a second.
#[must_use = "futures do nothing unless polled"]
pub struct HealthFuture {
    inner: Pin<Box<dyn Future<Output = Response<Body>> + Send>>,
}

impl HealthFuture {
    fn now(response: Response<Body>) -> Self {
        Self {
            inner: Box::pin(ready(response)),
        }
    }
}

impl Future for HealthFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().inner.as_mut().poll(cx).map(Ok)
    }
}

impl fmt::Debug for HealthFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthFuture").finish_non_exhaustive()
    }
}

/// Read by the HTTP check of [`health`](crate::health).
const HEALTH_HEADER: HeaderName = HeaderName::from_static("x-evenkeel-health");
const FAILED_DEPENDENCY_HEADER: HeaderName =
    HeaderName::from_static("x-evenkeel-failed-dependency");
/// Below the 2 s after which a check of this crate times out.
pub(super) const DEADLINE: Duration = Duration::from_millis(1_500);
/// The interval at which a balancer of this crate checks while the health changes.
pub(super) const CACHE: Duration = Duration::from_secs(1);
/// No balancer waits longer for the response to a check.
const MAX_DURATION: Duration = Duration::from_secs(60);
