//! What a pick costs: each strategy, few and many backends, all up, half or all of them down.
//! A pick is the choice and the slot, taken and given back. And what one change of health costs a
//! large pool, each strategy's tables included.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench"
)]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::{
    Backend, Pool,
    balance::{
        ConsistentHash, HashKey, LeastRequests, PeakEwma, Pick, PowerOfTwo, Random, RoundRobin,
        Strategy,
    },
    pool::{Health, Measurement, ProberGuard, Reason},
};
use http::Request;

fn pool(count: usize, up: usize) -> (Pool, ProberGuard) {
    let backends = (0..count).map(|i| {
        let backend = Backend::new(format!("b{i}"), "http://127.0.0.1:1").unwrap();
        backend.weight(1 + i as u32 % 3).unwrap()
    });
    let pool = Pool::new(backends).unwrap();
    // Nothing is usable until a check passes.
    let guard = pool.attach_prober();
    let members = pool.snapshot().backends().to_vec();
    for backend in members.iter().step_by(count / up.max(1)).take(up) {
        pool.measure(
            backend,
            Measurement::new(Health::Healthy, Reason::new("L7OK", "")).streak(1),
        );
    }
    (pool, guard)
}

fn strategies() -> [Box<dyn Strategy>; 6] {
    [
        Box::new(RoundRobin::new()),
        Box::new(Random::new()),
        Box::new(LeastRequests::new()),
        Box::new(PowerOfTwo::new()),
        Box::new(PeakEwma::new()),
        Box::new(ConsistentHash::new(HashKey::Path)),
    ]
}

fn pick(criterion: &mut Criterion) {
    let item = |i| Request::get(format!("/shop/item/{i}")).body(()).unwrap();
    let requests: Vec<Request<()>> = (0..64).map(item).collect();
    for count in [4, 10_000] {
        for (state, up) in [("up", count), ("half", count / 2), ("down", 0)] {
            let (pool, _guard) = pool(count, up);
            for mut strategy in strategies() {
                strategy.attach(&pool);
                let name = format!("pick/{}/{count}/{state}", strategy.name());
                criterion.bench_function(&name, |bencher| {
                    let mut requests = requests.iter().cycle();
                    bencher.iter(|| {
                        let snapshot = pool.snapshot();
                        let request = requests.next().unwrap();
                        strategy.pick(black_box(&snapshot), &Pick::new(black_box(request)))
                    });
                });
            }
        }
    }
}

/// What it costs to apply one change of health, with each strategy's tables.
fn change(criterion: &mut Criterion) {
    for mut strategy in strategies() {
        let (pool, _guard) = pool(10_000, 10_000);
        strategy.attach(&pool);
        let backend = pool.snapshot().backends()[5_000].clone();
        let name = format!("change/{}/10000", strategy.name());
        let mut up = true;
        criterion.bench_function(&name, |bencher| {
            bencher.iter(|| {
                up = !up;
                let health = if up {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                };
                let reason = Reason::new("L7OK", "");
                pool.measure(&backend, Measurement::new(health, reason))
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .without_plots();
    targets = pick, change
}
criterion_main!(benches);
