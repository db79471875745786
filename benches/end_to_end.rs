//! The whole path of a request on one thread: eight clients, the server, the stack, a backend.
//!
//! ```sh
//! cargo bench --features full --bench end_to_end               # ns and allocations by mode
//! cargo bench --features full --bench end_to_end -- plain 2000 # a bounded run, for callgrind
//! ```
//!
//! The figures are the thread's CPU time, kernel included, and hold the clients' and the backend's
//! own work (`answer` and `bare` show how much that is); their differences are the stack's.

#[path = "loopback/mod.rs"]
mod loopback;

use std::env;

use tokio::{runtime::Builder, task::JoinSet};

use self::loopback::{Client, Door, Mode, Result, backends, cpu};

fn main() -> Result<()> {
    let args: Vec<String> = env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let quick = env::args().any(|arg| arg == "--test");
    let runs = if quick { 1 } else { RUNS };
    match args.as_slice() {
        [mode, count] => {
            let found = Mode::ALL.iter().find(|(name, _)| name == mode);
            let (_, mode) = found.ok_or("no mode of this name; without one, all are listed")?;
            let took = run(*mode, 1, count.parse()?)?;
            say(&format!("{:.0} ns a request", took.ns));
        }
        _ => {
            for (name, mode) in Mode::ALL {
                let took = run(mode, runs, if quick { 10 } else { COUNT })?;
                say(&format!(
                    "{name:8} {:7.0} ns {:5.1} allocations {:6.0} bytes",
                    took.ns, took.allocations, took.bytes
                ));
            }
        }
    }
    Ok(())
}

struct Took {
    ns: f64,
    allocations: f64,
    bytes: f64,
}

/// Makes `count` requests on each of the connections, `runs` times; the least of them.
fn run(mode: Mode, runs: usize, count: usize) -> Result<Took> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let mut clients = runtime.block_on(async {
        let pool = backends(folder.path(), 4, BODY)?;
        let door = Door::new(mode, &pool, BODY)?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(door.open().await?);
        }
        Ok::<Vec<Client>, evenkeel::BoxError>(clients)
    })?;
    let mut least = Took {
        ns: f64::MAX,
        allocations: f64::MAX,
        bytes: f64::MAX,
    };
    for _ in 0..runs {
        let began = cpu();
        let mut result = Ok(());
        let counted = allocation_counter::measure(|| {
            result = runtime.block_on(round(&mut clients, count));
        });
        result?;
        let requests = (CLIENTS * count) as f64;
        least.ns = least.ns.min((cpu() - began).as_nanos() as f64 / requests);
        least.allocations = least.allocations.min(counted.count_total as f64 / requests);
        least.bytes = least.bytes.min(counted.bytes_total as f64 / requests);
    }
    Ok(least)
}

async fn round(clients: &mut Vec<Client>, count: usize) -> Result<()> {
    let mut running = JoinSet::new();
    for mut client in clients.drain(..) {
        running.spawn(async move { client.requests(count).await.map(|()| client) });
    }
    while let Some(client) = running.join_next().await {
        clients.push(client??);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
fn say(text: &str) {
    println!("{text}");
}

const CLIENTS: usize = 8;
const COUNT: usize = 2_000;
const RUNS: usize = 7;
const BODY: usize = 1_024;
