//! What goes wrong.

use std::time::Duration;

use evenkeel::{BoxError, pool::Health};
use tokio::time::Instant;

use crate::stage::{NAMES, Stage};

/// One thing that goes wrong, and is put right again.
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

/// Every scenario, its flag, and what it is.
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
        "the same, and each fails its health first",
    ),
    (
        Scenario::Rack,
        "rack",
        "all backends of a rack are killed at once",
    ),
    (Scenario::Zone, "zone", "all of a zone"),
    (Scenario::Region, "region", "all of a region: four of six"),
    (Scenario::Down, "down", "all there are"),
    (Scenario::Fast503, "fast503", "one answers 503 in no time"),
];

/// What runs when nothing else is said: less than a minute.
pub(crate) const USUAL: [Scenario; 3] = [Scenario::Kill, Scenario::Hang, Scenario::Rolling];

impl Scenario {
    pub(crate) async fn play(self, stage: &mut Stage) -> Result<(), BoxError> {
        match self {
            Self::Kill => kill(stage, "b", &[1]).await,
            Self::Hang => hang(stage).await,
            Self::Rolling => rolling(stage, "TERM").await,
            Self::Announced => rolling(stage, "USR2").await,
            Self::Rack => kill(stage, "rack eu-1/r1", &stage.within("eu/eu-1/r1")).await,
            Self::Zone => kill(stage, "zone eu-1", &stage.within("eu/eu-1")).await,
            Self::Region => kill(stage, "region eu", &stage.within("eu")).await,
            Self::Down => down(stage).await,
            Self::Fast503 => fast_503(stage).await,
        }
    }
}

async fn kill(stage: &mut Stage, what: &str, all: &[usize]) -> Result<(), BoxError> {
    let names: Vec<&str> = all.iter().map(|nth| NAMES[*nth]).collect();
    let who = match all.len() {
        1 => what.to_owned(),
        _ => format!("{what} ({})", names.join(" ")),
    };
    stage.begin(format!("{who} killed"));
    // All at once: a signal is sent within microseconds, while a death takes its time.
    for nth in all {
        stage.processes[*nth].kill()?;
    }
    for nth in all {
        stage.processes[*nth].gone()?;
    }
    stage.until(all, Health::Unhealthy).await?;
    stage.hold(CALM).await;
    let left = stage.load.sessions_on(&names);
    if let Some(row) = stage.row() {
        row.remark = format!("{left} sessions left behind");
    }
    stage.begin(format!("{what} started again"));
    for nth in all {
        stage.processes[*nth].restart()?;
    }
    stage.until(all, Health::Healthy).await?;
    stage.hold(CALM).await;
    Ok(())
}

async fn hang(stage: &mut Stage) -> Result<(), BoxError> {
    stage.begin("c hangs (SIGSTOP)");
    stage.processes[2].signal("STOP")?;
    stage.until(&[2], Health::Unhealthy).await?;
    stage.hold(CALM).await;
    stage.begin("c wakes up (SIGCONT)");
    stage.processes[2].signal("CONT")?;
    stage.until(&[2], Health::Healthy).await?;
    stage.hold(CALM).await;
    Ok(())
}

/// Each is asked to end, ends, and is started again when it has.
async fn rolling(stage: &mut Stage, signal: &str) -> Result<(), BoxError> {
    for (nth, name) in NAMES.into_iter().enumerate() {
        stage.begin(format!("{name} drained (SIG{signal}), restarted"));
        stage.processes[nth].signal(signal)?;
        stage.processes[nth].ended().await?;
        let ended = Instant::now();
        // A start takes time, and the pool has to see that it is gone: or it was not.
        stage.until(&[nth], Health::Unhealthy).await?;
        stage.processes[nth].restart()?;
        let noticed = stage.row().and_then(|row| row.noticed);
        stage.until(&[nth], Health::Healthy).await?;
        if let Some(row) = stage.row() {
            row.noticed = noticed;
            row.remark = format!("back {} ms after its end", ended.elapsed().as_millis());
        }
    }
    stage.hold(CALM).await;
    Ok(())
}

async fn down(stage: &mut Stage) -> Result<(), BoxError> {
    let all: Vec<usize> = (0..NAMES.len()).collect();
    stage.begin("all killed");
    if let Some(row) = stage.row() {
        row.may_fail = true;
    }
    for process in &mut stage.processes {
        process.kill()?;
    }
    for process in &mut stage.processes {
        process.gone()?;
    }
    stage.until(&all, Health::Unhealthy).await?;
    let cpu = cpu_time();
    stage.begin("all are down");
    stage.hold(2 * CALM).await;
    let cpu = cpu_time().zip(cpu).map(|(now, then)| now - then);
    if let (Some(row), Some(cpu)) = (stage.row(), cpu) {
        let share = 100.0 * cpu.as_secs_f64() / row.began.elapsed().as_secs_f64();
        row.remark = format!("{share:.0} % of a core, load included");
    }
    stage.begin("all started again");
    if let Some(row) = stage.row() {
        row.may_fail = true;
    }
    for process in &mut stage.processes {
        process.restart()?;
    }
    stage.until(&all, Health::Healthy).await?;
    stage.begin("all are up");
    stage.hold(CALM).await;
    Ok(())
}

async fn fast_503(stage: &mut Stage) -> Result<(), BoxError> {
    stage.begin("d answers 503 at once");
    let began = Instant::now();
    stage.processes[3].signal("USR1")?;
    stage.until(&[3], Health::Unhealthy).await?;
    stage
        .hold(Duration::from_secs(2).saturating_sub(began.elapsed()))
        .await;
    let before = stage.requests(3);
    stage.begin("d is out");
    stage.hold(CALM).await;
    let after = stage.requests(3);
    if let Some(row) = stage.row() {
        row.remark = format!("{} requests went to d", after - before);
    }
    // Its checks passed all the while, so only the trial after its time will bring it back.
    stage.begin("d serves again, and waits for its trial");
    stage.processes[3].signal("USR1")?;
    stage.hold(CALM).await;
    Ok(())
}

/// What this process used of the processors.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // Linux tells them in hundredths, whatever its own clock does.
    Some(Duration::from_millis(10 * ticks))
}

/// Between one thing and the next.
const CALM: Duration = Duration::from_millis(1_500);
