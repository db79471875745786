//! How a trial ends an ejection, prolongs it, or shows nothing.

use super::*;
use crate::pool::{Lease, Reason};

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
async fn a_trial_that_ends_after_another_readmission_counts_as_any_request() {
    for (end, is_out_again) in [(StatusCode::OK, true), (StatusCode::BAD_GATEWAY, false)] {
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
        if is_out_again {
            pool.eject(&backend, Reason::new("TEST", "out again"), 1, 1.0);
        }
        trial.await.unwrap().unwrap();
        assert!(backend.is_ejected(), "{end:?}");
        assert_eq!(backend.circuit(), Circuit::Open, "{end:?}");
    }
}
