//! What a pick costs: each strategy, few and many backends, all up, half or all of them down.
//! A pick is the choice and the slot, taken and given back. And what one change of health costs a
//! large pool, each strategy's tables included, and 5,000 changes that come together.
//!
//! ```sh
//! cargo bench --features full --bench pick
//! ```
//!
//! Each figure is the least of 200 turns (a change: of 40). Picks over 40 ns are marked.

#[path = "timing/mod.rs"]
mod timing;

use std::{hint::black_box, time::Duration};

use evenkeel::{
    Backend, BoxError, Pool,
    balance::{
        ConsistentHash, HashKey, LeastRequests, PeakEwma, Pick, PowerOfTwo, Random, RoundRobin,
        Strategy,
    },
    pool::{HealthStatus, Measurement, ProberGuard, Reason},
};
use http::Request;

use self::timing::{Row, rounds, say, time};

type Result<T> = std::result::Result<T, BoxError>;

fn main() -> Result<()> {
    picks()?;
    changes()
}

/// Backends of the weights 1, 2, 3, 1, …; `up` of them are.
fn pool(count: usize, up: usize) -> Result<(Pool, ProberGuard)> {
    let backends = (0..count)
        .map(|i| {
            let backend = Backend::new(format!("b{i}"), "http://127.0.0.1:1")?;
            backend.weight(1 + i as u32 % 3)
        })
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let pool = Pool::new(backends)?;
    // Nothing is usable until a check passes.
    let guard = pool.attach_prober();
    let members = pool.snapshot().backends().to_vec();
    let step = count / up.max(1);
    let passed = members.iter().step_by(step).take(up);
    pool.measure_all(passed.map(|b| (b.clone(), result(true))));
    assert_eq!(pool.snapshot().usable(), up, "as many are up as are wanted");
    Ok((pool, guard))
}

fn result(passed: bool) -> Measurement {
    let (health, reason) = if passed {
        (HealthStatus::Healthy, "L7OK")
    } else {
        (HealthStatus::Unhealthy, "L4CON")
    };
    Measurement::new(health, Reason::new(reason, "")).streak(1)
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

/// A table: a strategy a row, a pool a column.
fn picks() -> Result<()> {
    let mut head = format!("{:16}", "ns a pick");
    let mut columns = Vec::new();
    for count in [4, 10_000] {
        for (state, up) in [("up", count), ("half", count / 2), ("down", 0)] {
            head += &format!("{:>12}", format!("{count} {state}"));
            columns.push(column(count, up)?);
        }
    }
    say(&head);
    for nth in 0..strategies().len() {
        let mut line = format!("{:16}", columns[0][nth].name);
        for rows in &columns {
            let least = rows[nth].least();
            let mark = if least > LIMIT { '!' } else { ' ' };
            line += &format!("{least:11.1}{mark}");
        }
        say(&line);
    }
    say(&format!("!: over {LIMIT:.0} ns"));
    Ok(())
}

/// A pool, measured with each strategy.
fn column(count: usize, up: usize) -> Result<Vec<Row>> {
    let (pool, _guard) = pool(count, up)?;
    let requests: Vec<Request<()>> = (0..64)
        .map(|i| Request::get(format!("/shop/item/{i}")).body(()))
        .collect::<std::result::Result<_, _>>()?;
    let mut rows = Vec::new();
    for mut strategy in strategies() {
        strategy.attach(&pool);
        let (pool, requests) = (pool.clone(), requests.clone());
        rows.push(Row::new(strategy.name(), PICKS, move || {
            time(|| {
                for request in requests.iter().cycle().take(PICKS) {
                    let snapshot = pool.snapshot();
                    let lease = strategy.pick(black_box(&snapshot), &Pick::new(black_box(request)));
                    assert_eq!(lease.is_some(), up > 0);
                }
            })
        }));
    }
    for _ in 0..rounds(200) {
        rows.iter_mut().for_each(Row::run);
    }
    Ok(rows)
}

/// What it costs to apply changes of health, with each strategy's tables.
fn changes() -> Result<()> {
    say(&format!(
        "\n{:16}{:>12}{:>22}",
        "µs, 10,000", "one change", "5,000 together"
    ));
    for mut strategy in strategies() {
        let (pool, _guard) = pool(10_000, 10_000)?;
        strategy.attach(&pool);
        let members = pool.snapshot().backends().to_vec();
        let one = change(&pool, members[5_000..5_001].to_vec());
        let many = change(&pool, members[..5_000].to_vec());
        let mut rows = [Row::new("one", 1, one), Row::new("many", 1, many)];
        for _ in 0..rounds(40) {
            rows.iter_mut().for_each(Row::run);
        }
        let [one, many] = rows.map(|row| row.least() / 1_000.0);
        say(&format!("{:16}{one:12.0}{many:22.0}", strategy.name()));
    }
    Ok(())
}

/// Takes these down and up again, in turns.
fn change(pool: &Pool, members: Vec<Backend>) -> impl FnMut() -> Duration + 'static {
    let (pool, mut up) = (pool.clone(), true);
    move || {
        up = !up;
        let results: Vec<_> = members.iter().map(|b| (b.clone(), result(up))).collect();
        time(|| match results.as_slice() {
            [(backend, measured)] => {
                let changed = pool.measure(backend, measured.clone());
                assert!(changed.is_some(), "each turn is a change");
            }
            _ => assert_eq!(pool.measure_all(results), members.len()),
        })
    }
}

/// The project's limit, in nanoseconds.
const LIMIT: f64 = 40.0;
const PICKS: usize = 4_096;
