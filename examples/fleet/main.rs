//! Experiments with a whole fleet: two balancers behind a virtual address, three racks in two regions.
//!
//! Each scenario makes a network of its own (namespaces on this machine), with real processes: `edge`
//! and keepalived twice, configured by the files of `examples/deploy/keepalived`, six backends, and a
//! client with 500 requests a second. Then something fails. Each line of the table is a phase, with
//! the figures that are expected beside those that were measured.
//!
//! ```sh
//! cargo run --features full --example fleet
//! cargo run --features full --example fleet -- --list
//! cargo run --features full --example fleet -- --only balancer-crash --only lame-duck
//! cargo run --features full --example fleet -- --json      # an object a phase
//! ```
//!
//! It needs root, and Debian's packages iproute2, nftables and keepalived, and redis-server for the
//! experiment `redis-lost`. Where they are missing it says so, and exits with 0. It exits with 1 if a
//! figure is not as expected, with 2 if the arguments are wrong. `RUST_LOG=debug` shows what keepalived
//! says.

mod balancer;
mod client;
mod fleet;
mod process;
mod scenarios;
mod table;
mod world;

use std::{env, io, process::ExitCode};

use evenkeel::BoxError;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::{
    fleet::{Fleet, Row},
    process::Programs,
    scenarios::{ALL, Scenario},
    world::World,
};

// One thread: the processes end with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, BoxError> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, vips @ ..] = args.as_slice()
        && flag == client::BE_CLIENT
    {
        client::serve(vips).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(arguments) = Arguments::parse(&args) else {
        return Ok(usage());
    };
    if arguments.list {
        for (_, name, what) in ALL {
            table::print(&format!("{name:<18} {what}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    tokio::select! {
        ended = run(&arguments) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Err("interrupted".into())
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, BoxError> {
    let programs = Programs::find().await?;
    if !arguments.json {
        table::begin();
    }
    let mut violations = 0;
    for (scenario, name, what) in &arguments.scenarios {
        if let Some((tool, package)) = scenario.needs()
            && let Err(error) = process::try_tool(tool).await
        {
            let missing =
                format!("{name}: {tool} cannot be run ({error}); it is in the package {package}");
            not_run(&missing, arguments.json);
            continue;
        }
        let world = match World::make().await? {
            Ok(world) => world,
            Err(missing) => {
                not_run(&missing, arguments.json);
                return Ok(ExitCode::SUCCESS);
            }
        };
        if !arguments.json {
            table::scenario(name, what);
        }
        let mut fleet =
            Fleet::start(world, &programs, (scenario.mode(), scenario.joined())).await?;
        let played = scenario.play(&mut fleet).await;
        for row in fleet.end().await? {
            violations += row.violations().len();
            show(&row, name, arguments.json);
        }
        played?;
    }
    Ok(match violations {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn not_run(missing: &str, json: bool) {
    table::print(&match json {
        true => json!({ "not_run": missing }).to_string(),
        false => format!("The experiments were NOT RUN: {missing}"),
    });
}

fn show(row: &Row, scenario: &str, json: bool) {
    match json {
        true => table::print(&row.json(scenario)),
        false => table::row(row),
    }
}

struct Arguments {
    list: bool,
    json: bool,
    scenarios: Vec<(Scenario, &'static str, &'static str)>,
}

impl Arguments {
    /// Returns `None` for unknown arguments.
    fn parse(args: &[String]) -> Option<Self> {
        let mut parsed = Self {
            list: false,
            json: false,
            scenarios: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => parsed.list = true,
                "--json" => parsed.json = true,
                "--only" => {
                    let name = args.next()?;
                    parsed
                        .scenarios
                        .push(*ALL.iter().find(|(_, own, _)| own == name)?);
                }
                _ => return None,
            }
        }
        if parsed.scenarios.is_empty() {
            parsed.scenarios.extend(ALL);
        }
        Some(parsed)
    }
}

#[expect(clippy::print_stderr, reason = "an example talks to people")]
fn usage() -> ExitCode {
    eprintln!("usage: fleet [--list] [--json] [--only SCENARIO]…");
    for (_, name, what) in ALL {
        eprintln!("  {name:<18} {what}");
    }
    ExitCode::from(2)
}
