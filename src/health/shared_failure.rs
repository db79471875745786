//! Decides whether backends fail alone, or all for the same dependency.
//!
//! A check that tests a dependency fails on every backend when the dependency fails. Taking all
//! backends out would turn a partial failure into a total one. A failure that names a dependency
//! therefore takes no backend out before some of the others were checked again. Pure: results and the
//! time are parameters.
//!
//! ```text
//!           a backend would fall for X       all that answer fail for X
//!    Idle ──────────────────────────▶ Asking ─────────────────────────▶ Shared
//!     ▲                                │  ▲                                │
//!     │                                │  └──── one passes, or fails ──────┘
//!     │  a time-out later              ▼        for another reason
//!     └┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ NotShared (those that fail for X are taken out)
//! ```
//!
//! Only checks that began after the question count: a check that was on its way shows the state
//! before. `NotShared` is remembered for one time-out, so that the backends of one real outage are
//! not asked about one after the other. While another dependency is asked about, a failure that
//! names X is the backend's own.
//!
//! A backend that does not answer has no vote. Otherwise one machine without power would keep a
//! shared failure from being seen, or hold all others in service.
//!
//! The decision needs no majority of the pool but of those that answer; with the default share of
//! 1.0, one pass ends the question at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// The inquiry of one pool. Keys are those of its backends.
#[derive(Debug)]
pub(super) struct Inquiry {
    /// This share of the backends that answer must fail for the same dependency.
    share: f64,
    /// A backend that was checked again and did not answer within this time has no vote.
    answer_timeout: Duration,
    state: State,
}

/// See the diagram above. At most one question is open for a pool.
#[derive(Debug)]
enum State {
    /// Some backends are checked again.
    Asking {
        ballot: Ballot,
        /// Those that were asked and have not answered.
        waiting: HashSet<u64>,
        until: Instant,
    },
    Idle,
    /// Others passed: until then, a failure for this dependency takes a backend out.
    NotShared {
        dependency: Arc<str>,
        until: Instant,
    },
    /// The backends that fail keep serving.
    Shared {
        ballot: Ballot,
    },
}

/// The results of the checks that began since the inquiry did.
#[derive(Debug)]
struct Ballot {
    dependency: Arc<str>,
    since: Instant,
    /// Whether each fails for the dependency.
    votes: HashMap<u64, bool>,
    fail: usize,
}

/// What happens to a backend that is about to be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Its own failure: it is taken out.
    Own,
    /// The failure is shared: it stays.
    Shared,
    /// Others are checked first.
    Wait,
}

/// How an inquiry ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Conclusion {
    /// All backends that answer fail for the dependency: they keep serving.
    Shared(Arc<str>),
    /// One passed: the backends that serve are checked again.
    Ended(Arc<str>),
    /// Others passed: these backends are taken out.
    NotShared(Arc<str>, Vec<u64>),
}

/// What a result says of a dependency.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vote<'a> {
    /// The backend did not answer, or fails for a reason of its own.
    Abstains,
    Fails(&'a Arc<str>),
    Passes,
}

impl Inquiry {
    pub(super) fn new(share: f64, answer_timeout: Duration) -> Self {
        Self {
            share,
            answer_timeout,
            state: State::Idle,
        }
    }

    /// A backend that is up would fall because of a dependency. `others` are those that are up
    /// besides; the backends to check again are put into `ask`.
    pub(super) fn judge(
        &mut self,
        key: u64,
        dependency: &Arc<str>,
        now: Instant,
        others: impl Iterator<Item = u64>,
        ask: &mut Vec<u64>,
    ) -> Decision {
        match &self.state {
            State::Shared { ballot } if ballot.dependency == *dependency => Decision::Shared,
            State::Asking { ballot, .. } if ballot.dependency == *dependency => Decision::Wait,
            State::NotShared {
                dependency: known,
                until,
            } if known == dependency && now < *until => Decision::Own,
            // Another name than the others give: the reasons differ.
            State::Shared { .. } | State::Asking { .. } => Decision::Own,
            State::Idle | State::NotShared { .. } => {
                let mut ballot = Ballot::new(dependency.clone(), now);
                // The backend that raises the question votes as well.
                ballot.cast(key, true);
                self.ask(ballot, now, others, ask);
                Decision::Wait
            }
        }
    }

    /// Counts a result; `began` is when its check did. `others` are the backends that are
    /// up, to be checked again if needed.
    pub(super) fn vote(
        &mut self,
        key: u64,
        vote: Vote<'_>,
        began: Instant,
        now: Instant,
        others: impl Iterator<Item = u64>,
        ask: &mut Vec<u64>,
    ) -> Option<Conclusion> {
        let share = self.share;
        match &mut self.state {
            State::Idle | State::NotShared { .. } => None,
            State::Asking {
                ballot, waiting, ..
            } => {
                // A check that began earlier shows the state before.
                if began >= ballot.since {
                    waiting.remove(&key);
                    ballot.count(key, vote);
                }
                self.conclude(now)
            }
            State::Shared { ballot } => {
                if began >= ballot.since {
                    ballot.count(key, vote);
                }
                if ballot.is_shared(share) {
                    return None;
                }
                // The last results of the others are older: those may have recovered, too.
                let dependency = ballot.dependency.clone();
                let mut ballot = Ballot::new(dependency.clone(), now);
                ballot.count(key, vote);
                self.ask(ballot, now, others, ask);
                Some(Conclusion::Ended(dependency))
            }
        }
    }

    /// A backend left, or fell for another reason.
    pub(super) fn forget(&mut self, key: u64) {
        match &mut self.state {
            State::Asking {
                ballot, waiting, ..
            } => {
                waiting.remove(&key);
                ballot.withdraw(key);
            }
            State::Shared { ballot } => ballot.withdraw(key),
            State::Idle | State::NotShared { .. } => {}
        }
    }

    /// Ends an inquiry that is complete, or whose time is over.
    pub(super) fn conclude(&mut self, now: Instant) -> Option<Conclusion> {
        let State::Asking {
            ballot,
            waiting,
            until,
        } = &mut self.state
        else {
            return None;
        };
        // Where every vote counts, one against it is the end.
        let lost = self.share >= 1.0 && ballot.fail < ballot.votes.len();
        if !waiting.is_empty() && now < *until && !lost {
            return None;
        }
        let dependency = ballot.dependency.clone();
        if ballot.is_shared(self.share) {
            let ballot = std::mem::replace(ballot, Ballot::new(dependency.clone(), now));
            self.state = State::Shared { ballot };
            return Some(Conclusion::Shared(dependency));
        }
        let failing = ballot.votes.iter().filter(|(_, fails)| **fails);
        // In a fixed order: the map's order differs from run to run.
        let mut failing: Vec<_> = failing.map(|(key, _)| *key).collect();
        failing.sort_unstable();
        self.state = State::NotShared {
            dependency: dependency.clone(),
            until: now + self.answer_timeout,
        };
        Some(Conclusion::NotShared(dependency, failing))
    }

    /// Returns when [`conclude`](Self::conclude) must be called at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.state {
            State::Asking { until, .. } => Some(*until),
            State::Idle | State::NotShared { .. } | State::Shared { .. } => None,
        }
    }

    /// `ask` receives the backends to check again.
    fn ask(
        &mut self,
        ballot: Ballot,
        now: Instant,
        others: impl Iterator<Item = u64>,
        ask: &mut Vec<u64>,
    ) {
        let asked = sample(others, SAMPLE);
        ask.extend_from_slice(&asked);
        self.state = State::Asking {
            ballot,
            waiting: asked.into_iter().collect(),
            until: now + self.answer_timeout,
        };
    }
}

impl Ballot {
    fn new(dependency: Arc<str>, since: Instant) -> Self {
        Self {
            dependency,
            since,
            votes: HashMap::new(),
            fail: 0,
        }
    }

    /// A backend that abstains loses the vote that it had.
    fn count(&mut self, key: u64, vote: Vote<'_>) {
        match vote {
            Vote::Abstains => self.withdraw(key),
            Vote::Passes => self.cast(key, false),
            Vote::Fails(dependency) => self.cast(key, *dependency == self.dependency),
        }
    }

    fn cast(&mut self, key: u64, fails: bool) {
        self.withdraw(key);
        self.votes.insert(key, fails);
        self.fail += usize::from(fails);
    }

    fn withdraw(&mut self, key: u64) {
        if self.votes.remove(&key) == Some(true) {
            self.fail -= 1;
        }
    }

    /// At least one backend must fail: an empty ballot is no shared failure.
    fn is_shared(&self, share: f64) -> bool {
        self.fail > 0 && self.fail as f64 >= share * self.votes.len() as f64
    }
}

/// Takes up to `most` of them, each as likely as any other.
///
/// Reservoir sampling: one pass, no copy of the list.
fn sample(all: impl Iterator<Item = u64>, most: usize) -> Vec<u64> {
    let mut taken = Vec::with_capacity(most);
    for (seen, key) in all.enumerate() {
        if taken.len() < most {
            taken.push(key);
        } else {
            let place = fastrand::usize(..=seen);
            if place < most {
                taken[place] = key;
            }
        }
    }
    taken
}

/// If a tenth of a large pool does well, 32 of it miss that once in thirty; and asking them costs
/// no more than a small pool's interval does.
pub(super) const SAMPLE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

    struct Table {
        inquiry: Inquiry,
        now: Instant,
        up: Vec<u64>,
    }

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    impl Table {
        fn new(share: f64, up: u64) -> Self {
            Self {
                inquiry: Inquiry::new(share, ANSWER_TIMEOUT),
                now: Instant::now(),
                up: (0..up).collect(),
            }
        }

        fn judge(&mut self, key: u64, dependency: &str) -> (Decision, Vec<u64>) {
            let mut ask = Vec::new();
            let others = self.up.iter().copied().filter(move |k| *k != key);
            let decision = self
                .inquiry
                .judge(key, &name(dependency), self.now, others, &mut ask);
            (decision, ask)
        }

        fn vote(&mut self, key: u64, vote: Vote<'_>) -> Option<Conclusion> {
            self.now += Duration::from_millis(1);
            let others = self.up.iter().copied();
            let mut ask = Vec::new();
            self.inquiry
                .vote(key, vote, self.now, self.now, others, &mut ask)
        }
    }

    #[test]
    fn a_failure_that_all_share_keeps_all_in_service() {
        let (pg, mut table) = (name("pg"), Table::new(1.0, 3));
        let (decision, mut asked) = table.judge(0, "pg");
        asked.sort_unstable();
        assert_eq!((decision, asked), (Decision::Wait, vec![1, 2]));
        assert_eq!(table.vote(1, Vote::Fails(&pg)), None);
        assert_eq!(table.judge(1, "pg").0, Decision::Wait);
        let conclusion = table.vote(2, Vote::Fails(&pg));
        assert_eq!(conclusion, Some(Conclusion::Shared(pg.clone())));
        for key in 0..3 {
            assert_eq!(table.judge(key, "pg").0, Decision::Shared);
        }
        assert_eq!(table.judge(0, "redis").0, Decision::Own, "another reason");
        assert_eq!(table.vote(0, Vote::Fails(&pg)), None);
        // One is well again: the others are asked before they fall for what was.
        assert_eq!(
            table.vote(1, Vote::Passes),
            Some(Conclusion::Ended(pg.clone()))
        );
        assert_eq!(table.judge(0, "pg").0, Decision::Wait);
        let conclusion = table.inquiry.conclude(table.now);
        assert_eq!(
            conclusion,
            Some(Conclusion::NotShared(pg, vec![])),
            "no backend failed since"
        );
        assert_eq!(table.judge(0, "pg").0, Decision::Own);
    }

    #[test]
    fn one_pass_shows_that_the_failure_is_not_shared() {
        let (pg, mut table) = (name("pg"), Table::new(1.0, 10));
        assert_eq!(table.judge(0, "pg").0, Decision::Wait);
        assert_eq!(
            table.vote(5, Vote::Passes),
            Some(Conclusion::NotShared(pg, vec![0]))
        );
        assert_eq!(table.judge(0, "pg").0, Decision::Own);
        // It is good for a while, and then others are asked again.
        table.now += ANSWER_TIMEOUT;
        assert_eq!(table.judge(1, "pg").0, Decision::Wait);
    }

    #[test]
    fn a_share_leaves_room_for_some_that_do_well() {
        let (pg, mut table) = (name("pg"), Table::new(0.7, 5));
        assert_eq!(table.judge(0, "pg").0, Decision::Wait);
        for key in 1..4 {
            assert_eq!(table.vote(key, Vote::Fails(&pg)), None);
        }
        let conclusion = table.vote(4, Vote::Passes);
        assert_eq!(
            conclusion,
            Some(Conclusion::Shared(pg.clone())),
            "four of five"
        );
        assert_eq!(
            table.vote(3, Vote::Passes),
            Some(Conclusion::Ended(pg)),
            "three"
        );
    }

    #[test]
    fn a_missing_answer_is_no_vote_and_delays_the_decision_by_one_timeout() {
        let (pg, mut table) = (name("pg"), Table::new(1.0, 4));
        table.judge(0, "pg");
        assert_eq!(table.vote(1, Vote::Fails(&pg)), None);
        assert_eq!(table.vote(2, Vote::Abstains), None);
        assert_eq!(table.inquiry.conclude(table.now), None);
        let due = table.inquiry.due().unwrap();
        assert_eq!(
            table.inquiry.conclude(due),
            Some(Conclusion::Shared(pg)),
            "3 hangs"
        );
        assert_eq!(table.inquiry.due(), None);
    }

    #[test]
    fn a_result_from_before_says_nothing() {
        let (pg, mut table) = (name("pg"), Table::new(1.0, 2));
        let before = table.now;
        table.now += Duration::from_secs(1);
        table.judge(0, "pg");
        let none = std::iter::empty();
        let conclusion =
            table
                .inquiry
                .vote(1, Vote::Passes, before, table.now, none, &mut Vec::new());
        assert_eq!(conclusion, None, "its check began before");
        assert_eq!(
            table.vote(1, Vote::Fails(&pg)),
            Some(Conclusion::Shared(pg))
        );
    }

    #[test]
    fn the_only_backend_of_a_pool_stays() {
        let mut table = Table::new(1.0, 1);
        assert_eq!(table.judge(0, "pg").0, Decision::Wait);
        let conclusion = table.inquiry.conclude(table.now);
        assert_eq!(
            conclusion,
            Some(Conclusion::Shared(name("pg"))),
            "there is no other backend to check"
        );
    }

    #[test]
    fn the_vote_of_a_removed_backend_is_withdrawn() {
        let (pg, mut table) = (name("pg"), Table::new(0.7, 4));
        table.judge(0, "pg");
        table.vote(1, Vote::Fails(&pg));
        table.vote(2, Vote::Passes);
        table.inquiry.forget(2);
        table.inquiry.forget(3);
        assert_eq!(
            table.inquiry.conclude(table.now),
            Some(Conclusion::Shared(pg))
        );
    }

    #[test]
    fn a_large_pool_is_asked_in_part_and_every_part_alike() {
        let mut times = vec![0; 1_000];
        for _ in 0..1_000 {
            let taken = sample(0..1_000, SAMPLE);
            assert_eq!(taken.len(), SAMPLE);
            taken.iter().for_each(|key| times[*key as usize] += 1);
        }
        // 32 each on average; no place is left out or preferred.
        assert!(times.iter().all(|n| (5..80).contains(n)), "{times:?}");
        assert_eq!(sample(0..3, SAMPLE), [0, 1, 2]);
    }
}
