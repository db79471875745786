//! What live traffic shows.

use ::http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::*;
use crate::{
    Error, ErrorKind,
    context::{Exchange, Outcome, Selected},
    pool::{Circuit, Lease, Reason, Source},
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

async fn send<S>(service: &S, pool: &Pool, id: &str, times: usize)
where
    S: Service<Request<()>, Response = Response<()>, Error = Error> + Clone,
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
            assert_eq!(pool.snapshot().usable(), 2, "the count begins anew");
            say(Ok(200));
            send(&service, &pool, "a", 1).await;
            say(bad);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_fails_is_the_next_ejection() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(without_jitter())
        .unwrap()
        .layer(service(&answers));
    let mut events = pool.subscribe();
    send(&service, &pool, "a", 5).await;
    for lasts in [30, 60, 90] {
        let out = Instant::now();
        circuit(&mut events, Circuit::HalfOpen).await;
        let took = out.elapsed();
        assert!(took >= lasts * SECOND, "{took:?} of {lasts} s");
        assert!(took < lasts * SECOND + SECOND / 10, "{took:?} of {lasts} s");
        send(&service, &pool, "a", 1).await;
        assert_eq!(circuit(&mut events, Circuit::Open).await, "a");
        assert_eq!(pool.snapshot().trials().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_tries_it_time_readmits() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .layer(service(&answers));
    let mut events = pool.subscribe();
    send(&service, &pool, "a", 5).await;
    let out = Instant::now();
    let up = loop {
        let (_, up) = transition(&mut events).await;
        if up.from == State::Unhealthy {
            break up;
        }
    };
    assert_eq!(up.reason.code, "TIME");
    let took = out.elapsed();
    assert!(
        took >= 60 * SECOND && took <= 63 * SECOND + SECOND / 10,
        "its time with up to a tenth of jitter, and as long for a trial: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_a_trial_does_not_decide_it() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let quick = service(&answers);
    let slow = service_fn(move |request: Request<()>| {
        let quick = quick.clone();
        async move {
            if request.uri().path() == "/slow" {
                sleep(40 * SECOND).await;
                return Ok(Response::new(()));
            }
            quick.oneshot(request).await
        }
    });
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(without_jitter())
        .unwrap()
        .layer(slow);
    let mut events = pool.subscribe();
    let mut request = Request::builder().uri("/slow").body(()).unwrap();
    let a = pool.snapshot().get("a").unwrap().clone();
    request.extensions_mut().insert(Selected(a));
    let mut ready = service.clone();
    let slow = ready.ready().await.unwrap().call(request);
    let slow = tokio::spawn(slow);
    send(&service, &pool, "a", 5).await;
    circuit(&mut events, Circuit::HalfOpen).await;
    slow.await.unwrap().unwrap();
    assert_eq!(pool.snapshot().trials().len(), 1, "it is tried as ever");
}

#[tokio::test(start_paused = true)]
async fn a_trial_under_way_is_waited_for_and_time_readmits_once_it_showed_nothing() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(without_jitter())
        .unwrap()
        .layer(service(&answers));
    let mut events = pool.subscribe();
    send(&service, &pool, "a", 5).await;
    circuit(&mut events, Circuit::HalfOpen).await;
    let trial = Lease::acquire_trial(&pool.snapshot().trials()[0]).unwrap();
    sleep(200 * SECOND).await;
    assert_eq!(
        pool.snapshot().usable(),
        1,
        "it hangs: time alone says nothing"
    );
    drop(trial);
    sleep(2 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_trial_that_nobody_waits_for_counts_as_any_other() {
    for (end, is_out_anew) in [(StatusCode::OK, true), (StatusCode::BAD_GATEWAY, false)] {
        let pool = pool(&["a", "b", "c"]);
        let answers = answers(&[("a", Ok(503)), ("b", Ok(200)), ("c", Ok(200))]);
        let now = service(&answers);
        let late = service_fn(move |request: Request<()>| {
            let now = now.clone();
            async move {
                if request.uri().path() == "/late" {
                    sleep(5 * SECOND).await;
                    let mut response = Response::new(());
                    *response.status_mut() = end;
                    return Ok(response);
                }
                now.oneshot(request).await
            }
        });
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(without_jitter().consecutive(1))
            .unwrap()
            .layer(late);
        let mut events = pool.subscribe();
        send(&service, &pool, "a", 1).await;
        circuit(&mut events, Circuit::HalfOpen).await;
        let backend = pool.snapshot().trials()[0].clone();
        let mut request = Request::new(());
        *request.uri_mut() = "/late".parse().unwrap();
        request.extensions_mut().insert(Selected(backend.clone()));
        let trial = tokio::spawn(service.clone().oneshot(request));
        sleep(SECOND).await;
        pool.readmit(&backend, Reason::new("TEST", "back by other means"));
        assert_eq!(pool.snapshot().usable(), 3);
        if is_out_anew {
            pool.eject(&backend, Reason::new("TEST", "out anew"), 1, 1.0);
        }
        trial.await.unwrap().unwrap();
        assert!(backend.is_ejected(), "{end:?}");
        assert_eq!(backend.circuit(), Circuit::Open, "{end:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_client_did_is_never_charged_to_the_backend() {
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

#[tokio::test(start_paused = true)]
async fn passing_checks_earn_an_ejected_backend_an_early_trial() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .checks(checks(&script).jitter(0.0))
        .unwrap()
        .outliers(without_jitter())
        .unwrap()
        .layer(service(&answers));
    sleep(21 * SECOND).await;
    let mut events = pool.subscribe();
    send(&service, &pool, "a", 5).await;
    let ejected = Instant::now();
    circuit(&mut events, Circuit::HalfOpen).await;
    let after = script.begun("a").iter().filter(|b| **b > ejected).count();
    assert_eq!(after, 2, "two checks begun after it have to pass");
    // The clock of tests ticks in milliseconds.
    assert!(ejected.elapsed() <= 2 * INTERVAL + SECOND / 100);
    assert_eq!(
        pool.snapshot().usable(),
        1,
        "checks alone do not readmit it"
    );

    send(&service, &pool, "a", 1).await;
    circuit(&mut events, Circuit::Open).await;
    let failed = Instant::now();
    circuit(&mut events, Circuit::HalfOpen).await;
    let took = failed.elapsed();
    assert!(
        took >= 60 * SECOND,
        "checks that were wrong once do not shorten the next time: {took:?}"
    );
    answers.lock().unwrap().insert("a", Ok(200));
    send(&service, &pool, "a", 1).await;
    assert_eq!(pool.snapshot().usable(), 2, "a trial that passes readmits");
}

#[tokio::test(start_paused = true)]
async fn checks_that_failed_as_requests_did_readmit_when_they_pass() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let answers = answers(&[("a", Err(ErrorKind::Connect)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .checks(checks(&script).jitter(0.0))
        .unwrap()
        .layer(service(&answers));
    sleep(21 * SECOND).await;
    let mut events = pool.subscribe();
    script.say("a", Answer::Fail);
    send(&service, &pool, "a", 5).await;
    let ejected = Instant::now();
    while script.begun("a").iter().all(|begun| *begun <= ejected) {
        sleep(SECOND / 10).await;
    }
    script.say("a", Answer::Pass);
    let passing = Instant::now();
    wait_for(&mut events, State::Healthy).await;
    assert_eq!(pool.snapshot().usable(), 2);
    assert!(
        passing.elapsed() <= 3 * INTERVAL,
        "back within a passing streak: {:?}",
        passing.elapsed()
    );
    assert!(pool.snapshot().trials().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failing_checks_keep_an_ejected_backend_out() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .checks(checks(&script))
        .unwrap()
        .layer(service(&answers));
    sleep(SECOND).await;
    script.say("a", Answer::Fail);
    send(&service, &pool, "a", 5).await;
    sleep(120 * SECOND).await;
    assert!(
        !pool.snapshot().get("a").unwrap().is_ejected(),
        "its time is over"
    );
    assert_eq!(pool.snapshot().usable(), 1, "but checks fail");
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_ejects_where_none_are_in_a_row() {
    // Of ten requests, how many fail, and whether that is too many.
    for (failing, ejects) in [(6, true), (5, true), (3, false)] {
        let pool = pool(&["a", "b"]);
        let answers = answers(&[("a", Ok(200)), ("b", Ok(200))]);
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(Outliers::new().consecutive(100))
            .unwrap()
            .layer(service(&answers));
        for nth in 0..50 {
            let bad = (nth * failing) % 10 < failing;
            let answer = if bad { Ok(503) } else { Ok(200) };
            answers.lock().unwrap().insert("a", answer);
            send(&service, &pool, "a", 1).await;
            let out = pool.snapshot().usable() == 1;
            assert!(!out || nth >= 19, "not before there are 20: {nth}");
        }
        assert_eq!(pool.snapshot().usable() == 1, ejects, "{failing} of ten");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_are_far_apart_are_no_share() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(503)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .outliers(Outliers::new().consecutive(1_000))
        .unwrap()
        .layer(service(&answers));
    for _ in 0..100 {
        send(&service, &pool, "a", 1).await;
        sleep(SECOND).await;
    }
    assert_eq!(pool.snapshot().usable(), 2, "10 within any 10 s");
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_off_count_as_a_share() {
    let pool = pool(&["a", "b"]);
    let answers = answers(&[("a", Ok(200)), ("b", Ok(200))]);
    let service = HealthLayer::new(pool.clone())
        .no_checks()
        .layer(service(&answers));
    let a = pool.snapshot().get("a").unwrap().clone();
    for nth in 0..20 {
        assert_eq!(pool.snapshot().usable(), 2, "{nth}");
        send(&service, &pool, "a", 1).await;
        a.broke_off(ErrorKind::ResponseBody);
    }
    assert_eq!(
        pool.snapshot().usable(),
        1,
        "20 heads were fine, no body was"
    );
}

#[tokio::test(start_paused = true)]
async fn the_slow_one_among_equals_is_ejected_where_that_is_asked_for() {
    for asked in [true, false] {
        let pool = pool(&["a", "b", "c"]);
        let inner = service_fn(|request: Request<()>| async move {
            let Selected(backend) = request.extensions().get::<Selected>().unwrap();
            let ms = if backend.id() == "a" { 200 } else { 20 };
            sleep(Duration::from_millis(ms)).await;
            Ok::<_, Error>(Response::new(()))
        });
        let rules = match asked {
            true => without_jitter().slower_than(3.0),
            false => without_jitter(),
        };
        let service = HealthLayer::new(pool.clone())
            .no_checks()
            .outliers(rules)
            .unwrap()
            .layer(inner);
        let mut events = pool.subscribe();
        for id in ["a", "b", "c"] {
            send(&service, &pool, id, 25).await;
        }
        assert_eq!(pool.snapshot().usable(), 3, "judged once a window");
        sleep(WINDOW).await;
        assert_eq!(pool.snapshot().usable(), 3 - usize::from(asked));
        if asked {
            let (id, down) = transition(&mut events).await;
            assert_eq!((id.as_str(), down.reason.code), ("a", "SLOW"));
            circuit(&mut events, Circuit::HalfOpen).await;
            send(&service, &pool, "a", 1).await;
            assert_eq!(pool.snapshot().usable(), 3, "tried, and back");
        }
    }
}

/// Begins a request to `id` that hangs, and drops it after its attempt ended so.
async fn hang<S>(service: &S, pool: &Pool, id: &str, outcome: Option<Outcome>)
where
    S: Service<Request<()>, Response = Response<()>, Error = Error> + Clone,
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
async fn a_hedge_that_won_counts_against_who_hung_and_nothing_else_dropped_does() {
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
async fn who_is_ejected_does_not_stay_so_when_nobody_judges_any_more() {
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
    assert!(!is_ejected(), "nobody would ever let it back in");
}
