//! The health state of one backend from check results: rise, fall and flap damping. Pure.
//!
//! | state | a pass | a failure |
//! |---|---|---|
//! | `Unknown` | `Healthy` | `Unhealthy` after `fall` |
//! | `Healthy` | failures := 0 | `Unhealthy` after `fall` in a row |
//! | `Unhealthy` | `Healthy` after `rise` in a row, unless held down | passes := 0 |
//!
//! Invariant B: results are counted in a row. A count that only grows would take a backend out that
//! fails one check in a hundred; the simulation has that fault as a mutation, and its tests must
//! notice it.
//!
//! Flap damping: a backend that changes between up and down four times within two minutes stays
//! down for 5 s after its fall, then 10 s, 20 s, up to 60 s. Passes are counted during that time,
//! so it comes back with the first pass after the hold. Two minutes in service end the
//! damping.
//!
//! All kinds of failures count alike: in Envoy, an answer other than 200 took a backend out at
//! once, whatever the threshold (envoy#7171).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

#[cfg(test)]
use crate::mutation::{self, Mutation};
use crate::pool::HealthStatus;

/// How many results make a state, and how soon to look again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) rise: u32,
    pub(super) fall: u32,
    /// Between checks of a backend whose state is settled.
    pub(super) interval: Duration,
    /// Between checks of one that is about to change.
    pub(super) changing: Duration,
    /// Between checks of one that is down.
    pub(super) down: Duration,
}

/// The state of one backend as active checks see it.
///
/// Counts *consecutive* results: one pass among failures sets the count of failures to zero.
///
/// Each member of the pool has one, in the prober's task; nothing else reads it.
#[derive(Debug)]
pub(super) struct HealthMachine {
    health: HealthStatus,
    passes: u32,
    failures: u32,
    since: Instant,
    /// When it went up or down, within the window.
    ///
    /// A start (`Unknown` to another state) is no move.
    moves: VecDeque<Instant>,
    flapping: bool,
    hold: Duration,
    held_until: Option<Instant>,
}

/// One change of state.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: HealthStatus,
    pub(super) to: HealthStatus,
    /// Consecutive results that led here.
    pub(super) streak: u32,
    /// How long it was in the state before.
    pub(super) was: Duration,
    /// How often it went up or down within 2 min.
    pub(super) flaps: usize,
    /// How long it stays down at least, because it flaps.
    pub(super) hold: Option<Duration>,
}

impl HealthMachine {
    pub(super) fn new(health: HealthStatus, now: Instant) -> Self {
        Self {
            health,
            passes: 0,
            failures: 0,
            since: now,
            moves: VecDeque::new(),
            flapping: false,
            hold: Duration::ZERO,
            held_until: None,
        }
    }

    /// Returns the change, if the pass made one.
    pub(super) fn pass(&mut self, rules: &Rules, now: Instant) -> Option<Change> {
        // A fault that the simulation switches on, and must notice: see `mutation.rs`.
        #[cfg(test)]
        let failures = self.failures;
        self.failures = 0;
        #[cfg(test)]
        if mutation::is(Mutation::FailuresAddUp) {
            self.failures = failures;
        }
        self.passes = self.passes.saturating_add(1);
        match self.health {
            // One pass admits, so that a start does not wait for `rise` checks.
            HealthStatus::Unknown => Some(self.enter(HealthStatus::Healthy, self.passes, now)),
            HealthStatus::Unhealthy if self.passes >= rules.rise && !self.is_held(now) => {
                Some(self.enter(HealthStatus::Healthy, self.passes, now))
            }
            HealthStatus::Healthy | HealthStatus::Unhealthy => None,
        }
    }

    /// An `Unknown` backend also needs `fall` failures: until then it is held, and gets no traffic
    /// either way.
    pub(super) fn fail(&mut self, rules: &Rules, now: Instant) -> Option<Change> {
        self.passes = 0;
        self.failures = self.failures.saturating_add(1);
        let down = self.health == HealthStatus::Unhealthy;
        (!down && self.failures >= rules.fall)
            .then(|| self.enter(HealthStatus::Unhealthy, self.failures, now))
    }

    /// Whether one more failure takes it down.
    pub(super) fn would_fall(&self, rules: &Rules) -> bool {
        self.health == HealthStatus::Healthy && self.failures.saturating_add(1) >= rules.fall
    }

    /// Counts a failure that is not to take it down, or not yet.
    ///
    /// For a shared failure: the count goes on, so that [`settle`](Self::settle) can take the
    /// backend out at once when the failure turns out not to be shared.
    pub(super) fn fail_and_stay(&mut self) {
        self.passes = 0;
        self.failures = self.failures.saturating_add(1);
    }

    /// Takes it down if it failed often enough: what held it is gone.
    pub(super) fn settle(&mut self, rules: &Rules, now: Instant) -> Option<Change> {
        (self.health == HealthStatus::Healthy && self.failures >= rules.fall)
            .then(|| self.enter(HealthStatus::Unhealthy, self.failures, now))
    }

    pub(super) fn health(&self) -> HealthStatus {
        self.health
    }

    /// Returns how often it went up or down within 2 min.
    pub(super) fn flaps(&mut self, now: Instant) -> usize {
        self.forget_old_moves(now);
        self.moves.len()
    }

    pub(super) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// The backend has another address: what was measured good says nothing about it, what was
    /// measured bad still has to be disproved (invariant A). Returns true if it is unknown now.
    pub(super) fn readdress(&mut self, now: Instant) -> bool {
        self.passes = 0;
        self.failures = 0;
        let forget = self.health == HealthStatus::Healthy;
        if forget {
            self.health = HealthStatus::Unknown;
            self.since = now;
        }
        forget
    }

    /// Returns the time from the start of one check to that of the next.
    ///
    /// The shorter interval applies while results disagree with the state, so that a change needs
    /// (`rise` or `fall`) − 1 short intervals and not long ones.
    pub(super) fn interval(&self, rules: &Rules) -> Duration {
        match self.health {
            _ if !self.is_settled() => rules.changing,
            HealthStatus::Unhealthy => rules.down,
            HealthStatus::Healthy | HealthStatus::Unknown => rules.interval,
        }
    }

    /// Whether the last results agree with the state.
    pub(super) fn is_settled(&self) -> bool {
        match self.health {
            HealthStatus::Healthy => self.failures == 0,
            HealthStatus::Unhealthy => self.passes == 0,
            HealthStatus::Unknown => false,
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    fn enter(&mut self, to: HealthStatus, streak: u32, now: Instant) -> Change {
        let from = std::mem::replace(&mut self.health, to);
        let was = now.saturating_duration_since(self.since);
        self.since = now;
        // It was well for as long as the window: what came before no longer counts.
        if from == HealthStatus::Healthy && was >= FLAP_WINDOW {
            self.flapping = false;
            self.hold = Duration::ZERO;
        }
        // A start is no sign of trouble.
        if from != HealthStatus::Unknown {
            self.moves.push_back(now);
        }
        self.forget_old_moves(now);
        self.flapping |= self.moves.len() >= FLAPS;
        // A hold belongs to one fall.
        self.held_until = None;
        let hold = (self.flapping && to == HealthStatus::Unhealthy).then(|| {
            self.hold = (self.hold * 2).clamp(FIRST_HOLD, LAST_HOLD);
            self.held_until = now.checked_add(self.hold);
            self.hold
        });
        Change {
            from,
            to,
            streak,
            was,
            flaps: self.moves.len(),
            hold,
        }
    }

    fn forget_old_moves(&mut self, now: Instant) {
        while let Some(first) = self.moves.front() {
            if now.saturating_duration_since(*first) < FLAP_WINDOW {
                break;
            }
            self.moves.pop_front();
        }
    }
}

/// A backend that goes up and down this often …
pub(super) const FLAPS: usize = 4;
/// … within this time is not well: twice down in two minutes is no chance.
pub(super) const FLAP_WINDOW: Duration = Duration::from_secs(120);
/// About as long as a backend takes to come back anyway; doubles each time it falls again.
const FIRST_HOLD: Duration = Duration::from_secs(5);
/// A backend that got well is never kept out for longer.
pub(super) const LAST_HOLD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        rise: 2,
        fall: 2,
        interval: Duration::from_secs(5),
        changing: Duration::from_secs(1),
        down: Duration::from_secs(7),
    };

    fn step(
        machine: &mut HealthMachine,
        rules: &Rules,
        pass: bool,
        now: Instant,
    ) -> Option<Change> {
        match pass {
            true => machine.pass(rules, now),
            false => machine.fail(rules, now),
        }
    }

    #[test]
    fn results_make_a_state() {
        use HealthStatus::{Healthy, Unhealthy, Unknown};
        // Where it begins, the results (+ pass, - failure), where it ends.
        let table = [
            (Unknown, "+", Healthy),
            (Unknown, "-", Unknown),
            (Unknown, "-+", Healthy),
            (Unknown, "--", Unhealthy),
            (Healthy, "-", Healthy),
            (Healthy, "-+-+-+-", Healthy),
            (Healthy, "--", Unhealthy),
            (Unhealthy, "+", Unhealthy),
            (Unhealthy, "+-+-+", Unhealthy),
            (Unhealthy, "++", Healthy),
            (Healthy, "--+-++", Healthy),
        ];
        for (from, results, to) in table {
            let now = Instant::now();
            let mut machine = HealthMachine::new(from, now);
            for result in results.chars() {
                step(&mut machine, &RULES, result == '+', now);
            }
            assert_eq!(machine.health, to, "{from:?} and {results}");
        }
    }

    #[test]
    fn a_change_says_how_long_and_how_often() {
        let began = Instant::now();
        let mut machine = HealthMachine::new(HealthStatus::Healthy, began);
        let now = began + Duration::from_secs(7);
        machine.fail(&RULES, now);
        let change = machine.fail(&RULES, now).unwrap();
        assert_eq!(change.streak, 2);
        assert_eq!(change.was, Duration::from_secs(7));
        assert_eq!(change.flaps, 1);
        assert_eq!(change.hold, None, "one fall is no flapping");
    }

    #[test]
    fn a_doubtful_backend_is_checked_sooner() {
        let now = Instant::now();
        let mut machine = HealthMachine::new(HealthStatus::Unknown, now);
        assert_eq!(machine.interval(&RULES), RULES.changing, "unknown");
        machine.pass(&RULES, now);
        assert_eq!(machine.interval(&RULES), RULES.interval, "healthy");
        machine.fail(&RULES, now);
        assert_eq!(machine.interval(&RULES), RULES.changing, "one failure");
        machine.fail(&RULES, now);
        assert_eq!(machine.interval(&RULES), RULES.down, "down");
        machine.pass(&RULES, now);
        assert_eq!(machine.interval(&RULES), RULES.changing, "one pass");
    }

    #[test]
    fn a_flapping_backend_is_held_down_longer_each_time() {
        let mut now = Instant::now();
        let mut machine = HealthMachine::new(HealthStatus::Healthy, now);
        let mut holds = Vec::new();
        for _ in 0..7 {
            now += Duration::from_secs(1);
            machine.fail(&RULES, now);
            let change = machine.fail(&RULES, now).unwrap();
            holds.push(change.hold.map_or(0, |hold| hold.as_secs()));
            let down = now;
            while machine.health != HealthStatus::Healthy {
                now += Duration::from_secs(1);
                machine.pass(&RULES, now);
            }
            let kept = now - down;
            assert!(kept >= change.hold.unwrap_or_default(), "held for {kept:?}");
        }
        assert_eq!(holds, [0, 0, 5, 10, 20, 40, 60]);
        now += FLAP_WINDOW;
        machine.fail(&RULES, now);
        let change = machine.fail(&RULES, now).unwrap();
        assert_eq!(change.hold, None, "two calm minutes and it is forgotten");
    }

    #[test]
    fn another_address_never_makes_down_up() {
        let now = Instant::now();
        let mut machine = HealthMachine::new(HealthStatus::Unhealthy, now);
        machine.pass(&RULES, now);
        assert!(!machine.readdress(now));
        assert_eq!(machine.pass(&RULES, now), None, "the count begins at zero");
        assert!(machine.pass(&RULES, now).is_some());
        assert!(machine.readdress(now));
        assert_eq!(machine.health, HealthStatus::Unknown);
    }

    proptest! {
        /// Invariant B, against a model that looks at the last results alone.
        #[test]
        fn only_consecutive_results_count(
            results in prop::collection::vec(any::<bool>(), 0..200),
            rise in 1_u32..5,
            fall in 1_u32..5,
        ) {
            let rules = Rules { rise, fall, ..RULES };
            let mut now = Instant::now();
            let mut machine = HealthMachine::new(HealthStatus::Unknown, now);
            let mut model = HealthStatus::Unknown;
            for (i, &pass) in results.iter().enumerate() {
                // Slow enough that nothing flaps.
                now += FLAP_WINDOW;
                let run = results[..=i].iter().rev().take_while(|r| **r == pass).count();
                let needed = match (pass, model) {
                    (true, HealthStatus::Unknown) => 1,
                    (true, _) => rise,
                    (false, _) => fall,
                };
                if run as u32 >= needed {
                    model = if pass { HealthStatus::Healthy } else { HealthStatus::Unhealthy };
                }
                let change = step(&mut machine, &rules, pass, now);
                prop_assert_eq!(machine.health, model, "after result {}", i);
                if let Some(change) = change {
                    prop_assert_eq!(change.streak as usize, run);
                    prop_assert_ne!(change.from, change.to);
                }
            }
        }
    }
}
