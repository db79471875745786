//! A fleet at work: two balancers, six backends and the load, and the phases of an experiment.

use std::{fmt::Write, time::Duration};

use evenkeel::BoxError;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    balancer::{BACKENDS, BALANCERS, Balancer, Joined, Mode, Takeover},
    client::{Load, Record},
    process::{Process, Programs},
    world::{self, STORE, VIPS, World},
};

pub(crate) struct Fleet {
    pub(crate) balancers: Vec<Balancer>,
    pub(crate) backends: Vec<Process>,
    /// The Redis server, where the balancers share one.
    store: Option<Process>,
    load: Load,
    phases: Vec<Phase>,
    began: Instant,
    _folder: TempDir,
    // Dropped after the processes in it.
    pub(crate) world: World,
}

/// What must hold in a phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// Whether requests in flight at the moment of the fault may be lost.
    pub(crate) may_lose: bool,
    /// How many of the requests that begin after it may fail.
    pub(crate) failed: usize,
    /// How long until a request that began after the fault is answered, in addition to twice the
    /// slowest answer before any fault: a busy machine answers late at all times.
    pub(crate) again: Duration,
    /// The slowest answer, in addition to the same.
    pub(crate) slowest: Duration,
    /// How often a virtual address moves.
    pub(crate) moves: usize,
}

/// One phase: a fault or a repair, and what follows.
struct Phase {
    what: String,
    expected: Expected,
    began: Instant,
    /// Before the fault, on the clock of the load.
    from: u64,
    /// When the fault was complete.
    struck: u64,
}

/// What was measured in a phase.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) expected: Expected,
    pub(crate) requests: usize,
    pub(crate) in_flight: usize,
    pub(crate) lost: usize,
    pub(crate) failed: usize,
    pub(crate) again: Option<Duration>,
    pub(crate) slowest: Duration,
    /// The slowest answer before any fault.
    pub(crate) calm: Duration,
    pub(crate) takeover: Option<Duration>,
    pub(crate) moves: usize,
    /// The first failures, for people.
    pub(crate) failures: Vec<String>,
}

impl Fleet {
    /// Starts all processes, and waits until the balancers serve.
    pub(crate) async fn start(
        world: World,
        programs: &Programs,
        (mode, joined): (Mode, Joined),
    ) -> Result<Self, BoxError> {
        let folder = world::folder()?;
        let store = match joined {
            Joined::Redis => Some(start_store(&world).await?),
            Joined::No => None,
        };
        let began = Instant::now();
        let mut backends = Vec::new();
        for (host, id, address, _) in BACKENDS {
            let mut command = world.command(host, &programs.backend.display().to_string());
            command.args([id, address]);
            let mut backend = Process::start(&format!("backend {id}"), command)?;
            backend.line("http://").await?;
            backends.push(backend);
        }
        let mut balancers = Vec::new();
        for nth in 0..BALANCERS.len() {
            let balancer =
                Balancer::start(&world, programs, folder.path(), nth, (mode, joined)).await?;
            balancers.push(balancer);
            if mode == Mode::ActivePassive && nth == 0 {
                // So that the first election has one winner at any speed.
                balancers[0].until_takeover(began).await?;
            }
        }
        let vips = match mode {
            Mode::ActivePassive => &VIPS[..1],
            Mode::ActiveActive => &VIPS[..],
        };
        until_settled(&world, &balancers, mode, began).await?;
        let load = Load::start(&world, vips).await?;
        sleep(CALM).await;
        Ok(Self {
            balancers,
            backends,
            store,
            load,
            phases: Vec::new(),
            began,
            _folder: folder,
            world,
        })
    }

    /// Begins a phase. The fault or the repair follows, then [`struck`](Self::struck).
    pub(crate) async fn phase(
        &mut self,
        what: &str,
        expected: Expected,
    ) -> Result<Instant, BoxError> {
        // What an earlier fault cost is not charged to this one.
        self.load.settle().await?;
        let from = self.load.mark().await?;
        let began = Instant::now();
        let what = what.to_owned();
        self.phases.push(Phase {
            what,
            expected,
            began,
            from,
            struck: from,
        });
        Ok(began)
    }

    /// Says that the fault is complete: requests that begin from now on are not in flight.
    pub(crate) async fn struck(&mut self) -> Result<(), BoxError> {
        let now = self.load.mark().await?;
        if let Some(phase) = self.phases.last_mut() {
            phase.struck = now;
        }
        Ok(())
    }

    pub(crate) async fn hold(&self, time: Duration) {
        sleep(time).await;
    }

    /// Waits until a balancer is ready, and its keepalived has seen that often enough (`rise`).
    pub(crate) async fn until_ready(&self, nth: usize) -> Result<(), BoxError> {
        until_ready(&self.world, nth).await?;
        sleep(RISE).await;
        Ok(())
    }

    /// Gives an order at the nth balancer.
    pub(crate) async fn order(&self, nth: usize, order: &str) -> Result<(), BoxError> {
        self.balancers[nth].order(&self.world, order).await
    }

    /// Waits until a backend has this mode at both balancers.
    pub(crate) async fn until_mode(&self, id: &str, mode: &str) -> Result<(), BoxError> {
        for balancer in &self.balancers {
            balancer.until_mode(&self.world, id, mode).await?;
        }
        Ok(())
    }

    pub(crate) fn store(&mut self) -> Result<&mut Process, BoxError> {
        self.store.as_mut().ok_or_else(|| "no Redis server".into())
    }

    pub(crate) async fn restart_store(&mut self) -> Result<(), BoxError> {
        self.store = Some(start_store(&self.world).await?);
        Ok(())
    }

    /// Waits until Redis has this many orders.
    pub(crate) async fn until_stored(&self, orders: usize) -> Result<(), BoxError> {
        let stored = async {
            loop {
                let mut command = self.world.command("store", "redis-cli");
                command.args(["-h", STORE, "HLEN", "evenkeel:orders"]);
                let answer = command.output().await?;
                if String::from_utf8_lossy(&answer.stdout).trim() == orders.to_string() {
                    return Ok::<_, BoxError>(());
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let stored = timeout(LONGEST_START, stored).await;
        stored.map_err(|elapsed| format!("Redis has not {orders} orders: {elapsed}"))?
    }

    /// Ends the load and all processes; returns what was measured.
    pub(crate) async fn end(mut self) -> Result<Vec<Row>, BoxError> {
        let records = self.load.end().await?;
        let ends = self
            .phases
            .iter()
            .skip(1)
            .map(|next| (next.began, next.from));
        let ends: Vec<_> = ends.chain([(Instant::now(), u64::MAX)]).collect();
        let mut takeovers: Vec<Takeover> = self
            .balancers
            .iter()
            .flat_map(|balancer| balancer.takeovers(self.began))
            .collect();
        takeovers.sort();
        let calm = self.phases.first().map_or(u64::MAX, |first| first.from);
        let calm = records
            .iter()
            .filter(|r| r.began < calm && r.result.is_ok());
        let calm = calm.map(took).max();
        let calm = calm.unwrap_or_default();
        let phases = self.phases.into_iter().zip(ends);
        let rows = phases.map(|(phase, (end, to))| {
            let within = takeovers
                .iter()
                .filter(|(when, ..)| phase.began <= *when && *when < end);
            let mut row = measure(&phase, to, &records, within.map(|(when, ..)| *when));
            row.calm = calm;
            row.expected.again += 2 * calm;
            row.expected.slowest += 2 * calm;
            row
        });
        let rows = rows.collect();
        for balancer in &mut self.balancers {
            // It has children, which a SIGKILL would leave behind.
            balancer.keepalived.end().await?;
        }
        Ok(rows)
    }
}

fn measure(
    phase: &Phase,
    to: u64,
    records: &[Record],
    takeovers: impl Iterator<Item = Instant> + Clone,
) -> Row {
    let (before, after): (Vec<&Record>, Vec<&Record>) = records
        .iter()
        .filter(|r| r.began < to && r.ended >= phase.from)
        .partition(|r| r.began < phase.struck);
    let failures = before.iter().chain(&after).filter(|r| r.result.is_err());
    let failures = failures.take(MOST_FAILURES).map(|record| {
        let at = Duration::from_micros(record.began.abs_diff(phase.from));
        let before = match record.began < phase.from {
            true => "before",
            false => "after",
        };
        let mut text = format!("{at:?} {before} the fault: ");
        // Writing to a text does not fail.
        let _ = write!(text, "{record}");
        text
    });
    let answered = after.iter().filter(|r| r.result.is_ok());
    let again = answered.map(|r| r.ended).min();
    let both = before.iter().chain(&after).filter(|r| r.result.is_ok());
    let slowest = both.map(|r| took(r)).max();
    Row {
        what: phase.what.clone(),
        expected: phase.expected,
        requests: after.len(),
        in_flight: before.len(),
        lost: before.iter().filter(|r| r.result.is_err()).count(),
        failed: after.iter().filter(|r| r.result.is_err()).count(),
        again: again.map(|ended| Duration::from_micros(ended - phase.from)),
        slowest: slowest.unwrap_or_default(),
        calm: Duration::ZERO,
        takeover: takeovers.clone().next().map(|when| when - phase.began),
        moves: takeovers.count(),
        failures: failures.collect(),
    }
}

fn took(record: &Record) -> Duration {
    Duration::from_micros(record.ended - record.began)
}

impl Row {
    /// Returns the expectations that do not hold.
    pub(crate) fn violations(&self) -> Vec<String> {
        let Expected {
            may_lose,
            failed,
            again,
            slowest,
            moves,
        } = self.expected;
        let mut found = Vec::new();
        if self.lost > 0 && !may_lose {
            found.push(format!(
                "{} of {} requests in flight were lost",
                self.lost, self.in_flight
            ));
        }
        if self.failed > failed {
            found.push(format!(
                "{} requests failed, {failed} at most are expected",
                self.failed
            ));
        }
        if self.again.is_none_or(|measured| measured > again) {
            let measured = self.again;
            found.push(format!(
                "served again after {measured:?}, {again:?} at most are expected"
            ));
        }
        if self.slowest > slowest {
            let measured = self.slowest;
            found.push(format!(
                "the slowest answer took {measured:?}, {slowest:?} at most are expected"
            ));
        }
        if self.moves != moves {
            found.push(format!(
                "an address moved {} times, {moves} are expected",
                self.moves
            ));
        }
        found
    }

    pub(crate) fn json(&self, scenario: &str) -> String {
        json!({
            "scenario": scenario,
            "phase": self.what,
            "requests": self.requests,
            "in_flight": self.in_flight,
            "lost": self.lost,
            "failed": self.failed,
            "again_ms": self.again.map(millis),
            "slowest_ms": millis(self.slowest),
            "calm_ms": millis(self.calm),
            "takeover_ms": self.takeover.map(millis),
            "moves": self.moves,
            "failures": self.failures,
            "violations": self.violations(),
        })
        .to_string()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Starts a Redis server that keeps nothing on a disk.
async fn start_store(world: &World) -> Result<Process, BoxError> {
    let mut command = world.command("store", "redis-server");
    command
        .args(["--bind", STORE, "--port", "6379", "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"]);
    let mut store = Process::start("redis-server", command)?;
    store.line("Ready to accept connections").await?;
    Ok(store)
}

async fn until_settled(
    world: &World,
    balancers: &[Balancer],
    mode: Mode,
    began: Instant,
) -> Result<(), BoxError> {
    for nth in 0..balancers.len() {
        until_ready(world, nth).await?;
    }
    if mode == Mode::ActiveActive {
        for balancer in balancers {
            balancer.until_takeover(began).await?;
        }
    }
    // Every check has passed, and addresses that were on their way home are there.
    sleep(RISE).await;
    Ok(())
}

async fn until_ready(world: &World, nth: usize) -> Result<(), BoxError> {
    let (host, address) = BALANCERS[nth];
    let wanted = format!("\"usable\":{},", BACKENDS.len());
    let ready = async {
        loop {
            let mut command = world.command(host, "curl");
            command.args(["-s", "-m", "1", &format!("http://{address}:9900/ready")]);
            let answer = command.output().await?;
            if String::from_utf8_lossy(&answer.stdout).contains(&wanted) {
                return Ok::<_, BoxError>(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONGEST_START, ready)
        .await
        .map_err(|elapsed| format!("{host} is not ready: {elapsed}"))?
}

/// Between the beginning of the load and the first fault.
const CALM: Duration = Duration::from_secs(2);
/// Three checks a second apart, and some time for each.
const RISE: Duration = Duration::from_millis(4_500);
/// How long a balancer may take until all its backends are healthy.
const LONGEST_START: Duration = Duration::from_secs(60);
/// How many failures are described.
const MOST_FAILURES: usize = 5;
