//! What follows from one result.
//!
//! ```text
//!   result ─▶ local fault? ──▶ no check at all: only the next one is planned
//!          └▶ recorded for status pages, counted
//!               └▶ names a dependency, and would fall? ──▶ held until others were checked
//!                    └▶ machine: pass or fail ──▶ a change: logged, measured
//!                         └▶ counts for the circuit's return
//!                              └▶ the next check is planned
//! ```
//!
//! Log levels: a backend that goes down is a WARN, one that comes up an INFO, a failed check that
//! changes nothing a DEBUG. A log of a fleet then has one line for each change.
//!
//! Checks of many balancers that stay in step load a backend in bursts (envoy#4132): hence the
//! jitter of each pause, and the first one from the whole interval.

use std::time::Duration;

use tokio::time::Instant;

use super::{CheckResult, Driver, Member};
use crate::{
    health::{
        check::Checks,
        transition::{Change, Rules},
    },
    pool::{Backend, HealthStatus, LastCheck, Measurement},
};

impl Driver {
    /// Draws what follows from one result, and plans the next check.
    pub(super) fn apply_result(&mut self, key: u64, done: &CheckResult, now: Instant) {
        let state = self.state.clone();
        let Some(checks) = &state.checks else {
            return;
        };
        let rules = checks.rules();
        let Some(member) = self.members.get(&key) else {
            return;
        };
        if done.report.is_local() {
            // It says nothing about the backend, and so counts as no check at all.
            log_failure(&member.backend, done);
            return self.plan_next(key, checks, done, now);
        }
        record(&member.backend, done, now);
        let pass = done.report.is_pass();
        member.backend.count_check(pass, done.took);
        let falls = !pass && member.machine.would_fall(&rules);
        // Asked for each result, also for passes: they are votes.
        let holds = self.consider_dependency(key, done, falls, now);
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let change = match pass {
            true => member.machine.pass(&rules, now),
            false if holds => {
                member.machine.fail_and_stay();
                None
            }
            false => member.machine.fail(&rules, now),
        };
        match change {
            Some(change) => self.change(key, &change, done, now),
            // What it offers may have changed.
            // Capacity and drain come with each pass, also without a change of state.
            None if pass => self.measure(key, None, done, now),
            None => log_failure(&member.backend, done),
        }
        // After the measurement, so that its event comes before that of a readmission.
        self.count_toward_return(key, &rules, done, now);
        self.plan_next(key, checks, done, now);
    }

    /// Counted from the start of the check that ended, so that slow answers do not stretch the
    /// interval; never in the past.
    fn plan_next(&mut self, key: u64, checks: &Checks, done: &CheckResult, now: Instant) {
        let rules = checks.rules();
        let is_kept = self.shared_failures.is_kept(key);
        if let Some(member) = self.members.get_mut(&key) {
            let again = std::mem::take(&mut member.again);
            let pause = match again {
                true => Duration::ZERO,
                false => member.pause(checks, &rules, done, is_kept),
            };
            self.plan(key, (done.began + pause).max(now));
        }
    }

    /// Tells of a change of state.
    pub(super) fn change(&mut self, key: u64, change: &Change, done: &CheckResult, now: Instant) {
        if let Some(member) = self.members.get(&key) {
            log(&member.backend, change, done);
        }
        self.measure(key, Some(change), done, now);
    }

    fn measure(&mut self, key: u64, change: Option<&Change>, done: &CheckResult, now: Instant) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        let report = &done.report;
        let flaps = member.machine.flaps(now);
        let mut measured = Measurement::new(member.machine.health(), report.reason().clone())
            .streak(change.map_or(0, |change| change.streak))
            .latency(done.took)
            .flaps(u32::try_from(flaps).unwrap_or(u32::MAX))
            .flapping(flaps > 0 && member.machine.is_flapping())
            .capacity(report.capacity())
            .draining(report.is_draining());
        if let Some(status) = report.status() {
            measured = measured.status(status);
        }
        let backend = member.backend.clone();
        self.publish_queue.add(backend, measured);
    }
}

impl Member {
    /// Returns the time from the start of the check that ended to that of the next.
    ///
    /// The first pause of a settled backend is drawn from the whole interval: all members of a
    /// start are checked at once, and would stay together otherwise. Later ones have the jitter.
    fn pause(
        &mut self,
        checks: &Checks,
        rules: &Rules,
        done: &CheckResult,
        is_kept: bool,
    ) -> Duration {
        let interval = match is_kept {
            true => rules.interval,
            false => self.machine.interval(rules),
        };
        // All began at once, so that a start is fast; from here on each has its own beat.
        if !self.spread && self.machine.is_settled() {
            self.spread = true;
            return interval.mul_f64(fastrand::f64());
        }
        let pause = interval.mul_f64(1.0 + checks.jitter * (2.0 * fastrand::f64() - 1.0));
        // One that is up is asked as ever, so that its fall is not put off.
        match done.report.retry_after() {
            Some(wait)
                if self.machine.health() != HealthStatus::Healthy && !done.report.is_pass() =>
            {
                pause.max(wait.min(LONGEST_WAIT))
            }
            _ => pause,
        }
    }
}

/// Keeps the result where a status page finds it; most results change nothing else.
fn record(backend: &Backend, done: &CheckResult, now: Instant) {
    let report = &done.report;
    backend.record_check(LastCheck {
        at: now,
        passed: report.is_pass(),
        reason: report.reason().clone(),
        took: done.took,
        status: report.status(),
    });
}

fn log_failure(backend: &Backend, done: &CheckResult) {
    let reason = done.report.reason();
    tracing::debug!(
        target: "evenkeel::health",
        backend = backend.id(), code = reason.code, detail = &*reason.detail, took = ?done.took,
        "a check failed"
    );
}

fn log(backend: &Backend, change: &Change, done: &CheckResult) {
    let (id, from, to) = (backend.id(), change.from.as_str(), change.to.as_str());
    let reason = done.report.reason();
    let (code, detail) = (reason.code, &*reason.detail);
    let (streak, took, was, flaps) = (change.streak, done.took, change.was, change.flaps);
    let status = done.report.status().map(|status| status.as_u16());
    if change.to == HealthStatus::Unhealthy {
        tracing::warn!(
            target: "evenkeel::health",
            backend = id, from, to, code, detail, status, streak, ?took, ?was, flaps,
            "the backend is down"
        );
    } else {
        tracing::info!(
            target: "evenkeel::health",
            backend = id, from, to, code, detail, status, streak, ?took, ?was, flaps,
            "the backend is up"
        );
    }
    if let Some(hold) = change.hold {
        tracing::warn!(
            target: "evenkeel::health",
            backend = id, flaps, ?hold,
            "the backend flaps: it stays down for a while, whatever checks say"
        );
    }
}

/// A backend that asks for more may have been wrong about it.
pub(in crate::health) const LONGEST_WAIT: Duration = Duration::from_secs(60);
