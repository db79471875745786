//! The observer: its own books of every check and every attempt, and what follows from them.
//!
//! It shares no code with what it watches. It learns the results of checks and attempts where
//! they are made, the operator's orders where they are given, and then looks at the pool as any
//! user could: is each change that it sees one that its books account for, and has each that
//! they demand been made by the next millisecond?

use std::collections::BTreeMap;

use super::{
    schedule::{Plan, Settings, Spec},
    trace::{Trace, What},
};
use crate::pool::{Backend, Circuit, Health, Mode, Pool};

/// What must hold; the letters are the design's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Invariant {
    /// A reconfiguration never turns down into up without a passing check.
    A,
    /// Rise and fall count consecutive results.
    B,
    /// A check that was cancelled is not a failure.
    C,
    /// A target that hangs never delays another's check.
    D,
    /// A client's hang-up is never charged to the backend.
    E,
    /// The last usable backend is never ejected.
    F,
    /// Live traffic ejects for what the rules name, and at once.
    Outliers,
    /// Every lease comes back.
    Leases,
    /// Every request ends, once, and is repeated only where that does no harm.
    Requests,
    /// Retries add no more load than the budget earned.
    Budget,
    /// Orders, caps and weights hold.
    Orders,
    /// What is well again is back again.
    Recovery,
}

#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) at: u64,
    pub(super) invariant: Invariant,
    pub(super) what: String,
}

/// How often what happened: a run that never gets anywhere proves nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(pub(super) BTreeMap<&'static str, u64>);

impl Counts {
    pub(super) fn add(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

pub(super) struct Oracle {
    settings: Settings,
    members: Vec<Member>,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) violations: Vec<Violation>,
    /// Checks are made, and since when they are.
    attached: bool,
    /// Since when nobody will measure any more, where that was ordered.
    unmeasured: Option<u64>,
    /// An operator's call is under way: what it changes is a reconfiguration.
    pub(super) ordering: bool,
    usable: usize,
    /// Requests that came, each of which may cost the backends one attempt; and what they cost
    /// beyond.
    requests: u64,
    retries: u64,
    /// The time of the last look, so that one moment's are not repeated.
    looked: u64,
}

/// A membership: from one addition of an id to its removal.
struct Member {
    backend: Backend,
    spec: Spec,
    present: bool,
    mode: Mode,
    // What checks showed.
    seen: Health,
    passes: u32,
    failures: u32,
    /// Cancelled since the last pass.
    cancelled: u32,
    /// Rises with each new address and each new prober: results of the one before are void.
    epoch: u32,
    /// Rises with each new address alone.
    readdressed: bool,
    moves: Vec<u64>,
    demanded: Option<(u64, Health)>,
    running: Option<u64>,
    next_by: Option<u64>,
    // What traffic showed.
    ejected: bool,
    charged: u32,
    /// A trial is under way.
    tried: bool,
    /// Hedges won against them.
    outrun: u32,
    hung_up: u32,
    ejection_demanded: Option<u64>,
    refused: Option<u64>,
    /// Ejected at this time, for what did not seem enough, and might with one hang more.
    suspect: Option<(u64, Invariant, bool)>,
}

/// Why an attempt was dropped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The client went away.
    HungUp,
    /// It was the hedge, and the first answered.
    NotNeeded,
    /// A hedge that began later answered.
    Outrun,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::HungUp => "hang-ups before an answer",
            Self::NotNeeded => "hedges not needed",
            Self::Outrun => "hedges won",
        }
    }
}

/// What a check that runs remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    incarnation: u64,
    epoch: u32,
}

impl Oracle {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            members: Vec::new(),
            trace: Trace::default(),
            counts: Counts::default(),
            violations: Vec::new(),
            attached: false,
            unmeasured: None,
            ordering: false,
            usable: 0,
            requests: 0,
            retries: 0,
            looked: 0,
        }
    }

    pub(super) fn violate(&mut self, at: u64, invariant: Invariant, what: String) {
        self.violations.push(Violation {
            at,
            invariant,
            what,
        });
    }

    /// Every handle that there ever was.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.members.iter().map(|m| &m.backend)
    }

    /// Follows an order about membership, once it is done.
    pub(super) fn membership(&mut self, at: u64, pool: &Pool, specs: &[Spec]) {
        let snapshot = pool.snapshot();
        for member in self.members.iter_mut().filter(|m| m.present) {
            let same = |b: &Backend| b.is_same(&member.backend);
            if !snapshot.backends().iter().any(same) {
                member.leave();
            }
        }
        for backend in snapshot.backends() {
            let name = backend.id();
            let Some(spec) = specs.iter().find(|s| id_of(s.id) == name).copied() else {
                continue;
            };
            let due = self.attached.then_some(at + TICK);
            match self.members.iter_mut().find(|m| m.backend.is_same(backend)) {
                Some(member) => {
                    if member.spec.port != spec.port {
                        member.readdress(due);
                    }
                    member.spec = spec;
                    member.backend = backend.clone();
                }
                None => self.members.push(Member::new(backend.clone(), spec, due)),
            }
        }
        drop(snapshot);
        self.look(at);
    }

    pub(super) fn ordered(&mut self, at: u64, id: u8, mode: Mode) {
        let found = self
            .members
            .iter_mut()
            .find(|m| m.present && m.spec.id == id);
        if let Some(member) = found {
            member.mode = mode;
        }
        self.look(at);
    }

    pub(super) fn checks_began(&mut self, at: u64) {
        self.attached = true;
        self.unmeasured = None;
        for member in self.members.iter_mut().filter(|m| m.present) {
            member.next_by = Some(at + TICK);
        }
    }

    pub(super) fn checks_ended(&mut self) {
        self.attached = false;
        for member in &mut self.members {
            member.start_over();
            member.next_by = None;
        }
    }

    /// Nobody is left who would measure anew: what was measured is to be forgotten.
    pub(super) fn checks_left(&mut self, at: u64) {
        self.checks_ended();
        self.unmeasured = Some(at);
    }

    /// Forgets what traffic showed, as a new layer does.
    pub(super) fn traffic_forgotten(&mut self) {
        for member in &mut self.members {
            member.forgive();
            member.refused = None;
        }
    }

    pub(super) fn check_began(&mut self, at: u64, backend: &Backend) -> Option<Ticket> {
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
    pub(super) fn check_ended(&mut self, at: u64, ticket: Ticket, passed: bool) {
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
                Health::Unknown => 1,
                // One that goes up and down is held down for a while.
                _ if member.flaps(at) => u32::MAX,
                _ => rise,
            };
            if member.seen != Health::Healthy && member.passes >= needed {
                member.demanded = Some((at, Health::Healthy));
            }
        } else {
            member.failures += 1;
            member.passes = 0;
            if member.seen != Health::Unhealthy && member.failures >= fall {
                member.demanded = Some((at, Health::Unhealthy));
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
    pub(super) fn check_dropped(&mut self, at: u64, ticket: Ticket) {
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

    /// An attempt reaches a backend: may it?
    pub(super) fn sent(&mut self, at: u64, backend: &Backend, number: usize, plan: &Plan) {
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
        } else if member.seen == Health::Unhealthy {
            wrong = Some((Invariant::A, "it is down"));
        } else if member.ejected {
            // One at a time may try whether it is well again, where it can do no harm.
            let tries = backend.circuit() == Circuit::HalfOpen;
            if !tries || plan.post || member.tried {
                wrong = Some((Invariant::A, "it is ejected"));
            }
            member.tried = true;
        } else if member.seen == Health::Unknown && self.attached {
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
    pub(super) fn asked(&mut self) {
        self.requests += 1;
    }

    /// An attempt is a load on a backend, as it was not refused at once; of its request it is
    /// not the first such: has the budget earned that?
    pub(super) fn cost(&mut self, at: u64, number: usize) {
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
    pub(super) fn answered(
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
    pub(super) fn dropped(&mut self, at: u64, backend: &Backend, number: usize, why: Why) {
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

    fn number_of(&self, backend: &Backend) -> u8 {
        let found = self.members.iter().find(|m| m.backend.is_same(backend));
        found.map_or(u8::MAX, |m| m.spec.id)
    }

    /// A snapshot was published: called in the middle of whatever did it.
    pub(super) fn published(&mut self, at: u64, pool: &Pool) {
        let (usable, held) = {
            let snapshot = pool.snapshot();
            (snapshot.usable(), snapshot.held())
        };
        let before = std::mem::replace(&mut self.usable, usable);
        self.trace.push(at, What::Published { usable, held });
        let mut found = Vec::new();
        // Who is usable, and was ejected until now.
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
                // Invariant F alone entitles an order to that: nobody else serves, and it does.
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
    pub(super) fn look(&mut self, at: u64) {
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
                Health::Healthy => "came up",
                Health::Unhealthy => "went down",
                Health::Unknown => "became unknown",
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
            if from != Health::Unknown {
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
        let anybody = self
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
            if left.is_some() && member.seen != Health::Unknown {
                let what = format!(
                    "{name} is {} still, and nobody checks",
                    member.seen.as_str()
                );
                found.push((Invariant::Recovery, what));
            }
            let serves = match member.seen {
                Health::Healthy => true,
                Health::Unhealthy => false,
                Health::Unknown => !self.attached,
            };
            let orders = member.mode == Mode::Ready && member.spec.weight > 0;
            if member.ejected && orders && serves && !anybody {
                let what = format!("{name} is ejected, and nobody else is left");
                found.push((Invariant::F, what));
            }
            let usable = member.backend.is_usable();
            let may = member.mode == Mode::Ready && member.spec.weight > 0 && !member.ejected;
            if usable && !may {
                let what = format!("{name} is usable against its orders");
                found.push((Invariant::Orders, what));
            }
            if usable && self.attached && member.seen == Health::Unknown {
                let what = format!("{name} is usable before its first check");
                found.push((Invariant::A, what));
            }
            if usable && member.seen == Health::Unhealthy {
                found.push((Invariant::A, format!("{name} is down and usable")));
            }
            let up = member.seen == Health::Healthy;
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

impl Member {
    fn new(backend: Backend, spec: Spec, next_by: Option<u64>) -> Self {
        Self {
            backend,
            spec,
            present: true,
            mode: Mode::Ready,
            seen: Health::Unknown,
            passes: 0,
            failures: 0,
            cancelled: 0,
            epoch: 0,
            readdressed: false,
            moves: Vec::new(),
            demanded: None,
            running: None,
            next_by,
            ejected: false,
            charged: 0,
            tried: false,
            outrun: 0,
            hung_up: 0,
            ejection_demanded: None,
            refused: None,
            suspect: None,
        }
    }

    fn leave(&mut self) {
        self.present = false;
        self.start_over();
        self.next_by = None;
        self.ejection_demanded = None;
    }

    /// What is on its way says nothing any more.
    fn start_over(&mut self) {
        self.epoch += 1;
        self.passes = 0;
        self.failures = 0;
        // It will be dropped, now or soon.
        self.cancelled += u32::from(self.running.is_some());
        self.demanded = None;
        self.running = None;
    }

    fn readdress(&mut self, due: Option<u64>) {
        self.start_over();
        self.readdressed = true;
        self.next_by = due;
    }

    fn forgive(&mut self) {
        self.charged = 0;
        self.outrun = 0;
        self.hung_up = 0;
        self.ejection_demanded = None;
    }

    /// Whether it may be held down for going up and down: four times in two minutes.
    fn flaps(&self, at: u64) -> bool {
        self.moves.iter().filter(|then| at - **then < 120_000).count() >= 4
            // Once it flaps it does until it was up for as long as that.
            || self.moves.len() >= 4
    }

    /// Says which invariant a change breaks for which the books hold no reason.
    fn unaccounted(
        &self,
        to: Health,
        rules: &Settings,
        ordering: bool,
        forgotten: bool,
    ) -> Option<Invariant> {
        let from = self.seen;
        match to {
            Health::Unhealthy if self.failures >= rules.fall => None,
            Health::Unhealthy if self.failures + self.cancelled >= rules.fall => Some(Invariant::C),
            Health::Unhealthy => Some(Invariant::B),
            Health::Unknown if forgotten => None,
            Health::Unknown if from == Health::Healthy && self.readdressed => None,
            Health::Unknown if from == Health::Healthy && ordering => None,
            Health::Unknown => Some(Invariant::A),
            Health::Healthy if ordering => Some(Invariant::A),
            Health::Healthy if self.passes == 0 => Some(Invariant::A),
            Health::Healthy if from == Health::Unknown => None,
            Health::Healthy if self.passes >= rules.rise => None,
            Health::Healthy => Some(Invariant::B),
        }
    }
}

pub(super) fn id_of(id: u8) -> &'static str {
    ["a", "b", "c", "d", "e", "f"][usize::from(id)]
}

/// Timers end at whole milliseconds, rounded up; sums of two may be rounded twice.
const TICK: u64 = 2;
