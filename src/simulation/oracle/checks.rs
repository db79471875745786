//! The oracle's records of checks: their targets and their results.

use super::*;

impl Oracle {
    pub(in crate::simulation) fn check_began(
        &mut self,
        at: u64,
        backend: &Backend,
    ) -> Option<Ticket> {
        let member = self.members.iter_mut().find(|m| m.backend.is_same(backend));
        let member = member.filter(|m| m.present && m.spec.port == backend.port())?;
        let ticket = Ticket {
            incarnation: backend.incarnation(),
            epoch: member.epoch,
        };
        member.running = Some(at);
        let late = member.next_by.take().filter(|by| at > *by);
        let id = member.spec.id;
        self.trace.push(
            at,
            What::CheckBegan {
                id,
                port: backend.port(),
            },
        );
        self.counts.add("checks");
        if let Some(by) = late {
            self.violate(
                at,
                Invariant::D,
                format!("the check of {} begins {} ms late", id_of(id), at - by),
            );
        }
        Some(ticket)
    }

    /// Enters a result: that of a check that ended, or ran out of time.
    pub(in crate::simulation) fn check_ended(&mut self, at: u64, ticket: Ticket, passed: bool) {
        // What the results before led to is to be seen by now.
        self.look(at);
        let (steady, jitter) = (self.settings.interval, self.settings.jitter);
        let (rise, fall) = (self.settings.rise, self.settings.fall);
        let Some(member) = self.current(ticket) else {
            return;
        };
        let id = member.spec.id;
        let began = member.running.take().unwrap_or(at);
        let longest = (steady as f64 * (1.0 + jitter)).ceil() as u64;
        member.next_by = Some((began + longest).max(at) + TICK);
        if passed {
            member.cancelled = 0;
            member.passes += 1;
            member.failures = 0;
            let needed = match member.seen {
                HealthStatus::Unknown => 1,
                // One that goes up and down is held down for a while.
                _ if member.flaps(at) => u32::MAX,
                _ => rise,
            };
            if member.seen != HealthStatus::Healthy && member.passes >= needed {
                member.demanded = Some((at, HealthStatus::Healthy));
            }
        } else {
            member.failures += 1;
            member.passes = 0;
            if member.seen != HealthStatus::Unhealthy && member.failures >= fall {
                member.demanded = Some((at, HealthStatus::Unhealthy));
            }
        }
        let what = match passed {
            true => What::CheckPassed { id },
            false => What::CheckFailed { id },
        };
        self.trace.push(at, what);
        self.counts.add(if passed { "passes" } else { "failures" });
    }

    /// A check was dropped before its time was over.
    pub(in crate::simulation) fn check_dropped(&mut self, at: u64, ticket: Ticket) {
        let found = self
            .members
            .iter_mut()
            .find(|m| m.backend.incarnation() == ticket.incarnation);
        let Some(member) = found else { return };
        if member.epoch == ticket.epoch {
            member.cancelled += 1;
            member.running = None;
        }
        let id = member.spec.id;
        self.trace.push(at, What::CheckDropped { id });
        self.counts.add("checks cancelled");
    }

    fn current(&mut self, ticket: Ticket) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| {
            m.present && m.backend.incarnation() == ticket.incarnation && m.epoch == ticket.epoch
        })
    }
}
