//! What all backends fail for.

use super::*;

/// Waits for the next event of a shared failure; returns the backend and the dependency.
async fn word(events: &mut Events) -> (String, Option<String>) {
    let wait = async {
        loop {
            let Event { backend, kind, .. } = events.next().await.unwrap();
            if let EventKind::SharedFailure(dependency) = kind {
                let dependency = dependency.map(|name| name.to_string());
                return (backend.id().to_owned(), dependency);
            }
        }
    };
    timeout(3_600 * SECOND, wait)
        .await
        .expect("a word must come")
}

fn all(script: &Script, ids: &[&str], answer: Answer) {
    ids.iter().for_each(|id| script.say(id, answer));
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_fails_for_all_empties_no_pool() {
    let ids = ["a", "b", "c", "d"];
    let (pool, script) = (pool(&ids), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    let mut events = pool.subscribe();
    all(&script, &ids, Answer::Blame("postgres"));
    let mut kept: Vec<_> = Vec::new();
    for _ in ids {
        let (id, dependency) = word(&mut events).await;
        assert_eq!(dependency.as_deref(), Some("postgres"));
        kept.push(id);
    }
    kept.sort();
    assert_eq!(kept, ids);
    for _ in 0..600 {
        sleep(SECOND).await;
        assert_eq!(pool.snapshot().usable(), 4, "they keep serving");
    }
    all(&script, &ids, Answer::Pass);
    for _ in ids {
        assert_eq!(word(&mut events).await.1, None, "and it is over");
    }
    sleep(60 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 4);
    assert!(
        std::iter::from_fn(|| events.try_next()).all(|e| !matches!(e.kind, EventKind::Health(_))),
        "no change of health all the while"
    );
}

#[tokio::test(start_paused = true)]
async fn a_dependency_that_fails_for_one_backend_takes_it_out() {
    let ids = ["a", "b", "c", "d"];
    let (pool, script) = (pool(&ids), Script::default());
    let _prober = Prober::start(&pool, checks(&script).jitter(0.0)).unwrap();
    sleep(20 * SECOND).await;
    let mut events = pool.subscribe();
    script.say("a", Answer::Blame("postgres"));
    let began = Instant::now();
    let (id, down) = transition(&mut events).await;
    assert_eq!(
        (id.as_str(), down.to, down.streak),
        ("a", State::Unhealthy, 2)
    );
    assert!(
        began.elapsed() <= INTERVAL + CHANGING + SECOND / 10,
        "as soon as ever, for others answer at once: {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn different_reasons_take_backends_out_even_if_all_fail() {
    let ids = ["a", "b", "c"];
    let (pool, script) = (pool(&ids), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    // No name, no shared failure.
    all(&script, &ids, Answer::Fail);
    sleep(20 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 0);
    all(&script, &ids, Answer::Pass);
    sleep(60 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 3);
    // Another name each.
    script.say("a", Answer::Blame("postgres"));
    script.say("b", Answer::Blame("redis"));
    script.say("c", Answer::Blame("kafka"));
    sleep(60 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 0, "the reasons differ");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_does_not_answer_falls_while_others_are_kept() {
    let ids = ["a", "b", "c", "d"];
    let (pool, script) = (pool(&ids), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    all(&script, &ids, Answer::Blame("postgres"));
    script.say("c", Answer::Hang);
    script.say("d", Answer::Fail);
    sleep(60 * SECOND).await;
    let snapshot = pool.snapshot();
    let up: Vec<_> = ids
        .iter()
        .filter(|id| snapshot.get(id).unwrap().is_usable())
        .collect();
    assert_eq!(up, [&"a", &"b"]);
}

#[tokio::test(start_paused = true)]
async fn when_one_backend_recovers_the_others_are_judged_alone() {
    let ids = ["a", "b", "c"];
    let (pool, script) = (pool(&ids), Script::default());
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    all(&script, &ids, Answer::Blame("postgres"));
    sleep(60 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 3);
    script.say("b", Answer::Pass);
    sleep(20 * SECOND).await;
    assert_eq!(
        pool.snapshot().usable(),
        1,
        "it is not what all have in common"
    );
    assert!(pool.snapshot().get("b").unwrap().is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_shared_failure_lifts_no_backend_that_is_down_or_unknown() {
    let ids = ["a", "b", "c"];
    let (pool, script) = (pool(&ids), Script::default());
    script.say("a", Answer::Fail);
    let _prober = Prober::start(&pool, checks(&script)).unwrap();
    sleep(20 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 2);
    all(&script, &ids, Answer::Blame("postgres"));
    pool.upsert(backend("new"));
    script.say("new", Answer::Blame("postgres"));
    sleep(60 * SECOND).await;
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.usable(), 2);
    assert!(!snapshot.get("a").unwrap().is_usable(), "invariant A");
    assert!(!snapshot.get("new").unwrap().is_usable(), "never passed");
}

#[tokio::test(start_paused = true)]
async fn the_guard_can_be_left_out() {
    let ids = ["a", "b"];
    let (pool, script) = (pool(&ids), Script::default());
    let checks = checks(&script).no_shared_failure();
    let _prober = Prober::start(&pool, checks).unwrap();
    sleep(20 * SECOND).await;
    all(&script, &ids, Answer::Blame("postgres"));
    sleep(20 * SECOND).await;
    assert_eq!(pool.snapshot().usable(), 0);
}
