//! PublishQueue that come together are shown together.

use super::*;
use crate::pool::{Measurement, Reason};

fn many(count: usize) -> Pool {
    Pool::new((0..count).map(|i| backend(&format!("b{i:05}")))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_passes_make_few_snapshots_and_every_event() {
    const COUNT: usize = 10_000;
    let (pool, script) = (many(COUNT), Script::default());
    let mut events = pool.subscribe();
    let before = pool.snapshot().generation();
    let began = std::time::SystemTime::now();
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    let mut ids = Vec::new();
    while ids.len() < COUNT {
        let (id, change) = transition(&mut events).await;
        assert_eq!((change.from, change.to), (State::Unknown, State::Healthy));
        ids.push(id);
    }
    let took = began.elapsed().unwrap();
    let made = pool.snapshot().generation() - before;
    println!("{COUNT} came up in {took:?}, {made} snapshots");
    assert_eq!(pool.snapshot().usable(), COUNT);
    assert!(ids.is_sorted(), "in the order in which they came");
    ids.dedup();
    assert_eq!(ids.len(), COUNT, "each once");
    assert!(made <= 40, "{made} snapshots");
    assert!(took < Duration::from_secs(120), "{took:?}");
    assert!(events.try_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_fall_amid_many_is_put_off_for_a_moment_at_the_most() {
    let (pool, script) = (many(1_000), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 1_000);
    let mut events = pool.subscribe();
    // A rack: a tenth of all, each checked at a moment of its own.
    for i in 0..100 {
        script.say(&format!("b{:05}", 10 * i), Answer::Fail);
    }
    let before = pool.snapshot().generation();
    let mut late = Duration::ZERO;
    for _ in 0..100 {
        let (id, change) = transition(&mut events).await;
        assert_eq!(change.to, State::Unhealthy);
        let fell = script.begun(&id)[..].last().copied().unwrap();
        late = late.max(fell.elapsed());
    }
    assert!(late <= Duration::from_millis(12), "{late:?}");
    let made = pool.snapshot().generation() - before;
    assert!(made <= 100, "{made} snapshots for 100 falls");
    assert_eq!(pool.snapshot().usable(), 900);
}

#[test]
fn a_batch_is_what_each_alone_would_be() {
    let (one, all) = (many(6), many(6));
    let reason = |code| Reason::new(code, "");
    let measured = |i: usize| match i % 6 {
        0 | 1 => Measurement::new(State::Healthy, reason("L7OK")),
        2 => Measurement::new(State::Unhealthy, reason("L4CON")),
        3 => Measurement::new(State::Healthy, reason("L7OK")).capacity(0.5),
        4 => Measurement::new(State::Healthy, reason("L7OK")).draining(true),
        _ => Measurement::new(State::Unknown, reason("INI")),
    };
    let results = |pool: &Pool| -> Vec<_> {
        let backends = pool.snapshot().backends().to_vec();
        // The second half says something else of the same.
        let twice = backends.iter().chain(&backends).cloned();
        twice
            .enumerate()
            .map(|(i, b)| (b, measured(i + i / 6)))
            .collect()
    };
    let (mut heard_one, mut heard_all) = (one.subscribe(), all.subscribe());
    let mut changes = 0;
    for (backend, measured) in results(&one) {
        changes += usize::from(one.measure(&backend, measured).is_some());
    }
    let before = all.snapshot().generation();
    assert_eq!(all.measure_all(results(&all)), changes);
    assert_eq!(all.snapshot().generation(), before + 1, "one snapshot");
    let gone = backend("gone");
    assert_eq!(all.measure_all([(gone, measured(2))]), 0);
    assert_eq!(all.measure_all([]), 0);
    assert_eq!(all.snapshot().generation(), before + 1, "nothing changed");
    let list = |events: &mut Events| -> Vec<_> {
        let each = std::iter::from_fn(|| events.try_next());
        each.map(|e| match e.kind {
            EventKind::Health(t) => format!("{} {:?} {:?}", e.backend.id(), t.from, t.to),
            other => format!("{} {other:?}", e.backend.id()),
        })
        .collect()
    };
    assert_eq!(list(&mut heard_all), list(&mut heard_one));
    let state = |pool: &Pool| -> Vec<_> {
        let snapshot = pool.snapshot();
        let each = snapshot.backends().iter();
        each.map(|b| (b.health(), b.is_usable(), b.capacity()))
            .collect()
    };
    assert_eq!(state(&all), state(&one));
}

#[tokio::test]
async fn what_is_measured_is_shown_at_once_on_a_clock_that_runs() {
    let (pool, script) = (many(3), Script::default());
    script.say("b00001", Answer::Fail);
    let mut events = pool.subscribe();
    let checks = checks(&script).changing_interval(Duration::from_millis(20));
    let _prober = Prober::start(&pool, checks).unwrap();
    let began = Instant::now();
    wait_for(&mut events, State::Unhealthy).await;
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(pool.snapshot().usable(), 2);
}
