mod derived;
mod history;
mod journal;
mod measurement;
mod operator;
mod order_snapshot;
mod roles;
mod routing;

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

fn up() -> Measurement {
    Measurement::new(HealthStatus::Healthy, reason()).streak(2)
}

fn down() -> Measurement {
    Measurement::new(HealthStatus::Unhealthy, Reason::new("L4CON", "refused")).streak(2)
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

#[test]
fn urls_are_parsed_into_their_parts() {
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

#[tokio::test]
async fn subscribers_get_an_event_of_every_change() {
    let pool = pool(&["a"]);
    let mut events = pool.subscribe();
    pool.upsert(backend("b"));
    pool.start_maintenance("b").unwrap();
    pool.remove("b").unwrap();
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

fn _handles_are_shared_freely() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Pool>();
    check::<Backend>();
    check::<Snapshot>();
    check::<Lease>();
    check::<Events>();
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let routing = Routing::new();
    let a = backend("a");
    assert!(routing.panic == PanicRouting::FailFast && routing.locality.is_none());
    assert!(a.configured_max_in_flight().is_none());
    let slow_start = routing.slow_start.as_secs();
    let overprovisioning = f64::from(routing.overprovisioning) / 1e3;
    let text = str::to_owned;
    let compared = [
        ("weight", a.configured_weight().to_string()),
        ("tier", a.configured_tier().to_string()),
        ("in-flight cap", text("none")),
        ("events kept", control::EVENTS_KEPT.to_string()),
        ("overprovisioning", overprovisioning.to_string()),
        ("when too few are usable", text("fail fast")),
        ("slow start", format!("{slow_start} s")),
        ("slow start", format!("{} %", routing.slow_start_from / 10)),
        ("locality of the balancer", text("none")),
    ];
    crate::default_table::compare(include_str!("../mod.rs"), &compared);
}

#[tokio::test(start_paused = true)]
async fn a_lease_older_than_the_cap_wakes_waiting_requests() {
    let pool = pool(&["a"]);
    let lease = Lease::acquire(&member(&pool, "a")).unwrap();
    pool.upsert(backend("a").max_in_flight(1).unwrap());
    assert!(Lease::acquire(&member(&pool, "a")).is_none());
    let changed = pool.changed();
    drop(lease);
    let woken = tokio::time::timeout(Duration::from_secs(1), changed).await;
    assert!(woken.is_ok(), "the slot of the older lease is free");
}

#[tokio::test]
async fn a_handle_from_another_pool_joins_as_a_new_backend() {
    let handle = backend("a").max_in_flight(1).unwrap();
    let first = Pool::new([handle.clone()]).unwrap();
    let second = Pool::new([handle.clone()]).unwrap();
    let third = pool(&["b"]);
    third.upsert(handle.clone());
    assert!(handle.is_same(&member(&first, "a")));
    let pools = [first, second, third];
    let leases = pools.each_ref().map(|pool| {
        let lease = Lease::acquire(&member(pool, "a")).expect("its slot is free");
        assert!(
            Lease::acquire(&member(pool, "a")).is_none(),
            "and the only one"
        );
        lease
    });
    for (pool, lease) in pools.iter().zip(leases) {
        let changed = pool.changed();
        drop(lease);
        let woken = tokio::time::timeout(Duration::from_secs(5), changed).await;
        assert!(woken.is_ok(), "a request that waits in this pool is woken");
    }
    pools[0].start_maintenance("a").unwrap();
    let usable = pools.each_ref().map(|pool| pool.snapshot().usable());
    assert_eq!(
        usable,
        [0, 1, 2],
        "maintenance in one pool does not concern the others"
    );
}
