//! An experiment: six backend processes under load; one is killed and started again, one hangs
//! and wakes up, all are restarted one after another. No request fails. Without failover, some
//! do.
//!
//! ```sh
//! cargo run --features full --example chaos
//! cargo run --features full --example chaos -- --no-failover
//! cargo run --features full --example chaos -- rack zone region down fast503   # or: all
//! ```
//!
//! It exits with 1 when a request failed that a backend was there for.

mod backend;
mod experiment;
mod load;
mod scenarios;
mod table;

use std::{env, process::ExitCode, time::Duration};

use evenkeel::BoxError;

use crate::{
    experiment::Experiment,
    scenarios::{ALL, DEFAULT, Scenario},
};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let args: Vec<String> = env::args().skip(1).collect();
    // How this program starts itself as a backend.
    if let [flag, name, address] = args.as_slice() {
        if flag == "--be-backend" {
            backend::serve(name, address).await?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let Some((scenarios, attempts)) = parse_args(&args) else {
        usage();
        return Ok(ExitCode::from(2));
    };
    table::begin(attempts > 1);
    let mut rows = Vec::new();
    let mut violations = Vec::new();
    for scenario in scenarios {
        // A new one for each: the memory of the last would damp what flaps.
        let mut experiment = Experiment::set(attempts).await?;
        experiment.begin("all is well");
        experiment.hold(Duration::from_secs(1)).await;
        let result = scenario.play(&mut experiment).await;
        experiment.load.finish().await;
        let phases = experiment.load.phases();
        for (row, phase) in std::mem::take(&mut experiment.rows).into_iter().zip(phases) {
            table::row(&row, &phase);
            rows.push((row, phase));
        }
        result?;
        violations.extend(
            experiment
                .invariants
                .check(&experiment.pool)
                .err()
                .into_iter()
                .flatten(),
        );
    }
    let failed = table::end(&rows);
    for violation in &violations {
        table::print(&violation.to_string());
    }
    Ok(match failed == 0 && violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Reads what is to be played, and how often a request is tried.
fn parse_args(args: &[String]) -> Option<(Vec<Scenario>, u32)> {
    let mut scenarios = Vec::new();
    let mut attempts = 3;
    for arg in args {
        match arg.as_str() {
            "--no-failover" => attempts = 1,
            "all" => scenarios.extend(ALL.iter().map(|(scenario, ..)| *scenario)),
            name => {
                let found = ALL.iter().find(|(_, own, _)| *own == name);
                scenarios.push(found?.0);
            }
        }
    }
    if scenarios.is_empty() {
        scenarios.extend(DEFAULT);
    }
    Some((scenarios, attempts))
}

#[expect(clippy::print_stderr, reason = "an example talks to people")]
fn usage() {
    eprintln!("usage: chaos [--no-failover] [all | SCENARIO …]");
    for (_, name, what) in ALL {
        eprintln!("  {name:<10} {what}");
    }
}
