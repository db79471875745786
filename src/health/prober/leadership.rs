//! One prober a pool: of several that could check it, one does.
//!
//! Two probers would double the checks, and disagree: each would overwrite what the other measured.
//! The pool holds the candidates; the newest of the highest rank leads. One whose checks a user has
//! given ranks above one with the defaults, so that a second `LoadBalancer` on a pool changes
//! nothing, and the settings of a reload take over at once.
//!
//! The health of the backends belongs to the pool and stays: the next leader begins with it, and no
//! backend goes up or down by a change of the leader.

use tokio::time::Instant;

use super::Driver;
use crate::{
    health::{prober::publish_shared_failure::SharedFailures, transition::HealthMachine},
    pool::Candidate,
};

impl Driver {
    /// Takes the checks over, or leaves them to another, where that changed.
    pub(super) fn follow_leadership(&mut self, now: Instant) {
        let leads = self.lead.as_mut().is_some_and(Candidate::leads);
        if std::mem::replace(&mut self.leads, leads) == leads {
            return;
        }
        match leads {
            true => self.take_over(now),
            false => self.step_down(),
        }
    }

    /// Begins with what the pool knows, as the other measured it.
    fn take_over(&mut self, now: Instant) {
        tracing::info!(
            target: "evenkeel::health",
            "checks the backends again: the other health layer or prober of the pool is gone"
        );
        for member in self.members.values_mut() {
            member.machine = HealthMachine::new(member.backend.active_health(), now);
            // All are checked at once, and spread over an interval afterwards.
            member.spread = false;
        }
        let keys: Vec<_> = self.members.keys().copied().collect();
        keys.into_iter().for_each(|key| self.plan(key, now));
    }

    /// Ends the checks that run: they are no failures (invariant C).
    ///
    /// Shared failures are announced as over: the next leader finds out for itself.
    fn step_down(&mut self) {
        tracing::info!(
            target: "evenkeel::health",
            "leaves the checks to another health layer or prober of the pool"
        );
        // What this prober measured is published before the next one takes over.
        self.publish_results();
        // Before the inquiry is thrown away, as it names the backends.
        self.release_all();
        self.shared_failures = SharedFailures::new(self.state.checks.as_ref());
        self.due.clear();
        self.waiting.clear();
        let mut probes = Vec::new();
        for member in self.members.values_mut() {
            member.next = None;
            member.again = false;
            probes.extend(member.probe.take());
        }
        for probe in probes {
            self.cancel(Some(probe));
        }
    }
}

/// Ends when another leads; never where nothing is checked.
pub(super) async fn changed(lead: &mut Option<Candidate>) {
    match lead {
        Some(lead) => lead.changed().await,
        None => std::future::pending().await,
    }
}
