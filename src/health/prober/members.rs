//! The members of the pool as the prober follows them.
//!
//! A member is known by its incarnation, not its id: a backend that is removed and added again
//! under its id is another one, about which nothing is known.
//!
//! | change of the pool | what happens to the member |
//! |---|---|
//! | added | checked at once; begins with the health that the backend already has |
//! | removed | its check is cancelled, and counts as nothing (invariant C) |
//! | another address | the check is cancelled; `Healthy` becomes `Unknown`, `Unhealthy` stays (invariant A) |
//! | weight, tier, mode | nothing: health is measured, these are set |
//!
//! A reload that sets every backend to "up" sends requests to dead ones (haproxy#918, #2085;
//! traefik#13218): hence the first row.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{Driver, RunningCheck};
#[cfg(test)]
use crate::mutation::{self, Mutation};
use crate::{
    health::{circuit::CircuitMachine, transition::HealthMachine},
    pool::{Backend, HealthStatus, Measurement, Reason},
};

/// Owned by the driver; dropped with the backend's membership.
pub(super) struct Member {
    pub(super) backend: Backend,
    /// How often it had moved when this was last looked at.
    moves: u32,
    pub(super) machine: HealthMachine,
    /// When the next check is due; `None` while one runs or waits for a place.
    pub(super) next: Option<Instant>,
    /// The check that runs.
    pub(super) probe: Option<RunningCheck>,
    /// Another check begins as soon as the running one ends.
    pub(super) again: bool,
    /// The checks of many backends, which begin together, were spread over an interval.
    pub(super) spread: bool,
    pub(super) circuit: CircuitMachine,
}

impl Driver {
    /// Follows the pool. Compares with the snapshot rather than counting on events, so that none
    /// can be missed; if the membership is unchanged, that costs two comparisons.
    pub(super) fn sync(&mut self, now: Instant) {
        let state = self.state.clone();
        let snapshot = state.pool.snapshot();
        if snapshot.generation() == self.generation {
            return;
        }
        self.generation = snapshot.generation();
        let membership = snapshot.membership();
        if self.membership.as_ref() == Some(&membership) {
            drop(snapshot);
            // The members are the same: an ejection, a weight or a mode changed.
            self.circuits.scan_soon(now, self.members.len());
            return;
        }
        self.membership = Some(membership);
        let backends = snapshot.backends().to_vec();
        drop(snapshot);
        let mut members = BTreeMap::new();
        for backend in backends {
            let key = backend.incarnation();
            let member = match self.members.remove(&key) {
                Some(member) => self.update_member(member, backend, now),
                None => self.add_member(backend, now),
            };
            members.insert(key, member);
        }
        // What is left in the old map left the pool.
        for (key, gone) in std::mem::replace(&mut self.members, members) {
            self.cancel(gone.probe);
            self.shared_failures.forget(key);
            self.circuits.forget(key);
        }
        self.circuits.scan_now(now);
    }

    fn add_member(&mut self, backend: Backend, now: Instant) -> Member {
        let next = self.leads.then_some(now);
        if next.is_some() {
            self.due
                .push(std::cmp::Reverse((now, backend.incarnation())));
        }
        Member {
            // What was known before, such as by a prober whose runtime ended or by an earlier
            // process, is the beginning.
            machine: HealthMachine::new(backend.active_health(), now),
            moves: backend.address_changes(),
            backend,
            next,
            probe: None,
            again: false,
            spread: false,
            circuit: CircuitMachine::default(),
        }
    }

    fn update_member(&mut self, mut member: Member, backend: Backend, now: Instant) -> Member {
        let moves = backend.address_changes();
        if std::mem::replace(&mut member.moves, moves) != moves {
            #[cfg(test)]
            let cancels = member.probe.is_some();
            // What is on its way says nothing about the new address.
            self.cancel(member.probe.take());
            self.shared_failures.forget(backend.incarnation());
            // A layer without checks has measured nothing: the result of another prober stands.
            if member.machine.readdress(now) && self.leads {
                let reason = Reason::new("INI", "another address");
                let measured = Measurement::new(HealthStatus::Unknown, reason);
                self.publish_queue.add(backend.clone(), measured);
            }
            #[cfg(test)]
            if let (true, Some(checks)) = (cancels, &self.state.checks)
                && mutation::is(Mutation::CancelledCheckCounts)
                && let Some(change) = member.machine.fail(&checks.rules(), now)
            {
                let reason = Reason::new("L7RSP", "cancelled");
                let measured = Measurement::new(change.to, reason);
                self.publish_queue.add(backend.clone(), measured);
            }
            if self.leads {
                member.next = Some(now);
                self.due
                    .push(std::cmp::Reverse((now, backend.incarnation())));
            }
        }
        // The handle is replaced: it has the new settings.
        member.backend = backend;
        member
    }
}
