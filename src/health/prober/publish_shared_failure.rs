//! Carries out what the inquiry about shared failures decides.
//!
//! `shared_failure` is the decision, without a pool; this file asks it, checks the backends that it
//! names, and announces what it decides.
//!
//! | set | content | ends with |
//! |---|---|---|
//! | `held` | backends that would have fallen, with the failure that would have done it | a pass, a failure of another kind, or `fall` |
//! | `reported` | those of them that the pool has announced as kept | `report_released` |

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{CheckResult, Driver, Keys, Member};
use crate::{
    health::{
        CheckReport,
        check::Checks,
        shared_failure::{Conclusion, Decision, Inquiry, Vote},
    },
    pool::HealthStatus,
};

/// The inquiry, and the backends that it keeps in service.
pub(super) struct SharedFailures {
    inquiry: Option<Inquiry>,
    /// The backends that would have been taken out, and their last failure.
    held: BTreeMap<u64, Held>,
    /// Of these, the backends that the pool announced as kept.
    reported: Keys,
}

/// What is needed to report the failure later, as if it had just been found.
struct Held {
    report: CheckReport,
    took: Duration,
    began: Instant,
}

impl SharedFailures {
    /// Without `shared_failure` there is no inquiry, and every failure is a backend's own.
    pub(super) fn new(checks: Option<&Checks>) -> Self {
        let inquiry = checks.and_then(|checks| {
            // A backend that was asked starts at once, and has the time of a check to answer; a slot may
            // have to become free first.
            let answer_timeout = checks.timeout * 2;
            Some(Inquiry::new(checks.shared_failure?, answer_timeout))
        });
        Self {
            inquiry,
            held: BTreeMap::new(),
            reported: Keys::new(),
        }
    }

    /// For a backend that left or has another address: neither its vote nor its failure counts any
    /// more.
    pub(super) fn forget(&mut self, key: u64) {
        if let Some(inquiry) = &mut self.inquiry {
            inquiry.forget(key);
        }
        self.held.remove(&key);
        self.reported.remove(&key);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.inquiry.as_ref()?.due()
    }

    /// Whether it keeps serving although it fails: nothing presses then.
    pub(super) fn is_kept(&self, key: u64) -> bool {
        self.reported.contains(&key)
    }
}

impl Driver {
    /// Hears what a check says of a dependency; returns true if the backend is not to fall for
    /// it, not yet or not at all.
    pub(super) fn consider_dependency(
        &mut self,
        key: u64,
        done: &CheckResult,
        falls: bool,
        now: Instant,
    ) -> bool {
        let Some(inquiry) = &mut self.shared_failures.inquiry else {
            return false;
        };
        let report = &done.report;
        let vote = match (report.is_pass(), report.dependency()) {
            (true, _) => Vote::Passes,
            (false, Some(dependency)) => Vote::Fails(dependency),
            (false, None) => Vote::Abstains,
        };
        let up = |(other, member): (&u64, &Member)| {
            let is_up = member.machine.health() == HealthStatus::Healthy;
            (is_up && *other != key).then_some(*other)
        };
        let mut ask = Vec::new();
        let others = self.members.iter().filter_map(up);
        let conclusion = inquiry.vote(key, vote, done.began, now, others, &mut ask);
        let mut decision = Decision::Own;
        if let (Some(dependency), true) = (report.dependency(), falls) {
            let others = self.members.iter().filter_map(up);
            decision = inquiry.judge(key, dependency, now, others, &mut ask);
        }
        let holds = decision != Decision::Own;
        if holds {
            let held = Held {
                report: report.clone(),
                took: done.took,
                began: done.began,
            };
            self.shared_failures.held.insert(key, held);
        } else {
            self.shared_failures.held.remove(&key);
        }
        // After `held` is up to date: a conclusion walks over it.
        if let Some(conclusion) = conclusion {
            self.apply_conclusion(conclusion, now);
        }
        match decision {
            Decision::Shared => self.report_kept(key),
            Decision::Own => self.report_released(key),
            Decision::Wait => {}
        }
        for key in ask {
            self.recheck(key, now);
        }
        holds
    }

    /// Ends an inquiry whose time is over.
    pub(super) fn conclude_inquiry(&mut self, now: Instant) {
        let inquiry = self.shared_failures.inquiry.as_mut();
        if let Some(conclusion) = inquiry.and_then(|inquiry| inquiry.conclude(now)) {
            self.apply_conclusion(conclusion, now);
        }
    }

    /// `Ended` takes none out by itself: the backends are checked again, and `NotShared` names
    /// those that still fail.
    fn apply_conclusion(&mut self, conclusion: Conclusion, now: Instant) {
        match conclusion {
            Conclusion::Shared(dependency) => {
                tracing::error!(
                    target: "evenkeel::health",
                    dependency = &*dependency, backends = self.shared_failures.held.len(),
                    "all backends that answer fail for the same dependency: they keep serving"
                );
                let held: Vec<_> = self.shared_failures.held.keys().copied().collect();
                held.into_iter().for_each(|key| self.report_kept(key));
            }
            Conclusion::Ended(dependency) => tracing::warn!(
                target: "evenkeel::health",
                dependency = &*dependency,
                "backends do not all fail for the same dependency any more: they are checked again"
            ),
            Conclusion::NotShared(dependency, fall) => {
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
        let Some(held) = self.shared_failures.held.remove(&key) else {
            return;
        };
        self.report_released(key);
        let Some(checks) = &self.state.checks else {
            return;
        };
        let rules = checks.rules();
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if let Some(change) = member.machine.settle(&rules, now) {
            let done = CheckResult {
                began: held.began,
                took: held.took,
                report: held.report,
            };
            self.change(key, &change, &done, now);
        }
    }

    /// Announces a backend once, however many checks fail.
    fn report_kept(&mut self, key: u64) {
        self.publish_results();
        let (Some(held), Some(member)) =
            (self.shared_failures.held.get(&key), self.members.get(&key))
        else {
            return;
        };
        if let (Some(dependency), true) = (
            held.report.dependency(),
            self.shared_failures.reported.insert(key),
        ) {
            let pool = &self.state.pool;
            pool.report_shared_failure(&member.backend, Some(dependency.clone()));
        }
    }

    /// Only for a backend that was announced as kept.
    fn report_released(&mut self, key: u64) {
        if self.shared_failures.reported.remove(&key) {
            self.publish_results();
            if let Some(member) = self.members.get(&key) {
                self.state.pool.report_shared_failure(&member.backend, None);
            }
        }
    }

    /// Says of all that are kept that this is over.
    pub(super) fn release_all(&mut self) {
        let reported: Vec<_> = self.shared_failures.reported.iter().copied().collect();
        reported
            .into_iter()
            .for_each(|key| self.report_released(key));
    }

    /// Has one checked now, unless that is under way already: that result says how it was.
    fn recheck(&mut self, key: u64, now: Instant) {
        if let Some(member) = self.members.get_mut(&key) {
            match member.probe.is_some() {
                // The running check began before the question, so its result has no vote.
                true => member.again = true,
                false => self.plan(key, now),
            }
        }
    }
}
