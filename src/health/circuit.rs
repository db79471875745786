//! The circuit of one backend: closed, open, half open. Pure: each method takes the time.
//!
//! ```text
//!            ejected                 time over, or checks pass
//!  Closed ──────────────▶ Open ──────────────────────────────▶ HalfOpen
//!    ▲                     ▲ │ checks that had failed pass         │ │
//!    │                     │ │                                     │ │
//!    ├─────────────────────┼─┘            a trial failed           │ │
//!    │                     └───────────────────────────────────────┘ │
//!    └───────────────────────────────────────────────────────────────┘
//!                     a trial or checks passed, or time over
//! ```
//!
//! The pool holds the value that picks read ([`pool::Circuit`](crate::pool::Circuit)), because a
//! trial that ends on the request path changes it at once, and because several health layers share
//! it. This machine [follows](CircuitMachine::follow) that value, and decides when the next step is
//! due; the prober takes the step.
//!
//! # Which way back
//!
//! | | how the backend leaves `Open` |
//! |---|---|
//! | its time is over | a trial |
//! | `rise` checks passed, none failed since the ejection | a trial: checks do not see what requests saw |
//! | `rise` checks passed, one failed before | readmitted at once: checks see what requests saw, and it is gone |
//! | a trial failed before | only its time: checks that pass while requests fail test something else |
//!
//! `since` decides which checks count: one that began before the ejection shows an earlier state
//! (the result of a check that hung in the meantime must not readmit anything).
//!
//! Why a trial, and not all traffic at once: a backend that still fails would fail many requests
//! before it is ejected again, each time that an ejection ends. Envoy readmits a backend when its
//! time is over; here one request at a time decides.

use std::time::Duration;

use tokio::time::Instant;

use crate::pool::Circuit;

/// The circuit of one backend, and what decides its next step.
#[derive(Debug, Default)]
pub(super) struct CircuitMachine(State);

#[derive(Debug, Default)]
enum State {
    /// In service.
    #[default]
    Closed,
    /// Out of service.
    Open(OpenPeriod),
    /// Out of service, but for one request at a time.
    HalfOpen(OpenPeriod),
}

/// A time out of service, with its trial.
///
/// It is kept over the change to `HalfOpen`: the checks before and in a trial count together.
#[derive(Clone, Copy, Debug)]
struct OpenPeriod {
    since: Instant,
    /// The end of the ejection; of a trial, while the circuit is half open.
    until: Instant,
    /// Passes in a row, of checks that began after `since`.
    passes: u32,
    /// One of those checks failed: checks see what live traffic saw.
    checks_failed: bool,
    /// Checks that pass may begin a trial before `until`.
    checks_may_begin_trial: bool,
}

/// What [`CircuitMachine::follow`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    Unchanged,
    /// Live traffic ejected the backend, or a trial failed; the ejection lasts this long.
    Ejected(Duration),
    /// Another layer began a trial.
    TrialBegan,
    /// A trial that passed, another layer or the pool readmitted the backend.
    Readmitted,
}

/// A step that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    BeginTrial,
    Readmit,
}

impl CircuitMachine {
    /// Follows the circuit that the pool shows. `lasts` counts an ejection and returns its length;
    /// `trial` is that of a trial.
    ///
    /// Call it whenever the pool may have changed the circuit. It takes no step itself, so it can
    /// be called any number of times.
    pub(super) fn follow(
        &mut self,
        shown: Circuit,
        trial: Duration,
        lasts: impl FnOnce() -> Duration,
        now: Instant,
    ) -> Followed {
        match (&mut self.0, shown) {
            (State::Closed, Circuit::Closed)
            | (State::Open(_), Circuit::Open)
            | (State::HalfOpen(_), Circuit::HalfOpen) => return Followed::Unchanged,
            (State::Open(_) | State::HalfOpen(_), Circuit::Closed) => {
                self.0 = State::Closed;
                return Followed::Readmitted;
            }
            (State::Open(_), Circuit::HalfOpen) => {
                self.trial_began(trial, now);
                return Followed::TrialBegan;
            }
            (State::Closed, Circuit::Open | Circuit::HalfOpen)
            | (State::HalfOpen(_), Circuit::Open) => {}
        }
        let lasts = lasts();
        let period = OpenPeriod {
            since: now,
            until: now + lasts,
            passes: 0,
            checks_failed: false,
            // Checks that pass while requests fail do not test what requests need: after a trial
            // that failed, they begin no other before the ejection is over.
            checks_may_begin_trial: !matches!(self.0, State::HalfOpen(_)),
        };
        self.0 = match shown {
            Circuit::HalfOpen => State::HalfOpen(period),
            Circuit::Closed | Circuit::Open => State::Open(period),
        };
        Followed::Ejected(lasts)
    }

    /// Returns the step that time makes due. `has_trial`: the request of a trial is in flight, and
    /// what it shows says more than the time that passed.
    ///
    /// Call it at [`due`](Self::due) or later. A trial without a request ends in a readmission:
    /// where no request comes by, nothing shows that the backend fails, and nothing would ever show
    /// that it does not.
    pub(super) fn advance(&mut self, has_trial: bool, now: Instant) -> Option<Step> {
        match &mut self.0 {
            State::Open(period) if period.until <= now => Some(Step::BeginTrial),
            State::HalfOpen(period) if period.until <= now => {
                if has_trial {
                    // The request may run for as long as the proxy lets it.
                    period.until = now + TRIAL_POLL;
                    return None;
                }
                Some(Step::Readmit)
            }
            State::Closed | State::Open(_) | State::HalfOpen(_) => None,
        }
    }

    /// Counts a check that began at `began`; returns the step that it makes due. If checks failed
    /// as requests did, `rise` passes readmit the backend; if no check failed, they only begin a
    /// trial.
    ///
    /// Checks during a trial count as well: `rise` of them readmit a backend whose checks had
    /// failed.
    pub(super) fn count_check(&mut self, pass: bool, rise: u32, began: Instant) -> Option<Step> {
        let (period, is_open) = match &mut self.0 {
            State::Closed => return None,
            State::Open(period) => (period, true),
            State::HalfOpen(period) => (period, false),
        };
        // It shows the time before the ejection.
        if began < period.since {
            return None;
        }
        if !pass {
            period.passes = 0;
            // Remembered until the circuit closes, over any number of passes.
            period.checks_failed = true;
            return None;
        }
        period.passes += 1;
        if period.passes < rise {
            return None;
        }
        if period.checks_failed {
            return Some(Step::Readmit);
        }
        (is_open && period.checks_may_begin_trial).then_some(Step::BeginTrial)
    }

    /// An open circuit is half open from now on, for the time of a trial.
    pub(super) fn trial_began(&mut self, trial: Duration, now: Instant) {
        if let State::Open(period) = self.0 {
            let until = now + trial;
            self.0 = State::HalfOpen(OpenPeriod { until, ..period });
        }
    }

    /// Closes the circuit; returns false if it was closed.
    pub(super) fn close(&mut self) -> bool {
        !matches!(std::mem::take(&mut self.0), State::Closed)
    }

    /// Returns when [`advance`](Self::advance) must be called next.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.0 {
            State::Closed => None,
            State::Open(period) | State::HalfOpen(period) => Some(period.until),
        }
    }
}

/// While the request of a trial is in flight, its end is looked for this often.
const TRIAL_POLL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TRIAL: Duration = Duration::from_secs(30);
    const LASTS: Duration = Duration::from_secs(60);

    struct Clock {
        machine: CircuitMachine,
        now: Instant,
    }

    impl Clock {
        fn new() -> Self {
            Self {
                machine: CircuitMachine::default(),
                now: Instant::now(),
            }
        }

        fn follow(&mut self, shown: Circuit) -> Followed {
            self.machine.follow(shown, TRIAL, || LASTS, self.now)
        }

        fn after(&mut self, time: Duration) -> Option<Step> {
            self.now += time;
            self.machine.advance(false, self.now)
        }

        fn checks(&mut self, results: &str) -> Option<Step> {
            let count = |result| self.machine.count_check(result == '+', 2, self.now);
            results.chars().map(count).last().flatten()
        }
    }

    #[test]
    fn time_begins_a_trial_and_then_readmits() {
        let mut circuit = Clock::new();
        assert_eq!(circuit.machine.due(), None);
        assert_eq!(circuit.follow(Circuit::Open), Followed::Ejected(LASTS));
        assert_eq!(circuit.follow(Circuit::Open), Followed::Unchanged);
        assert_eq!(circuit.after(LASTS - SECOND), None);
        assert_eq!(circuit.after(SECOND), Some(Step::BeginTrial));
        circuit.machine.trial_began(TRIAL, circuit.now);
        assert_eq!(circuit.follow(Circuit::HalfOpen), Followed::Unchanged);
        assert_eq!(circuit.after(TRIAL - SECOND), None);
        assert_eq!(circuit.after(SECOND), Some(Step::Readmit));
        assert!(circuit.machine.close());
        assert!(!circuit.machine.close(), "it is closed already");
    }

    #[test]
    fn a_trial_in_flight_is_waited_for() {
        let mut circuit = Clock::new();
        circuit.follow(Circuit::Open);
        circuit.machine.trial_began(TRIAL, circuit.now);
        circuit.now += TRIAL;
        assert_eq!(circuit.machine.advance(true, circuit.now), None);
        assert_eq!(circuit.machine.due(), Some(circuit.now + TRIAL_POLL));
        assert_eq!(circuit.after(TRIAL_POLL), Some(Step::Readmit));
    }

    #[test]
    fn a_failed_trial_is_an_ejection_that_passing_checks_do_not_shorten() {
        let mut circuit = Clock::new();
        circuit.follow(Circuit::Open);
        assert_eq!(circuit.checks("++"), Some(Step::BeginTrial));
        circuit.machine.trial_began(TRIAL, circuit.now);
        assert_eq!(circuit.checks("++"), None, "a trial is under way");
        assert_eq!(circuit.follow(Circuit::Open), Followed::Ejected(LASTS));
        assert_eq!(circuit.checks("++++"), None);
        assert_eq!(circuit.after(LASTS), Some(Step::BeginTrial));
    }

    #[test]
    fn checks_that_failed_as_requests_did_readmit_when_they_pass() {
        for trial in [false, true] {
            let mut circuit = Clock::new();
            circuit.follow(Circuit::Open);
            if trial {
                circuit.machine.trial_began(TRIAL, circuit.now);
            }
            assert_eq!(circuit.checks("-+-+"), None, "not in a row");
            assert_eq!(circuit.checks("+"), Some(Step::Readmit));
        }
    }

    #[test]
    fn a_check_that_began_before_the_ejection_does_not_count() {
        let mut circuit = Clock::new();
        let before = circuit.now;
        circuit.now += SECOND;
        circuit.follow(Circuit::Open);
        for _ in 0..4 {
            assert_eq!(circuit.machine.count_check(true, 2, before), None);
        }
    }

    #[test]
    fn steps_of_other_layers_are_followed() {
        let mut circuit = Clock::new();
        circuit.follow(Circuit::Open);
        assert_eq!(circuit.follow(Circuit::HalfOpen), Followed::TrialBegan);
        assert_eq!(circuit.machine.due(), Some(circuit.now + TRIAL));
        assert_eq!(circuit.follow(Circuit::Closed), Followed::Readmitted);
        assert_eq!(circuit.follow(Circuit::Closed), Followed::Unchanged);
        let found_late = circuit.follow(Circuit::HalfOpen);
        assert_eq!(found_late, Followed::Ejected(LASTS));
        assert_eq!(circuit.after(LASTS), Some(Step::Readmit));
    }
}
