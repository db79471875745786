//! Backends that join, leave, move or get other settings while checks run.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_backend_that_joins_is_checked_at_once_and_one_that_leaves_no_more() {
    let (pool, script) = (pool(&["a"]), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    let joined = Instant::now();
    pool.upsert(backend("b"));
    assert_eq!(pool.snapshot().held(), 1, "a newcomer is held");
    sleep(Duration::from_millis(10)).await;
    assert!(script.begun("b")[0] - joined < Duration::from_millis(5));
    assert_eq!(pool.snapshot().usable(), 2);

    script.say("a", Answer::Hang);
    while script.running() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    pool.remove("a").unwrap();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        script.running(),
        0,
        "the check of a removed backend is cancelled"
    );
    let checked = script.begun("a").len();
    sleep(60 * SECOND).await;
    assert_eq!(script.begun("a").len(), checked, "and none follows");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_settings_never_brings_up_what_is_down() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    script.say("a", Answer::Fail);
    let mut events = pool.subscribe();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    wait_for(&mut events, State::Unhealthy).await;
    let moved = || Backend::new("a", "http://127.0.0.1:2").unwrap();
    for _ in 0..3 {
        pool.upsert(backend("a").weight(2).unwrap());
        assert_eq!(pool.snapshot().usable(), 1, "another weight");
        pool.upsert(moved());
        assert_eq!(pool.snapshot().usable(), 1, "another address");
        pool.replace([moved(), backend("b")]).unwrap();
        assert_eq!(pool.snapshot().usable(), 1, "another membership");
        sleep(7 * SECOND).await;
        assert_eq!(pool.snapshot().usable(), 1, "and none after a while");
    }
    script.say("a", Answer::Pass);
    let up = wait_for(&mut events, State::Healthy).await;
    assert_eq!(up.streak, 2, "only passes bring it up");
}

#[tokio::test(start_paused = true)]
async fn another_address_must_pass_before_it_gets_traffic() {
    let (pool, script) = (pool(&["a", "b"]), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(SECOND).await;
    assert_eq!(pool.snapshot().usable(), 2);
    script.say("a", Answer::Hang);
    pool.upsert(Backend::new("a", "http://127.0.0.1:2").unwrap());
    assert_eq!(
        pool.snapshot().usable(),
        1,
        "measured good was another address"
    );
    sleep(SECOND).await;
    assert_eq!(script.running(), 1, "the new address is checked at once");
    script.say("a", Answer::Pass);
    pool.upsert(Backend::new("a", "http://127.0.0.1:3").unwrap());
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        pool.snapshot().usable(),
        2,
        "and the check of the one before is cancelled"
    );
}
