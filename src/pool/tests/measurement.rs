//! Measured health: what follows for the pick, which events come, and what survives a restart.

use super::*;

#[test]
fn without_a_prober_unknown_is_up_and_with_one_it_is_held() {
    let pool = pool(&["a", "b"]);
    assert_eq!(usable(&pool), ["a", "b"]);
    let guard = pool.attach_prober();
    assert_eq!((pool.snapshot().usable(), pool.snapshot().held()), (0, 2));
    let a = pool.snapshot().get("a").unwrap().clone();
    pool.measure(
        &a,
        Measurement::new(HealthStatus::Healthy, reason()).streak(1),
    )
    .unwrap();
    assert_eq!(usable(&pool), ["a"]);
    drop(guard);
    assert_eq!(usable(&pool), ["a", "b"]);
}

#[test]
fn a_reconfiguration_never_makes_an_unhealthy_backend_healthy() {
    let pool = pool(&["a", "b"]);
    let _guard = pool.attach_prober();
    let a = pool.snapshot().get("a").unwrap().clone();
    let b = pool.snapshot().get("b").unwrap().clone();
    pool.measure(
        &a,
        Measurement::new(HealthStatus::Unhealthy, reason()).streak(2),
    );
    pool.measure(
        &b,
        Measurement::new(HealthStatus::Healthy, reason()).streak(2),
    );
    pool.upsert(backend("a").weight(7).unwrap());
    pool.replace([backend("b"), backend("a")]).unwrap();
    pool.upsert(Backend::new("a", "http://127.0.0.1:1").unwrap());
    assert_eq!(usable(&pool), ["b"], "a stays down through every change");
    assert_eq!(
        pool.snapshot().get("a").unwrap().health(),
        HealthStatus::Unhealthy
    );
    pool.upsert(Backend::new("b", "http://127.0.0.1:1").unwrap());
    assert_eq!(
        pool.snapshot().get("b").unwrap().health(),
        HealthStatus::Unknown,
        "another address was not measured yet"
    );
}

#[test]
fn a_removed_id_starts_without_state_and_late_results_are_ignored() {
    let pool = pool(&["a", "b"]);
    let old = pool.snapshot().get("a").unwrap().clone();
    let lease = Lease::acquire(&old).unwrap();
    pool.remove("a").unwrap();
    assert_eq!(pool.remove("a").unwrap_err().id(), "a");
    pool.upsert(backend("a"));
    let new = pool.snapshot().get("a").unwrap().clone();
    assert!(!new.is_same(&old));
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!((old.in_flight(), new.in_flight()), (1, 0));
    drop(lease);
    let late = pool.measure(
        &old,
        Measurement::new(HealthStatus::Unhealthy, reason()).streak(2),
    );
    assert!(
        late.is_none(),
        "a result for a removed backend must not count"
    );
    assert_eq!(new.health(), HealthStatus::Unknown);
    pool.remove("a").unwrap();
    pool.upsert(old.clone());
    assert!(!pool.snapshot().get("a").unwrap().is_same(&old));
}

#[test]
fn the_last_usable_backend_is_never_ejected() {
    let pool = pool(&["a", "b", "c", "d"]);
    let all: Vec<_> = pool.snapshot().backends().to_vec();
    let eject = |i: usize| pool.eject(&all[i], Reason::new("L7STS", ""), 5, 0.5);
    assert_eq!(eject(0), Ejection::Ejected);
    assert_eq!(eject(0), Ejection::AlreadyEjected);
    assert_eq!(eject(1), Ejection::Ejected);
    assert_eq!(eject(2), Ejection::ShareExceeded, "half the pool at most");
    pool.start_maintenance("c").unwrap();
    assert_eq!(pool.eject(&all[3], reason(), 5, 1.0), Ejection::LastUsable);
    assert!(pool.readmit(&all[0], reason()));
    assert!(!pool.readmit(&all[0], reason()));
    assert_eq!(usable(&pool), ["a", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_transition_has_all_details_of_the_measurement() {
    let pool = pool(&["a"]);
    let a = member(&pool, "a");
    let mut events = pool.subscribe();
    assert!(pool.measure(&a, up()).is_some());
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(pool.measure(&a, up()).is_none(), "nothing changed");
    let status = http::StatusCode::SERVICE_UNAVAILABLE;
    let measured = down().status(status).flaps(3).flapping(true);
    let change = pool
        .measure(&a, measured.latency(Duration::from_millis(4)))
        .unwrap();
    assert_eq!(
        (change.from, change.to),
        (HealthStatus::Healthy, HealthStatus::Unhealthy)
    );
    assert_eq!(change.source, Source::Active);
    assert_eq!((change.reason.code, change.streak), ("L4CON", 2));
    assert_eq!(change.status, Some(status));
    assert_eq!(change.latency, Some(Duration::from_millis(4)));
    assert_eq!(change.previous, Duration::from_secs(7));
    assert_eq!((change.flaps, change.flapping), (3, true));
    assert_eq!((a.flaps(), a.is_flapping()), (3, true));
    assert!(matches!(
        events.try_next().unwrap().kind,
        EventKind::Health(_)
    ));
    assert!(matches!(events.try_next().unwrap().kind, EventKind::Health(t) if t.flapping));
    assert!(events.try_next().is_none());
}

#[test]
fn a_degraded_backend_gets_its_part_and_one_that_asks_to_drain_keeps_its_sessions() {
    let pool = Pool::new([backend("a"), backend("b").weight(3).unwrap()]).unwrap();
    let (a, b) = (member(&pool, "a"), member(&pool, "b"));
    let mut events = pool.subscribe();
    pool.measure(&a, up());
    pool.measure(&b, up());
    pool.measure(&b, up().capacity(0.1));
    assert_eq!(routes(&pool)[0].0, [("a".into(), 1_000), ("b".into(), 300)]);
    assert!((b.capacity() - 0.1).abs() < 1e-9);
    pool.measure(&a, up().capacity(0.1));
    assert_eq!(
        routes(&pool)[0].0[0].1,
        100,
        "a tenth of a weight of one still counts"
    );
    pool.measure(&a, up().draining(true));
    assert!(!a.is_usable() && a.keeps_sessions() && a.asks_to_drain());
    assert_eq!(usable(&pool), ["b"]);
    assert_eq!(a.mode(), Mode::Ready, "no operator ordered it");
    pool.measure(&a, up());
    assert_eq!(routes(&pool)[0].0[0].1, 1_000);
    let mut kinds = Vec::new();
    while let Some(event) = events.try_next() {
        kinds.push(event.kind);
    }
    let capacity = |k: &&EventKind| matches!(k, EventKind::Capacity { .. });
    assert_eq!(kinds.iter().filter(capacity).count(), 4, "{kinds:?}");
    assert_eq!(kinds.len(), 6);
    pool.measure(&a, down().draining(true));
    assert!(!a.keeps_sessions(), "an unhealthy backend keeps no session");
}

#[test]
fn a_circuit_is_tried_by_one_request_at_a_time() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    assert!(!pool.begin_trial(&a), "a closed circuit needs no trial");
    pool.eject(&a, reason(), 5, 0.5);
    assert_eq!(a.circuit(), Circuit::Open);
    assert!(Lease::acquire_trial(&a).is_none(), "an open one has none");
    assert!(pool.begin_trial(&a) && !pool.begin_trial(&a));
    assert_eq!(a.circuit(), Circuit::HalfOpen);
    assert!(a.is_ejected() && usable(&pool) == ["b"]);
    assert_eq!(pool.snapshot().trials().len(), 1);
    let one = Lease::acquire_trial(&a).unwrap();
    assert!(one.is_trial() && a.in_flight() == 1);
    assert!(Lease::acquire_trial(&a).is_none(), "one at a time");
    drop(one);
    drop(Lease::acquire_trial(&a).unwrap());
    assert!(pool.end_trial(&a) && !pool.end_trial(&a));
    assert_eq!(a.circuit(), Circuit::Open);
    assert!(pool.snapshot().trials().is_empty());
    assert!(pool.begin_trial(&a));
    pool.measure(&a, down());
    assert!(pool.snapshot().trials().is_empty(), "checks fail");
    pool.measure(&a, up());
    assert_eq!(pool.snapshot().trials().len(), 1);
    pool.start_maintenance("a").unwrap();
    assert!(pool.snapshot().trials().is_empty(), "an order keeps it out");
    pool.mark_ready("a").unwrap();
    assert!(pool.readmit(&a, reason()));
    assert_eq!(
        (a.circuit(), a.health()),
        (Circuit::Closed, HealthStatus::Healthy)
    );
    assert!(pool.snapshot().trials().is_empty());
}

#[test]
fn a_health_snapshot_has_the_address_that_was_measured() {
    for (url, address) in [
        ("http://app.example", "http://app.example:80"),
        ("https://[2001:db8::1]:9/base", "https://[2001:db8::1]:9"),
    ] {
        let one = || Pool::new([Backend::new("a", url).unwrap()]).unwrap();
        let before = one();
        before.measure(&member(&before, "a"), down());
        let known = before.health_snapshot();
        assert_eq!(known.backends[0].address, address);
        assert_eq!(one().restore_health(&known), 1);
    }
}

#[test]
fn measured_health_survives_a_restart_and_makes_no_backend_healthy() {
    let before = pool(&["a", "b", "c", "d"]);
    for id in ["a", "b", "c"] {
        before.measure(&member(&before, id), up().capacity(0.5).flaps(2));
    }
    before.measure(&member(&before, "b"), down());
    before.eject(&member(&before, "c"), reason(), 5, 1.0);
    let known = before.health_snapshot();
    assert_eq!(known.backends.len(), 3, "d was not measured");
    #[cfg(feature = "__serde")]
    let known: HealthSnapshot =
        serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap();

    let after = pool(&["a", "b", "c", "d"]);
    let _guard = after.attach_prober();
    assert_eq!(after.restore_health(&known), 3);
    assert_eq!(usable(&after), ["a"], "and d is held");
    assert!((member(&after, "a").capacity() - 0.5).abs() < 1e-9);
    assert_eq!(member(&after, "a").flaps(), 2);
    for id in ["b", "c"] {
        assert_eq!(member(&after, id).health(), HealthStatus::Unhealthy, "{id}");
    }
    assert_eq!(after.snapshot().held(), 1);

    let later = Pool::new([
        Backend::new("a", "http://127.0.0.1:7").unwrap(),
        backend("b"),
    ])
    .unwrap();
    later.measure(&member(&later, "b"), up());
    assert_eq!(
        later.restore_health(&known),
        0,
        "another address; measured since"
    );
    later.measure(&member(&later, "b"), down());
    let mut up_again = known;
    up_again.backends.iter_mut().for_each(|b| b.healthy = true);
    later.restore_health(&up_again);
    assert_eq!(member(&later, "b").health(), HealthStatus::Unhealthy);
}

#[test]
fn a_result_from_a_former_address_is_ignored() {
    let pool = pool(&["a", "b"]);
    let _prober = pool.attach_prober();
    let before = member(&pool, "a");
    pool.measure(&before, down());
    pool.upsert(Backend::new("a", "http://127.0.0.1:9002").unwrap());
    assert!(pool.measure(&before, up()).is_none());
    let now = member(&pool, "a");
    assert_eq!(
        now.health(),
        HealthStatus::Unhealthy,
        "no check passed at the new address"
    );
    assert!(pool.measure(&now, up()).is_some());
}
