//! The observer: its own books of every check and every attempt, and what follows from them.
//!
//! It shares no code with what it watches. It learns the results of checks and attempts where
//! they are made, the operator's orders where they are given, and then looks at the pool as any
//! user could: is each change that it sees one that its books account for, and has each that
//! they demand been made by the next millisecond?

mod checks;
mod comparison;
mod member;
mod traffic;

use std::collections::BTreeMap;

use super::{
    schedule::{Plan, Settings, Spec},
    trace::{Trace, What},
};
use crate::pool::{Backend, Circuit, HealthStatus, Mode, Pool};

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
    /// When the last checks stopped, if the schedule stopped them.
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
    seen: HealthStatus,
    passes: u32,
    failures: u32,
    /// Cancelled since the last pass.
    cancelled: u32,
    /// Rises with each new address and each new prober: results of the one before are void.
    epoch: u32,
    /// Rises with each new address alone.
    readdressed: bool,
    moves: Vec<u64>,
    demanded: Option<(u64, HealthStatus)>,
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

    /// The last checks stopped: the pool must forget what they measured.
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
}

pub(super) fn id_of(id: u8) -> &'static str {
    ["a", "b", "c", "d", "e", "f"][usize::from(id)]
}

/// Timers end at whole milliseconds, rounded up; sums of two may be rounded twice.
const TICK: u64 = 2;
