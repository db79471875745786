//! What all backends fail for takes none of them out: the guard's decisions, carried out.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Done, Driver, Keys, Member};
use crate::{
    health::{
        Report,
        check::Checks,
        fate::{Fate, Judgement, Turn, Vote},
    },
    pool::HealthStatus,
};

/// The guard, and those that it holds.
pub(super) struct CommonFate {
    guard: Option<Fate>,
    /// Would have fallen, but for a dependency that others may have in common; and what they
    /// failed with last.
    held: BTreeMap<u64, Held>,
    /// Of these, those that were told to be kept in service.
    told: Keys,
}

struct Held {
    report: Report,
    took: Duration,
    began: Instant,
}

impl CommonFate {
    pub(super) fn new(checks: Option<&Checks>) -> Self {
        let guard = checks.and_then(|checks| {
            // Who was asked starts at once, and has the time of a check to answer; a slot may
            // have to become free first.
            let patience = checks.timeout * 2;
            Some(Fate::new(checks.shared_fate?, patience))
        });
        Self {
            guard,
            held: BTreeMap::new(),
            told: Keys::new(),
        }
    }

    pub(super) fn forget(&mut self, key: u64) {
        if let Some(guard) = &mut self.guard {
            guard.forget(key);
        }
        self.held.remove(&key);
        self.told.remove(&key);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.guard.as_ref()?.due()
    }

    /// Whether it keeps serving although it fails: nothing presses then.
    pub(super) fn is_kept(&self, key: u64) -> bool {
        self.told.contains(&key)
    }
}

impl Driver {
    /// Hears what a check says of a dependency; returns true if the backend is not to fall for
    /// it, not yet or not at all.
    pub(super) fn weigh(&mut self, key: u64, done: &Done, falls: bool, now: Instant) -> bool {
        let Some(guard) = &mut self.fate.guard else {
            return false;
        };
        let report = &done.report;
        let vote = match (report.is_pass(), report.dependency()) {
            (true, _) => Vote::Passes,
            (false, Some(dependency)) => Vote::Fails(dependency),
            (false, None) => Vote::None,
        };
        let up = |(other, member): (&u64, &Member)| {
            let is_up = member.machine.health() == HealthStatus::Healthy;
            (is_up && *other != key).then_some(*other)
        };
        let mut ask = Vec::new();
        let others = self.members.iter().filter_map(up);
        let turn = guard.vote(key, vote, done.began, now, others, &mut ask);
        let mut judgement = Judgement::Own;
        if let (Some(dependency), true) = (report.dependency(), falls) {
            let others = self.members.iter().filter_map(up);
            judgement = guard.judge(key, dependency, now, others, &mut ask);
        }
        let holds = judgement != Judgement::Own;
        if holds {
            let held = Held {
                report: report.clone(),
                took: done.took,
                began: done.began,
            };
            self.fate.held.insert(key, held);
        } else {
            self.fate.held.remove(&key);
        }
        if let Some(turn) = turn {
            self.take_turn(turn, now);
        }
        match judgement {
            Judgement::Shared => self.tell_kept(key),
            Judgement::Own => self.tell_free(key),
            Judgement::Wait => {}
        }
        for key in ask {
            self.ask_anew(key, now);
        }
        holds
    }

    /// Ends an inquiry whose time is over.
    pub(super) fn settle_fate(&mut self, now: Instant) {
        let guard = self.fate.guard.as_mut();
        if let Some(turn) = guard.and_then(|guard| guard.conclude(now)) {
            self.take_turn(turn, now);
        }
    }

    fn take_turn(&mut self, turn: Turn, now: Instant) {
        match turn {
            Turn::Entered(dependency) => {
                tracing::error!(
                    target: "evenkeel::health",
                    dependency = &*dependency, backends = self.fate.held.len(),
                    "all backends that answer fail for the same dependency: they keep serving"
                );
                let held: Vec<_> = self.fate.held.keys().copied().collect();
                held.into_iter().for_each(|key| self.tell_kept(key));
            }
            Turn::Left(dependency) => tracing::warn!(
                target: "evenkeel::health",
                dependency = &*dependency,
                "backends do not all fail for the same dependency any more: they are asked anew"
            ),
            Turn::Settled(dependency, fall) => {
                tracing::debug!(
                    target: "evenkeel::health",
                    dependency = &*dependency, backends = fall.len(),
                    "not all backends fail for this dependency: those that do fall"
                );
                for key in fall {
                    self.fall(key, now);
                }
            }
        }
    }

    /// Lets one fall that was held.
    fn fall(&mut self, key: u64, now: Instant) {
        let Some(held) = self.fate.held.remove(&key) else {
            return;
        };
        self.tell_free(key);
        let Some(checks) = &self.core.checks else {
            return;
        };
        let rules = checks.rules();
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if let Some(change) = member.machine.settle(&rules, now) {
            let done = Done {
                began: held.began,
                took: held.took,
                report: held.report,
            };
            self.change(key, &change, &done, now);
        }
    }

    fn tell_kept(&mut self, key: u64) {
        self.publish_results();
        let (Some(held), Some(member)) = (self.fate.held.get(&key), self.members.get(&key)) else {
            return;
        };
        if let (Some(dependency), true) = (held.report.dependency(), self.fate.told.insert(key)) {
            let pool = &self.core.pool;
            pool.report_shared_failure(&member.backend, Some(dependency.clone()));
        }
    }

    fn tell_free(&mut self, key: u64) {
        if self.fate.told.remove(&key) {
            self.publish_results();
            if let Some(member) = self.members.get(&key) {
                self.core.pool.report_shared_failure(&member.backend, None);
            }
        }
    }

    /// Says of all that are kept that this is over.
    pub(super) fn free_all(&mut self) {
        let told: Vec<_> = self.fate.told.iter().copied().collect();
        told.into_iter().for_each(|key| self.tell_free(key));
    }

    /// Has one checked now, unless that is under way already: that result says how it was.
    fn ask_anew(&mut self, key: u64, now: Instant) {
        if let Some(member) = self.members.get_mut(&key) {
            match member.probe.is_some() {
                true => member.again = true,
                false => self.plan(key, now),
            }
        }
    }
}
