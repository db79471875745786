//! Strategies over a pool: shares, exclusion, caps, allocations.

mod consistent_hash;
mod peak_ewma;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use http::Request;

use super::{
    ConsistentHash, HashKey, LeastRequests, PeakEwma, Pick, PowerOfTwo, Random, RoundRobin,
    Strategy,
    consistent_hash::{FACTOR, FLOOR},
    layer::BalanceLayer,
};
use crate::{
    default_table,
    pool::{Backend, Lease, Pool},
};

fn backend(id: usize, weight: u32) -> Backend {
    Backend::new(format!("b{id}"), "http://127.0.0.1:1")
        .unwrap()
        .weight(weight)
        .unwrap()
}

fn pool(weights: &[u32]) -> Pool {
    let backends = weights.iter().enumerate().map(|(i, &w)| backend(i, w));
    Pool::new(backends).unwrap()
}

fn all() -> [Box<dyn Strategy>; 6] {
    [
        Box::new(RoundRobin::new()),
        Box::new(Random::new()),
        Box::new(LeastRequests::new()),
        Box::new(PowerOfTwo::new()),
        Box::new(PeakEwma::new()),
        // Without the key: its fall-back.
        Box::new(ConsistentHash::new(HashKey::Client)),
    ]
}

fn attached(mut strategy: Box<dyn Strategy>, pool: &Pool) -> Box<dyn Strategy> {
    strategy.attach(pool);
    strategy
}

fn counts(strategy: &dyn Strategy, pool: &Pool, picks: usize) -> HashMap<String, usize> {
    let request = Request::new(());
    let mut counts = HashMap::new();
    for _ in 0..picks {
        let lease = strategy.pick(&pool.snapshot(), &Pick::new(&request));
        let id = lease.unwrap().backend().id().to_owned();
        *counts.entry(id).or_default() += 1;
    }
    counts
}

#[test]
fn idle_backends_get_traffic_by_weight() {
    for weights in [&[1, 1, 1][..], &[5, 3, 2], &[1; 40], &[10; 33]] {
        let pool = pool(weights);
        let total: u32 = weights.iter().sum();
        for strategy in all() {
            let strategy = attached(strategy, &pool);
            let picks = 20_000;
            let counts = counts(&*strategy, &pool, picks);
            for (i, &weight) in weights.iter().enumerate() {
                let ideal = picks as f64 * f64::from(weight) / f64::from(total);
                let got = counts.get(&format!("b{i}")).copied().unwrap_or(0) as f64;
                // Five standard deviations of a fair draw.
                let off = 5.0 * ideal.sqrt();
                assert!(
                    (got - ideal).abs() < off,
                    "{}: b{i} got {got} of {ideal}",
                    strategy.name()
                );
            }
        }
    }
}

#[test]
fn round_robin_and_least_requests_are_exact() {
    for weights in [&[1, 1, 1, 1][..], &[3, 2, 1]] {
        let pool = pool(weights);
        let total: u32 = weights.iter().sum();
        let strategy = attached(Box::new(RoundRobin::new()), &pool);
        let counts = counts(&*strategy, &pool, 100 * total as usize);
        for (i, &weight) in weights.iter().enumerate() {
            assert_eq!(counts[&format!("b{i}")], 100 * weight as usize);
        }
    }
    let pool = pool(&[2, 1]);
    let strategy = attached(Box::new(LeastRequests::new()), &pool);
    let request = Request::new(());
    let leases: Vec<Lease> = (0..30)
        .filter_map(|_| strategy.pick(&pool.snapshot(), &Pick::new(&request)))
        .collect();
    let snapshot = pool.snapshot();
    let loads: Vec<_> = snapshot.backends().iter().map(Backend::in_flight).collect();
    assert_eq!(
        loads,
        [20, 10],
        "requests in flight must follow the weights"
    );
    drop(leases);
    assert!(snapshot.backends().iter().all(|b| b.in_flight() == 0));
}

#[test]
fn the_least_loaded_is_preferred() {
    for count in [4, 200] {
        let pool = pool(&vec![1; count]);
        let snapshot = pool.snapshot();
        // Half of them are busy.
        let busy: Vec<_> = snapshot.backends()[..count / 2]
            .iter()
            .flat_map(|b| (0..10).map(move |_| Lease::acquire(b)))
            .collect();
        for (strategy, at_most) in [
            (Box::new(LeastRequests::new()) as Box<dyn Strategy>, 0.12),
            (Box::new(PowerOfTwo::new()), 0.35),
        ] {
            let strategy = attached(strategy, &pool);
            let counts = counts(&*strategy, &pool, 4_000);
            let to_busy: usize = snapshot.backends()[..count / 2]
                .iter()
                .filter_map(|b| counts.get(b.id()))
                .sum();
            assert!(
                (to_busy as f64) < 4_000.0 * at_most,
                "{}: {to_busy} of 4,000 went to busy backends of {count}",
                strategy.name()
            );
        }
        drop(busy);
    }
}

#[test]
fn a_tried_backend_is_not_picked_again() {
    let request = Request::new(());
    for count in [2, 3, 50, 500] {
        for weights in [vec![1; count], (1..=count as u32).collect()] {
            let pool = pool(&weights);
            for strategy in all() {
                let strategy = attached(strategy, &pool);
                let snapshot = pool.snapshot();
                let mut tried = Vec::new();
                for _ in 0..count.min(20) {
                    let pick = Pick::new(&request).excluding(&tried);
                    let lease = strategy.pick(&snapshot, &pick).unwrap();
                    let incarnation = lease.backend().incarnation();
                    assert!(!tried.contains(&incarnation), "{}", strategy.name());
                    tried.push(incarnation);
                }
                let all_members: Vec<_> = weights
                    .iter()
                    .zip(snapshot.backends())
                    .map(|(_, b)| b.incarnation())
                    .collect();
                let pick = Pick::new(&request).excluding(&all_members);
                assert!(strategy.pick(&snapshot, &pick).is_none());
            }
        }
    }
}

#[test]
fn the_share_of_a_tried_backend_is_spread_by_weight() {
    let request = Request::new(());
    let pool = pool(&[50, 50, 1]);
    for strategy in all() {
        let strategy = attached(strategy, &pool);
        let snapshot = pool.snapshot();
        let tried = [snapshot.backends()[0].incarnation()];
        let picks = 5_000;
        let to_light = (0..picks)
            .filter_map(|_| strategy.pick(&snapshot, &Pick::new(&request).excluding(&tried)))
            .filter(|lease| lease.backend().id() == "b2")
            .count();
        assert!(
            to_light < picks / 20,
            "{}: the lightest must not get half of a retry storm, but got {to_light}",
            strategy.name()
        );
    }
}

#[test]
fn a_full_tier_overflows_to_the_next() {
    let request = Request::new(());
    let capped = |id, tier| backend(id, 1).tier(tier).max_in_flight(2).unwrap();
    let pool = Pool::new([capped(0, 1), capped(1, 0), capped(2, 0)]).unwrap();
    for strategy in all() {
        let strategy = attached(strategy, &pool);
        let pick = || strategy.pick(&pool.snapshot(), &Pick::new(&request).thorough());
        let leases: Vec<_> = (0..4).map(|_| pick().unwrap()).collect();
        let preferred = leases.iter().all(|l| l.backend().configured_tier() == 0);
        assert!(preferred, "{}: tier 0 must fill first", strategy.name());
        let spilled = [pick(), pick()];
        assert!(spilled.iter().flatten().all(|l| l.backend().id() == "b0"));
        assert!(pick().is_none(), "caps must hold");
        drop(leases);
        assert_eq!(pick().unwrap().backend().configured_tier(), 0);
    }
}

#[test]
fn caps_hold_under_threads() {
    const CAP: u32 = 3;
    let backends = (0..8).map(|i| backend(i, 1 + i as u32).max_in_flight(CAP).unwrap());
    let pool = Pool::new(backends).unwrap();
    let snapshot = pool.snapshot();
    let ids: Vec<_> = snapshot.backends().iter().map(Backend::id).collect();
    for strategy in all() {
        let strategy = attached(strategy, &pool);
        let held: Vec<_> = ids.iter().map(|_| AtomicU32::new(0)).collect();
        let count = |lease: &Lease| {
            let place = ids.iter().position(|id| *id == lease.backend().id());
            &held[place.unwrap()]
        };
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (pool, strategy, count) = (&pool, &strategy, &count);
                scope.spawn(move || {
                    let request = Request::new(());
                    let mut random = fastrand::Rng::with_seed(thread);
                    let mut mine = Vec::new();
                    for _ in 0..3_000 {
                        if random.bool() {
                            let pick = Pick::new(&request);
                            if let Some(lease) = strategy.pick(&pool.snapshot(), &pick) {
                                let others = count(&lease).fetch_add(1, SeqCst);
                                assert!(others < CAP, "a cap must never be exceeded");
                                mine.push(lease);
                            }
                        } else if !mine.is_empty() {
                            let lease = mine.swap_remove(random.usize(..mine.len()));
                            count(&lease).fetch_sub(1, SeqCst);
                        }
                    }
                    mine.iter().for_each(|lease| {
                        count(lease).fetch_sub(1, SeqCst);
                    });
                });
            }
        });
        let left: u32 = snapshot.backends().iter().map(Backend::in_flight).sum();
        assert_eq!(left, 0, "{}: every lease must come back", strategy.name());
    }
}

#[test]
fn a_pick_does_not_allocate() {
    let request = Request::new(());
    for count in [4, 500] {
        for weights in [vec![1; count], (1..=count as u32).collect()] {
            let pool = pool(&weights);
            for strategy in all() {
                let strategy = attached(strategy, &pool);
                let info = allocation_counter::measure(|| {
                    for _ in 0..100 {
                        let _ = strategy.pick(&pool.snapshot(), &Pick::new(&request));
                    }
                });
                assert_eq!(info.count_total, 0, "{}", strategy.name());
            }
        }
    }
}

#[test]
fn a_strategy_of_another_pool_does_not_panic() {
    let request = Request::new(());
    let (one, other) = (pool(&[1, 2, 3, 4]), pool(&[7, 1]));
    for strategy in all() {
        let strategy = attached(strategy, &one);
        for _ in 0..50 {
            let _ = strategy.pick(&other.snapshot(), &Pick::new(&request));
        }
    }
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    let mut compared = vec![
        ("strategy", RoundRobin::new().name().to_owned()),
        (
            "requests waiting at once",
            BalanceLayer::QUEUE_SIZE.to_string(),
        ),
        (
            "wait for a backend with room",
            seconds(BalanceLayer::QUEUE_TIMEOUT),
        ),
        (
            "wait for a first check",
            seconds(BalanceLayer::HELD_TIMEOUT),
        ),
        ("`Retry-After`", seconds(BalanceLayer::RETRY_AFTER)),
        (
            "load factor of `ConsistentHash`",
            (f64::from(FACTOR) / 256.0).to_string(),
        ),
        ("requests in flight below which", FLOOR.to_string()),
    ];
    let strategies = [
        ("[`RoundRobin`]", "each in turn"),
        ("[`Random`]", "at random"),
        ("[`LeastRequests`]", "the fewest in flight"),
        ("[`PowerOfTwo`]", "the better of two"),
        (
            "[`PeakEwma`]",
            "of two, the one with the lower expected latency",
        ),
        ("[`ConsistentHash`]", "by a header"),
    ];
    assert_eq!(strategies.len(), all().len());
    compared.extend(strategies.map(|(strategy, picks)| (strategy, picks.to_owned())));
    default_table::compare(include_str!("../mod.rs"), &compared);
}

#[test]
fn a_thousand_reloads_leak_no_tables() {
    let pool = pool(&[1, 2, 3]);
    let mut running = all().map(|strategy| attached(strategy, &pool));
    let count = || {
        let snapshot = pool.snapshot();
        let attached = snapshot.backends()[0].count_attachments();
        (snapshot.count_tables(), attached)
    };
    let ((members, groups), attachments) = count();
    for round in 0..1_000 {
        // As a reload does: what is new is made before what was there goes.
        running = all().map(|strategy| attached(strategy, &pool));
        let now = count();
        assert!(
            now.0.0 <= 2 * members && now.0.1 <= 2 * groups && now.1 <= 2 * attachments,
            "{now:?} in round {round}"
        );
    }
    let counts = counts(&*running[4], &pool, 100);
    assert_eq!(counts.values().sum::<usize>(), 100);
}

#[test]
fn the_strategies_of_all_workers_share_their_tables() {
    let pool = Pool::new([
        Backend::new("a", "http://127.0.0.1:1").unwrap(),
        Backend::new("b", "http://127.0.0.1:2").unwrap(),
    ]);
    let pool = pool.unwrap();
    let attach = || {
        let all = all().map(|strategy| attached(strategy, &pool));
        // Those that keep something of their own, too.
        let shared: Vec<_> = all.into_iter().take(4).collect();
        (shared, pool.snapshot().count_tables())
    };
    let (_first, tables) = attach();
    let (_second, of_two) = attach();
    assert_eq!(
        of_two, tables,
        "each change of health would make them again"
    );
}
