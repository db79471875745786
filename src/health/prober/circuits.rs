//! Takes the steps of the circuits: ejections that are noticed, trials, readmissions; and compares
//! latencies.
//!
//! The pool shows each circuit's present value, which requests, other layers and the program
//! change. This task keeps a machine for each member, compares it with what the pool shows, and
//! takes the steps that time or checks make due.
//!
//! How a change is noticed: a request of this layer touches the backend's key, which is looked at
//! within the same wake. A change by another layer or by the program names no backend, so all are
//! scanned: a small pool at once, one of more than 64 once a second at most.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{CheckResult, Driver, Keys, SMALL_POOL, members::Member};
use crate::{
    health::{
        circuit::{Followed, Step},
        layer_state::HealthState,
        outlier::{MeasuredLatency, slow_backends},
        transition::Rules,
    },
    pool::Reason,
};

/// Which circuits are not closed, and when all are scanned.
pub(super) struct Circuits {
    /// The backends whose circuit is open or half open.
    ///
    /// A sorted set, so that equal schedules take equal steps.
    ejected: Keys,
    /// When all are scanned: another layer or the program may have ejected or readmitted one.
    scan_at: Option<Instant>,
    last_scan: Option<Instant>,
    /// When latencies are compared.
    compare_at: Option<Instant>,
}

impl Circuits {
    /// Latencies are first compared after a whole window.
    pub(super) fn new(state: &HealthState, now: Instant) -> Self {
        let outliers = state.outliers.as_ref();
        let slow = outliers.filter(|outliers| outliers.slow.is_some());
        Self {
            ejected: Keys::new(),
            scan_at: None,
            last_scan: None,
            compare_at: slow.map(|outliers| now + outliers.window),
        }
    }

    /// The membership changed: scans all at once.
    pub(super) fn scan_now(&mut self, now: Instant) {
        self.last_scan = None;
        self.scan_at = Some(now);
    }

    /// The pool changed, and the change names no backend: scans all, a large pool once a second.
    pub(super) fn scan_soon(&mut self, now: Instant, members: usize) {
        let next = match self.last_scan {
            Some(last) if members > SMALL_POOL => (last + SCAN_INTERVAL).max(now),
            _ => now,
        };
        self.scan_at = Some(self.scan_at.map_or(next, |at| at.min(next)));
    }

    pub(super) fn forget(&mut self, key: u64) {
        self.ejected.remove(&key);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        [self.scan_at, self.compare_at].into_iter().flatten().min()
    }

    /// Returns when the circuits that are not closed are due.
    pub(super) fn steps_due<'a>(
        &'a self,
        members: &'a BTreeMap<u64, Member>,
    ) -> impl Iterator<Item = Instant> + 'a {
        let due = |key| members.get(key)?.circuit.due();
        self.ejected.iter().filter_map(due)
    }
}

impl Driver {
    /// Follows ejections, trials and readmissions, and takes the steps that are due.
    pub(super) fn update_circuits(&mut self, now: Instant) {
        if self.state.outliers.is_none() {
            self.circuits.scan_at = None;
            return;
        }
        for key in self.state.take_touched() {
            self.follow_circuit(key, now);
        }
        if self.circuits.scan_at.is_some_and(|at| at <= now) {
            self.circuits.scan_at = None;
            self.circuits.last_scan = Some(now);
            let keys: Vec<_> = self.members.keys().copied().collect();
            keys.into_iter()
                .for_each(|key| self.follow_circuit(key, now));
        }
        if self.circuits.compare_at.is_some_and(|at| at <= now) {
            self.compare(now);
        }
        // Copied, as a step changes the set.
        let keys: Vec<_> = self.circuits.ejected.iter().copied().collect();
        keys.into_iter()
            .for_each(|key| self.advance_circuit(key, now));
    }

    /// Notices what the pool shows of a backend's circuit.
    fn follow_circuit(&mut self, key: u64, now: Instant) {
        let Some(outliers) = &self.state.outliers else {
            return;
        };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let Some(record) = self.state.record(&member.backend) else {
            return;
        };
        let (shown, lasts) = (member.backend.circuit(), || record.ejected(now));
        match member.circuit.follow(shown, outliers.ejection, lasts, now) {
            Followed::Unchanged | Followed::TrialBegan => {}
            Followed::Readmitted => {
                record.readmitted(now);
                self.circuits.ejected.remove(&key);
            }
            Followed::Ejected(lasts) => {
                self.circuits.ejected.insert(key);
                // Of several layers that follow one pool, one logs what all see.
                if self.leads || self.state.checks.is_none() {
                    tracing::info!(
                        target: "evenkeel::health",
                        backend = member.backend.id(), ?lasts,
                        "the backend stays out, unless checks pass"
                    );
                }
            }
        }
    }

    /// Takes the step that time makes due: an ejection ends in a trial, and a trial that showed
    /// nothing in a readmission.
    fn advance_circuit(&mut self, key: u64, now: Instant) {
        self.publish_results();
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let has_trial = member.backend.has_trial();
        let Some(step) = member.circuit.advance(has_trial, now) else {
            return;
        };
        // A trial that cannot begin means that the circuit is no longer open for the pool: the
        // ejection ends.
        if step == Step::Readmit || !self.begin_trial(key, now) {
            self.readmit(key, Reason::new("TIME", "served its time"), now);
        }
    }

    /// Counts a check of an ejected backend, and takes the step that it makes due.
    pub(super) fn count_toward_return(
        &mut self,
        key: u64,
        rules: &Rules,
        done: &CheckResult,
        now: Instant,
    ) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let pass = done.report.is_pass();
        match member.circuit.count_check(pass, rules.rise, done.began) {
            Some(Step::BeginTrial) => {
                self.publish_results();
                self.begin_trial(key, now);
            }
            Some(Step::Readmit) => self.readmit(key, done.report.reason().clone(), now),
            None => {}
        }
    }

    /// Lets one request at a time through to an ejected backend; returns false if its circuit is not
    /// open.
    fn begin_trial(&mut self, key: u64, now: Instant) -> bool {
        let (Some(member), Some(outliers)) = (self.members.get_mut(&key), &self.state.outliers)
        else {
            return false;
        };
        let id = member.backend.id();
        let log = || {
            tracing::info!(
                target: "evenkeel::health",
                backend = id, "the backend is tried by one request at a time"
            );
        };
        let begins = self.state.pool.begin_trial_and(&member.backend, log);
        if begins {
            member.circuit.trial_began(outliers.ejection, now);
        }
        begins
    }

    /// Tells the pool, which announces it, only if the circuit was not closed already.
    fn readmit(&mut self, key: u64, reason: Reason, now: Instant) {
        // Events come in order: what the check measured, then the readmission.
        self.publish_results();
        self.circuits.ejected.remove(&key);
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if !member.circuit.close() {
            return;
        }
        if let Some(record) = self.state.record(&member.backend) {
            record.readmitted(now);
        }
        self.state.pool.readmit(&member.backend, reason);
    }

    /// Ejects the backends that are far slower than the others.
    ///
    /// Takes every record's window, used or not: all windows begin at the same time. A backend that
    /// is out already says nothing about what is usual, and is left out.
    fn compare(&mut self, now: Instant) {
        let Some(outliers) = self.state.outliers.clone() else {
            return;
        };
        self.circuits.compare_at = outliers.slow.map(|_| now + outliers.window);
        let Some(factor) = outliers.slow else {
            return;
        };
        let records = self.members.values().filter_map(|member| {
            let record = self.state.record(&member.backend)?;
            let measured = record.take_latency()?;
            member.backend.is_usable().then_some((record, measured))
        });
        // Only backends with enough requests are compared.
        let (slow, usual) = slow_backends(records.collect(), factor, outliers.volume);
        for (record, MeasuredLatency { requests, median }) in slow {
            let detail = format!("{median:?} of {requests} requests, others {usual:?}");
            record.is_slow(Reason::new("SLOW", detail));
        }
        for key in self.state.take_touched() {
            self.follow_circuit(key, now);
        }
    }
}

/// How often a pool that is not small is scanned for ejections that another layer made.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);
