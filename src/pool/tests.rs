use std::time::Duration;

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
    pool.report_active(&a, Health::Healthy, reason(), 1, None)
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
    pool.report_active(&a, Health::Unhealthy, reason(), 2, None);
    pool.report_active(&b, Health::Healthy, reason(), 2, None);
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
    let late = pool.report_active(&old, Health::Unhealthy, reason(), 2, None);
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
