//! What a backend says of itself, and what is known from before.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_degraded_or_drains_serves_still() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(SECOND).await;
    let a = pool.snapshot().get("a").unwrap().clone();
    let mut events = pool.subscribe();
    script.say("a", Answer::Degraded(0.25));
    sleep(6 * SECOND).await;
    assert!(a.is_usable() && a.health() == State::Healthy);
    assert!((a.capacity() - 0.25).abs() < 0.001, "{}", a.capacity());
    script.say("a", Answer::Drain);
    sleep(6 * SECOND).await;
    assert!(a.asks_to_drain() && !a.is_usable() && a.keeps_sessions());
    assert_eq!(a.health(), State::Healthy);
    script.say("a", Answer::Pass);
    sleep(6 * SECOND).await;
    assert!(a.is_usable() && !a.asks_to_drain());
    assert!((a.capacity() - 1.0).abs() < 0.001);
    let announced = std::iter::from_fn(|| events.try_next())
        .filter(|e| matches!(e.kind, EventKind::Capacity { .. }))
        .count();
    assert_eq!(announced, 3, "each change is announced once");
}

#[tokio::test(start_paused = true)]
async fn retry_after_delays_checks_of_a_backend_that_is_down_only() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script).jitter(0.0)).unwrap();
    sleep(20 * SECOND).await;
    script.say("a", Answer::Wait(30));
    let asked = Instant::now();
    wait_for(&mut events, State::Unhealthy).await;
    assert!(asked.elapsed() <= INTERVAL + CHANGING + SECOND / 10);
    let down = Instant::now();
    for (wait, pause) in [(30, 30), (600, 60), (1, 5)] {
        script.say("a", Answer::Wait(wait));
        let before = script.begun("a").len();
        while script.begun("a").len() == before {
            sleep(SECOND / 10).await;
        }
        // The answer that counts is the one before; the first is from when it fell.
        let begun = script.begun("a");
        if wait != 30 {
            let last = begun[before] - begun[before - 1];
            let expected = if wait == 600 { 30 } else { 60 };
            assert!(
                last >= expected * SECOND,
                "{last:?} of {expected} s, {pause}"
            );
        }
    }
    assert!(down.elapsed() >= 90 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_down_is_checked_at_the_down_interval() {
    let (pool, script) = (pool(&["a"]), Script::default());
    script.say("a", Answer::Fail);
    let checks = checks(&script).down_interval(20 * SECOND).jitter(0.0);
    let _prober = Prober::start(&pool, checks).unwrap();
    sleep(120 * SECOND).await;
    let begun = script.begun("a");
    assert!(begun.len() <= 9, "{} in 120 s", begun.len());
    let last = begun[begun.len() - 1] - begun[begun.len() - 2];
    assert!(last >= 20 * SECOND && last < 21 * SECOND, "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_tells_all_that_is_known_of_it() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    wait_for(&mut events, State::Healthy).await;
    sleep(100 * SECOND).await;
    script.say("a", Answer::Fail);
    let down = wait_for(&mut events, State::Unhealthy).await;
    assert!(down.previous >= 100 * SECOND, "{:?}", down.previous);
    assert_eq!((down.flaps, down.flapping, down.streak), (1, false, 2));
    assert!(down.latency.is_some());
    for _ in 0..2 {
        script.say("a", Answer::Pass);
        wait_for(&mut events, State::Healthy).await;
        script.say("a", Answer::Fail);
        wait_for(&mut events, State::Unhealthy).await;
    }
    let a = pool.snapshot().get("a").unwrap().clone();
    assert!(a.is_flapping() && a.flaps() >= 4, "{} times", a.flaps());
    script.say("a", Answer::Pass);
    wait_for(&mut events, State::Healthy).await;
    sleep(200 * SECOND).await;
    assert_eq!((a.flaps(), a.is_flapping()), (0, false), "calm for long");
}

#[tokio::test(start_paused = true)]
async fn restored_health_is_the_initial_state() {
    let script = Script::default();
    script.say("b", Answer::Fail);
    let earlier = pool(&["a", "b"]);
    let prober = Prober::start(&earlier, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    let known = earlier.health_snapshot();
    drop(prober);

    script.say("a", Answer::Hang);
    script.say("b", Answer::Pass);
    let later = pool(&["a", "b"]);
    assert_eq!(later.restore_health(&known), 2);
    let mut events = later.subscribe();
    let _prober = Prober::start(&later, checks(&script)).unwrap();
    let usable = || {
        let snapshot = later.snapshot();
        ["a", "b"].map(|id| snapshot.get(id).unwrap().is_usable())
    };
    assert_eq!(usable(), [true, false], "a serves before any check");
    sleep(SECOND / 10).await;
    assert_eq!(usable(), [true, false], "one pass is not enough for b");
    let (id, up) = transition(&mut events).await;
    assert_eq!((id.as_str(), up.to, up.streak), ("b", State::Healthy, 2));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_back_warms_up() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    script.say("a", Answer::Fail);
    wait_for(&mut events, State::Unhealthy).await;
    script.say("a", Answer::Pass);
    wait_for(&mut events, State::Healthy).await;
    let share = || {
        let snapshot = pool.snapshot();
        let group = &snapshot.groups()[0];
        let of = |id| group.backends().iter().position(|b| b.id() == id).unwrap();
        let weights = group.weights();
        f64::from(weights[of("a")]) / f64::from(weights[of("b")])
    };
    assert!(share() < 0.2, "{}", share());
    sleep(15 * SECOND).await;
    assert!(share() > 0.4 && share() < 0.7, "{}", share());
    sleep(20 * SECOND).await;
    assert!(share() > 0.99, "the task moves it on: {}", share());
}

/// Ten thousand members, of which one changes: a change that is not of membership costs little.
#[tokio::test(start_paused = true)]
async fn many_backends_are_followed_without_being_copied() {
    let ids: Vec<_> = (0..10_000).map(|i| format!("b{i}")).collect();
    let pool = Pool::new(ids.iter().map(|id| backend(id))).unwrap();
    let first = pool.snapshot().membership();
    pool.start_maintenance("b7").unwrap();
    assert!(pool.snapshot().membership() == first, "orders and health");
    pool.upsert(backend("b7").weight(2).unwrap());
    assert!(pool.snapshot().membership() != first, "settings");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_could_not_be_made_counts_as_none() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    script.say("b", Answer::Local);
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(30 * SECOND).await;
    let (id, change) = transition(&mut events).await;
    assert_eq!((&*id, change.to), ("a", State::Healthy));
    assert!(events.try_next().is_none(), "nothing is known of b");
    assert!(script.begun("b").len() >= 6, "it is checked on");
    // Two failures and two passes in a row count, however many were not made in between.
    for (answer, to) in [
        (Answer::Fail, State::Unhealthy),
        (Answer::Pass, State::Healthy),
    ] {
        let settled = pool.snapshot().get("a").unwrap().active_health();
        for (answer, wait) in [(answer, 1), (Answer::Local, 60), (answer, 0)] {
            let before = script.begun("a").len();
            script.say("a", answer);
            while script.begun("a").len() == before {
                sleep(Duration::from_millis(10)).await;
            }
            // No second one that says the same.
            if wait == 1 {
                script.say("a", Answer::Local);
            }
            sleep(wait * SECOND).await;
            if wait > 0 {
                let now = pool.snapshot().get("a").unwrap().active_health();
                assert_eq!(now, settled, "{answer:?}");
            }
        }
        let change = wait_for(&mut events, to).await;
        assert_eq!(change.streak, 2);
    }
}
