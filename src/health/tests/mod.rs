mod batches;
mod members;
mod outliers;
mod several_layers;
mod shared_failure;
mod states;
mod timing;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::http::{Request, Response};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{
    check::*,
    outlier::{CONSECUTIVE, EJECTION, MAX_EJECTION, MAX_SHARE, RATE, VOLUME, WINDOW},
    transition::*,
    *,
};
use crate::{
    Backend, Pool, default_table,
    pool::{Event, EventKind, Events, HealthStatus as State, Transition},
};

const SECOND: Duration = Duration::from_secs(1);

/// A check that answers as scripted, and counts.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<HashMap<String, Line>>>);

#[derive(Debug, Default)]
struct Line {
    answer: Answer,
    began: Vec<Instant>,
    running: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum Answer {
    /// Fails because of a dependency.
    Blame(&'static str),
    Degraded(f64),
    Drain,
    Fail,
    Hang,
    /// Could not be made.
    Local,
    Panic,
    #[default]
    Pass,
    /// Fails, and asks to be left alone for so many seconds.
    Wait(u64),
}

impl Script {
    fn say(&self, id: &str, answer: Answer) {
        self.0.lock().unwrap().entry(id.into()).or_default().answer = answer;
    }

    fn begun(&self, id: &str) -> Vec<Instant> {
        let lines = self.0.lock().unwrap();
        lines.get(id).map_or_else(Vec::new, |l| l.began.clone())
    }

    fn running(&self) -> usize {
        self.0.lock().unwrap().values().map(|l| l.running).sum()
    }
}

struct Running(Script, String);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().get_mut(&self.1).unwrap().running -= 1;
    }
}

impl HealthCheck for Script {
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
        let id = target.backend().id().to_owned();
        let answer = {
            let mut lines = self.0.lock().unwrap();
            let line = lines.entry(id.clone()).or_default();
            line.began.push(Instant::now());
            line.running += 1;
            line.answer
        };
        let running = Running(self.clone(), id);
        Box::pin(async move {
            let _running = running;
            match answer {
                Answer::Blame(name) => CheckReport::fail("L7STS", "503").with_dependency(name),
                Answer::Degraded(share) => CheckReport::degraded(share, "L7OK", "200"),
                Answer::Drain => CheckReport::drain("L7OK", "404"),
                Answer::Fail => CheckReport::fail("L4CON", "refused"),
                Answer::Hang => std::future::pending().await,
                Answer::Local => CheckReport::local("SOCKERR", "EMFILE"),
                Answer::Panic => panic!("scripted"),
                Answer::Pass => CheckReport::pass("L7OK", "200"),
                Answer::Wait(seconds) => {
                    CheckReport::fail("L7STS", "503").with_retry_after(Duration::from_secs(seconds))
                }
            }
        })
    }
}

fn backend(id: &str) -> Backend {
    Backend::new(id, "http://127.0.0.1:1").unwrap()
}

fn pool(ids: &[&str]) -> Pool {
    Pool::new(ids.iter().map(|id| backend(id))).unwrap()
}

fn checks(script: &Script) -> Checks {
    Checks::new().with_check(script.clone())
}

/// Waits for the next change of health of any backend.
async fn transition(events: &mut Events) -> (String, Transition) {
    let wait = async {
        loop {
            let Event { backend, kind, .. } = events.next().await.unwrap();
            if let EventKind::Health(transition) = kind {
                return (backend.id().to_owned(), transition);
            }
        }
    };
    timeout(3_600 * SECOND, wait)
        .await
        .expect("health must change")
}

async fn wait_for(events: &mut Events, to: State) -> Transition {
    loop {
        let (_, transition) = transition(events).await;
        if transition.to == to {
            return transition;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_held_until_its_first_check_passes() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    script.say("b", Answer::Fail);
    assert_eq!(pool.snapshot().usable(), 2, "without a prober they are up");
    let mut events = pool.subscribe();
    let began = Instant::now();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    assert_eq!(
        pool.snapshot().usable(),
        0,
        "held at once, before any check"
    );
    assert_eq!(pool.snapshot().held(), 2);
    let (id, first) = transition(&mut events).await;
    assert_eq!(
        (id.as_str(), first.from, first.to),
        ("a", State::Unknown, State::Healthy)
    );
    assert_eq!(
        began.elapsed(),
        Duration::ZERO,
        "all are checked at once at the start"
    );
    assert_eq!(pool.snapshot().usable(), 1, "one pass admits");
    let (id, second) = transition(&mut events).await;
    assert_eq!(
        (id.as_str(), second.to, second.streak),
        ("b", State::Unhealthy, 2)
    );
    assert_eq!(second.reason.code, "L4CON");
    assert!(
        began.elapsed() <= SECOND.mul_f64(1.1),
        "two failures, a changing interval apart"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_check_is_no_failure() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let mut events = pool.subscribe();
    let prober = Prober::start(&pool, checks(&script).fall(1)).unwrap();
    wait_for(&mut events, State::Healthy).await;
    script.say("a", Answer::Hang);
    while script.running() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    drop(prober);
    sleep(60 * SECOND).await;
    assert_eq!(script.running(), 0, "a check ends with its prober");
    assert_eq!(pool.snapshot().usable(), 1, "and says nothing");
    let change = wait_for(&mut events, State::Unknown).await;
    assert_eq!(change.reason.code, "UNK", "active checks stopped");
    assert!(events.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_a_failure_of_its_own() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    script.say("a", Answer::Panic);
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    let down = wait_for(&mut events, State::Unhealthy).await;
    assert_eq!(down.reason.code, "L7RSP");
    sleep(20 * SECOND).await;
    assert!(
        script.begun("b").len() >= 4,
        "the others are checked as ever"
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_prober_goes_on_from_what_is_known() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    script.say("a", Answer::Fail);
    let prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(10 * SECOND).await;
    drop(prober);
    script.say("a", Answer::Pass);
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    let up = wait_for(&mut events, State::Healthy).await;
    assert_eq!(up.streak, 2, "down stays down until it rises (invariant A)");
}

#[test]
fn a_prober_needs_a_runtime_and_settings_that_fit() {
    let pool = pool(&["a"]);
    let error = Prober::start(&pool, Checks::new()).unwrap_err();
    assert_eq!(error.field(), "prober");
    let error = Prober::start(&pool, Checks::new().interval(SECOND)).unwrap_err();
    assert_eq!(error.field(), "health.timeout");
}

#[tokio::test(start_paused = true)]
async fn alone_around_a_foreign_service_nothing_changes() {
    let pool = pool(&["a"]);
    let inner = service_fn(|n: Request<u32>| async move {
        match n.into_body() {
            0 => Err(crate::BoxError::from("boom")),
            n => Ok(Response::new(n)),
        }
    });
    let service = HealthLayer::new(pool).no_checks().layer(inner);
    let answer = service.clone().oneshot(Request::new(7)).await.unwrap();
    assert_eq!(
        answer.into_body().into_inner(),
        7,
        "a request without a backend passes through"
    );
    let error = service.oneshot(Request::new(0)).await.unwrap_err();
    assert_eq!(error.to_string(), "the inner service failed: boom");
}

#[tokio::test(start_paused = true)]
async fn many_services_share_one_task_which_ends_with_the_last() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let layer = HealthLayer::new(pool.clone())
        .checks(checks(&script))
        .unwrap();
    let services: Vec<_> = (0..10).map(|i| layer.clone().layer(i)).collect();
    let began = Instant::now();
    sleep(SECOND).await;
    let begun = script.begun("a");
    let first = begun.iter().filter(|when| **when == began).count();
    assert_eq!(first, 1, "ten services, one first check");
    drop(layer);
    let copy = services[3].clone();
    drop(services);
    sleep(20 * SECOND).await;
    let checked = script.begun("a").len();
    assert!(checked >= 4, "a service is left");
    drop(copy);
    sleep(60 * SECOND).await;
    assert_eq!(script.begun("a").len(), checked, "none is left");
}

#[test]
fn checks_begin_with_the_first_call_and_survive_their_runtime() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let layer = HealthLayer::new(pool.clone())
        .checks(checks(&script))
        .unwrap();
    let inner = service_fn(|_: Request<()>| async { Ok::<_, crate::BoxError>(Response::new(())) });
    let service = layer.layer(inner);
    assert_eq!(pool.snapshot().held(), 0, "no runtime, no prober");
    for round in 1..4 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut service = service.clone();
            service.ready().await.unwrap();
            while script.begun("a").len() < round {
                tokio::task::yield_now().await;
            }
        });
    }
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let percent = |share: f64| format!("{} %", share * 100.0);
    let text = str::to_owned;
    let mut compared = vec![
        ("check", format!("`GET {}`", http::PATH)),
        ("check", text("200 to 299 healthy")),
        (
            "body of an answer",
            format!("{} KiB", http::BODY_LIMIT / 1_024),
        ),
        ("interval", seconds(INTERVAL)),
        ("interval while the last results", seconds(CHANGING)),
        (
            "interval while the backend is down",
            text("as the interval"),
        ),
        ("time-out", seconds(TIMEOUT)),
        ("fall, rise", format!("{FALL}, {RISE}")),
        ("jitter", percent(JITTER)),
        ("asked to wait", seconds(prober::LONGEST_WAIT)),
        ("flapping", format!("{FLAPS} changes")),
        ("flapping", seconds(FLAP_WINDOW)),
        ("flapping", format!("up to {}", seconds(LAST_HOLD))),
        ("shared failure", percent(SHARED_FAILURE)),
    ];
    let outliers = Outliers::new();
    assert!(outliers.slow.is_none() && outliers.immediate);
    compared.extend([
        ("ejection", format!("after {CONSECUTIVE} failures")),
        ("ejection", text("502, 503, 504")),
        ("or after", percent(RATE)),
        ("or after", format!("{VOLUME} requests")),
        ("or after", format!("within {}", seconds(WINDOW))),
        ("or after", text("`x-evenkeel-health: fail`")),
        ("latency outliers", text("off")),
        ("ejection lasts", seconds(EJECTION)),
        ("ejection lasts", format!("up to {}", seconds(MAX_EJECTION))),
        (
            "ejection lasts",
            format!("up to {} more", percent(outlier::JITTER)),
        ),
        ("after an ejection", text("one request at a time")),
        ("ejected at most", percent(MAX_SHARE)),
    ]);
    default_table::compare(include_str!("../mod.rs"), &compared);
}

#[test]
fn services_can_be_shared_by_threads() {
    fn check<T: Clone + Send + Sync + 'static>(_: &T) {}
    check(&HealthLayer::new(pool(&["a"])).layer(()));
}
