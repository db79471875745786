//! How traffic follows health: slow start, localities, tiers and panic mode.

use super::*;

#[tokio::test(start_paused = true)]
async fn slow_start_follows_a_recovery_and_nothing_else() {
    let pool = pool(&["a", "b"]);
    let guard = pool.attach_prober();
    let (a, b) = (member(&pool, "a"), member(&pool, "b"));
    let now = Instant::now;
    let weight = || routes(&pool)[0].0[0].1;
    assert_eq!(pool.tick(now()), None, "nothing to do");
    pool.measure(&a, up());
    pool.measure(&b, up());
    assert_eq!(weight(), 1_000, "the first pass is no recovery");
    pool.start_maintenance("a").unwrap();
    pool.mark_ready("a").unwrap();
    assert_eq!(weight(), 1_000, "nor is the end of maintenance");
    pool.measure(&a, down());
    pool.measure(&a, up());
    assert_eq!(weight(), 100, "a recovery begins at a tenth");
    let mut seen = Vec::new();
    while let Some(next) = pool.tick(now()) {
        seen.push(weight());
        tokio::time::sleep_until(next).await;
    }
    assert_eq!(seen.len(), 20, "{seen:?}");
    assert!(
        seen.windows(2).all(|pair| pair[1] == pair[0] + 45),
        "{seen:?}"
    );
    assert_eq!(weight(), 1_000);
    pool.eject(&a, reason(), 5, 1.0);
    assert!(pool.readmit(&a, reason()));
    assert_eq!(weight(), 100, "a readmission is a recovery");
    pool.measure(&a, down());
    assert_eq!(
        pool.tick(now()),
        None,
        "an unhealthy backend has no slow start"
    );
    pool.update_routing(Routing::new().slow_start(Duration::ZERO, 0.1).unwrap());
    pool.measure(&a, up());
    assert_eq!(weight(), 1_000, "switched off");
    pool.update_routing(Routing::new().slow_start_when_ready());
    pool.start_maintenance("a").unwrap();
    pool.mark_ready("a").unwrap();
    assert_eq!(weight(), 100, "by choice, after maintenance");
    drop(guard);
}

#[test]
fn without_a_tick_no_slow_start_begins() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    pool.measure(&a, down());
    pool.measure(&a, up());
    assert_eq!(routes(&pool)[0].0[0].1, 1_000);
}

fn located(id: &str, locality: &str) -> Backend {
    backend(id).locality(Locality::new(locality).unwrap())
}

fn world() -> Pool {
    Pool::new([
        located("a1", "eu/1/r1"),
        located("a2", "eu/1/r2"),
        located("b1", "eu/2/r1"),
        located("us", "us/1/r1"),
        located("backup", "eu/1/r1").tier(1),
    ])
    .unwrap()
}

#[test]
fn a_locality_is_evacuated_by_one_call_and_restored_by_another() {
    for (locality, left) in [
        ("eu/1/r1", &["a2", "b1", "us"][..]),
        ("eu/1", &["b1", "us"]),
        ("eu", &["us"]),
        ("asia", &["a1", "a2", "b1", "us", "backup"]),
    ] {
        let pool = world();
        let locality = Locality::new(locality).unwrap();
        let count = pool.evacuate(&locality);
        assert_eq!(count, 5 - left.len());
        assert_eq!(usable(&pool), left, "{locality}");
        assert_eq!(pool.evacuate(&locality), count, "once is enough");
        let snapshot = pool.snapshot();
        let gone = snapshot
            .backends()
            .iter()
            .filter(|b| !left.contains(&b.id()));
        assert!(
            gone.clone()
                .all(|b| b.is_evacuated() && !b.keeps_sessions())
        );
        // A backend that joins meanwhile is out, too.
        pool.upsert(located("new", "eu/1/r1"));
        assert_eq!(
            usable(&pool).len(),
            left.len() + usize::from(locality.as_str() == "asia")
        );
        pool.restore(&locality);
        assert_eq!(usable(&pool).len(), 6, "{locality}");
        assert!(pool.evacuated().is_empty());
    }
}

#[test]
fn traffic_stays_near_and_overflows_by_availability() {
    let pool = world();
    let here = Locality::new("eu/1/r1").unwrap();
    pool.update_routing(Routing::new().locality(here));
    let shares = || {
        let routes = routes(&pool);
        let names = routes.into_iter().map(|(group, share)| {
            let ids: Vec<_> = group.into_iter().map(|(id, _)| id).collect();
            (ids.join(" "), share)
        });
        names.collect::<Vec<_>>()
    };
    let all = |table: &[(&str, u32)]| {
        let owned = table.iter().map(|(ids, share)| ((*ids).to_owned(), *share));
        owned.collect::<Vec<_>>()
    };
    let near = [
        ("a1", 10_000),
        ("a2", 0),
        ("b1", 0),
        ("us", 0),
        ("backup", 0),
    ];
    assert_eq!(shares(), all(&near));
    pool.measure(&member(&pool, "a1"), up().capacity(0.5));
    let half = [
        ("a1", 7_000),
        ("a2", 3_000),
        ("b1", 0),
        ("us", 0),
        ("backup", 0),
    ];
    assert_eq!(shares(), all(&half), "half a rack carries seven tenths");
    pool.measure(&member(&pool, "a1"), down());
    let rack = [("a2", 10_000), ("b1", 0), ("us", 0), ("backup", 0)];
    assert_eq!(
        shares(),
        all(&rack),
        "three of four are enough for the tier"
    );
    pool.measure(&member(&pool, "a2"), down());
    let zone = [("b1", 7_000), ("us", 0), ("backup", 3_000)];
    assert_eq!(shares(), all(&zone), "half the tier is left");
    pool.evacuate(&Locality::new("eu/2").unwrap());
    let region = [("us", 3_500), ("backup", 6_500)];
    assert_eq!(shares(), all(&region));
    pool.evacuate(&Locality::new("eu/1").unwrap());
    assert_eq!(shares(), all(&[("us", 10_000)]));
}

#[test]
fn panic_routing_is_opt_in_and_excludes_backends_that_an_operator_took_out() {
    let pool = pool(&["a", "b", "c", "d", "e"]);
    pool.start_maintenance("e").unwrap();
    for id in ["a", "b", "c"] {
        pool.measure(&member(&pool, id), down());
    }
    assert_eq!(usable(&pool), ["d"], "fail fast is the default");
    pool.update_routing(
        Routing::new()
            .panic(PanicRouting::UseAll { below: 0.5 })
            .unwrap(),
    );
    assert!(pool.snapshot().in_panic_mode());
    assert_eq!(usable(&pool), ["a", "b", "c", "d"]);
    assert_eq!(routes(&pool)[0].1, 10_000);
    assert!(pool.snapshot().get("a").unwrap().is_usable());
    assert_eq!(
        pool.eject(&member(&pool, "d"), reason(), 5, 1.0),
        Ejection::LastUsable,
        "the last healthy one stays the last"
    );
    pool.measure(&member(&pool, "a"), up());
    assert!(!pool.snapshot().in_panic_mode(), "half is not below half");
    assert_eq!(usable(&pool), ["a", "d"]);
    pool.measure(&member(&pool, "d"), up());
    let _guard = pool.attach_prober();
    pool.upsert(backend("f"));
    assert!(
        !pool.snapshot().in_panic_mode(),
        "a held backend does not count"
    );
    assert!(
        Routing::new()
            .panic(PanicRouting::UseAll { below: 0.0 })
            .is_err()
    );
    assert!(Routing::new().overprovisioning(0.9).is_err());
    assert!(Routing::new().slow_start(Duration::ZERO, 0.0).is_err());
}

#[tokio::test(start_paused = true)]
async fn many_slow_starts_cost_few_snapshots() {
    let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let pool = Pool::new(ids.iter().map(|id| backend(id))).unwrap();
    let time = Duration::from_secs(2);
    pool.update_routing(Routing::new().slow_start(time, 0.1).unwrap());
    let began = Instant::now();
    pool.tick(began);
    for id in &ids {
        pool.measure(&member(&pool, id), down());
    }
    for id in &ids {
        // Each at a moment of its own.
        tokio::time::advance(Duration::from_micros(1_003)).await;
        pool.measure(&member(&pool, id), up());
    }
    let before = pool.snapshot().generation();
    let mut now = Instant::now();
    while let Some(next) = pool.tick(now) {
        assert!(next > now, "never busy");
        now = next;
    }
    assert!(
        now - began < Duration::from_millis(2_600),
        "the slow starts end in time"
    );
    let weights = pool.snapshot().groups()[0].weights().to_vec();
    assert_eq!(weights, [1_000; 500], "all have their whole share");
    let made = pool.snapshot().generation() - before;
    assert!(made < 600, "{made} snapshots for 10,000 steps");
}
