//! The set-up: backends in racks, zones and regions, a pool of them, load, and a record of changes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel::{
    Backend, BoxError, Pool,
    balance::{BalanceLayer, LeastRequests},
    chaos::Invariants,
    failover::FailoverLayer,
    health::{Checks, HealthLayer},
    pool::{EventKind, HealthStatus, Locality},
    proxy::Proxy,
    respond::RespondLayer,
    sticky::{Keys, StickyLayer},
};
use tokio::time::{Instant, sleep, timeout};
use tower::Layer;

use crate::{backend::Process, load::Load};

/// Six backends: three in two racks of one zone, one in a second zone, two in another region.
pub(crate) const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const LOCALITIES: [&str; 6] = [
    "eu/eu-1/r1",
    "eu/eu-1/r1",
    "eu/eu-1/r2",
    "eu/eu-2/r1",
    "us/us-1/r1",
    "us/us-1/r1",
];

/// When the health of each backend changed.
type Changes = Arc<Mutex<Vec<(Instant, String, HealthStatus)>>>;

pub(crate) struct Experiment {
    pub(crate) processes: Vec<Process>,
    pub(crate) pool: Pool,
    pub(crate) load: Load,
    pub(crate) invariants: Arc<Invariants>,
    pub(crate) rows: Vec<Row>,
    changes: Changes,
}

/// One phase of the experiment, and one line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) began: Instant,
    /// The backends whose health must change, and the health that they must reach.
    pub(crate) awaited: Option<(Vec<usize>, HealthStatus)>,
    /// How long it took until all of them had that health.
    pub(crate) noticed: Option<Duration>,
    /// Requests may fail in this phase: no backend can serve them.
    pub(crate) may_fail: bool,
    /// A remark at the end of the line.
    pub(crate) remark: String,
}

impl Experiment {
    pub(crate) async fn set(attempts: u32) -> Result<Self, BoxError> {
        let mut processes = Vec::new();
        let mut backends = Vec::new();
        for (name, locality) in NAMES.into_iter().zip(LOCALITIES) {
            let process = Process::start(name, "127.0.0.1:0")?;
            let url = format!("http://{}", process.address());
            backends.push(Backend::new(name, &url)?.locality(Locality::new(locality)?));
            processes.push(process);
        }
        let pool = Pool::new(backends)?;
        let changes = note_changes(&pool);
        let invariants = Arc::new(Invariants::new(&pool));

        let checks = Checks::new()
            .interval(Duration::from_secs(1))
            .changing_interval(Duration::from_millis(200))
            .timeout(Duration::from_millis(500));
        let health = HealthLayer::new(pool.clone()).checks(checks)?;
        let proxy = Proxy::new().response_timeout(RESPONSE_TIMEOUT)?;
        let balance = BalanceLayer::new(pool.clone()).strategy(LeastRequests::new());
        let balance = balance.layer(health.layer(proxy));
        let failover = FailoverLayer::new()
            .max_attempts(attempts)?
            .retry_statuses([503])?
            .layer(balance);
        let keys = Keys::new(std::array::from_fn(|_| fastrand::u8(..)));
        let sticky = StickyLayer::new(pool.clone(), keys).insecure()?;
        let stack = RespondLayer::new().layer(sticky.layer(failover));
        let up = async {
            while pool.snapshot().usable() < NAMES.len() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONGEST, up).await?;
        Ok(Self {
            load: Load::start(stack, RATE, invariants.clone()),
            processes,
            pool,
            invariants,
            rows: Vec::new(),
            changes,
        })
    }

    /// Begins a phase, with a line of its own in the table.
    pub(crate) fn begin(&mut self, what: impl Into<String>) {
        self.load.next_phase();
        self.rows.push(Row {
            what: what.into(),
            began: Instant::now(),
            awaited: None,
            noticed: None,
            may_fail: false,
            remark: String::new(),
        });
    }

    pub(crate) fn row(&mut self) -> Option<&mut Row> {
        self.rows.last_mut()
    }

    /// Waits until all of these backends have this health; returns an error after 15 s.
    pub(crate) async fn until(
        &mut self,
        all: &[usize],
        health: HealthStatus,
    ) -> Result<(), BoxError> {
        let usable = health == HealthStatus::Healthy;
        let (pool, changes) = (self.pool.clone(), self.changes.clone());
        let Some(row) = self.rows.last_mut() else {
            return Ok(());
        };
        row.awaited = Some((all.to_vec(), health));
        let began = row.began;
        let became = async {
            loop {
                let changes = lock(&changes).clone();
                let since = changes.iter().filter(|(when, ..)| *when >= began);
                let of = |nth: &usize| {
                    let mut own = since
                        .clone()
                        .filter(|(_, id, to)| id == NAMES[*nth] && *to == health);
                    own.next().map(|(when, ..)| *when)
                };
                let there = |nth: &usize| {
                    let snapshot = pool.snapshot();
                    snapshot
                        .get(NAMES[*nth])
                        .is_some_and(|b| b.is_usable() == usable)
                };
                if all.iter().all(|nth| of(nth).is_some() && there(nth)) {
                    return all.iter().filter_map(of).max();
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        let when = timeout(LONGEST, became).await;
        row.noticed = when.ok().flatten().map(|when| when - began);
        match row.noticed {
            Some(_) => Ok(()),
            None => Err(format!("{}: the pool did not notice within 15 s", row.what).into()),
        }
    }

    pub(crate) async fn hold(&self, time: Duration) {
        sleep(time).await;
    }

    /// Returns how many requests this backend has received so far.
    pub(crate) fn requests(&self, nth: usize) -> u64 {
        let snapshot = self.pool.snapshot();
        snapshot.get(NAMES[nth]).map_or(0, Backend::requests)
    }

    /// Returns the backends within a region, zone or rack.
    pub(crate) fn within(&self, locality: &str) -> Vec<usize> {
        let all = LOCALITIES.iter().enumerate();
        let there = all.filter(|(_, own)| own.starts_with(locality));
        there.map(|(nth, _)| nth).collect()
    }
}

fn note_changes(pool: &Pool) -> Changes {
    let changes = Changes::default();
    let mut events = pool.subscribe();
    let noted = changes.clone();
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if let EventKind::Health(change) = event.kind {
                let entry = (Instant::now(), event.backend.id().to_owned(), change.to);
                lock(&noted).push(entry);
            }
        }
    });
    changes
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The load, in requests a second.
pub(crate) const RATE: u32 = 500;
/// How long the proxy waits for a response head: a request to a hanging backend loses this time.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(150);
/// How long the experiment waits for a change of health.
const LONGEST: Duration = Duration::from_secs(15);
