//! The task that makes the checks and takes the steps of the circuits.
//!
//! # One round of the driver
//!
//! | order | step | why there |
//! |---|---|---|
//! | 1 | `follow_leadership` | what follows depends on whether this prober makes the checks |
//! | 2 | `sync` | members that left must not be judged; new ones are checked at once |
//! | 3 | `update_circuits` | ejections by traffic, ends of ejections |
//! | 4 | `conclude_inquiry` | a shared failure whose time is over |
//! | 5 | `start_due` | checks, after all that may have planned or cancelled one |
//! | 6 | `publish_due` | results of this round in one snapshot |
//! | 7 | `Pool::tick` | ramps, drains: the pool's own times |
//!
//! Then it waits for an event of the pool, a touched circuit, a check that ended, or the next time.
//! Events only wake it: the state is read from the snapshot, so nothing is lost with a missed event.
//!
//! Everything about the pool's health happens in this one task, so the machines of the members need
//! no lock. Checks are tasks of their own: one that hangs or panics disturbs no other (invariant
//! D). Each runs within its time-out; at most `concurrency` at once, and those that have to wait
//! for a place wait in order.
//!
//! Times come from tokio's clock, and `select!` is biased: the simulation runs whole schedules with
//! a paused clock and compares them.

mod apply_result;
mod circuits;
mod leadership;
mod members;
mod publish_queue;
mod publish_shared_failure;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, Id, JoinError, JoinSet, yield_now},
    time::{Instant, sleep_until, timeout_at},
};

use self::{
    circuits::Circuits, members::Member, publish_queue::PublishQueue,
    publish_shared_failure::SharedFailures,
};
use super::{
    CheckReport,
    check::{Checks, Target},
    layer_state::{HealthState, HealthTask},
};
#[cfg(test)]
use crate::mutation::{self, Mutation};
use crate::{
    error::ConfigError,
    pool::{Backend, Candidate, Membership, Pool, Rank},
};

#[cfg(test)]
pub(super) use self::apply_result::LONGEST_WAIT;

/// Makes active checks of the backends of a pool, without a layer, until it is dropped.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{
///     Backend, Pool,
///     health::{Checks, Prober, TcpCheck},
///     pool::HealthStatus,
/// };
/// use tokio::{net::TcpListener, time::timeout};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let url = format!("http://{}", listener.local_addr()?);
/// let pool = Pool::new([Backend::new("a", &url)?])?;
/// let mut events = pool.subscribe();
/// let prober = Prober::start(&pool, Checks::new().with_check(TcpCheck::new()))?;
///
/// // Until its first check passes, a backend gets no traffic.
/// while pool.snapshot().usable() == 0 {
///     timeout(Duration::from_secs(30), events.next()).await?;
/// }
/// assert_eq!(pool.snapshot().get("a").unwrap().health(), HealthStatus::Healthy);
/// drop(prober);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "checks end when it is dropped"]
pub struct Prober {
    _task: HealthTask,
}

impl Prober {
    /// Starts to check the backends of the pool, and those that join later.
    ///
    /// # Errors
    ///
    /// If a setting is out of its range, or if the caller is not inside a tokio runtime.
    pub fn start(pool: &Pool, checks: Checks) -> Result<Self, ConfigError> {
        checks.validate()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(ConfigError::new(
                "prober",
                "started outside a tokio runtime",
            ));
        }
        let state = HealthState::new(pool.clone(), Some(checks), None, Rank::Given);
        let task = HealthTask::new(state);
        task.ensure();
        Ok(Self { _task: task })
    }
}

/// One task for a whole pool. Checks run in tasks of their own, so that none waits for another.
pub(super) struct Driver {
    state: Arc<HealthState>,
    /// Where there is something to check with.
    lead: Option<Candidate>,
    /// Makes the checks of the pool; others that could leave them to this one.
    ///
    /// Kept beside `lead`, so that a round notices a change.
    leads: bool,
    /// By incarnation, in whose order what happens in one moment is done.
    members: BTreeMap<u64, Member>,
    /// The membership that these are.
    membership: Option<Membership>,
    generation: u64,
    /// When each is due; an entry counts if the member says the same.
    ///
    /// Entries are never removed early: `plan` pushes another, and the earlier one no longer equals
    /// `member.next`.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Due, and without a free slot.
    waiting: VecDeque<u64>,
    running: JoinSet<CheckResult>,
    /// A check that is missing here was cancelled: its end means nothing.
    probes: HashMap<Id, u64>,
    circuits: Circuits,
    shared_failures: SharedFailures,
    publish_queue: PublishQueue,
}

/// A check that runs.
///
/// Dropping it does not end the check; `cancel` does.
struct RunningCheck {
    abort: AbortHandle,
    began: Instant,
}

/// A check that ended.
struct CheckResult {
    began: Instant,
    took: Duration,
    report: CheckReport,
}

impl Driver {
    pub(super) fn new(state: Arc<HealthState>) -> Self {
        let checks = state.checks.is_some();
        let mut lead = checks.then(|| state.pool.stand(state.rank));
        Self {
            leads: lead.as_mut().is_some_and(Candidate::leads),
            lead,
            circuits: Circuits::new(&state, Instant::now()),
            shared_failures: SharedFailures::new(state.checks.as_ref()),
            publish_queue: PublishQueue::default(),
            state,
            members: BTreeMap::new(),
            membership: None,
            generation: 0,
            due: BinaryHeap::new(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            probes: HashMap::new(),
        }
    }

    /// Runs until the pool is gone or the task is aborted. It can be dropped at any await: checks
    /// end with the `JoinSet`.
    pub(super) async fn run(mut self) {
        let state = self.state.clone();
        let mut events = state.pool.subscribe();
        loop {
            let now = Instant::now();
            self.follow_leadership(now);
            self.sync(now);
            self.update_circuits(now);
            self.conclude_inquiry(now);
            self.start_due(now);
            if self.publish_due(now) {
                // Subscribers receive these events before there are more.
                yield_now().await;
            }
            let moves = state.pool.tick(now);
            // After `tick`, which may have moved its own next time.
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
                () = state.wake.notified() => {}
                () = leadership::changed(&mut self.lead) => {}
                Some(ended) = self.running.join_next_with_id() => {
                    self.finish(ended);
                    // Whatever else has ended by now is seen with it.
                    while let Some(ended) = self.running.try_join_next_with_id() {
                        self.finish(ended);
                    }
                }
                () = until(next) => {}
            }
        }
    }

    /// Moves what is due into `waiting`, then starts checks while there is a place. A member whose
    /// check still runs is skipped; its next one is planned when that ends.
    fn start_due(&mut self, now: Instant) {
        while let Some(Reverse((when, key))) = self.due.peek().copied() {
            if when > now {
                break;
            }
            self.due.pop();
            if let Some(member) = self.members.get_mut(&key)
                && member.next == Some(when)
            {
                member.next = None;
                self.waiting.push_back(key);
            }
        }
        let Some(checks) = &self.state.checks else {
            return;
        };
        #[cfg(test)]
        let checks = &match mutation::is(Mutation::ChecksTakeTurns) {
            true => checks.clone().concurrency(1),
            false => checks.clone(),
        };
        while self.running.len() < checks.concurrency {
            let Some(key) = self.waiting.pop_front() else {
                return;
            };
            let Some(member) = self.members.get_mut(&key) else {
                continue;
            };
            // A check that takes longer than its interval is not doubled.
            if member.probe.is_none() {
                let probe = probe(checks.clone(), member.backend.clone());
                let abort = self.running.spawn(probe);
                self.probes.insert(abort.id(), key);
                member.probe = Some(RunningCheck { abort, began: now });
            }
        }
    }

    /// A check that panicked is a failure; one that was cancelled is nothing.
    fn finish(&mut self, ended: Result<(Id, CheckResult), JoinError>) {
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
        // A panic in a check of the user's own is a failure, so that it is seen; it ends no other
        // check.
        let done = done.unwrap_or_else(|| CheckResult {
            began: probe.began,
            took: now.saturating_duration_since(probe.began),
            report: CheckReport::fail("L7RSP", "the check panicked"),
        });
        self.apply_result(key, &done, now);
    }

    /// Has a backend checked at this time, and not at the one that was planned.
    fn plan(&mut self, key: u64, when: Instant) {
        if let Some(member) = self.members.get_mut(&key) {
            member.next = Some(when);
            self.due.push(Reverse((when, key)));
        }
    }

    /// Does not wait for the end of the task.
    fn cancel(&mut self, probe: Option<RunningCheck>) {
        if let Some(probe) = probe {
            // First, so that an end that is on its way already is not taken for a result.
            self.probes.remove(&probe.abort.id());
            probe.abort.abort();
        }
    }

    /// `None` if nothing is planned: the driver then waits for events alone.
    fn next_wake(&self) -> Option<Instant> {
        let check = self.due.peek().map(|Reverse((when, _))| *when);
        let others = [
            check,
            self.shared_failures.due(),
            self.circuits.due(),
            self.publish_queue.deferred_until(self.members.len()),
        ];
        let steps = self.circuits.steps_due(&self.members);
        others.into_iter().flatten().chain(steps).min()
    }
}

/// The deadline counts from the start of the check, not from the time at which it was due.
async fn probe(checks: Checks, backend: Backend) -> CheckResult {
    let began = Instant::now();
    // The check sees the deadline, and can report what it waited for.
    let target = Target::new(backend, began + checks.timeout);
    let check = checks.check.check(&target);
    let report = timeout_at(target.deadline(), check)
        .await
        .unwrap_or_else(|_| CheckReport::fail("L7TOUT", "no answer in time"));
    CheckResult {
        began,
        took: began.elapsed(),
        report,
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// For so many members and fewer, nothing is put off.
const SMALL_POOL: usize = 64;
/// The keys of backends.
type Keys = BTreeSet<u64>;
