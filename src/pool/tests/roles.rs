//! What the pool resets when roles are left: by checks, outlier detection and ticks; and the
//! readmission of the last backend.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

/// Every change of health so far: the backend, the health, and the code of the reason.
fn heard(events: &mut Events) -> Vec<(String, HealthStatus, &'static str)> {
    let mut heard = Vec::new();
    while let Some(event) = events.try_next() {
        if let EventKind::Health(change) = event.kind {
            heard.push((event.backend.id().to_owned(), change.to, change.reason.code));
        }
    }
    heard
}

fn change(id: &str, to: HealthStatus, code: &'static str) -> (String, HealthStatus, &'static str) {
    (id.to_owned(), to, code)
}

#[test]
fn measured_health_is_reset_with_the_last_prober() {
    let pool = pool(&["down", "up", "less", "new", "out"]);
    let prober = pool.attach_prober();
    let judge = pool.attach_roles(&[Role::OutlierDetector]);
    pool.measure(&member(&pool, "down"), down());
    pool.measure(&member(&pool, "up"), up());
    pool.measure(&member(&pool, "less"), up().capacity(0.5).draining(true));
    pool.measure(&member(&pool, "out"), up());
    let out = member(&pool, "out");
    assert_eq!(pool.eject(&out, reason(), 5, 1.0), Ejection::Ejected);
    assert_eq!(usable(&pool), ["up"]);
    // A reload: the next prober attaches before the one before leaves.
    let next = pool.attach_prober();
    let mut events = pool.subscribe();
    drop(prober);
    assert_eq!(
        usable(&pool),
        ["up"],
        "checks go on, and no health is reset"
    );
    assert_eq!(heard(&mut events), []);
    drop(next);
    assert_eq!(usable(&pool), ["down", "up", "less", "new"]);
    assert!(out.is_ejected(), "outlier detection goes on");
    let less = member(&pool, "less");
    assert_eq!((less.capacity(), less.asks_to_drain()), (1.0, false));
    assert_eq!(
        heard(&mut events),
        [
            change("down", HealthStatus::Unknown, "UNK"),
            change("up", HealthStatus::Unknown, "UNK"),
            change("less", HealthStatus::Unknown, "UNK"),
        ]
    );
    drop(judge);
    assert_eq!(
        heard(&mut events),
        [change("out", HealthStatus::Unknown, "TIME")]
    );
    // The next prober begins without results: all are held.
    let _again = pool.attach_prober();
    let snapshot = pool.snapshot();
    assert_eq!((snapshot.usable(), snapshot.held()), (0, 5));
}

#[test]
fn ejections_end_at_once_with_outlier_detection_even_those_of_unhealthy_backends() {
    let pool = pool(&["a", "b"]);
    let _prober = pool.attach_prober();
    let judge = pool.attach_roles(&[Role::OutlierDetector]);
    let next = pool.attach_roles(&[Role::OutlierDetector]);
    let a = member(&pool, "a");
    pool.measure(&a, up());
    pool.measure(&member(&pool, "b"), up());
    assert_eq!(pool.eject(&a, reason(), 5, 1.0), Ejection::Ejected);
    pool.measure(&a, down());
    let mut events = pool.subscribe();
    let before = pool.snapshot().generation();
    drop(judge);
    assert!(a.is_ejected(), "outlier detection goes on");
    assert_eq!(pool.snapshot().generation(), before);
    drop(next);
    assert!(!a.is_ejected());
    // Else the next snapshot, perhaps an operator's, would seem to have ended it.
    assert_eq!(pool.snapshot().generation(), before + 1);
    assert_eq!(heard(&mut events), [], "it was unhealthy and still is");
    assert_eq!(usable(&pool), ["b"]);
    // Without anything to reset, no snapshot is made.
    drop(pool.attach_roles(&[Role::OutlierDetector]));
    assert_eq!(pool.snapshot().generation(), before + 1);
}

#[test]
fn measured_health_outlives_a_task_but_not_its_owner() {
    let pool = pool(&["a", "b"]);
    let owner = pool.attach_roles(&[Role::Ticker, Role::HealthOwner]);
    let task = pool.attach_roles(&[Role::Ticker, Role::HealthOwner, Role::Prober]);
    pool.measure(&member(&pool, "a"), down());
    drop(task);
    assert_eq!(usable(&pool), ["b"], "it is measured again soon");
    let task = pool.attach_roles(&[Role::Ticker, Role::HealthOwner, Role::Prober]);
    assert_eq!(pool.snapshot().held(), 1);
    assert_eq!(member(&pool, "a").health(), HealthStatus::Unhealthy);
    drop((owner, task));
    assert_eq!(usable(&pool), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn slow_starts_end_with_the_last_ticker() {
    let pool = pool(&["a", "b"]);
    let ticks = pool.attach_roles(&[Role::Ticker]);
    pool.tick(Instant::now());
    let a = member(&pool, "a");
    pool.measure(&a, down());
    pool.measure(&a, up());
    assert_eq!(routes(&pool)[0].0[0], ("a".to_owned(), 100));
    drop(ticks);
    assert_eq!(routes(&pool)[0].0[0], ("a".to_owned(), 1_000));
    pool.measure(&a, down());
    pool.measure(&a, up());
    assert_eq!(routes(&pool)[0].0[0], ("a".to_owned(), 1_000));
}

#[derive(Default)]
struct Forgets(AtomicUsize);

impl Attachment for Forgets {
    fn readmitted(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn the_last_usable_backend_is_readmitted_however_the_others_leave() {
    type Leave = fn(&Pool);
    let ways: [(&str, Leave); 7] = [
        ("removed", |pool| pool.remove("b").unwrap()),
        ("replaced", |pool| {
            let a = backend("a").locality(Locality::new("eu").unwrap());
            pool.replace([a]).unwrap();
        }),
        ("drained", |pool| {
            drop(pool.drain("b", Duration::from_secs(9)).unwrap());
        }),
        ("in maintenance", |pool| {
            pool.start_maintenance("b").unwrap()
        }),
        ("evacuated", |pool| {
            pool.evacuate(&Locality::new("us").unwrap());
        }),
        ("without weight", |pool| {
            pool.upsert(backend("b").weight(0).unwrap());
        }),
        ("down", |pool| {
            pool.measure(&member(pool, "b"), down());
        }),
    ];
    for (how, leave) in ways {
        let located = |id: &str, path: &str| backend(id).locality(Locality::new(path).unwrap());
        let pool = Pool::new([located("a", "eu"), located("b", "us")]).unwrap();
        let _judge = pool.attach_roles(&[Role::OutlierDetector]);
        let a = member(&pool, "a");
        let forgets = a.attachment(&AttachmentKey::new(), Forgets::default);
        assert_eq!(pool.eject(&a, reason(), 5, 1.0), Ejection::Ejected);
        let mut events = pool.subscribe();
        leave(&pool);
        assert_eq!(usable(&pool), ["a"], "b is {how}");
        assert_eq!(
            forgets.0.load(SeqCst),
            1,
            "the failures before it are forgotten"
        );
        let mut kinds = Vec::new();
        while let Some(event) = events.try_next() {
            kinds.push(event);
        }
        let last = kinds.pop().unwrap();
        assert_eq!(last.backend.id(), "a", "its cause comes first: b is {how}");
        match last.kind {
            EventKind::Health(change) => assert_eq!(change.reason.code, "LAST"),
            other => panic!("{other:?}"),
        }
        assert!(!kinds.is_empty(), "an event says that b is {how}");
        let again = pool.eject(&member(&pool, "a"), reason(), 5, 1.0);
        assert_eq!(again, Ejection::LastUsable);
    }
}

#[test]
fn a_backend_that_could_not_serve_is_not_readmitted() {
    let pool = pool(&["a", "b", "c", "d"]);
    for id in ["a", "b", "c"] {
        let ejected = pool.eject(&member(&pool, id), reason(), 5, 1.0);
        assert_eq!(ejected, Ejection::Ejected);
    }
    pool.measure(&member(&pool, "a"), down());
    pool.start_maintenance("b").unwrap();
    assert_eq!(usable(&pool), ["d"]);
    pool.remove("d").unwrap();
    assert_eq!(usable(&pool), ["c"], "checks and orders stand");
    let a = member(&pool, "a");
    assert!(a.is_ejected() && member(&pool, "b").is_ejected());
    // From here on it could.
    pool.start_maintenance("c").unwrap();
    assert_eq!(usable(&pool), Vec::<String>::new());
    pool.measure(&a, up());
    assert_eq!(usable(&pool), ["a"]);
    pool.start_maintenance("a").unwrap();
    pool.mark_ready("b").unwrap();
    assert_eq!(usable(&pool), ["b"]);
}
