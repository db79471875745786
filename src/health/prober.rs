//! The task that checks, and that lets back in.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Report,
    check::{Checks, Target},
    owner::{Core, Owner},
    transition::{Change, Machine, Rules},
};
use crate::{
    error::ConfigError,
    pool::{Backend, Health, Measurement, Pool, Reason},
};

/// Checks the backends of a pool, without a layer; stops when it is dropped.
///
/// ```no_run
/// use evenkeel::{Backend, Pool, health::{Checks, Prober}};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let prober = Prober::start(&pool, Checks::new())?;
/// # drop(prober);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "checks end when it is dropped"]
pub struct Prober {
    _owner: Owner,
}

impl Prober {
    /// Starts to check the pool's backends, those that join later too.
    ///
    /// # Errors
    ///
    /// When a setting is out of its range, or there is no tokio runtime here.
    pub fn start(pool: &Pool, checks: Checks) -> Result<Self, ConfigError> {
        checks.validate()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::new(
                "prober",
                "there is no tokio runtime here to run it",
            ));
        }
        let owner = Owner::new(Core::new(pool.clone(), Some(checks), None));
        owner.ensure();
        Ok(Self { _owner: owner })
    }
}

/// One task for a whole pool. Checks run in tasks of their own, so that none waits for another.
pub(super) struct Driver {
    core: Arc<Core>,
    /// By incarnation, in whose order the readmissions of one moment are made.
    members: BTreeMap<u64, Member>,
    /// When each is due; an entry counts if the member says the same.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Due, and without a free slot.
    waiting: VecDeque<u64>,
    running: JoinSet<Done>,
    probes: HashMap<Id, u64>,
    ejected: Vec<u64>,
    generation: u64,
}

struct Member {
    backend: Backend,
    machine: Machine,
    next: Option<Instant>,
    probe: Option<Probe>,
    /// The checks of many backends, which begin together, were spread over an interval.
    spread: bool,
    stay: Option<Stay>,
}

/// A check that runs.
struct Probe {
    abort: AbortHandle,
    began: Instant,
}

/// A time out of service for what live traffic showed.
struct Stay {
    since: Instant,
    until: Instant,
    /// In a row, of checks begun after `since`.
    passes: u32,
}

struct Done {
    began: Instant,
    took: Duration,
    report: Report,
}

impl Driver {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            members: BTreeMap::new(),
            due: BinaryHeap::new(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            probes: HashMap::new(),
            ejected: Vec::new(),
            generation: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let core = self.core.clone();
        let mut events = core.pool.subscribe();
        loop {
            let now = Instant::now();
            self.sync(now);
            self.readmit_due(now);
            self.start_due(now);
            let moves = core.pool.tick(now);
            let next = [self.next_wake(), moves].into_iter().flatten().min();
            // In a fixed order, so that equal schedules run alike. Nothing starves: what is due is
            // done in every round, and a branch leaves none of its kind waiting for long.
            tokio::select! {
                biased;
                event = events.next() => {
                    if event.is_none() {
                        return;
                    }
                    // They only say that there is something to look at.
                    while events.try_next().is_some() {}
                }
                () = core.wake.notified() => {}
                Some(ended) = self.running.join_next_with_id() => self.finish(ended),
                () = until(next) => {}
            }
        }
    }

    /// Follows the membership. Compares with the snapshot rather than counting on events, so
    /// that none can be missed.
    fn sync(&mut self, now: Instant) {
        let core = self.core.clone();
        let snapshot = core.pool.snapshot();
        if snapshot.generation() == self.generation {
            return;
        }
        self.generation = snapshot.generation();
        let backends = snapshot.backends().to_vec();
        drop(snapshot);
        let mut members = BTreeMap::new();
        for backend in backends {
            let key = backend.incarnation();
            let member = match self.members.remove(&key) {
                Some(member) => self.update(member, backend, now),
                None => self.welcome(backend, now),
            };
            members.insert(key, member);
        }
        for (_, gone) in std::mem::replace(&mut self.members, members) {
            self.cancel(gone.probe);
        }
        if core.outliers.is_some() {
            self.sync_ejections(now);
        }
    }

    fn welcome(&mut self, backend: Backend, now: Instant) -> Member {
        let next = self.core.checks.is_some().then_some(now);
        if next.is_some() {
            self.due.push(Reverse((now, backend.incarnation())));
        }
        Member {
            // What was known before, such as by a prober whose runtime ended, is the beginning.
            machine: Machine::new(backend.active_health(), now),
            backend,
            next,
            probe: None,
            spread: false,
            stay: None,
        }
    }

    fn update(&mut self, mut member: Member, backend: Backend, now: Instant) -> Member {
        if !same_address(&member.backend, &backend) {
            // What is on its way says nothing about the new address.
            self.cancel(member.probe.take());
            if member.machine.readdress(now) {
                let reason = Reason::new("INI", "another address");
                let measured = Measurement::new(Health::Unknown, reason);
                self.core.pool.measure(&backend, measured);
            }
            if self.core.checks.is_some() {
                member.next = Some(now);
                self.due.push(Reverse((now, backend.incarnation())));
            }
        }
        member.backend = backend;
        member
    }

    /// Notices who was ejected, and who was let back in by somebody else.
    fn sync_ejections(&mut self, now: Instant) {
        let Some(rules) = &self.core.outliers else {
            return;
        };
        self.ejected.clear();
        for (key, member) in &mut self.members {
            let watch = || self.core.watch(&member.backend);
            match (&member.stay, member.backend.is_ejected()) {
                (None, true) => {
                    let lasts = watch().ejected(rules, now);
                    tracing::info!(
                        target: "evenkeel::health",
                        backend = member.backend.id(), ?lasts, "stays out, unless checks pass"
                    );
                    member.stay = Some(Stay {
                        since: now,
                        until: now + lasts,
                        passes: 0,
                    });
                }
                (Some(_), false) => {
                    watch().readmitted(now);
                    member.stay = None;
                }
                (None, false) | (Some(_), true) => {}
            }
            if member.stay.is_some() {
                self.ejected.push(*key);
            }
        }
    }

    fn readmit_due(&mut self, now: Instant) {
        let core = self.core.clone();
        let members = &mut self.members;
        self.ejected.retain(|key| {
            let Some(member) = members.get_mut(key) else {
                return false;
            };
            match &member.stay {
                Some(stay) if stay.until <= now => {
                    readmit(&core, member, Reason::new("TIME", "served its time"), now);
                    false
                }
                Some(_) => true,
                None => false,
            }
        });
    }

    fn start_due(&mut self, now: Instant) {
        while let Some(Reverse((when, key))) = self.due.peek().copied() {
            if when > now {
                break;
            }
            self.due.pop();
            if let Some(member) = self.members.get_mut(&key) {
                if member.next == Some(when) {
                    member.next = None;
                    self.waiting.push_back(key);
                }
            }
        }
        let Some(checks) = &self.core.checks else {
            return;
        };
        while self.running.len() < checks.concurrency {
            let Some(key) = self.waiting.pop_front() else {
                return;
            };
            let Some(member) = self.members.get_mut(&key) else {
                continue;
            };
            if member.probe.is_none() {
                let probe = probe(checks.clone(), member.backend.clone());
                let abort = self.running.spawn(probe);
                self.probes.insert(abort.id(), key);
                member.probe = Some(Probe { abort, began: now });
            }
        }
    }

    fn finish(&mut self, ended: Result<(Id, Done), JoinError>) {
        let (id, done) = match ended {
            Ok((id, done)) => (id, Some(done)),
            Err(error) => (error.id(), None),
        };
        let now = Instant::now();
        // First, for it may be the result of an address that is no longer the backend's.
        self.sync(now);
        // A check that was cancelled is no longer known here: it is not a failure (invariant C).
        let Some(key) = self.probes.remove(&id) else {
            return;
        };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let Some(probe) = member.probe.take() else {
            return;
        };
        let Some(checks) = &self.core.checks else {
            return;
        };
        let done = done.unwrap_or_else(|| Done {
            began: probe.began,
            took: now.saturating_duration_since(probe.began),
            report: Report::fail("L7RSP", "the check panicked"),
        });
        let rules = checks.rules();
        note(&self.core, &rules, member, &done, now);
        let next = (done.began + member.pause(checks, &rules)).max(now);
        member.next = Some(next);
        self.due.push(Reverse((next, key)));
    }

    fn cancel(&mut self, probe: Option<Probe>) {
        if let Some(probe) = probe {
            self.probes.remove(&probe.abort.id());
            probe.abort.abort();
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let check = self.due.peek().map(|Reverse((when, _))| *when);
        let stays = self.ejected.iter().filter_map(|key| {
            let stay = self.members.get(key)?.stay.as_ref()?;
            Some(stay.until)
        });
        stays.chain(check).min()
    }
}

impl Member {
    /// Returns the time from the start of the check that ended to that of the next.
    fn pause(&mut self, checks: &Checks, rules: &Rules) -> Duration {
        let interval = self.machine.interval(rules);
        // All began at once, so that a start is fast; from here on each has its own beat.
        if !self.spread && self.machine.is_settled() {
            self.spread = true;
            return interval.mul_f64(fastrand::f64());
        }
        interval.mul_f64(1.0 + checks.jitter * (2.0 * fastrand::f64() - 1.0))
    }
}

async fn probe(checks: Checks, backend: Backend) -> Done {
    let began = Instant::now();
    let target = Target::new(backend, began + checks.timeout);
    let check = checks.check.check(&target);
    let report = timeout_at(target.deadline(), check)
        .await
        .unwrap_or_else(|_| Report::fail("L7TOUT", "no answer in time"));
    Done {
        began,
        took: began.elapsed(),
        report,
    }
}

/// Draws what follows from one result.
fn note(core: &Arc<Core>, rules: &Rules, member: &mut Member, done: &Done, now: Instant) {
    let pass = done.report.is_pass();
    let change = match pass {
        true => member.machine.pass(rules, now),
        false => member.machine.fail(rules, now),
    };
    let reason = done.report.reason();
    match change {
        Some(change) => {
            log(&member.backend, &change, done);
            let measured = Measurement::new(change.to, reason.clone())
                .streak(change.streak)
                .latency(done.took)
                .flaps(u32::try_from(change.flaps).unwrap_or(u32::MAX))
                .flapping(change.hold.is_some());
            core.pool.measure(&member.backend, measured);
        }
        None if !pass => tracing::debug!(
            target: "evenkeel::health",
            backend = member.backend.id(), reason = %reason, took = ?done.took, "a check failed"
        ),
        None => {}
    }
    let Some(stay) = &mut member.stay else {
        return;
    };
    if done.began < stay.since {
        return;
    }
    stay.passes = if pass { stay.passes + 1 } else { 0 };
    if stay.passes >= rules.rise {
        readmit(core, member, reason.clone(), now);
    }
}

fn readmit(core: &Arc<Core>, member: &mut Member, reason: Reason, now: Instant) {
    let Some(stay) = member.stay.take() else {
        return;
    };
    tracing::info!(
        target: "evenkeel::health",
        backend = member.backend.id(), reason = %reason,
        after = ?now.saturating_duration_since(stay.since), "readmitted"
    );
    core.watch(&member.backend).readmitted(now);
    core.pool.readmit(&member.backend, reason);
}

fn log(backend: &Backend, change: &Change, done: &Done) {
    let (id, from, to) = (backend.id(), change.from.as_str(), change.to.as_str());
    let reason = done.report.reason();
    let (code, detail) = (reason.code, &*reason.detail);
    let (streak, took, was, flaps) = (change.streak, done.took, change.was, change.flaps);
    if change.to == Health::Unhealthy {
        tracing::warn!(
            target: "evenkeel::health",
            backend = id, from, to, code, detail, streak, ?took, ?was, flaps, "is down"
        );
    } else {
        tracing::info!(
            target: "evenkeel::health",
            backend = id, from, to, code, detail, streak, ?took, ?was, flaps, "is up"
        );
    }
    if let Some(hold) = change.hold {
        tracing::warn!(
            target: "evenkeel::health",
            backend = id, flaps, ?hold, "flaps: stays down for a while, whatever checks say"
        );
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Whether both are dialled alike, as the pool sees it.
fn same_address(a: &Backend, b: &Backend) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port() == b.port()
        && a.unix_path() == b.unix_path()
}
