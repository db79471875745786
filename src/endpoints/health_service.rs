//! For a backend: what its `/health` answers.

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
    answer::reply,
    run::{Outcome, run},
    verdict::{self, Verdict},
};
use crate::error::ConfigError;

/// Checks what an application depends on, and answers whoever asks for its health: a service to
/// mount in the application, `/health` usually; see the [module](super#for-a-backend).
///
/// Clones share the checks, their last result and the order to drain.
#[derive(Clone)]
#[must_use]
pub struct HealthService {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    draining: AtomicBool,
    last: Mutex<Last>,
}

#[derive(Clone)]
struct Settings {
    dependencies: Arc<[Dependency]>,
    deadline: Duration,
    cache: Duration,
    errors: bool,
}

#[derive(Default)]
struct Last {
    outcome: Option<Arc<Outcome>>,
    /// A run under way: who comes now waits for it.
    running: Option<Running>,
}

struct Running {
    result: watch::Receiver<Option<Arc<Outcome>>>,
    task: AbortHandle,
}

impl HealthService {
    /// Checks these. Without any it passes while the process can answer at all.
    ///
    /// # Errors
    ///
    /// When two have the same name.
    pub fn new(dependencies: impl IntoIterator<Item = Dependency>) -> Result<Self, ConfigError> {
        let dependencies: Arc<[Dependency]> = dependencies.into_iter().collect();
        let mut seen = HashSet::new();
        if let Some(twice) = dependencies.iter().find(|d| !seen.insert(&d.name)) {
            let message = format!("{:?}: each dependency needs a name of its own", twice.name);
            return Err(ConfigError::new("dependency.name", message));
        }
        Ok(Self::with_settings(Settings {
            dependencies,
            deadline: DEADLINE,
            cache: CACHE,
            errors: true,
        }))
    }

    fn with_settings(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                draining: AtomicBool::new(false),
                last: Mutex::default(),
            }),
        }
    }

    /// Sets how long a run of all checks may take: what is not there by then has failed. It must
    /// be below the time-out of whoever asks, who otherwise sees a hang instead of a reason.
    ///
    /// Default: 1.5 s, as [`health::Checks`](crate::health::Checks) wait 2 s.
    ///
    /// # Errors
    ///
    /// When it is 0 or over a minute.
    pub fn deadline(self, deadline: Duration) -> Result<Self, ConfigError> {
        if deadline.is_zero() || deadline > LONGEST {
            let message = format!("{deadline:?}: above 0, up to {LONGEST:?} is accepted");
            return Err(ConfigError::new("deadline", message));
        }
        Ok(Self::with_settings(Settings {
            deadline,
            ..self.shared.settings.clone()
        }))
    }

    /// Sets how long a result is good: whoever asks in that time gets it at once. Several
    /// balancers that check each second cost one run a second. 0 keeps none; requests that come
    /// during a run share it all the same.
    ///
    /// Adds to the time until a failure is noticed.
    ///
    /// Default: 1 s.
    ///
    /// # Errors
    ///
    /// When it is over a minute.
    pub fn cache(self, cache: Duration) -> Result<Self, ConfigError> {
        if cache > LONGEST {
            let message = format!("{cache:?}: up to {LONGEST:?} is accepted");
            return Err(ConfigError::new("cache", message));
        }
        Ok(Self::with_settings(Settings {
            cache,
            ..self.shared.settings.clone()
        }))
    }

    /// Leaves the text of errors out of the answer: it can name hosts, users and files.
    ///
    /// Default: it is told.
    pub fn no_error_texts(self) -> Self {
        Self::with_settings(Settings {
            errors: false,
            ..self.shared.settings.clone()
        })
    }

    /// Asks for no new traffic from now on, before the application ends or is worked on. Whoever
    /// reads `x-evenkeel-health: drain` lets sessions stay; for anybody else, it is 503.
    pub fn drain(&self) {
        self.shared.draining.store(true, Relaxed);
    }

    /// Takes [`drain`](Self::drain) back.
    pub fn resume(&self) {
        self.shared.draining.store(false, Relaxed);
    }

    /// Returns true between [`drain`](Self::drain) and [`resume`](Self::resume).
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Relaxed)
    }
}

impl Shared {
    /// Returns what is known, with the result of a run that has ended.
    fn last(&self) -> MutexGuard<'_, Last> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = last.running.take() {
            let ended = running.result.borrow().clone();
            match ended {
                Some(outcome) => last.outcome = Some(outcome),
                // Unless its runtime ended, and it will never tell.
                None if running.result.has_changed().is_ok() => last.running = Some(running),
                None => {}
            }
        }
        last
    }

    /// Returns a result that is still good, or what to wait for.
    fn look(&self) -> Result<Arc<Outcome>, watch::Receiver<Option<Arc<Outcome>>>> {
        let mut last = self.last();
        if let Some(outcome) = &last.outcome {
            if outcome.ended.elapsed() < self.settings.cache {
                return Ok(outcome.clone());
            }
        }
        if let Some(running) = &last.running {
            return Err(running.result.clone());
        }
        let (tell, result) = watch::channel(None);
        let settings = self.settings.clone();
        // A task of its own: whoever asked first may hang up, and others wait for it.
        let task = tokio::spawn(async move {
            let outcome = run(settings.dependencies, settings.deadline).await;
            tell.send_replace(Some(Arc::new(outcome)));
        });
        last.running = Some(Running {
            result: result.clone(),
            task: task.abort_handle(),
        });
        Err(result)
    }

    fn answer(&self, outcome: &Outcome, method: &Method) -> Response<Body> {
        let findings = &outcome.findings;
        let verdict = &outcome.verdict;
        let text = verdict::json(verdict.as_str(), findings, self.settings.errors);
        let status = match verdict {
            Verdict::Pass | Verdict::Degraded(_) => StatusCode::OK,
            Verdict::Fail => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = reply(status, text, method);
        let headers = response.headers_mut();
        let health = match verdict {
            Verdict::Pass => Some(HeaderValue::from_static("pass")),
            Verdict::Degraded(share) => HeaderValue::try_from(format!("degraded={share}")).ok(),
            Verdict::Fail => None,
        };
        if let Some(health) = health {
            headers.insert(HEALTH, health);
        }
        let failed = HeaderValue::try_from(verdict::failed(findings)).ok();
        if let Some(failed) = failed.filter(|names| !names.is_empty()) {
            headers.insert(FAILED_DEPENDENCY, failed);
        }
        if *verdict == Verdict::Fail {
            headers.insert(header::RETRY_AFTER, self.retry_after(outcome));
        }
        response
    }

    /// Sooner, the answer would be the same.
    fn retry_after(&self, outcome: &Outcome) -> HeaderValue {
        let good = self.settings.cache.saturating_sub(outcome.ended.elapsed());
        let seconds = good.as_millis().div_ceil(1_000).max(1);
        HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX))
    }

    /// Says that it drains, and what was known last: nothing is checked any more.
    fn drained(&self, method: &Method) -> Response<Body> {
        let outcome = self.last().outcome.clone();
        let findings = outcome.as_ref().map_or(&[][..], |o| &o.findings);
        let text = verdict::json("drain", findings, self.settings.errors);
        let mut response = reply(StatusCode::SERVICE_UNAVAILABLE, text, method);
        let headers = response.headers_mut();
        headers.insert(HEALTH, HeaderValue::from_static("drain"));
        response
    }
}

impl Drop for Shared {
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
            return HealthFuture::now(self.shared.drained(&method));
        }
        let mut result = match self.shared.look() {
            Ok(outcome) => return HealthFuture::now(self.shared.answer(&outcome, &method)),
            Err(result) => result,
        };
        let shared = self.shared.clone();
        HealthFuture {
            inner: Box::pin(async move {
                let outcome = result.wait_for(Option::is_some).await;
                match outcome.ok().and_then(|outcome| outcome.clone()) {
                    Some(outcome) => shared.answer(&outcome, &method),
                    // The runtime of the run ended.
                    None => {
                        let text = verdict::json("fail", &[], false);
                        reply(StatusCode::SERVICE_UNAVAILABLE, text, &method)
                    }
                }
            }),
        }
    }
}

impl fmt::Debug for HealthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.shared.settings;
        f.debug_struct("HealthService")
            .field("dependencies", &settings.dependencies)
            .field("deadline", &settings.deadline)
            .field("cache", &settings.cache)
            .field("draining", &self.is_draining())
            .finish_non_exhaustive()
    }
}

/// The response of a [`HealthService`]. Boxed: it is asked for once a second.
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

/// Read by the check of [`health`](crate::health).
const HEALTH: HeaderName = HeaderName::from_static("x-evenkeel-health");
const FAILED_DEPENDENCY: HeaderName = HeaderName::from_static("x-evenkeel-failed-dependency");
/// Below the 2 s that a check waits for an answer.
pub(super) const DEADLINE: Duration = Duration::from_millis(1_500);
/// As often as a balancer checks while something changes.
pub(super) const CACHE: Duration = Duration::from_secs(1);
/// Nobody waits longer for an answer about health.
const LONGEST: Duration = Duration::from_secs(60);
