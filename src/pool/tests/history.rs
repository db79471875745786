//! What a member remembers, and a change of weight.

use super::*;

fn check(passed: bool) -> LastCheck {
    LastCheck {
        at: Instant::now(),
        passed,
        reason: reason(),
        took: Duration::from_millis(3),
        status: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_remembers_its_latest_changes_with_their_times() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    assert!(a.past_events().is_empty() && a.last_check().is_none());
    pool.measure(&a, down());
    tokio::time::advance(Duration::from_secs(7)).await;
    pool.start_maintenance("a").unwrap();
    let past = a.past_events();
    assert!(
        matches!(&past[0].kind, EventKind::Health(t) if t.reason.code == "L4CON"),
        "{past:?}"
    );
    assert!(matches!(past[1].kind, EventKind::Mode { .. }), "{past:?}");
    assert_eq!(past[1].at - past[0].at, Duration::from_secs(7));
    for _ in 0..20 {
        pool.mark_ready("a").unwrap();
        pool.start_maintenance("a").unwrap();
    }
    let past = a.past_events();
    assert_eq!(past.len(), 16, "the oldest go");
    let last = past.last().map(|event| event.kind.clone());
    assert!(
        matches!(&last, Some(EventKind::Mode { to, .. }) if *to == Mode::Maintenance),
        "{last:?}"
    );
    assert!(member(&pool, "b").past_events().is_empty());
}

#[test]
fn the_last_check_is_forgotten_with_the_address() {
    let pool = pool(&["a"]);
    member(&pool, "a").record_check(check(true));
    pool.upsert(backend("a").weight(2).unwrap());
    assert!(member(&pool, "a").last_check().unwrap().passed);
    pool.upsert(Backend::new("a", "http://127.0.0.1:9002").unwrap());
    assert!(member(&pool, "a").last_check().is_none());
}

#[test]
fn each_ejection_counts() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    for count in 1..3 {
        assert_eq!(pool.eject(&a, reason(), 5, 0.5), Ejection::Ejected);
        assert_eq!(pool.eject(&a, reason(), 5, 0.5), Ejection::AlreadyEjected);
        assert_eq!(a.ejections(), count);
        pool.readmit(&a, reason());
    }
}

#[test]
fn a_change_of_weight_keeps_the_rest() {
    let pool = Pool::new([backend("a").tier(3), backend("b")]).unwrap();
    pool.measure(&member(&pool, "a"), down());
    let mut events = pool.subscribe();
    pool.update_weight("a", 7).unwrap();
    let a = member(&pool, "a");
    assert_eq!((a.configured_weight(), a.configured_tier()), (7, 3));
    assert_eq!(a.health(), HealthStatus::Unhealthy);
    let event = events.try_next().unwrap();
    assert!(matches!(event.kind, EventKind::Updated), "{event:?}");
    let generation = pool.snapshot().generation();
    pool.update_weight("a", 7).unwrap();
    assert_eq!(pool.snapshot().generation(), generation, "nothing changes");
    assert_eq!(
        pool.update_weight("a", 1_001).unwrap_err().field(),
        "weight"
    );
    assert_eq!(pool.update_weight("zzz", 1).unwrap_err().field(), "id");
    assert_eq!(member(&pool, "a").configured_weight(), 7);
}
