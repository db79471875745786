//! The oracle's records of attempts: their backends and their ends.

use super::*;

impl Oracle {
    /// An attempt reaches a backend: may it?
    pub(in crate::simulation) fn sent(
        &mut self,
        at: u64,
        backend: &Backend,
        number: usize,
        plan: &Plan,
    ) {
        let sticky = plan.sticky.is_some();
        let port = backend.port();
        let found = self.members.iter_mut().find(|m| m.backend.is_same(backend));
        let Some(member) = found else {
            return;
        };
        let id = member.spec.id;
        let mut wrong = None;
        if !member.present {
            wrong = Some((Invariant::Orders, "it was removed"));
        } else if member.seen == HealthStatus::Unhealthy {
            wrong = Some((Invariant::A, "it is down"));
        } else if member.ejected {
            // One at a time may try whether it is well again, where it can do no harm.
            let tries = backend.circuit() == Circuit::HalfOpen;
            if !tries || plan.post || member.tried {
                wrong = Some((Invariant::A, "it is ejected"));
            }
            member.tried = true;
        } else if member.seen == HealthStatus::Unknown && self.attached {
            wrong = Some((Invariant::A, "its first check did not pass yet"));
        } else if member.spec.cap.is_some_and(|cap| backend.in_flight() > cap) {
            wrong = Some((Invariant::Orders, "it is full"));
        } else {
            let refuses = match member.mode {
                Mode::Maintenance => true,
                Mode::Draining { until } => !sticky || tokio::time::Instant::now() >= until,
                Mode::Ready => !sticky && member.spec.weight == 0,
            };
            if refuses {
                wrong = Some((Invariant::Orders, "its orders are not to take it"));
            }
        }
        let tried = member.tried;
        self.trace.push(
            at,
            What::Sent {
                request: number,
                id,
                port,
            },
        );
        self.counts.add("attempts");
        if tried {
            self.counts.add("trials");
        }
        if let Some((invariant, why)) = wrong {
            let what = format!("request {number} went to {}, though {why}", id_of(id));
            self.violate(at, invariant, what);
        }
    }

    /// A request came: it earns its share.
    pub(in crate::simulation) fn asked(&mut self) {
        self.requests += 1;
    }

    /// An attempt is a load on a backend, as it was not refused at once; of its request it is
    /// not the first such: has the budget earned that?
    pub(in crate::simulation) fn cost(&mut self, at: u64, number: usize) {
        self.retries += 1;
        self.counts.add("retries that cost");
        let (share, second) = self.settings.budget;
        // Of a budget ten seconds' worth is there at first. Other runtimes' clocks may be off.
        let seconds = second * (at + TICK + 10_000) / 1_000;
        let earned = (share * self.requests + seconds) / 1_000;
        if self.retries == earned {
            self.counts.add("last retries that were earned");
        }
        if self.retries > earned {
            let retries = self.retries;
            let what = format!("retry {retries} (request {number}), and {earned} were earned");
            self.violate(at, Invariant::Budget, what);
        }
    }

    /// An attempt ended: `fails` is true where its end is the backend's failure, false where it
    /// is a success, `None` where it says nothing.
    pub(in crate::simulation) fn answered(
        &mut self,
        at: u64,
        backend: &Backend,
        number: usize,
        fails: Option<bool>,
        how: &'static str,
    ) {
        let id = self.number_of(backend);
        self.trace.push(
            at,
            What::Answered {
                request: number,
                id,
                how,
            },
        );
        self.counts.add(how);
        let out = self
            .members
            .iter()
            .filter(|m| m.present && m.ejected)
            .count();
        let (usable, consecutive) = (self.usable, self.settings.consecutive);
        let found = self.members.iter_mut().find(|m| m.backend.is_same(backend));
        let Some(member) = found else { return };
        member.tried = false;
        let Some(fails) = fails else { return };
        if !fails {
            member.forgive();
            return;
        }
        member.charged += 1;
        let due = member.charged >= consecutive && member.present && !member.ejected;
        if !due {
            return;
        }
        let others = usable - usize::from(member.backend.is_usable());
        let rested = member.refused.is_none_or(|then| at >= then + 1_000);
        if out == 0 && others > 0 && rested {
            member.ejection_demanded = Some(at);
        }
        if rested {
            // Where it is refused, it is tried again after a second.
            member.refused = Some(at);
        }
    }

    /// An attempt was dropped before its end.
    pub(in crate::simulation) fn dropped(
        &mut self,
        at: u64,
        backend: &Backend,
        number: usize,
        why: Why,
    ) {
        let id = self.number_of(backend);
        let name = why.as_str();
        self.trace.push(
            at,
            What::Dropped {
                request: number,
                id,
                why: name,
            },
        );
        self.counts.add(name);
        let found = self.members.iter_mut().find(|m| m.backend.is_same(backend));
        if let Some(member) = found {
            member.tried = false;
            if let Some((since, which, one_more)) = member.suspect {
                member.suspect = match why {
                    _ if since < at => member.suspect,
                    Why::Outrun if one_more => None,
                    Why::Outrun => member.suspect,
                    Why::HungUp | Why::NotNeeded if one_more => {
                        Some((since, Invariant::E, one_more))
                    }
                    Why::HungUp | Why::NotNeeded => Some((since, which, one_more)),
                };
            }
            match why {
                // As if it had not answered in time: it may be charged.
                Why::Outrun => member.outrun += 1,
                Why::HungUp | Why::NotNeeded => member.hung_up += 1,
            }
        }
    }

    pub(super) fn number_of(&self, backend: &Backend) -> u8 {
        let found = self.members.iter().find(|m| m.backend.is_same(backend));
        found.map_or(u8::MAX, |m| m.spec.id)
    }
}
