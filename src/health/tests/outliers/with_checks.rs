//! What checks say of a backend that live traffic ejected.

use super::*;

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
