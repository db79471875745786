//! What live traffic shows.

mod shares;
mod trials;
mod with_checks;

use ::http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::*;
use crate::{
    Error, ErrorKind,
    context::{Exchange, Outcome, Selected},
    pool::{Circuit, Source},
};

type Answers = Arc<Mutex<HashMap<&'static str, Result<u16, ErrorKind>>>>;

/// A service that answers by backend.
fn service(
    answers: &Answers,
) -> impl Service<Request<()>, Response = Response<()>, Error = Error, Future: Send> + Clone + use<>
{
    let answers = answers.clone();
    service_fn(move |request: Request<()>| {
        let Selected(backend) = request.extensions().get::<Selected>().unwrap();
        let answer = answers.lock().unwrap()[backend.id()];
        async move {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(answer.map_err(Error::new)?).unwrap();
            Ok(response)
        }
    })
}

async fn send<S, R>(service: &S, pool: &Pool, id: &str, times: usize)
where
    S: Service<Request<()>, Response = Response<R>, Error = Error> + Clone,
{
    for _ in 0..times {
        let mut request = Request::new(());
        let backend = pool.snapshot().get(id).unwrap().clone();
        request.extensions_mut().insert(Selected(backend));
        let _ = service.clone().oneshot(request).await;
    }
}

fn answers(list: &[(&'static str, Result<u16, ErrorKind>)]) -> Answers {
    Arc::new(Mutex::new(list.iter().copied().collect()))
}

/// Waits until a circuit turns so; returns whose.
async fn circuit(events: &mut Events, wanted: Circuit) -> String {
    let wait = async {
        loop {
            let Event { backend, kind, .. } = events.next().await.unwrap();
            if matches!(kind, EventKind::Circuit { to, .. } if to == wanted) {
                return backend.id().to_owned();
            }
        }
    };
    timeout(3_600 * SECOND, wait)
        .await
        .expect("the circuit must turn")
}

fn without_jitter() -> Outliers {
    Outliers::new().jitter(0.0)
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_and_a_trial_readmits() {
    for bad in [
        Ok(502),
        Ok(503),
        Ok(504),
        Err(ErrorKind::Connect),
        Err(ErrorKind::ResponseHeadTimeout),
    ] {
        let pool = pool(&["a", "b"]);
        let answers = answers(&[("a", bad), ("b", Ok(200))]);
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(without_jitter())
            .unwrap()
            .layer(service(&answers));
        let mut events = pool.subscribe();
        let say = |answer| answers.lock().unwrap().insert("a", answer);
        send(&service, &pool, "a", 4).await;
        say(Ok(200));
        send(&service, &pool, "a", 1).await;
        say(bad);
        send(&service, &pool, "a", 4).await;
        assert_eq!(pool.snapshot().usable(), 2, "a success ends a row");
        for lasts in [30, 60] {
            send(&service, &pool, "a", 5).await;
            let down = wait_for(&mut events, State::Unhealthy).await;
            assert_eq!(down.source, Source::Passive);
            assert_eq!(pool.snapshot().usable(), 1, "{bad:?} five times in a row");
            let ejected = Instant::now();
            assert_eq!(circuit(&mut events, Circuit::HalfOpen).await, "a");
            let took = ejected.elapsed();
            assert!(
                took >= lasts * SECOND && took < lasts * SECOND + SECOND / 10,
                "out for {took:?} instead of {lasts} s"
            );
            assert_eq!(pool.snapshot().usable(), 1, "a trial is no traffic");
            assert_eq!(pool.snapshot().trials().len(), 1);
            say(Ok(200));
            send(&service, &pool, "a", 1).await;
            assert_eq!(pool.snapshot().usable(), 2, "one success readmits");
            say(bad);
            send(&service, &pool, "a", 4).await;
            assert_eq!(pool.snapshot().usable(), 2, "the count begins at zero");
            say(Ok(200));
            send(&service, &pool, "a", 1).await;
            say(bad);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_client_are_never_charged_to_the_backend() {
    for harmless in [
        Ok(200),
        Ok(404),
        Ok(500),
        Err(ErrorKind::ClientBody),
        Err(ErrorKind::ClientBodyTimeout),
        Err(ErrorKind::BadRequest),
        Err(ErrorKind::Service),
    ] {
        let pool = pool(&["a", "b"]);
        let answers = answers(&[("a", harmless)]);
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .layer(service(&answers));
        send(&service, &pool, "a", 100).await;
        assert_eq!(pool.snapshot().usable(), 2, "{harmless:?}");
    }
    let pool = pool(&["a", "b"]);
    let hangs = service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Error>>());
    let service = HealthLayer::new(pool.clone()).no_checks().layer(hangs);
    for _ in 0..100 {
        let sent = timeout(SECOND, send(&service, &pool, "a", 1)).await;
        assert!(sent.is_err(), "the client gave up");
    }
    assert_eq!(
        pool.snapshot().usable(),
        2,
        "a hang-up is no failure (invariant E)"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_usable_backend_is_never_ejected() {
    let pool = pool(&["a", "b", "c"]);
    let bad = Err(ErrorKind::ResponseClosed);
    let answers = answers(&[("a", bad), ("b", bad), ("c", bad)]);
    let outliers = Outliers::new().max_share(1.0);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(outliers)
        .unwrap()
        .layer(service(&answers));
    for id in ["a", "b", "c"] {
        send(&service, &pool, id, 50).await;
    }
    assert_eq!(pool.snapshot().usable(), 1, "one stays (invariant F)");
    assert!(pool.snapshot().get("c").unwrap().is_usable());
    sleep(70 * SECOND).await;
    assert_eq!(
        pool.snapshot().usable(),
        3,
        "the others are back after their time"
    );
    send(&service, &pool, "c", 1).await;
    assert_eq!(
        pool.snapshot().usable(),
        2,
        "and now it may go at its next failure"
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_share_is_ejected() {
    let pool = pool(&["a", "b", "c", "d", "e"]);
    let bad = Ok(503);
    let answers = answers(&[("a", bad), ("b", bad), ("c", bad), ("d", bad), ("e", bad)]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .layer(service(&answers));
    for id in ["a", "b", "c", "d", "e"] {
        send(&service, &pool, id, 20).await;
    }
    assert_eq!(pool.snapshot().usable(), 3, "half of five is two");
}

/// Begins a request to `id` that hangs, and drops it after its attempt ended so.
async fn hang<S, R>(service: &S, pool: &Pool, id: &str, outcome: Option<Outcome>)
where
    S: Service<Request<()>, Response = Response<R>, Error = Error> + Clone,
{
    let mut request = Request::new(());
    let backend = pool.snapshot().get(id).unwrap().clone();
    let exchange = Exchange::of(request.extensions_mut());
    let number = exchange.begin_attempt(backend.clone());
    request.extensions_mut().insert(Selected(backend));
    let mut service = service.clone();
    let mut call = Box::pin(service.ready().await.unwrap().call(request));
    assert!(timeout(SECOND / 10, &mut call).await.is_err());
    if let Some(outcome) = outcome {
        exchange.end_attempt(number, outcome);
    }
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn of_dropped_requests_only_those_that_lost_to_a_hedge_count() {
    for (outcome, ejects) in [
        (Some(Outcome::Hedged), true),
        (Some(Outcome::Cancelled), false),
        (None, false),
    ] {
        let pool = pool(&["a", "b"]);
        let hangs =
            service_fn(|_: Request<()>| std::future::pending::<Result<Response<()>, Error>>());
        let service = HealthLayer::new(pool.clone()).no_checks().layer(hangs);
        let mut events = pool.subscribe();
        for _ in 0..5 {
            hang(&service, &pool, "a", outcome).await;
        }
        assert_eq!(pool.snapshot().usable() == 1, ejects, "{outcome:?}");
        if ejects {
            let (_, down) = transition(&mut events).await;
            assert_eq!((down.reason.code, down.streak), ("L7TOUT", 5));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_may_take_its_backend_out_at_once() {
    for (name, honoured) in [
        ("x-evenkeel-health", true),
        ("x-envoy-immediate-health-check-fail", true),
        ("x-evenkeel-health", false),
    ] {
        let pool = pool(&["a", "b", "c"]);
        let inner = service_fn(move |_: Request<()>| async move {
            let mut response = Response::new(());
            response.headers_mut().insert(name, "fail".parse().unwrap());
            Ok::<_, Error>(response)
        });
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(without_jitter().immediate_fail(honoured).max_share(0.0))
            .unwrap()
            .layer(inner);
        let headers: HeaderMap = {
            let mut request = Request::new(());
            let a = pool.snapshot().get("a").unwrap().clone();
            request.extensions_mut().insert(Selected(a));
            let response = service.clone().oneshot(request).await.unwrap();
            response.headers().clone()
        };
        assert_eq!(headers.is_empty(), honoured, "it is not the client's");
        assert_eq!(pool.snapshot().usable(), 3 - usize::from(honoured));
        if honoured {
            send(&service, &pool, "b", 1).await;
            assert_eq!(pool.snapshot().usable(), 1, "whatever the share");
            send(&service, &pool, "c", 1).await;
            assert_eq!(pool.snapshot().usable(), 1, "but never the last");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_applications_own_errors_count_by_choice() {
    for (chosen, usable) in [(true, 1), (false, 2)] {
        let pool = pool(&["a", "b"]);
        let answers = answers(&[("a", Ok(500))]);
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(Outliers::new().server_errors(chosen))
            .unwrap()
            .layer(service(&answers));
        send(&service, &pool, "a", 50).await;
        assert_eq!(pool.snapshot().usable(), usable);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_last_outlier_detection_ends_its_ejections() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(502)), ("b", Ok(200))]);
    let judging = HealthLayer::new(pool.clone()).no_checks();
    let service = judging.layer(service(&answers));
    send(&service, &pool, "a", 5).await;
    let is_ejected = || pool.snapshot().get("a").unwrap().is_ejected();
    assert!(is_ejected());
    // As settings that are read again replace one layer by another.
    let other = HealthLayer::new(pool.clone()).no_checks();
    let next = other.layer(());
    drop((judging, service));
    assert!(is_ejected(), "the next one judges on");
    drop((other, next));
    assert!(!is_ejected(), "no outlier detection would end it");
}
