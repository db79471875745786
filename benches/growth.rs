//! What a request costs as backends and connections grow in number, which is to stay the same
//! within 10 %, and as bodies grow in size; what two worker threads do against one; and how much
//! memory a connection holds in each of its states.
//!
//! ```sh
//! ulimit -n 65536; cargo bench --features full --bench growth   # under two minutes
//! cargo bench --features full --bench growth -- memory          # the memory alone
//! ```
//!
//! The figure is the thread's CPU time a request, kernel included, the clients' and backends' own
//! work included: ten requests are in flight at any time, whatever the number of connections.
//! Points that need more open files than there may be are left out.

#[path = "loopback/mod.rs"]
#[expect(dead_code, reason = "`end_to_end` has all the modes, this has one")]
mod loopback;
#[path = "memory/mod.rs"]
mod memory;

use std::{
    env,
    num::NonZeroUsize,
    os::unix::net::UnixListener,
    sync::{Arc, mpsc},
    time::Duration,
};

use evenkeel::server::Workers;
use tokio::{runtime::Builder, sync::Barrier, task::JoinSet, time::Instant};

use self::loopback::{Client, Door, Mode, Result, answer, backends, bind, cpu, listen};

fn main() -> Result<()> {
    let test = env::args().any(|arg| arg == "--test");
    if env::args().any(|arg| arg == "memory") {
        return memory(CONNECTIONS);
    }
    let (rounds, requests, most) = if test {
        (1, 200, 100)
    } else {
        (ROUNDS, REQUESTS, usize::MAX)
    };
    let bench = Bench { rounds, requests };
    let up_to = |many: [usize; 4]| many.into_iter().filter(move |&n| n <= most);
    // Without stickiness, so that each client's requests go to all of them.
    let points = up_to([1, 10, 100, 1_000]).map(|count| Point {
        mode: Mode::Log,
        backends: count,
        ..POINT
    });
    bench.curve("backends", points.collect(), |p| p.backends);
    let points = up_to([10, 100, 1_000, 5_000]).map(|count| Point {
        clients: count,
        ..POINT
    });
    bench.curve("clients", points.collect(), |p| p.clients);
    // What of that is not the stack's: the kernel's, the server's, the clients' and the backends'.
    let points = up_to([10, 100, 1_000, 5_000]).map(|count| Point {
        mode: Mode::Bare,
        clients: count,
        ..POINT
    });
    bench.curve("clients, bare", points.collect(), |p| p.clients);
    let points = [1_024, 16_384, 65_536].map(|size| Point {
        body: size,
        ..POINT
    });
    bench.curve("body bytes", points.to_vec(), |p| p.body);
    bench.workers()?;
    memory(if test { CONNECTIONS / 2 } else { CONNECTIONS })
}

fn memory(connections: usize) -> Result<()> {
    match memory::measure(connections, say)? {
        true => Ok(()),
        false => Err("a connection holds too much".into()),
    }
}

struct Bench {
    rounds: usize,
    /// A round's.
    requests: usize,
}

#[derive(Clone, Copy)]
struct Point {
    mode: Mode,
    backends: usize,
    clients: usize,
    body: usize,
}

const POINT: Point = Point {
    mode: Mode::All,
    backends: 4,
    clients: 64,
    body: 1_024,
};

impl Bench {
    /// Measures each point: the least of some rounds, which take turns so that a host that drifts
    /// drifts for all.
    fn curve(&self, what: &str, points: Vec<Point>, of: impl Fn(&Point) -> usize) {
        let mut ready = Vec::new();
        for point in points {
            match Measured::new(point) {
                Ok(measured) => ready.push(measured),
                Err(error) => say(&format!("{what:14}{:7}  left out: {error}", of(&point))),
            }
        }
        let began = Instant::now();
        let mut failed = None;
        for _ in 0..self.rounds {
            for measured in &mut ready {
                if let Err(error) = measured.round(self.requests) {
                    failed = Some(format!("{}: {error}", of(&measured.point)));
                }
            }
            if failed.is_some() || began.elapsed() > LONGEST {
                break;
            }
        }
        if let Some(failed) = failed {
            say(&format!("{what:14}{failed}"));
            return;
        }
        let first = ready.first().map_or(f64::NAN, |m| m.least);
        for measured in &ready {
            say(&format!(
                "{what:14}{:7}{:9.0} ns{:7.2} of the first",
                of(&measured.point),
                measured.least,
                measured.least / first
            ));
        }
    }

    /// One worker thread against two, which share the pool, the stack and the backends.
    fn workers(&self) -> Result<()> {
        let mut least = Vec::new();
        for count in [NonZeroUsize::MIN, TWO] {
            let took = workers(count, self.rounds, self.requests)?;
            say(&format!(
                "{:14}{count:7}{:9.0} ns{:11.0} requests/s",
                "workers",
                took.cpu,
                1e9 / took.wall
            ));
            least.push(took);
        }
        let [one, two] = least.as_slice() else {
            return Ok(());
        };
        say(&format!(
            "{:14}two do {:.2} of what one does, a request costs {:.2} of it",
            "workers",
            one.wall / two.wall,
            two.cpu / one.cpu
        ));
        Ok(())
    }
}

/// Nanoseconds a request.
struct Took {
    wall: f64,
    cpu: f64,
}

fn workers(count: NonZeroUsize, rounds: usize, requests: usize) -> Result<Took> {
    let folder = tempfile::tempdir()?;
    let (pool, listeners) = bind(folder.path(), POINT.backends)?;
    let (measured, results) = mpsc::channel();
    let worker = Worker {
        door: Door::new(POINT.mode, &pool, POINT.body)?,
        listeners: Arc::new(listeners),
        answer: answer(POINT.body).into(),
        together: Arc::new(Barrier::new(count.get())),
        count: count.get(),
        rounds,
        requests: requests / IN_FLIGHT,
        measured,
    };
    Workers::spawn(count, move |number| {
        let worker = worker.clone();
        async move {
            if let Err(error) = worker.work(number).await {
                // The others would wait for it.
                say(&format!("worker {number}: {error}"));
                std::process::exit(1);
            }
            Ok(())
        }
    })?
    .join()?;
    let mut sums = vec![(Duration::ZERO, Duration::ZERO); rounds];
    for (round, wall, cpu) in results {
        sums[round].0 = sums[round].0.max(wall);
        sums[round].1 += cpu;
    }
    let each = (requests / IN_FLIGHT * IN_FLIGHT * count.get()) as f64;
    let least = |of: fn(&(Duration, Duration)) -> Duration| {
        let least = sums.iter().map(of).min().unwrap_or_default();
        least.as_nanos() as f64 / each
    };
    Ok(Took {
        wall: least(|sum| sum.0),
        cpu: least(|sum| sum.1),
    })
}

/// What each worker is given.
#[derive(Clone)]
struct Worker {
    door: Door,
    listeners: Arc<Vec<UnixListener>>,
    answer: Arc<[u8]>,
    together: Arc<Barrier>,
    count: usize,
    rounds: usize,
    /// A group's in a round.
    requests: usize,
    /// The round, how long it took, and this worker's CPU time.
    measured: mpsc::Sender<(usize, Duration, Duration)>,
}

impl Worker {
    async fn work(self, number: usize) -> Result<()> {
        // The backends are shared out; each worker's requests go to all of them.
        for listener in self.listeners.iter().skip(number).step_by(self.count) {
            listen(listener.try_clone()?, &self.answer)?;
        }
        let mut groups = open(&self.door, POINT.clients).await?;
        for round in 0..self.rounds {
            self.together.wait().await;
            let (began, used) = (Instant::now(), cpu());
            groups = run(groups, self.requests).await?;
            // A worker that is done goes on answering for its backends.
            self.together.wait().await;
            self.measured.send((round, began.elapsed(), cpu() - used))?;
        }
        self.together.wait().await;
        Ok(())
    }
}

/// Opens this many connections, in a group for each request in flight.
async fn open(door: &Door, clients: usize) -> Result<Vec<Vec<Client>>> {
    let mut groups: Vec<Vec<Client>> = (0..IN_FLIGHT).map(|_| Vec::new()).collect();
    for i in 0..clients {
        groups[i % IN_FLIGHT].push(door.open().await?);
    }
    Ok(groups)
}

/// Makes this many requests with each group, one connection after the other.
async fn run(groups: Vec<Vec<Client>>, requests: usize) -> Result<Vec<Vec<Client>>> {
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
    Ok(groups)
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
            let door = Door::new(point.mode, &pool, point.body)?;
            open(&door, point.clients).await
        })?;
        Ok(Self {
            point,
            runtime,
            groups,
            least: f64::MAX,
            _folder: folder,
        })
    }

    fn round(&mut self, requests: usize) -> Result<()> {
        let began = cpu();
        let groups = std::mem::take(&mut self.groups);
        let each = requests / IN_FLIGHT;
        self.groups = self.runtime.block_on(run(groups, each))?;
        let took = (cpu() - began).as_nanos() as f64;
        self.least = self.least.min(took / (each * IN_FLIGHT) as f64);
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "a bench talks to people")]
fn say(text: &str) {
    println!("{text}");
}

/// The fewest clients that there are, so that it is the same for all.
const IN_FLIGHT: usize = 10;
/// A third of a second or so.
const REQUESTS: usize = 20_000;
const ROUNDS: usize = 5;
/// A curve makes no more rounds after this, on a machine that does much else.
const LONGEST: Duration = Duration::from_secs(20);
/// Those whose memory is measured.
const CONNECTIONS: usize = 200;
const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
