//! An experiment: three backend processes under load; one is killed and started again, one hangs
//! and wakes up. No request fails. Without failover, some do.
//!
//! ```sh
//! cargo run --features full --example chaos
//! cargo run --features full --example chaos -- --no-failover
//! ```

mod backend;
mod load;
mod show;

use std::{env, process::ExitCode, time::Duration};

use evenkeel::{
    Backend, BoxError, Pool,
    balance::BalanceLayer,
    failover::FailoverLayer,
    health::{Checks, HealthLayer},
    proxy::Proxy,
    respond::RespondLayer,
};
use tokio::time::{Instant, sleep_until};
use tower::Layer;

use crate::{backend::Process, load::Load, show::Show};

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let args: Vec<String> = env::args().skip(1).collect();
    let attempts = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // How this program starts itself as a backend.
        ["--be-backend", address] => {
            backend::serve(address).await?;
            return Ok(ExitCode::SUCCESS);
        }
        [] => 2,
        ["--no-failover"] => 1,
        _ => return Err("usage: chaos [--no-failover]".into()),
    };

    let mut processes = Vec::new();
    let mut backends = Vec::new();
    for name in NAMES {
        let process = Process::start("127.0.0.1:0")?;
        backends.push(Backend::new(
            name,
            &format!("http://{}", process.address()),
        )?);
        processes.push(process);
    }
    let pool = Pool::new(backends)?;
    let mut show = Show::new(&pool, attempts > 1);

    let checks = Checks::new()
        .interval(Duration::from_secs(1))
        .changing_interval(Duration::from_millis(200))
        .timeout(Duration::from_millis(500));
    let health = HealthLayer::new(pool.clone()).checks(checks)?;
    let proxy = Proxy::new().response_timeout(PATIENCE)?;
    let balance = BalanceLayer::new(pool.clone()).layer(health.layer(proxy));
    let failover = FailoverLayer::new().max_attempts(attempts)?.layer(balance);
    let stack = RespondLayer::new().layer(failover);
    show.until_all_are_up().await;

    let load = Load::start(stack, RATE);
    let began = Instant::now();
    for (second, act) in ACTS {
        sleep_until(began + Duration::from_secs(second)).await;
        show.next(&load, act);
        match act {
            Act::Nothing => {}
            Act::Kill(nth) => processes[nth].kill()?,
            Act::Restart(nth) => processes[nth].restart()?,
            Act::Hang(nth) => processes[nth].signal("STOP")?,
            Act::Wake(nth) => processes[nth].signal("CONT")?,
        }
    }
    sleep_until(began + Duration::from_secs(END)).await;
    load.finish().await;
    let failed = show.end(&load);
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

#[derive(Clone, Copy)]
pub(crate) enum Act {
    Nothing,
    Kill(usize),
    Restart(usize),
    Hang(usize),
    Wake(usize),
}

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
/// What happens, by the second.
const ACTS: [(u64, Act); 5] = [
    (0, Act::Nothing),
    (2, Act::Kill(1)),
    (4, Act::Restart(1)),
    (6, Act::Hang(2)),
    (8, Act::Wake(2)),
];
const END: u64 = 11;
/// Requests a second.
pub(crate) const RATE: u32 = 500;
/// How long a backend may think: what a request loses that meets one that hangs.
const PATIENCE: Duration = Duration::from_millis(150);
