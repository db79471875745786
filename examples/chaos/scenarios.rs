//! The scenarios: what fails, and how it recovers.

use std::time::Duration;

use evenkeel::{BoxError, pool::HealthStatus};
use tokio::time::Instant;

use crate::experiment::{Experiment, NAMES};

/// A failure, and the recovery from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Kill,
    Hang,
    Rolling,
    Announced,
    Rack,
    Zone,
    Region,
    Down,
    Fast503,
}

/// Every scenario, its argument on the command line, and its description.
pub(crate) const ALL: [(Scenario, &str, &str); 9] = [
    (Scenario::Kill, "kill", "SIGKILL of one backend"),
    (Scenario::Hang, "hang", "SIGSTOP of one backend"),
    (
        Scenario::Rolling,
        "rolling",
        "SIGTERM and a new start, one after another",
    ),
    (
        Scenario::Announced,
        "announced",
        "the same, and each reports drain first",
    ),
    (
        Scenario::Rack,
        "rack",
        "all backends of a rack are killed at once",
    ),
    (Scenario::Zone, "zone", "all of a zone"),
    (Scenario::Region, "region", "all of a region: four of six"),
    (Scenario::Down, "down", "all six"),
    (Scenario::Fast503, "fast503", "one answers 503 at once"),
];

/// The scenarios without arguments on the command line; together less than a minute.
pub(crate) const DEFAULT: [Scenario; 3] = [Scenario::Kill, Scenario::Hang, Scenario::Rolling];

impl Scenario {
    pub(crate) async fn play(self, experiment: &mut Experiment) -> Result<(), BoxError> {
        match self {
            Self::Kill => kill(experiment, "b", &[1]).await,
            Self::Hang => hang(experiment).await,
            Self::Rolling => rolling(experiment, "TERM").await,
            Self::Announced => rolling(experiment, "USR2").await,
            Self::Rack => kill(experiment, "rack eu-1/r1", &experiment.within("eu/eu-1/r1")).await,
            Self::Zone => kill(experiment, "zone eu-1", &experiment.within("eu/eu-1")).await,
            Self::Region => kill(experiment, "region eu", &experiment.within("eu")).await,
            Self::Down => down(experiment).await,
            Self::Fast503 => fast_503(experiment).await,
        }
    }
}

async fn kill(experiment: &mut Experiment, what: &str, all: &[usize]) -> Result<(), BoxError> {
    let names: Vec<&str> = all.iter().map(|nth| NAMES[*nth]).collect();
    let label = match all.len() {
        1 => what.to_owned(),
        _ => format!("{what} ({})", names.join(" ")),
    };
    experiment.begin(format!("{label} killed"));
    // First all signals, then the waits: the processes must end at the same moment.
    for nth in all {
        experiment.processes[*nth].kill()?;
    }
    for nth in all {
        experiment.processes[*nth].gone()?;
    }
    experiment.until(all, HealthStatus::Unhealthy).await?;
    experiment.hold(PAUSE).await;
    let left = experiment.load.sessions_on(&names);
    if let Some(row) = experiment.row() {
        row.remark = format!("{left} sessions left behind");
    }
    experiment.begin(format!("{what} started again"));
    for nth in all {
        experiment.processes[*nth].restart()?;
    }
    experiment.until(all, HealthStatus::Healthy).await?;
    experiment.hold(PAUSE).await;
    Ok(())
}

async fn hang(experiment: &mut Experiment) -> Result<(), BoxError> {
    experiment.begin("c hangs (SIGSTOP)");
    experiment.processes[2].signal("STOP")?;
    experiment.until(&[2], HealthStatus::Unhealthy).await?;
    experiment.hold(PAUSE).await;
    experiment.begin("c wakes up (SIGCONT)");
    experiment.processes[2].signal("CONT")?;
    experiment.until(&[2], HealthStatus::Healthy).await?;
    experiment.hold(PAUSE).await;
    Ok(())
}

/// Restarts every backend gracefully, one after another.
async fn rolling(experiment: &mut Experiment, signal: &str) -> Result<(), BoxError> {
    for (nth, name) in NAMES.into_iter().enumerate() {
        experiment.begin(format!("{name} drained (SIG{signal}), restarted"));
        experiment.processes[nth].signal(signal)?;
        experiment.processes[nth].ended().await?;
        let ended = Instant::now();
        // The pool must notice the end first: otherwise the restart is no failure to recover from.
        experiment.until(&[nth], HealthStatus::Unhealthy).await?;
        experiment.processes[nth].restart()?;
        let noticed = experiment.row().and_then(|row| row.noticed);
        experiment.until(&[nth], HealthStatus::Healthy).await?;
        if let Some(row) = experiment.row() {
            row.noticed = noticed;
            row.remark = format!("back {} ms after its end", ended.elapsed().as_millis());
        }
    }
    experiment.hold(PAUSE).await;
    Ok(())
}

async fn down(experiment: &mut Experiment) -> Result<(), BoxError> {
    let all: Vec<usize> = (0..NAMES.len()).collect();
    experiment.begin("all killed");
    if let Some(row) = experiment.row() {
        row.may_fail = true;
    }
    for process in &mut experiment.processes {
        process.kill()?;
    }
    for process in &mut experiment.processes {
        process.gone()?;
    }
    experiment.until(&all, HealthStatus::Unhealthy).await?;
    let cpu = cpu_time();
    experiment.begin("all are down");
    experiment.hold(2 * PAUSE).await;
    let cpu = cpu_time().zip(cpu).map(|(now, then)| now - then);
    if let (Some(row), Some(cpu)) = (experiment.row(), cpu) {
        let share = 100.0 * cpu.as_secs_f64() / row.began.elapsed().as_secs_f64();
        row.remark = format!("{share:.0} % of a core, load included");
    }
    experiment.begin("all started again");
    if let Some(row) = experiment.row() {
        row.may_fail = true;
    }
    for process in &mut experiment.processes {
        process.restart()?;
    }
    experiment.until(&all, HealthStatus::Healthy).await?;
    experiment.begin("all are up");
    experiment.hold(PAUSE).await;
    Ok(())
}

async fn fast_503(experiment: &mut Experiment) -> Result<(), BoxError> {
    experiment.begin("d answers 503 at once");
    let began = Instant::now();
    experiment.processes[3].signal("USR1")?;
    experiment.until(&[3], HealthStatus::Unhealthy).await?;
    experiment
        .hold(Duration::from_secs(2).saturating_sub(began.elapsed()))
        .await;
    let before = experiment.requests(3);
    experiment.begin("d is out");
    experiment.hold(PAUSE).await;
    let after = experiment.requests(3);
    if let Some(row) = experiment.row() {
        row.remark = format!("{} requests went to d", after - before);
    }
    // Its checks passed all the time: only a trial with live traffic readmits it.
    experiment.begin("d serves again, and waits for its trial");
    experiment.processes[3].signal("USR1")?;
    experiment.hold(PAUSE).await;
    Ok(())
}

/// Returns the CPU time of this process so far; `None` outside Linux.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // The kernel reports hundredths of a second to user space, whatever its own tick is.
    Some(Duration::from_millis(10 * ticks))
}

/// The pause between two phases.
const PAUSE: Duration = Duration::from_millis(1_500);
