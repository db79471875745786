//! Which backend a key goes to, which keys move, and how a hot key is spread.

use super::*;
use crate::{
    context::{ConnInfo, Peer},
    pool::{HealthStatus, Measurement, Reason},
};

fn with_header(value: usize) -> Request<()> {
    let request = Request::get("/").header("x-user", value.to_string());
    request.body(()).unwrap()
}

fn hashed(pool: &Pool) -> ConsistentHash {
    let mut strategy = ConsistentHash::new(HashKey::Header("x-user".parse().unwrap()));
    strategy.attach(pool);
    strategy
}

/// Which backend each of 3,000 keys goes to.
fn homes(strategy: &ConsistentHash, pool: &Pool) -> Vec<String> {
    let home = |key| {
        let lease = strategy.pick(&pool.snapshot(), &Pick::new(&with_header(key)));
        lease.unwrap().backend().id().to_owned()
    };
    (0..3_000).map(home).collect()
}

#[test]
fn only_the_keys_of_a_changed_backend_move() {
    let pool = pool(&[1, 1, 2, 1, 1, 1, 1, 1, 1]);
    let strategy = hashed(&pool);
    let before = homes(&strategy, &pool);
    assert_eq!(
        before,
        homes(&strategy, &pool),
        "the same key, the same backend"
    );
    let of = |homes: &[String], id: &str| homes.iter().filter(|h| *h == id).count();
    assert!(
        (240..360).contains(&of(&before, "b0")),
        "{}",
        of(&before, "b0")
    );
    assert!(
        (500..700).contains(&of(&before, "b2")),
        "{}",
        of(&before, "b2")
    );

    pool.start_maintenance("b3").unwrap();
    let without = homes(&strategy, &pool);
    let moved = |a: &[String], b: &[String]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert_eq!(
        moved(&before, &without),
        of(&before, "b3"),
        "its own keys, no other"
    );
    assert_eq!(of(&without, "b3"), 0);
    pool.mark_ready("b3").unwrap();
    assert_eq!(before, homes(&strategy, &pool), "and all of them come back");

    pool.upsert(backend(9, 1));
    let with = homes(&strategy, &pool);
    // Points are given out by share, so that a few of the others' go with it.
    let newcomers = of(&with, "b9");
    let strayed = moved(&before, &with) - newcomers;
    assert!(
        (200..350).contains(&newcomers) && strayed < 60,
        "{newcomers} {strayed}"
    );
}

#[test]
fn a_degraded_backend_keeps_a_part_of_its_keys() {
    let pool = pool(&[1, 1, 1, 1]);
    let strategy = hashed(&pool);
    let before = homes(&strategy, &pool);
    let b0 = pool.snapshot().get("b0").unwrap().clone();
    let measured = |capacity| {
        Measurement::new(HealthStatus::Healthy, Reason::new("L7OK", "")).capacity(capacity)
    };
    let mut kept = vec!["b0".to_owned(); 3_000];
    for (capacity, least, most) in [(1.0, 1.0, 1.0), (0.5, 0.4, 0.6), (0.1, 0.05, 0.15)] {
        pool.measure(&b0, measured(capacity));
        let now = homes(&strategy, &pool);
        let of = |homes: &[String]| homes.iter().filter(|h| *h == "b0").count();
        let part = of(&now) as f64 / of(&before) as f64;
        assert!((least..=most).contains(&part), "{part} at {capacity}");
        for (key, home) in now.iter().enumerate() {
            assert!(home == "b0" || before[key] == "b0" || *home == before[key]);
            assert!(
                home != "b0" || kept[key] == "b0",
                "a part grows and shrinks by keys"
            );
        }
        kept = now;
    }
}

#[test]
fn a_hot_key_is_spread_over_several_backends() {
    for count in [10, 100] {
        let pool = pool(&vec![1; count]);
        let strategy = hashed(&pool);
        let request = with_header(7);
        let picks = 20 * count;
        let leases: Vec<_> = (0..picks)
            .map(|_| {
                strategy
                    .pick(&pool.snapshot(), &Pick::new(&request))
                    .unwrap()
            })
            .collect();
        let snapshot = pool.snapshot();
        let most = snapshot
            .backends()
            .iter()
            .map(Backend::in_flight)
            .max()
            .unwrap();
        // 1.25 times 20; beyond 32 backends the mean is sampled.
        let bound = if count <= 32 { 25 } else { 50 };
        assert!(most <= bound, "{most} of {picks} at one of {count}");
        assert!(most >= 20);
        drop(leases);
    }
}

/// How many of these in flight at once with the same key the busiest backend has.
fn most_of(strategy: &ConsistentHash, pool: &Pool, picks: usize) -> u32 {
    let request = with_header(7);
    let pick = || {
        strategy
            .pick(&pool.snapshot(), &Pick::new(&request))
            .unwrap()
    };
    let _leases: Vec<_> = (0..picks).map(|_| pick()).collect();
    let snapshot = pool.snapshot();
    let in_flight = snapshot.backends().iter().map(Backend::in_flight);
    in_flight.max().unwrap()
}

#[test]
fn a_key_stays_at_home_while_few_requests_are_in_flight() {
    let pool = pool(&[1; 4]);
    let key = || ConsistentHash::new(HashKey::Header("x-user".parse().unwrap()));
    // With so many in flight at once: how many the home of their key has.
    for (strategy, picks, most) in [
        (key(), 16, 16),
        (key(), 24, 16),
        (key(), 80, 25),
        (key().affinity_floor(4).unwrap(), 4, 4),
        (key().affinity_floor(4).unwrap(), 8, 4),
        (key().affinity_floor(1).unwrap(), 4, 2),
        (key().load_factor(3.0).unwrap(), 80, 60),
    ] {
        let mut strategy = strategy;
        strategy.attach(&pool);
        let found = most_of(&strategy, &pool, picks);
        assert_eq!(found, most, "{picks} with {strategy:?}");
    }
    for floor in [0, 100_001] {
        let error = key().affinity_floor(floor).unwrap_err();
        assert_eq!(error.field(), "affinity_floor");
    }
}

#[test]
fn an_ipv4_client_has_one_backend_on_any_listener() {
    let pool = pool(&[1; 16]);
    let mut strategy = ConsistentHash::new(HashKey::Client);
    strategy.attach(&pool);
    let home = |peer: &str| {
        let conn = ConnInfo::new(Peer::Tcp(peer.parse().unwrap()), Peer::Unknown);
        let mut request = Request::new(());
        request.extensions_mut().insert(conn);
        let lease = strategy.pick(&pool.snapshot(), &Pick::new(&request));
        lease.unwrap().backend().id().to_owned()
    };
    for nth in 0..20 {
        let mapped = format!("[::ffff:192.0.2.{nth}]:1");
        assert_eq!(home(&format!("192.0.2.{nth}:1")), home(&mapped));
    }
}

#[test]
fn the_backend_of_a_key_is_the_same_in_every_release() {
    let pool = pool(&[1, 1, 1, 1, 1]);
    let strategy = hashed(&pool);
    let homes: String = homes(&strategy, &pool)[..40]
        .iter()
        .map(|h| &h[1..])
        .collect();
    assert_eq!(homes, "2032220410321333312122013320342142443044");
}

#[test]
fn keys_are_read_from_paths_and_cookies() {
    let pool = pool(&[1; 16]);
    let request = |path: &str, cookie: &str| {
        let request = Request::get(path).header("cookie", cookie);
        request.body(()).unwrap()
    };
    let home = |key: &HashKey, request: &Request<()>| {
        let mut strategy = ConsistentHash::new(key.clone());
        strategy.attach(&pool);
        let lease = strategy
            .pick(&pool.snapshot(), &Pick::new(request))
            .unwrap();
        lease.backend().id().to_owned()
    };
    let path = HashKey::Path;
    let first = home(&path, &request("/a?x=1", ""));
    assert_eq!(
        first,
        home(&path, &request("/a?x=2", "")),
        "without the query"
    );
    let cookie = HashKey::Cookie("user".into());
    let ann = home(&cookie, &request("/", "a=b; user=ann"));
    assert_eq!(ann, home(&cookie, &request("/else", "user=ann ;z")));
    let others = (0..50).map(|n| home(&cookie, &request("/", &format!("user={n}"))));
    assert!(others.collect::<std::collections::HashSet<_>>().len() > 8);
    // Without the key: in turn.
    let mut strategy = ConsistentHash::new(cookie);
    strategy.attach(&pool);
    let turn = counts(&strategy, &pool, 160);
    assert!(turn.values().all(|&count| count == 10), "{turn:?}");
    assert!(ConsistentHash::new(path).load_factor(0.9).is_err());
}

#[test]
fn a_copy_has_the_same_parameters_and_no_pool() {
    let one = pool(&[1, 1, 1]);
    let mut strategy = ConsistentHash::new(HashKey::Header("x-user".parse().unwrap()))
        .load_factor(2.0)
        .unwrap()
        .affinity_floor(4)
        .unwrap();
    let unattached = format!("{strategy:?}");
    strategy.attach(&one);
    assert_ne!(format!("{strategy:?}"), unattached);
    let mut copy = strategy.clone();
    assert_eq!(format!("{copy:?}"), unattached);
    let other = pool(&[1, 1, 1]);
    copy.attach(&other);
    assert_eq!(homes(&copy, &other), homes(&strategy, &one));
}
