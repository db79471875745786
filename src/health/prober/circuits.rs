//! Who is out for what live traffic showed, for how long, and how it comes back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CheckResult, Driver, Keys, SMALL_POOL, members::Member};
use crate::{
    health::{
        outlier::{MeasuredLatency, slow_backends},
        shared::HealthState,
        transition::Rules,
    },
    pool::{Circuit, Reason},
};

/// A time out of service.
pub(super) struct Stay {
    since: Instant,
    until: Instant,
    /// In a row, of checks begun after `since`.
    passes: u32,
    /// One of those checks failed: they see what live traffic saw.
    checks_agree: bool,
    /// Checks that pass may end it early.
    may_end_early: bool,
    /// One request at a time is let through.
    is_trial: bool,
}

/// Whose circuits are looked at, and when.
pub(super) struct Circuits {
    /// Those that are out.
    ejected: Keys,
    /// When all are looked at: somebody else may have ejected or readmitted one.
    look: Option<Instant>,
    looked: Option<Instant>,
    /// When latencies are compared.
    compare: Option<Instant>,
}

impl Circuits {
    pub(super) fn new(state: &HealthState, now: Instant) -> Self {
        let slow = state.outliers.as_ref().filter(|rules| rules.slow.is_some());
        Self {
            ejected: Keys::new(),
            look: None,
            looked: None,
            compare: slow.map(|rules| now + rules.window),
        }
    }

    /// The membership changed: looks at all.
    pub(super) fn scan_now(&mut self, now: Instant) {
        self.looked = None;
        self.look = Some(now);
    }

    /// Something changed, nobody knows of whom: looks at all, of a large pool once a second.
    pub(super) fn scan_soon(&mut self, now: Instant, members: usize) {
        let next = match self.looked {
            Some(looked) if members > SMALL_POOL => (looked + LOOK).max(now),
            _ => now,
        };
        self.look = Some(self.look.map_or(next, |look| look.min(next)));
    }

    pub(super) fn forget(&mut self, key: u64) {
        self.ejected.remove(&key);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        [self.look, self.compare].into_iter().flatten().min()
    }

    pub(super) fn stays<'a>(
        &'a self,
        members: &'a BTreeMap<u64, Member>,
    ) -> impl Iterator<Item = Instant> + 'a {
        let stay = |key| members.get(key)?.stay.as_ref();
        self.ejected.iter().filter_map(stay).map(|stay| stay.until)
    }
}

impl Driver {
    /// Follows ejections, trials and readmissions, and makes those that are due.
    pub(super) fn update_circuits(&mut self, now: Instant) {
        if self.state.outliers.is_none() {
            self.circuits.look = None;
            return;
        }
        for key in self.state.take_touched() {
            self.sync_circuit(key, now);
        }
        if self.circuits.look.is_some_and(|look| look <= now) {
            self.circuits.look = None;
            self.circuits.looked = Some(now);
            let keys: Vec<_> = self.members.keys().copied().collect();
            keys.into_iter().for_each(|key| self.sync_circuit(key, now));
        }
        if self.circuits.compare.is_some_and(|compare| compare <= now) {
            self.compare(now);
        }
        let keys: Vec<_> = self.circuits.ejected.iter().copied().collect();
        keys.into_iter()
            .for_each(|key| self.advance_circuit(key, now));
    }

    /// Notices whether one is out, and how.
    fn sync_circuit(&mut self, key: u64, now: Instant) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let Some(record) = self.state.record(&member.backend) else {
            return;
        };
        let circuit = member.backend.circuit();
        match (&member.stay, circuit) {
            (None, Circuit::Closed) => return,
            (Some(_), Circuit::Closed) => {
                record.readmitted(now);
                member.stay = None;
                self.circuits.ejected.remove(&key);
                return;
            }
            (Some(stay), Circuit::Open) if !stay.is_trial => return,
            (Some(stay), Circuit::HalfOpen) if stay.is_trial => return,
            // Another layer's driver began it: what is sent there by this one is a trial, too.
            (Some(_), Circuit::HalfOpen) => return self.join_trial(key, now),
            // Ejected, or a trial failed.
            (_, Circuit::Open | Circuit::HalfOpen) => {}
        }
        let lasts = record.ejected(now);
        let is_trial = circuit == Circuit::HalfOpen;
        // Checks that pass while requests fail do not ask what requests ask: after a trial that
        // failed, they are not believed again before the time is served.
        let may_end_early = member.stay.as_ref().is_none_or(|stay| !stay.is_trial);
        record.set_trial(is_trial);
        // Of several that check one pool, one says what they all see.
        if self.leads || self.state.checks.is_none() {
            tracing::info!(
                target: "evenkeel::health",
                backend = member.backend.id(), ?lasts, "the backend stays out, unless checks pass"
            );
        }
        member.stay = Some(Stay {
            since: now,
            until: now + lasts,
            passes: 0,
            checks_agree: false,
            may_end_early,
            is_trial,
        });
        self.circuits.ejected.insert(key);
    }

    fn join_trial(&mut self, key: u64, now: Instant) {
        let Some(rules) = self.state.outliers.clone() else {
            return;
        };
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if let (Some(record), Some(stay)) = (self.state.record(&member.backend), &mut member.stay) {
            record.set_trial(true);
            stay.is_trial = true;
            stay.until = now + rules.ejection;
        }
    }

    /// After its time a backend is tried; after the time of the trial it is back.
    fn advance_circuit(&mut self, key: u64, now: Instant) {
        self.publish_results();
        let state = self.state.clone();
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let Some(stay) = member.stay.as_mut().filter(|stay| stay.until <= now) else {
            return;
        };
        if stay.is_trial && member.backend.has_trial() {
            // What that request shows says more than the time that passed.
            stay.until = now + LOOK;
            return;
        }
        if !begin_trial(&state, member, now) {
            self.readmit(key, Reason::new("TIME", "served its time"), now);
        }
    }

    /// Counts a check of one that is out. Where checks failed as requests did, enough that pass
    /// bring it back; where they never did, they only earn it a trial.
    pub(super) fn count_toward_return(
        &mut self,
        key: u64,
        rules: &Rules,
        done: &CheckResult,
        now: Instant,
    ) {
        let stay = self.members.get_mut(&key).and_then(|m| m.stay.as_mut());
        let Some(stay) = stay.filter(|stay| done.began >= stay.since) else {
            return;
        };
        if !done.report.is_pass() {
            stay.passes = 0;
            stay.checks_agree = true;
            return;
        }
        stay.passes += 1;
        if stay.passes < rules.rise {
            return;
        }
        let agree = stay.checks_agree;
        let may_try = stay.may_end_early && !stay.is_trial;
        if agree {
            self.readmit(key, done.report.reason().clone(), now);
        } else if may_try {
            self.publish_results();
            let state = self.state.clone();
            if let Some(member) = self.members.get_mut(&key) {
                begin_trial(&state, member, now);
            }
        }
    }

    fn readmit(&mut self, key: u64, reason: Reason, now: Instant) {
        // What the check measured first, and then what follows.
        self.publish_results();
        self.circuits.ejected.remove(&key);
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        if member.stay.take().is_none() {
            return;
        }
        if let Some(record) = self.state.record(&member.backend) {
            record.readmitted(now);
        }
        self.state.pool.readmit(&member.backend, reason);
    }

    /// Takes those out that are far slower than the others.
    fn compare(&mut self, now: Instant) {
        let Some(rules) = self.state.outliers.clone() else {
            return;
        };
        self.circuits.compare = rules.slow.map(|_| now + rules.window);
        let Some(factor) = rules.slow else {
            return;
        };
        let records = self.members.values().filter_map(|member| {
            let record = self.state.record(&member.backend)?;
            let measured = record.take_latency()?;
            member.backend.is_usable().then_some((record, measured))
        });
        let (slow, usual) = slow_backends(records.collect(), factor, rules.volume);
        for (record, MeasuredLatency { requests, median }) in slow {
            let detail = format!("{median:?} of {requests} requests, others {usual:?}");
            record.is_slow(Reason::new("SLOW", detail));
        }
        for key in self.state.take_touched() {
            self.sync_circuit(key, now);
        }
    }
}

/// Lets one request at a time through to a backend that is out; false where that is so already.
fn begin_trial(state: &Arc<HealthState>, member: &mut Member, now: Instant) -> bool {
    let (Some(stay), Some(rules)) = (&mut member.stay, &state.outliers) else {
        return false;
    };
    let Some(record) = state.record(&member.backend) else {
        return false;
    };
    // Set first: whoever is sent there from now on is a trial.
    record.set_trial(true);
    let id = member.backend.id();
    let say = || {
        tracing::info!(
            target: "evenkeel::health",
            backend = id, "the backend is tried by one request at a time"
        );
    };
    if stay.is_trial || !state.pool.begin_trial_and(&member.backend, say) {
        return false;
    }
    stay.is_trial = true;
    stay.until = now + rules.ejection;
    true
}

/// For larger ones, somebody else's ejection is noticed soon enough; and so is the end of a trial
/// that showed nothing.
const LOOK: Duration = Duration::from_secs(1);
