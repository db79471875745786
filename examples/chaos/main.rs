//! An experiment with real processes: failures of backends under load, and what clients notice.
//!
//! Six backend processes serve 500 requests a second. By default, one backend is killed and started
//! again, one is suspended and resumed, and all are restarted one after another. With failover, no
//! request fails; without it, some do. Each line of the table is one phase of the experiment; the
//! program explains the columns when it starts.
//!
//! ```sh
//! cargo run --features full --example chaos
//! cargo run --features full --example chaos -- --no-failover
//! cargo run --features full --example chaos -- rack zone region down fast503   # or: all
//! ```
//!
//! The program exits with 1 if a request failed although a backend could have served it, or if an
//! invariant was violated.

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
    // The experiment starts this program again for each backend.
    if let [flag, name, address] = args.as_slice()
        && flag == "--be-backend"
    {
        backend::serve(name, address).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some((scenarios, attempts)) = parse_args(&args) else {
        usage();
        return Ok(ExitCode::from(2));
    };
    table::begin(attempts > 1);
    let mut rows = Vec::new();
    let mut violations = Vec::new();
    for scenario in scenarios {
        // Each scenario has its own pool: health checks dampen backends that flapped before.
        let mut experiment = Experiment::set(attempts).await?;
        experiment.begin("no fault");
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

/// Returns the scenarios and the number of attempts for a request; `None` for unknown arguments.
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
