use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;

use super::{health_service, *};

async fn ask(health: &HealthService) -> (Response<()>, Value) {
    let response = health.clone().oneshot(Request::new(())).await.unwrap();
    let (head, body) = response.into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&text).unwrap();
    (Response::from_parts(head, ()), value)
}

fn header<'a>(response: &'a Response<()>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// Passes after a while; counts its runs.
fn counted(runs: &Arc<AtomicUsize>, takes: Duration) -> Dependency {
    let runs = runs.clone();
    let check = move || {
        runs.fetch_add(1, Relaxed);
        async move {
            sleep(takes).await;
            Ok::<_, std::io::Error>(())
        }
    };
    Dependency::new("db", check).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_share_a_run_and_a_result_is_reused_for_a_second() {
    let runs = Arc::default();
    let health = HealthService::new([counted(&runs, Duration::from_millis(100))]).unwrap();
    let began = Instant::now();
    let all: Vec<_> = (0..50)
        .map(|_| {
            let health = health.clone();
            tokio::spawn(async move { ask(&health).await.0.status() })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(runs.load(Relaxed), 1, "fifty at once are one run");
    assert_eq!(began.elapsed().as_millis(), 100);
    advance(Duration::from_millis(999)).await;
    ask(&health).await;
    assert_eq!(runs.load(Relaxed), 1, "the result is still good");
    advance(Duration::from_millis(2)).await;
    ask(&health).await;
    assert_eq!(runs.load(Relaxed), 2, "and then it is not");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_request_does_not_stop_the_run() {
    let runs = Arc::default();
    let health = HealthService::new([counted(&runs, Duration::from_millis(100))]).unwrap();
    let first = health.clone().oneshot(Request::new(()));
    let hung_up = tokio::time::timeout(Duration::from_millis(10), first).await;
    assert!(hung_up.is_err());
    sleep(Duration::from_millis(100)).await;
    assert_eq!(ask(&health).await.0.status(), 200);
    assert_eq!(runs.load(Relaxed), 1, "the run went on without it");
}

#[tokio::test(start_paused = true)]
async fn checks_run_side_by_side_within_the_deadline() {
    let slow = |name: &str| {
        let check = || async {
            sleep(Duration::from_millis(900)).await;
            Ok::<_, std::io::Error>(())
        };
        Dependency::new(name, check).unwrap()
    };
    let hung = Dependency::new("hung", pending::<Result<(), std::io::Error>>).unwrap();
    let patient = hung.clone().timeout(Duration::from_secs(60)).unwrap();
    let health = HealthService::new([slow("a"), slow("b"), hung]).unwrap();
    let began = Instant::now();
    let (response, value) = ask(&health).await;
    assert_eq!(began.elapsed().as_millis(), 1_000, "a check's own time-out");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(value["dependencies"]["a"]["status"], "pass");
    assert_eq!(value["dependencies"]["a"]["ms"], 900);
    let error = &value["dependencies"]["hung"]["error"];
    assert_eq!(error, "no answer within 1000 ms");

    let health = HealthService::new([patient]).unwrap();
    let began = Instant::now();
    ask(&health).await;
    assert_eq!(began.elapsed().as_millis(), 1_500, "the deadline of all");
}

#[tokio::test(start_paused = true)]
async fn the_response_has_the_headers_that_a_balancer_reads() {
    let failing = |name: &str, why: &'static str| {
        let check = move || async move { Err::<(), _>(std::io::Error::other(why)) };
        Dependency::new(name, check).unwrap()
    };
    let mail = failing("mail", "refused").soft(0.5).unwrap();
    let db = counted(&Arc::default(), Duration::ZERO);
    let (response, value) = ask(&HealthService::new([db, mail.clone()]).unwrap()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-evenkeel-health"), "degraded=0.5");
    assert_eq!(header(&response, "x-evenkeel-failed-dependency"), "mail");
    assert_eq!(header(&response, "retry-after"), "");
    assert_eq!(value["status"], "degraded");
    assert_eq!(value["dependencies"]["mail"]["error"], "refused");

    let health = HealthService::new([mail, failing("db", "gone")]).unwrap();
    let (response, value) = ask(&health).await;
    assert_eq!(response.status(), 503);
    assert_eq!(header(&response, "x-evenkeel-health"), "");
    assert_eq!(
        header(&response, "x-evenkeel-failed-dependency"),
        "db, mail",
        "hard dependencies come first"
    );
    assert_eq!(header(&response, "retry-after"), "1");
    assert_eq!(value["status"], "fail");
    let (_, value) = ask(&health.no_error_texts()).await;
    assert_eq!(value["dependencies"]["db"].get("error"), None);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_a_failed_check() {
    let check = || async {
        if true {
            panic!("a bug");
        }
        Ok::<_, std::io::Error>(())
    };
    let bug = Dependency::new("bug", check).unwrap();
    let db = counted(&Arc::default(), Duration::ZERO);
    let (response, value) = ask(&HealthService::new([bug, db]).unwrap()).await;
    assert_eq!(response.status(), 503);
    assert_eq!(value["dependencies"]["bug"]["error"], "it panicked");
    assert_eq!(value["dependencies"]["db"]["status"], "pass");
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_reported_at_once_and_can_be_undone() {
    let runs = Arc::default();
    let health = HealthService::new([counted(&runs, Duration::ZERO)]).unwrap();
    assert_eq!(ask(&health).await.0.status(), 200);
    health.drain();
    advance(Duration::from_secs(5)).await;
    let (response, value) = ask(&health).await;
    assert_eq!(
        response.status(),
        503,
        "for balancers that read the status alone"
    );
    assert_eq!(header(&response, "x-evenkeel-health"), "drain");
    assert_eq!(value["status"], "drain");
    assert_eq!(value["dependencies"]["db"]["status"], "pass", "as it was");
    assert_eq!(runs.load(Relaxed), 1, "a draining service runs no checks");
    health.resume();
    let (response, _) = ask(&health).await;
    assert_eq!(header(&response, "x-evenkeel-health"), "pass");
}

#[test]
fn a_run_whose_runtime_ended_is_started_again() {
    let hung = Dependency::new("hung", pending::<Result<(), std::io::Error>>).unwrap();
    let health = HealthService::new([hung]).unwrap();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    runtime().block_on(async {
        let asked = health.clone().oneshot(Request::new(()));
        drop(tokio::time::timeout(Duration::from_millis(1), asked).await);
    });
    let (response, _) = runtime().block_on(ask(&health));
    assert_eq!(response.status(), 503);
}

#[test]
fn bad_settings_are_refused_by_field() {
    let check = || async { Ok::<_, std::io::Error>(()) };
    for name in ["", "two words", "a,b", "ü", &"x".repeat(65)] {
        let error = Dependency::new(name, check).unwrap_err();
        assert_eq!(error.field(), "dependency.name", "{name:?}");
    }
    let db = || Dependency::new("db", check).unwrap();
    for share in [0.0, -1.0, 1.1, f64::NAN] {
        assert_eq!(db().soft(share).unwrap_err().field(), "dependency.soft");
    }
    let error = db().timeout(Duration::ZERO).unwrap_err();
    assert_eq!(error.field(), "dependency.timeout");
    let error = HealthService::new([db(), db()]).unwrap_err();
    assert_eq!(error.field(), "dependency.name");
    let health = || HealthService::new([]).unwrap();
    let long = Duration::from_secs(61);
    for deadline in [Duration::ZERO, long] {
        assert_eq!(health().deadline(deadline).unwrap_err().field(), "deadline");
    }
    assert_eq!(health().cache(long).unwrap_err().field(), "cache");
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let live = format!("`{}`", layer::DEFAULT_LIVE_PATH);
    let ready = format!("`{}`", layer::DEFAULT_READY_PATH);
    let dependency = Dependency::new("a", || async { Ok::<_, std::io::Error>(()) }).unwrap();
    assert!(dependency.soft_share.is_none());
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    let compared = [
        (live.as_str(), "200 while the process".to_owned()),
        (&ready, "200 while a backend is usable".to_owned()),
        ("deadline for all checks", seconds(health_service::DEADLINE)),
        ("time-out of one check", seconds(dependency.timeout)),
        ("a result is reused for", seconds(health_service::CACHE)),
        ("a dependency is", "hard".to_owned()),
    ];
    crate::default_table::compare(include_str!("mod.rs"), &compared);
}

#[test]
fn services_can_be_shared_by_threads() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<HealthService>();
    check::<Endpoints>();
    check::<WithEndpoints<Endpoints>>();
    fn send<T: Send + 'static>() {}
    send::<HealthFuture>();
}
