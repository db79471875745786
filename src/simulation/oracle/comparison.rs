//! The comparison of the pool's state with the oracle's records.

use super::*;

impl Oracle {
    /// A snapshot was published: called in the middle of whatever did it.
    pub(in crate::simulation) fn published(&mut self, at: u64, pool: &Pool) {
        let (usable, held) = {
            let snapshot = pool.snapshot();
            (snapshot.usable(), snapshot.held())
        };
        let before = std::mem::replace(&mut self.usable, usable);
        self.trace.push(at, What::Published { usable, held });
        let mut found = Vec::new();
        // Backends that are usable, and were ejected until now.
        let back = self
            .members
            .iter()
            .filter(|m| m.present && m.ejected && !m.backend.is_ejected() && m.backend.is_usable());
        let others = usable - back.count().min(usable);
        for member in self.members.iter_mut().filter(|m| m.present) {
            let ejected = member.backend.is_ejected();
            if ejected == member.ejected {
                continue;
            }
            member.ejected = ejected;
            let id = member.spec.id;
            member.ejection_demanded = None;
            if !ejected {
                member.forgive();
                member.refused = None;
                self.trace.push(at, What::Readmitted { id });
                self.counts.add("readmissions");
                if others == 0 && usable > 0 {
                    self.counts.add("the last come back");
                }
                // Invariant F alone entitles an order to that: no other backend serves, and this one does.
                let is_last = others == 0 && member.backend.is_usable();
                if self.ordering && !is_last {
                    found.push((
                        Invariant::A,
                        format!("an order ends {}'s ejection", id_of(id)),
                    ));
                }
                continue;
            }
            self.trace.push(at, What::Ejected { id });
            self.counts.add("ejections");
            if before > 0 && usable == 0 {
                found.push((Invariant::F, format!("{} was the last usable", id_of(id))));
            }
            let (charged, hung_up) = (member.charged + member.outrun, member.hung_up);
            if charged < self.settings.consecutive {
                let which = match charged + hung_up >= self.settings.consecutive {
                    true => Invariant::E,
                    false => Invariant::Outliers,
                };
                // What a hedge won against is judged a moment before it is dropped.
                let one_more = charged + 1 >= self.settings.consecutive;
                member.suspect = Some((at, which, one_more));
            }
        }
        for (invariant, what) in found {
            self.violate(at, invariant, what);
        }
        self.look_at_health(at);
    }

    /// Compares what is with what the books say.
    pub(in crate::simulation) fn look(&mut self, at: u64) {
        self.look_at_health(at);
        if at > self.looked {
            self.looked = at;
            self.look_at_time(at);
        }
    }

    fn look_at_health(&mut self, at: u64) {
        let mut found = Vec::new();
        for member in self.members.iter_mut().filter(|m| m.present) {
            let now = member.backend.active_health();
            if now == member.seen {
                continue;
            }
            let (id, from) = (member.spec.id, member.seen);
            let (from_name, to_name) = (from.as_str(), now.as_str());
            self.trace.push(
                at,
                What::Active {
                    id,
                    from: from_name,
                    to: to_name,
                },
            );
            self.counts.add(match now {
                HealthStatus::Healthy => "came up",
                HealthStatus::Unhealthy => "went down",
                HealthStatus::Unknown => "became unknown",
            });
            if let Some(invariant) = member.unaccounted(
                now,
                &self.settings,
                self.ordering,
                self.unmeasured.is_some(),
            ) {
                found.push((
                    invariant,
                    format!(
                        "{} goes from {from_name} to {to_name} after {} passes, {} failures and {} \
                         cancelled checks, in a row",
                        id_of(id),
                        member.passes,
                        member.failures,
                        member.cancelled
                    ),
                ));
            }
            member.seen = now;
            member.demanded = None;
            member.readdressed = false;
            if from != HealthStatus::Unknown {
                member.moves.push(at);
            }
        }
        for (invariant, what) in found {
            self.violate(at, invariant, what);
        }
    }

    fn look_at_time(&mut self, at: u64) {
        let timeout = self.settings.timeout;
        let mut found = Vec::new();
        let left = self.unmeasured.filter(|since| at > *since);
        let any_usable = self
            .members
            .iter()
            .any(|m| m.present && m.backend.is_usable());
        for member in self.members.iter_mut().filter(|m| m.present) {
            let name = id_of(member.spec.id);
            if let Some((since, to)) = member.demanded.filter(|(since, _)| at > *since) {
                member.demanded = None;
                let what = format!("{name} is not {} since {since} ms", to.as_str());
                found.push((Invariant::B, what));
            }
            if let Some(since) = member.ejection_demanded.filter(|since| at > *since) {
                member.ejection_demanded = None;
                let what = format!("{name} failed too often at {since} ms and is not ejected");
                found.push((Invariant::Outliers, what));
            }
            if let Some(began) = member.running.filter(|began| at > began + timeout + TICK) {
                member.running = None;
                let what = format!("a check of {name} runs since {began} ms");
                found.push((Invariant::D, what));
            }
            if let Some(by) = member.next_by.filter(|by| at > *by) {
                member.next_by = None;
                let what = format!("a check of {name} was due by {by} ms");
                found.push((Invariant::D, what));
            }
            if let Some((since, which, _)) = member.suspect.filter(|suspect| at > suspect.0) {
                member.suspect = None;
                found.push((
                    which,
                    format!("{name} was ejected at {since} ms for too little"),
                ));
            }
            if left.is_some() && member.seen != HealthStatus::Unknown {
                let what = format!(
                    "{name} is {} still, and no checks run",
                    member.seen.as_str()
                );
                found.push((Invariant::Recovery, what));
            }
            let serves = match member.seen {
                HealthStatus::Healthy => true,
                HealthStatus::Unhealthy => false,
                HealthStatus::Unknown => !self.attached,
            };
            let orders = member.mode == Mode::Ready && member.spec.weight > 0;
            if member.ejected && orders && serves && !any_usable {
                let what = format!("{name} is ejected, and no other backend is left");
                found.push((Invariant::F, what));
            }
            let usable = member.backend.is_usable();
            let may = member.mode == Mode::Ready && member.spec.weight > 0 && !member.ejected;
            if usable && !may {
                let what = format!("{name} is usable against its orders");
                found.push((Invariant::Orders, what));
            }
            if usable && self.attached && member.seen == HealthStatus::Unknown {
                let what = format!("{name} is usable before its first check");
                found.push((Invariant::A, what));
            }
            if usable && member.seen == HealthStatus::Unhealthy {
                found.push((Invariant::A, format!("{name} is down and usable")));
            }
            let up = member.seen == HealthStatus::Healthy;
            if up && may && !usable {
                let what = format!("{name} is up and not usable");
                found.push((Invariant::Orders, what));
            }
        }
        for (invariant, what) in found {
            self.violate(at, invariant, what);
        }
    }
}
