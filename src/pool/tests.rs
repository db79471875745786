mod leaving;

use std::time::Duration;

use tokio::time::Instant;

use super::*;

fn backend(id: &str) -> Backend {
    Backend::new(id, "http://127.0.0.1:9001").unwrap()
}

fn pool(ids: &[&str]) -> Pool {
    Pool::new(ids.iter().map(|id| backend(id))).unwrap()
}

fn reason() -> Reason {
    Reason::new("L7OK", "")
}

fn usable(pool: &Pool) -> Vec<String> {
    let snapshot = pool.snapshot();
    let all = snapshot.groups().iter().flat_map(Group::backends);
    all.map(|b| b.id().to_owned()).collect()
}

#[test]
fn urls_are_taken_apart() {
    let table = [
        ("http://a", ("a", 80, "", "a")),
        ("https://a/", ("a", 443, "", "a")),
        ("http://a:8080/base/", ("a", 8080, "/base", "a:8080")),
        ("http://[::1]:9/x", ("::1", 9, "/x", "[::1]:9")),
        ("http://10.0.0.1:1", ("10.0.0.1", 1, "", "10.0.0.1:1")),
    ];
    for (url, (host, port, base, authority)) in table {
        let b = Backend::new("x", url).unwrap();
        assert_eq!(
            (b.host(), b.port(), b.base_path()),
            (host, port, base),
            "{url}"
        );
        assert_eq!(b.authority(), authority, "{url}");
    }
    for url in [
        "",
        "a",
        "ftp://a",
        "http://",
        "http://u@a",
        "http://a?q",
        "http://a#f",
        "http://a:0",
        "http://a:x",
        "http://a:99999",
        "http://a:",
        "/path",
    ] {
        assert!(Backend::new("x", url).is_err(), "{url:?} must be refused");
    }
}

#[test]
fn bad_settings_name_the_field() {
    assert_eq!(Backend::new("", "http://a").unwrap_err().field(), "id");
    assert_eq!(Backend::new("a b", "http://a").unwrap_err().field(), "id");
    assert_eq!(backend("a").weight(1_001).unwrap_err().field(), "weight");
    assert_eq!(
        backend("a").max_in_flight(0).unwrap_err().field(),
        "max_in_flight"
    );
    assert_eq!(Locality::new("a//b").unwrap_err().field(), "locality");
    assert!(Locality::new("a/b/c/d").is_err());
    assert!(Pool::new([backend("a"), backend("a")]).is_err());
}

#[test]
fn localities_nest() {
    let here = Locality::new("eu/1a/r1").unwrap();
    let there = Locality::new("eu/1b").unwrap();
    assert_eq!(here.shared_segments(&there), 1);
    assert!(here.is_within(&Locality::new("eu/1a").unwrap()));
    assert!(!there.is_within(&here));
}

#[test]
fn without_a_prober_unknown_is_up_and_with_one_it_is_held() {
    let pool = pool(&["a", "b"]);
    assert_eq!(usable(&pool), ["a", "b"]);
    let guard = pool.attach_prober();
    assert_eq!((pool.snapshot().usable(), pool.snapshot().held()), (0, 2));
    let a = pool.snapshot().get("a").unwrap().clone();
    pool.measure(&a, Measurement::new(Health::Healthy, reason()).streak(1))
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
    pool.measure(&a, Measurement::new(Health::Unhealthy, reason()).streak(2));
    pool.measure(&b, Measurement::new(Health::Healthy, reason()).streak(2));
    pool.upsert(backend("a").weight(7).unwrap());
    pool.replace([backend("b"), backend("a")]).unwrap();
    pool.upsert(Backend::new("a", "http://127.0.0.1:1").unwrap());
    assert_eq!(usable(&pool), ["b"], "a stays down through every change");
    assert_eq!(
        pool.snapshot().get("a").unwrap().health(),
        Health::Unhealthy
    );
    pool.upsert(Backend::new("b", "http://127.0.0.1:1").unwrap());
    assert_eq!(
        pool.snapshot().get("b").unwrap().health(),
        Health::Unknown,
        "another address was not measured yet"
    );
}

#[test]
fn a_removed_id_starts_anew_and_late_results_are_ignored() {
    let pool = pool(&["a", "b"]);
    let old = pool.snapshot().get("a").unwrap().clone();
    let lease = Lease::acquire(&old).unwrap();
    assert!(pool.remove("a"));
    assert!(!pool.remove("a"));
    pool.upsert(backend("a"));
    let new = pool.snapshot().get("a").unwrap().clone();
    assert!(!new.is_same(&old));
    assert_ne!(new.incarnation(), old.incarnation());
    assert_eq!((old.in_flight(), new.in_flight()), (1, 0));
    drop(lease);
    let late = pool.measure(
        &old,
        Measurement::new(Health::Unhealthy, reason()).streak(2),
    );
    assert!(
        late.is_none(),
        "a result for a removed backend must not count"
    );
    assert_eq!(new.health(), Health::Unknown);
    pool.remove("a");
    pool.upsert(old.clone());
    assert!(!pool.snapshot().get("a").unwrap().is_same(&old));
}

#[test]
fn a_cap_holds_and_a_lease_gives_back_its_slot_once() {
    let pool = Pool::new([backend("a").max_in_flight(2).unwrap()]).unwrap();
    let a = pool.snapshot().get("a").unwrap().clone();
    let one = Lease::acquire(&a).unwrap();
    let two = Lease::acquire(&a).unwrap();
    assert!(Lease::acquire(&a).is_none(), "the cap must hold");
    drop(one);
    assert_eq!(a.in_flight(), 1);
    assert!(Lease::acquire(&a).is_some());
    drop(two);
    assert_eq!((a.in_flight(), a.requests()), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_sessions_until_its_deadline() {
    let pool = pool(&["a", "b"]);
    let a = pool.snapshot().get("a").unwrap().clone();
    pool.drain("a", Duration::from_secs(10)).unwrap();
    assert!(!a.is_usable() && a.keeps_sessions());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!a.keeps_sessions(), "the deadline has passed");
    pool.ready("a").unwrap();
    assert!(a.is_usable());
    pool.maintenance("a").unwrap();
    assert!(!a.keeps_sessions());
    assert!(pool.drain("zzz", Duration::ZERO).is_err());
}

#[test]
fn the_last_usable_backend_is_never_ejected() {
    let pool = pool(&["a", "b", "c", "d"]);
    let all: Vec<_> = pool.snapshot().backends().to_vec();
    let eject = |i: usize| pool.eject(&all[i], Reason::new("L7STS", ""), 5, 0.5);
    assert_eq!(eject(0), Ejection::Ejected);
    assert_eq!(eject(0), Ejection::Already);
    assert_eq!(eject(1), Ejection::Ejected);
    assert_eq!(eject(2), Ejection::Share, "half the pool at most");
    pool.maintenance("c").unwrap();
    assert_eq!(pool.eject(&all[3], reason(), 5, 1.0), Ejection::Last);
    assert!(pool.readmit(&all[0], reason()));
    assert!(!pool.readmit(&all[0], reason()));
    assert_eq!(usable(&pool), ["a", "d"]);
}

#[test]
fn derived_tables_follow_the_snapshot() {
    let pool = pool(&["a", "b"]);
    let ids = pool.derive(|all| all.len());
    let group = pool.derive_groups(|g| g.backends().len());
    assert_eq!(pool.snapshot().derived(&ids), Some(&2));
    pool.maintenance("a").unwrap();
    assert_eq!(pool.snapshot().derived(&ids), Some(&2));
    assert_eq!(pool.snapshot().derived_group(&group, 0), Some(&1));
    assert_eq!(pool.snapshot().derived_group(&group, 1), None);
    pool.upsert(backend("c").tier(1));
    assert_eq!(pool.snapshot().derived(&ids), Some(&3));
    assert_eq!(pool.snapshot().derived_group(&group, 1), Some(&1));
}

#[tokio::test]
async fn subscribers_hear_every_change() {
    let pool = pool(&["a"]);
    let mut events = pool.subscribe();
    pool.upsert(backend("b"));
    pool.maintenance("b").unwrap();
    pool.remove("b");
    let mut kinds = Vec::new();
    while let Some(event) = events.try_next() {
        kinds.push((event.backend.id().to_owned(), event.kind));
    }
    assert!(matches!(kinds[0].1, EventKind::Added));
    assert!(matches!(
        kinds[1].1,
        EventKind::Mode {
            to: Mode::Maintenance,
            ..
        }
    ));
    assert!(matches!(kinds[2].1, EventKind::Removed));
    drop(pool);
    assert!(events.next().await.is_none());
}

#[test]
fn an_attachment_is_made_once_and_retired_with_the_backend() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Idle(AtomicUsize);
    impl Attachment for Idle {
        fn retire(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let pool = pool(&["a"]);
    let a = pool.snapshot().get("a").unwrap().clone();
    let (key, other) = (AttachmentKey::new(), AttachmentKey::new());
    let first = a.attachment(&key, || Idle(AtomicUsize::new(0)));
    let again = a.attachment(&key, || Idle(AtomicUsize::new(100)));
    let apart = a.attachment(&other, || Idle(AtomicUsize::new(7)));
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    pool.drain("a", Duration::from_secs(1)).unwrap();
    pool.remove("a");
    assert_eq!(first.0.load(Ordering::SeqCst), 2);
    assert_eq!(apart.0.load(Ordering::SeqCst), 9);
}

fn _handles_are_shared_freely() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Pool>();
    check::<Backend>();
    check::<Snapshot>();
    check::<Lease>();
    check::<Events>();
}

fn up() -> Measurement {
    Measurement::new(Health::Healthy, reason()).streak(2)
}

fn down() -> Measurement {
    Measurement::new(Health::Unhealthy, Reason::new("L4CON", "refused")).streak(2)
}

fn member(pool: &Pool, id: &str) -> Backend {
    pool.snapshot().get(id).unwrap().clone()
}

/// Each group's backends with their weights, and its share.
fn routes(pool: &Pool) -> Vec<(Vec<(String, u32)>, u32)> {
    let snapshot = pool.snapshot();
    let weighed = |g: &Group| {
        let all = g.backends().iter().zip(g.weights());
        all.map(|(b, &w)| (b.id().to_owned(), w)).collect()
    };
    let groups = snapshot.groups().iter().map(weighed);
    groups.zip(snapshot.shares().iter().copied()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_transition_tells_all_that_was_measured() {
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
        (Health::Healthy, Health::Unhealthy)
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
        "a tenth of one is not nothing"
    );
    pool.measure(&a, up().draining(true));
    assert!(!a.is_usable() && a.keeps_sessions() && a.asks_to_drain());
    assert_eq!(usable(&pool), ["b"]);
    assert_eq!(a.mode(), Mode::Ready, "nobody ordered it");
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
    assert!(!a.keeps_sessions(), "one that is down keeps nobody");
}

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
    pool.maintenance("a").unwrap();
    pool.ready("a").unwrap();
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
    assert_eq!(pool.tick(now()), None, "one that is down is not warmed up");
    pool.routing(Routing::new().slow_start(Duration::ZERO, 0.1).unwrap());
    pool.measure(&a, up());
    assert_eq!(weight(), 1_000, "switched off");
    pool.routing(Routing::new().slow_start_when_ready());
    pool.maintenance("a").unwrap();
    pool.ready("a").unwrap();
    assert_eq!(weight(), 100, "by choice, after maintenance");
    drop(guard);
}

#[test]
fn without_a_tick_nothing_is_left_cold() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    pool.measure(&a, down());
    pool.measure(&a, up());
    assert_eq!(routes(&pool)[0].0[0].1, 1_000);
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
    assert!(pool.snapshot().trials().is_empty(), "checks know better");
    pool.measure(&a, up());
    assert_eq!(pool.snapshot().trials().len(), 1);
    pool.maintenance("a").unwrap();
    assert!(pool.snapshot().trials().is_empty(), "an order stands above");
    pool.ready("a").unwrap();
    assert!(pool.readmit(&a, reason()));
    assert_eq!(
        (a.circuit(), a.health()),
        (Circuit::Closed, Health::Healthy)
    );
    assert!(pool.snapshot().trials().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_with_the_last_lease_or_its_deadline_or_an_undo() {
    let pool = pool(&["a", "b"]);
    let a = member(&pool, "a");
    let minute = Duration::from_secs(60);
    assert_eq!(pool.drain("a", minute).unwrap().await, Drained::Empty);
    pool.ready("a").unwrap();
    let leases = [Lease::acquire(&a).unwrap(), Lease::acquire(&a).unwrap()];
    let drain = pool.drain("a", minute).unwrap();
    let ended = tokio::spawn(drain.into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let [one, two] = leases;
    drop(one);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!ended.is_finished(), "one is in flight still");
    drop(two);
    assert_eq!(ended.await.unwrap(), Drained::Empty);
    pool.ready("a").unwrap();

    let _held = Lease::acquire(&a).unwrap();
    let began = Instant::now();
    assert_eq!(pool.drain("a", minute).unwrap().await, Drained::Deadline);
    assert_eq!(began.elapsed(), minute);
    pool.ready("a").unwrap();

    let ended = tokio::spawn(pool.drain("a", minute).unwrap().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    pool.ready("a").unwrap();
    assert_eq!(ended.await.unwrap(), Drained::Undone);

    let ended = tokio::spawn(pool.drain("a", minute).unwrap().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let next = pool.drain("a", 2 * minute).unwrap();
    assert_eq!(
        ended.await.unwrap(),
        Drained::Undone,
        "another took its place"
    );
    assert_eq!(next.await, Drained::Deadline);
    pool.ready("a").unwrap();
    assert!(a.is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_ends_closes_what_is_idle_then() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Idle(AtomicUsize);
    impl Attachment for Idle {
        fn retire(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let pool = pool(&["a"]);
    let a = member(&pool, "a");
    let idle = a.attachment(&AttachmentKey::new(), || Idle(AtomicUsize::new(0)));
    let now = Instant::now();
    pool.drain("a", Duration::from_secs(9)).unwrap();
    let until = pool.tick(now).unwrap();
    assert_eq!(until, now + Duration::from_secs(9));
    assert_eq!(pool.tick(until), None);
    assert_eq!(
        idle.0.load(Ordering::SeqCst),
        2,
        "at its begin and at its end"
    );
}

fn placed(id: &str, place: &str) -> Backend {
    backend(id).locality(Locality::new(place).unwrap())
}

fn world() -> Pool {
    Pool::new([
        placed("a1", "eu/1/r1"),
        placed("a2", "eu/1/r2"),
        placed("b1", "eu/2/r1"),
        placed("us", "us/1/r1"),
        placed("backup", "eu/1/r1").tier(1),
    ])
    .unwrap()
}

#[test]
fn a_place_is_evacuated_by_one_call_and_restored_by_another() {
    for (place, left) in [
        ("eu/1/r1", &["a2", "b1", "us"][..]),
        ("eu/1", &["b1", "us"]),
        ("eu", &["us"]),
        ("asia", &["a1", "a2", "b1", "us", "backup"]),
    ] {
        let pool = world();
        let place = Locality::new(place).unwrap();
        let there = pool.evacuate(&place);
        assert_eq!(there, 5 - left.len());
        assert_eq!(usable(&pool), left, "{place}");
        assert_eq!(pool.evacuate(&place), there, "once is enough");
        let snapshot = pool.snapshot();
        let gone = snapshot
            .backends()
            .iter()
            .filter(|b| !left.contains(&b.id()));
        assert!(
            gone.clone()
                .all(|b| b.is_evacuated() && !b.keeps_sessions())
        );
        // Who joins meanwhile is out, too; a reload restores nothing.
        pool.upsert(placed("new", "eu/1/r1"));
        assert_eq!(
            usable(&pool).len(),
            left.len() + usize::from(place.as_str() == "asia")
        );
        pool.restore(&place);
        assert_eq!(usable(&pool).len(), 6, "{place}");
        assert!(pool.evacuated().is_empty());
    }
}

#[test]
fn traffic_stays_near_and_spills_by_what_is_left() {
    let pool = world();
    let here = Locality::new("eu/1/r1").unwrap();
    pool.routing(Routing::new().locality(here));
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
fn panic_routing_is_by_choice_and_spares_what_was_ordered_out() {
    let pool = pool(&["a", "b", "c", "d", "e"]);
    pool.maintenance("e").unwrap();
    for id in ["a", "b", "c"] {
        pool.measure(&member(&pool, id), down());
    }
    assert_eq!(usable(&pool), ["d"], "fail fast is the default");
    pool.routing(
        Routing::new()
            .panic(PanicRouting::UseAll { below: 0.5 })
            .unwrap(),
    );
    assert!(pool.snapshot().panics());
    assert_eq!(usable(&pool), ["a", "b", "c", "d"]);
    assert_eq!(routes(&pool)[0].1, 10_000);
    assert!(pool.snapshot().get("a").unwrap().is_usable());
    assert_eq!(
        pool.eject(&member(&pool, "d"), reason(), 5, 1.0),
        Ejection::Last,
        "the last that is well stays the last"
    );
    pool.measure(&member(&pool, "a"), up());
    assert!(!pool.snapshot().panics(), "half is not below half");
    assert_eq!(usable(&pool), ["a", "d"]);
    pool.measure(&member(&pool, "d"), up());
    let _guard = pool.attach_prober();
    pool.upsert(backend("f"));
    assert!(!pool.snapshot().panics(), "one that is held is waited for");
    assert!(
        Routing::new()
            .panic(PanicRouting::UseAll { below: 0.0 })
            .is_err()
    );
    assert!(Routing::new().overprovisioning(0.9).is_err());
    assert!(Routing::new().slow_start(Duration::ZERO, 0.0).is_err());
}

#[test]
fn what_is_known_survives_a_restart_and_turns_nothing_up() {
    let before = pool(&["a", "b", "c", "d"]);
    for id in ["a", "b", "c"] {
        before.measure(&member(&before, id), up().capacity(0.5).flaps(2));
    }
    before.measure(&member(&before, "b"), down());
    before.eject(&member(&before, "c"), reason(), 5, 1.0);
    let known = before.health_snapshot();
    assert_eq!(known.backends.len(), 3, "d was not measured");
    #[cfg(feature = "serde")]
    let known: HealthSnapshot =
        serde_json::from_str(&serde_json::to_string(&known).unwrap()).unwrap();

    let after = pool(&["a", "b", "c", "d"]);
    let _guard = after.attach_prober();
    assert_eq!(after.restore_health(&known), 3);
    assert_eq!(usable(&after), ["a"], "and d is held");
    assert!((member(&after, "a").capacity() - 0.5).abs() < 1e-9);
    assert_eq!(member(&after, "a").flaps(), 2);
    for id in ["b", "c"] {
        assert_eq!(member(&after, id).health(), Health::Unhealthy, "{id}");
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
    assert_eq!(member(&later, "b").health(), Health::Unhealthy);
}

#[test]
fn the_documented_defaults_are_in_force() {
    let docs = include_str!("mod.rs");
    let routing = Routing::new();
    let a = backend("a");
    assert!(routing.panic == PanicRouting::FailFast && routing.locality.is_none());
    assert!(a.in_flight_cap().is_none());
    for row in [
        format!("| weight | {} |", a.configured_weight()),
        format!("| tier | {} |", a.configured_tier()),
        format!(
            "| overprovisioning | {} |",
            f64::from(routing.overprovisioning) / 1e3
        ),
        format!(
            "| slow start | {} s from {} % |",
            routing.slow_start.as_secs(),
            routing.slow_start_from / 10
        ),
    ] {
        assert!(docs.contains(&row), "not in the table: {row}");
    }
}

#[test]
fn a_result_of_an_address_that_was_left_is_ignored() {
    let pool = pool(&["a", "b"]);
    let _prober = pool.attach_prober();
    let before = member(&pool, "a");
    pool.measure(&before, down());
    pool.upsert(Backend::new("a", "http://127.0.0.1:9002").unwrap());
    assert!(pool.measure(&before, up()).is_none());
    let now = member(&pool, "a");
    assert_eq!(now.health(), Health::Unhealthy, "nobody asked who is there");
    assert!(pool.measure(&now, up()).is_some());
}

/// Asks the pool for something when it is told to let go.
struct Asks(Pool, std::sync::mpsc::Sender<usize>);

impl Attachment for Asks {
    fn retire(&self) {
        let _ = self.1.send(self.0.evacuated().len());
    }
}

#[test]
fn what_is_retired_may_ask_the_pool() {
    let (tell, told) = std::sync::mpsc::channel();
    let pool = pool(&["a", "b", "c"]);
    for id in ["a", "b", "c"] {
        let asks = || Asks(pool.clone(), tell.clone());
        member(&pool, id).attachment(&AttachmentKey::new(), asks);
    }
    let moved = |id| Backend::new(id, "http://127.0.0.1:9002").unwrap();
    // On a thread of its own, which a lock that is held would keep for ever.
    std::thread::spawn(move || {
        pool.upsert(moved("a"));
        let staying = pool.snapshot().backends()[2].clone();
        pool.replace([moved("b"), staying]).unwrap();
        drop(pool.drain("c", Duration::ZERO));
        pool.tick(Instant::now());
    });
    // Moved, removed and moved, drained and at its deadline.
    for _ in 0..5 {
        let asked = told.recv_timeout(Duration::from_secs(10));
        assert_eq!(asked, Ok(0), "an attachment waits for the pool");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cap_that_came_later_tells_who_waits() {
    let pool = pool(&["a"]);
    let lease = Lease::acquire(&member(&pool, "a")).unwrap();
    pool.upsert(backend("a").max_in_flight(1).unwrap());
    assert!(Lease::acquire(&member(&pool, "a")).is_none());
    let room = pool.changed();
    drop(lease);
    let told = tokio::time::timeout(Duration::from_secs(1), room).await;
    assert!(told.is_ok(), "the slot of before is free");
}

#[tokio::test(start_paused = true)]
async fn many_slow_starts_cost_few_snapshots() {
    let ids: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    let pool = Pool::new(ids.iter().map(|id| backend(id))).unwrap();
    let time = Duration::from_secs(2);
    pool.routing(Routing::new().slow_start(time, 0.1).unwrap());
    let began = Instant::now();
    pool.tick(began);
    for id in &ids {
        pool.measure(&member(&pool, id), down());
    }
    for id in &ids {
        // No two at the same moment.
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
        "they end in time"
    );
    let weights = pool.snapshot().groups()[0].weights().to_vec();
    assert_eq!(weights, [1_000; 500], "all are warm");
    let made = pool.snapshot().generation() - before;
    assert!(made < 600, "{made} snapshots for 10,000 steps");
}

#[test]
fn tables_whose_names_are_gone_are_let_go_of() {
    let pool = pool(&["a", "b"]);
    let stays = pool.derive(|all| all.len());
    let stays_too = pool.derive_groups(|group| group.backends().len());
    let count = |pool: &Pool| pool.snapshot().count_tables();
    assert_eq!(count(&pool), (1, 1));
    for round in 0..1_000 {
        let names = (
            pool.derive(move |_| round),
            pool.derive_once(|all| all.len() as u32),
            pool.derive_groups(move |_| round),
            pool.derive_groups_once(|group| group.backends().len() as u32),
        );
        pool.upsert(backend("c").weight(1 + round % 2).unwrap());
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.derived(&names.0), Some(&round));
        assert_eq!(snapshot.derived(&names.1), Some(&3));
        assert_eq!(snapshot.derived_group(&names.2, 0), Some(&round));
        assert_eq!(snapshot.derived_group(&names.3, 0), Some(&3));
        assert_eq!(snapshot.count_tables(), (3, 3), "in round {round}");
    }
    pool.remove("c");
    assert_eq!(count(&pool), (1, 1));
    assert_eq!(pool.snapshot().derived(&stays), Some(&2));
    assert_eq!(pool.snapshot().derived_group(&stays_too, 0), Some(&2));
}

#[test]
fn a_name_finds_no_table_that_has_its_place_now() {
    let pool = pool(&["a"]);
    let old = pool.derive(|_| 1);
    let kept = old.clone();
    drop(old);
    let before = pool.derive(|_| 2);
    assert_ne!(kept.name.place, before.name.place, "a clone keeps it");
    let place = kept.name.place;
    drop(kept);
    let new = pool.derive(|_| 3);
    assert_eq!(new.name.place, place, "the place is used again");
    let other = self::pool(&["a"]);
    let first = other.derive(|_| 4);
    let second = other.derive(|_| 5);
    assert_eq!(pool.snapshot().derived(&new), Some(&3));
    assert_eq!(other.snapshot().derived(&first), Some(&4));
    assert_eq!(other.snapshot().derived(&second), Some(&5));
    assert_eq!(
        other.snapshot().derived(&new),
        None,
        "its number is another"
    );
}

#[test]
fn a_table_that_many_ask_for_is_made_once() {
    let pool = pool(&["a", "b"]);
    let all = pool.derive_once(|all| all.len());
    let group = pool.derive_groups_once(|group| group.backends().len());
    let other = pool.derive_groups_once(|group| group.weights().to_vec());
    let before = pool.snapshot().generation();
    let again = pool.derive_once(|all| all.len());
    let group_again = pool.derive_groups_once(|group| group.backends().len());
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.generation(), before, "nothing was made anew");
    assert_eq!([all.name.place, again.name.place], [0, 0]);
    assert_eq!(
        [group.name.place, group_again.name.place, other.name.place],
        [0, 0, 1]
    );
    assert_eq!(snapshot.derived(&again), Some(&2));
    assert_eq!(snapshot.derived_group(&group_again, 0), Some(&2));
    assert_eq!(snapshot.derived_group(&other, 0), Some(&vec![1_000; 2]));
}
