//! What a request costs as backends and connections grow in number, and bodies in size: it is to
//! stay the same, within 10 %.
//!
//! ```sh
//! cargo bench --features full --bench growth                               # quick: seconds
//! ulimit -n 65536; cargo bench --features full --bench growth -- whole     # to 1,000 and 5,000
//! ```
//!
//! The figure is the thread's CPU time a request, kernel included, the clients' and backends' own
//! work included: 32 requests are in flight at any time, whatever the number of connections. A
//! line of its own says how far the dearest is above the cheapest.

#[path = "loopback/mod.rs"]
#[expect(dead_code, reason = "`end_to_end` has all the modes, this has one")]
mod loopback;

use std::env;

use tokio::{runtime::Builder, task::JoinSet};

use self::loopback::{Client, Door, Mode, Result, backends, cpu};

fn main() -> Result<()> {
    let whole = env::args().any(|arg| arg == "whole");
    let test = env::args().any(|arg| arg == "--test");
    let rounds = if test { 1 } else { 5 };
    let many: &[usize] = if whole {
        &[1, 10, 100, 1_000]
    } else {
        &[1, 20]
    };
    let points = many.iter().map(|&count| Point {
        backends: count,
        ..POINT
    });
    curve("backends", points.collect(), |p| p.backends, rounds);
    let many: &[usize] = if whole {
        &[10, 100, 1_000, 5_000]
    } else {
        &[10, 100]
    };
    let points = many.iter().map(|&count| Point {
        clients: count,
        ..POINT
    });
    curve("clients", points.collect(), |p| p.clients, rounds);
    let points = [1_024, 16_384, 65_536].map(|size| Point {
        body: size,
        ..POINT
    });
    curve("body bytes", points.to_vec(), |p| p.body, rounds);
    Ok(())
}

#[derive(Clone, Copy)]
struct Point {
    backends: usize,
    clients: usize,
    body: usize,
}

const POINT: Point = Point {
    backends: 4,
    clients: 64,
    body: 1_024,
};

/// Measures each point: the least of some rounds, which take turns so that a host that drifts
/// drifts for all.
fn curve(what: &str, points: Vec<Point>, of: impl Fn(&Point) -> usize, rounds: usize) {
    let mut ready = Vec::new();
    for point in points {
        match Measured::new(point) {
            Ok(measured) => ready.push(measured),
            Err(error) => say(&format!("{what} {:6}  left out: {error}", of(&point))),
        }
    }
    for _ in 0..rounds {
        for measured in &mut ready {
            if let Err(error) = measured.round() {
                say(&format!("{what}: {error}"));
            }
        }
    }
    for measured in &ready {
        say(&format!(
            "{what} {:6} {:8.0} ns",
            of(&measured.point),
            measured.least
        ));
    }
    let least = ready.iter().map(|m| m.least).fold(f64::MAX, f64::min);
    let most = ready.iter().map(|m| m.least).fold(0.0, f64::max);
    say(&format!(
        "{what}: the dearest is {:.2} of the cheapest",
        most / least
    ));
}

struct Measured {
    point: Point,
    runtime: tokio::runtime::Runtime,
    /// One group for each request in flight.
    groups: Vec<Vec<Client>>,
    least: f64,
    _folder: tempfile::TempDir,
}

impl Measured {
    fn new(point: Point) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let folder = tempfile::tempdir()?;
        let groups = runtime.block_on(async {
            let pool = backends(folder.path(), point.backends, point.body)?;
            let door = Door::new(Mode::All, &pool, point.body)?;
            let at_once = IN_FLIGHT.min(point.clients);
            let mut groups: Vec<Vec<Client>> = (0..at_once).map(|_| Vec::new()).collect();
            for i in 0..point.clients {
                groups[i % at_once].push(door.open().await?);
            }
            Ok::<_, evenkeel::BoxError>(groups)
        })?;
        Ok(Self {
            point,
            runtime,
            groups,
            least: f64::MAX,
            _folder: folder,
        })
    }

    fn round(&mut self) -> Result<()> {
        let began = cpu();
        let groups = std::mem::take(&mut self.groups);
        let requests = REQUESTS / groups.len();
        self.groups = self.runtime.block_on(async {
            let mut running = JoinSet::new();
            for mut group in groups {
                running.spawn(async move {
                    for i in 0..requests {
                        let at = i % group.len();
                        group[at].request().await?;
                    }
                    Ok::<_, evenkeel::BoxError>(group)
                });
            }
            let mut groups = Vec::new();
            while let Some(group) = running.join_next().await {
                groups.push(group??);
            }
            Ok::<_, evenkeel::BoxError>(groups)
        })?;
        let took = (cpu() - began).as_nanos() as f64;
        self.least = self.least.min(took / (requests * self.groups.len()) as f64);
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
fn say(text: &str) {
    println!("{text}");
}

const IN_FLIGHT: usize = 32;
const REQUESTS: usize = 10_240;
