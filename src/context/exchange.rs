//! One shared record a request.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use http::Extensions;
use tokio::time::Instant;

use super::{
    affinity::{Affinity, AffinityState, PickConstraints, StickyVerdict},
    attempt::{Attempt, Attempts, Outcome},
    exchange_record::LentHead,
};
use crate::{error::ErrorKind, pool::Backend};

/// One shared record a request, a request extension: a handle, so that it survives an error, a
/// retry, a dropped future and a foreign time-out layer.
///
/// A retry's and a hedge's attempts stand side by side in one exchange; whoever sends a copy of
/// a request for another purpose gives it a fresh one.
#[derive(Clone)]
pub struct Exchange {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    began: Instant,
    /// Request body bytes read from the client.
    pub(super) received: AtomicU64,
    /// There is an affinity or an attempt: without either, a pick need not look.
    pub(super) has_constraints: AtomicBool,
    /// A copy of the request's head is asked for.
    pub(super) head_wanted: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) affinity: Option<Affinity>,
    pub(super) verdict: Option<StickyVerdict>,
    pub(super) attempts: Attempts,
    pub(super) strategy: Option<&'static str>,
    pub(super) candidates: usize,
    pub(super) failure: Option<ErrorKind>,
    pub(super) lent: Option<Box<LentHead>>,
}

impl Inner {
    fn new(began: Instant) -> Self {
        Self {
            began,
            received: AtomicU64::new(0),
            has_constraints: AtomicBool::new(false),
            head_wanted: AtomicBool::new(false),
            record: Mutex::new(Record::default()),
        }
    }
}

impl Exchange {
    /// Begins a record now.
    #[must_use]
    pub fn new() -> Self {
        Self::began_at(Instant::now())
    }

    /// Begins a record at a moment that the caller has read off the clock already.
    #[must_use]
    pub fn began_at(began: Instant) -> Self {
        Self {
            inner: Arc::new(Inner::new(began)),
        }
    }

    /// Returns the request's record, inserting one where there is none.
    pub fn of(extensions: &mut Extensions) -> Self {
        if let Some(exchange) = extensions.get::<Self>() {
            return exchange.clone();
        }
        let exchange = Self::new();
        extensions.insert(exchange.clone());
        exchange
    }

    /// Returns when the first layer that needed the record saw the request.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.inner.began
    }

    /// Returns the backend asked for.
    #[must_use]
    pub fn affinity(&self) -> Option<Affinity> {
        self.record().affinity.clone()
    }

    /// Returns what became of stickiness; `None` without a sticky layer.
    #[must_use]
    pub fn sticky_verdict(&self) -> Option<StickyVerdict> {
        self.record().verdict
    }

    /// Returns which strategy decided, and among how many backends.
    #[must_use]
    pub fn decision(&self) -> Option<(&'static str, usize)> {
        let record = self.record();
        record.strategy.map(|s| (s, record.candidates))
    }

    /// Reads what binds a pick; takes no lock where nothing does.
    pub(crate) fn pick_constraints(&self) -> PickConstraints {
        if !self.inner.has_constraints.load(Relaxed) {
            return PickConstraints::default();
        }
        let record = self.record();
        let attempts = record.attempts.as_slice();
        let affinity = record.affinity.as_ref().map(|affinity| {
            let mut tries = attempts
                .iter()
                .filter(|a| a.backend.is_same(&affinity.backend));
            match tries.next_back() {
                None => AffinityState::Untried(affinity.backend.clone()),
                Some(last) if last.outcome.is_none() => AffinityState::Running,
                Some(_) => AffinityState::Tried,
            }
        });
        PickConstraints {
            affinity,
            tried: attempts.iter().map(|a| a.backend.incarnation()).collect(),
        }
    }

    /// Reads the attempts made so far, in their order.
    pub fn attempts<T>(&self, read: impl FnOnce(&[Attempt]) -> T) -> T {
        read(self.record().attempts.as_slice())
    }

    /// Returns how many attempts were begun; takes no lock where there was none.
    pub(crate) fn attempt_count(&self) -> usize {
        match self.inner.has_constraints.load(Relaxed) {
            true => self.attempts(<[_]>::len),
            false => 0,
        }
    }

    /// Reads what a log line and a cookie need to know of the end, under one lock.
    pub(crate) fn summary<T>(&self, read: impl FnOnce(ExchangeSummary<'_>) -> T) -> T {
        let record = self.record();
        read(ExchangeSummary {
            attempts: record.attempts.as_slice(),
            decision: record.strategy.map(|s| (s, record.candidates)),
            verdict: record.verdict,
            failure: record.failure,
            affinity: record.affinity.as_ref().map(|affinity| &affinity.backend),
        })
    }

    /// Returns true if an attempt at this backend was begun.
    #[must_use]
    pub fn has_tried(&self, backend: &Backend) -> bool {
        self.attempts(|all| all.iter().any(|a| a.backend.is_same(backend)))
    }

    /// Returns how the last attempt at this backend ended; `None` while it runs, and where there
    /// was none.
    #[must_use]
    pub fn last_outcome_at(&self, backend: &Backend) -> Option<Outcome> {
        self.attempts(|all| {
            let mut there = all.iter().rev().filter(|a| a.backend.is_same(backend));
            there.next().and_then(|attempt| attempt.outcome)
        })
    }

    /// Returns the backend of the last attempt.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.attempts(|all| all.last().map(|a| a.backend.clone()))
    }

    /// Returns the backend whose answer the client gets: that of the last attempt that did not
    /// fail and was not given up. While two run side by side, nobody can know; once the response
    /// head is out, the loser has ended.
    #[must_use]
    pub fn answered_by(&self) -> Option<Backend> {
        self.attempts(|all| answer(all).map(|a| a.backend.clone()))
    }

    /// Returns why the request failed.
    #[must_use]
    pub fn failure(&self) -> Option<ErrorKind> {
        self.record().failure
    }

    /// Returns the request body bytes read from the client so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.inner.received.load(Relaxed)
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.inner
            .record
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.record();
        f.debug_struct("Exchange")
            .field("affinity", &record.affinity)
            .field("verdict", &record.verdict)
            .field("attempts", &record.attempts.as_slice())
            .field("failure", &record.failure)
            .finish_non_exhaustive()
    }
}

/// What became of a request; see [`Exchange::summary`].
pub(crate) struct ExchangeSummary<'a> {
    pub(crate) attempts: &'a [Attempt],
    pub(crate) decision: Option<(&'static str, usize)>,
    pub(crate) verdict: Option<StickyVerdict>,
    pub(crate) failure: Option<ErrorKind>,
    pub(crate) affinity: Option<&'a Backend>,
}

impl<'a> ExchangeSummary<'a> {
    /// As [`Exchange::answered_by`].
    pub(crate) fn answered_by(&self) -> Option<&'a Backend> {
        answer(self.attempts).map(|attempt| &attempt.backend)
    }
}

/// Finds the attempt whose answer the client gets.
fn answer(attempts: &[Attempt]) -> Option<&Attempt> {
    let answers = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
    attempts.iter().rev().find(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(id: &str) -> Backend {
        Backend::new(id, "http://127.0.0.1:1").unwrap()
    }

    #[test]
    fn attempts_stand_side_by_side() {
        let exchange = Exchange::new();
        let (a, b) = (backend("a"), backend("b"));
        let first = exchange.begin_attempt(a.clone());
        let second = exchange.begin_attempt(b.clone());
        let third = exchange.begin_attempt(a.clone());
        exchange.end_attempt(second, Outcome::Ok);
        exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
        exchange.end_attempt(first, Outcome::Ok);
        assert_eq!((first, second, third), (0, 1, 2));
        assert!(exchange.has_tried(&a) && exchange.has_tried(&b));
        assert!(!exchange.has_tried(&backend("a")), "identity, not name");
        exchange.attempts(|all| {
            assert_eq!(all[0].outcome, Some(Outcome::Failed(ErrorKind::Connect)));
            assert_eq!(all[1].outcome, Some(Outcome::Ok));
            assert!(all[2].outcome.is_none());
        });
    }

    #[test]
    fn an_answer_is_of_an_attempt_that_did_not_fail() {
        let exchange = Exchange::new();
        assert!(exchange.answered_by().is_none(), "nobody was asked");
        let a = exchange.begin_attempt(backend("a"));
        exchange.end_attempt(a, Outcome::Failed(ErrorKind::Connect));
        assert!(exchange.answered_by().is_none(), "a failure is no answer");
        let b = exchange.record_pick("test", 2, None, backend("b"));
        let c = exchange.begin_attempt(backend("c"));
        exchange.end_attempt(c, Outcome::Cancelled);
        let answered = |e: &Exchange| e.answered_by().map(|b| b.id().to_owned());
        assert_eq!(
            answered(&exchange).as_deref(),
            Some("b"),
            "the loser is not"
        );
        exchange.end_attempt(b, Outcome::Ok);
        assert_eq!(answered(&exchange).as_deref(), Some("b"));
    }

    #[test]
    fn of_two_side_by_side_the_winner_answered() {
        // How the first ends, how the one begun later does, and who answered.
        for (first, later, answered) in [
            (Some(Outcome::Hedged), None, "b"),
            (Some(Outcome::Hedged), Some(Outcome::Ok), "b"),
            (None, Some(Outcome::Cancelled), "a"),
            (Some(Outcome::Ok), Some(Outcome::Cancelled), "a"),
            (Some(Outcome::Discarded), None, "b"),
        ] {
            let exchange = Exchange::new();
            let (a, b) = (backend("a"), backend("b"));
            exchange.begin_attempt(a.clone());
            exchange.begin_attempt(b.clone());
            for (number, outcome) in [(1, later), (0, first)] {
                if let Some(outcome) = outcome {
                    exchange.end_attempt(number, outcome);
                }
            }
            let by = exchange.answered_by();
            assert_eq!(
                by.as_ref().map(Backend::id),
                Some(answered),
                "{first:?}, {later:?}"
            );
            assert_eq!(exchange.last_outcome_at(&a), first);
            assert_eq!(exchange.last_outcome_at(&b), later);
        }
    }

    #[test]
    fn what_is_given_up_stays_so_and_what_was_whole_can_be_discarded() {
        let exchange = Exchange::new();
        let a = exchange.begin_attempt(backend("a"));
        exchange.end_attempt(a, Outcome::Hedged);
        exchange.end_attempt(a, Outcome::Cancelled);
        let b = exchange.begin_attempt(backend("b"));
        exchange.end_attempt(b, Outcome::Ok);
        exchange.end_attempt(b, Outcome::Discarded);
        let c = exchange.begin_attempt(backend("c"));
        exchange.end_attempt(c, Outcome::Failed(ErrorKind::Connect));
        exchange.end_attempt(c, Outcome::Discarded);
        let ends = exchange.attempts(|all| all.iter().map(|a| a.outcome).collect::<Vec<_>>());
        let failed = Outcome::Failed(ErrorKind::Connect);
        assert_eq!(
            ends,
            [Outcome::Hedged, Outcome::Discarded, failed].map(Some)
        );
        assert!(exchange.answered_by().is_none());
    }

    #[test]
    fn a_pick_is_bound_by_the_affinity_and_by_what_was_tried() {
        let exchange = Exchange::new();
        let (a, b) = (backend("a"), backend("b"));
        assert!(
            exchange.pick_constraints().affinity.is_none()
                && exchange.pick_constraints().tried.is_empty()
        );
        exchange.set_affinity(a.clone());
        assert!(
            matches!(exchange.pick_constraints().affinity, Some(AffinityState::Untried(w)) if w.is_same(&a))
        );
        let first = exchange.record_pick("test", 2, Some(StickyVerdict::Valid), a.clone());
        assert!(matches!(
            exchange.pick_constraints().affinity,
            Some(AffinityState::Running)
        ));
        exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
        assert!(matches!(
            exchange.pick_constraints().affinity,
            Some(AffinityState::Tried)
        ));
        exchange.record_pick("test", 1, None, b.clone());
        assert_eq!(
            exchange.pick_constraints().tried,
            [a.incarnation(), b.incarnation()]
        );
        assert_eq!(exchange.sticky_verdict(), Some(StickyVerdict::Valid));
        assert_eq!(exchange.decision(), Some(("test", 1)));
    }

    #[test]
    fn a_head_is_lent_to_who_asks_and_only_then() {
        let (mut head, ()) = http::Request::new(()).into_parts();
        let exchange = Exchange::of(&mut head.extensions);
        head.headers.insert("x-mine", "1".parse().unwrap());
        exchange.lend_head(&head, false);
        assert!(exchange.take_head().is_none(), "nobody asked");
        exchange.want_head();
        exchange.lend_head(&head, true);
        exchange.lend_head(&head, false);
        let lent = exchange.take_head().unwrap();
        assert!(lent.sent, "the first counts");
        assert_eq!(lent.head.headers, head.headers);
        assert!(
            lent.head.extensions.get::<Exchange>().is_some(),
            "the record goes along"
        );
        assert!(exchange.take_head().is_none(), "once");
        exchange.want_head();
        exchange.lend_head(&head, true);
        let weak = Arc::downgrade(&exchange.inner);
        drop((exchange, head, lent));
        assert!(
            weak.upgrade().is_none(),
            "what nobody took keeps nothing alive"
        );
    }

    #[test]
    fn the_record_is_shared_with_whoever_comes_later() {
        let mut extensions = Extensions::new();
        let one = Exchange::of(&mut extensions);
        Exchange::of(&mut extensions).add_received(7);
        assert_eq!(one.received(), 7);
    }
}
