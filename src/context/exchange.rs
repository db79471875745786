//! `Exchange`: the shared record of one request. This file holds what a reader needs; what layers
//! write is in `exchange_record.rs`.
//!
//! What is behind the lock, and what is not:
//!
//! | field | written by | read | how |
//! |---|---|---|---|
//! | `record` | each layer, a few times a request | a few times | mutex; held for a few instructions |
//! | `has_constraints` | the first affinity or attempt | each pick | relaxed flag, so that the first pick takes no lock |
//! | `received` | the body of the request, each frame | the log | relaxed counter |
//! | `head_at`, `ends` | once, or once an attempt | log and metrics | relaxed, so that the clock is read less |
//! | `head_copy_wanted`, `details_wanted` | failover; log, trace | the proxy, each wait; each failure | relaxed flags |
//! | `observer` | trace | each step of an attempt | `OnceLock` |
//!
//! Relaxed suffices for the flags: the lock orders what they are about, and a flag that is seen a
//! moment late costs one poll. The mutex is uncontended but for two attempts on two threads: it
//! belongs to one request. No code of a user runs under it, except the closure of
//! [`Exchange::attempts`] and a sink's `close`, whose docs say so.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use http::Extensions;
use tokio::time::Instant;

use super::{
    affinity::{Affinity, AffinityState, PickConstraints, StickyVerdict},
    attempt::{Attempt, Attempts, Outcome},
    attempt_observer::AttemptObserver,
    exchange_notes::Notes,
    exchange_record::HeadCopy,
};
use crate::{
    error::ErrorKind,
    pool::{Backend, Excluded},
};

/// The shared record of one request: where it should go, which backends were tried, how each
/// attempt ended, and why the request failed.
///
/// It is a request extension, and a handle: a clone shares the record. A layer takes its handle on
/// the way in and reads it on the way out, so the record survives an error, a retry, a dropped
/// future and a time-out layer of another crate. A response extension would survive none of them.
///
/// The attempts of retries and hedges stand side by side in one record. A program that sends a copy
/// of a request for another purpose, such as a mirror, inserts a new `Exchange` into the copy.
///
/// # Example
///
/// A layer that reports which backend answered:
///
/// ```
/// use std::convert::Infallible;
///
/// use evenkeel::{Backend, context::{Exchange, Outcome}};
/// use http::{Request, Response};
/// use tower::{ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Backend::new("a", "http://127.0.0.1:9001")?;
/// // Stands for the layers below, which begin and end the attempts.
/// let below = service_fn(move |mut request: Request<()>| {
///     let exchange = Exchange::of(request.extensions_mut());
///     let attempt = exchange.begin_attempt(backend.clone());
///     exchange.end_attempt(attempt, Outcome::Ok);
///     async { Ok::<_, Infallible>(Response::new(())) }
/// });
///
/// let mut request = Request::new(());
/// let exchange = Exchange::of(request.extensions_mut());
/// below.oneshot(request).await?;
/// assert_eq!(exchange.answered_by().unwrap().id(), "a");
/// assert_eq!(exchange.attempts(|all| all.len()), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Exchange {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    began: Instant,
    /// Request body bytes read from the client.
    pub(super) received: AtomicU64,
    /// There is an affinity or an attempt. While there is neither, a pick takes no lock.
    pub(super) has_constraints: AtomicBool,
    /// A layer has asked for a copy of the request's head.
    pub(super) head_copy_wanted: AtomicBool,
    /// A layer shows the causes of failures.
    pub(super) details_wanted: AtomicBool,
    /// The time of the response's head, in nanoseconds after `began`; 0 until it is known.
    pub(super) head_at: AtomicU64,
    /// Follows the attempts, if a layer traces them.
    pub(super) observer: OnceLock<Arc<dyn AttemptObserver>>,
    /// How many attempts have ended; written under the lock of `record`.
    pub(super) ends: AtomicU32,
    record: Mutex<Record>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) affinity: Option<Affinity>,
    pub(super) verdict: Option<StickyVerdict>,
    pub(super) attempts: Attempts,
    pub(super) strategy: Option<&'static str>,
    pub(super) candidates: usize,
    pub(super) excluded: Excluded,
    pub(super) is_local_reply: bool,
    pub(super) failure: Option<ErrorKind>,
    pub(super) head_copy: Option<Box<HeadCopy>>,
    /// What few requests have.
    pub(super) notes: Option<Box<Notes>>,
}

impl Inner {
    fn new(began: Instant) -> Self {
        Self {
            began,
            received: AtomicU64::new(0),
            has_constraints: AtomicBool::new(false),
            head_copy_wanted: AtomicBool::new(false),
            details_wanted: AtomicBool::new(false),
            head_at: AtomicU64::new(0),
            observer: OnceLock::new(),
            ends: AtomicU32::new(0),
            record: Mutex::new(Record::default()),
        }
    }
}

impl Exchange {
    /// Makes a record that begins now. [`of`](Self::of) is for a request that may have one already.
    #[must_use]
    pub fn new() -> Self {
        Self::began_at(Instant::now())
    }

    /// Makes a record that begins at a time which the caller has read already.
    #[must_use]
    pub fn began_at(began: Instant) -> Self {
        Self {
            inner: Arc::new(Inner::new(began)),
        }
    }

    /// Returns the record of the request. Inserts one, which costs two allocations, if there is none.
    pub fn of(extensions: &mut Extensions) -> Self {
        // The outermost layer has begun it: the request counts from there.
        if let Some(exchange) = extensions.get::<Self>() {
            return exchange.clone();
        }
        let exchange = Self::new();
        extensions.insert(exchange.clone());
        exchange
    }

    /// Returns the time at which the outermost layer that uses the record got the request.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.inner.began
    }

    /// Returns the backend that the sticky cookie names; `None` if no valid cookie came.
    #[must_use]
    pub fn affinity(&self) -> Option<Affinity> {
        self.record().affinity.clone()
    }

    /// Returns what the balancer did with the affinity; `None` if no sticky layer is there.
    #[must_use]
    pub fn sticky_verdict(&self) -> Option<StickyVerdict> {
        self.record().verdict
    }

    /// Returns the name of the strategy that picked the last backend, and the number of backends that
    /// it picked from; `None` before the first pick.
    #[must_use]
    pub fn decision(&self) -> Option<(&'static str, usize)> {
        let record = self.record();
        record.strategy.map(|s| (s, record.candidates))
    }

    /// Returns what restricts the next pick: the affinity, and the backends tried. Takes no lock while
    /// there is neither.
    pub(crate) fn pick_constraints(&self) -> PickConstraints {
        if !self.inner.has_constraints.load(Relaxed) {
            return PickConstraints::default();
        }
        let record = self.record();
        let attempts = record.attempts.as_slice();
        let affinity = record.affinity.as_ref().map(|affinity| {
            // The last attempt at this backend decides: a retry may have gone there a second time.
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
            // Empty for a first attempt with an affinity, and so not allocated.
            tried: attempts.iter().map(|a| a.backend.incarnation()).collect(),
        }
    }

    /// Calls `read` with the attempts made so far, in the order in which they began, and returns its
    /// result. The record is locked meanwhile: `read` must not call the exchange.
    pub fn attempts<T>(&self, read: impl FnOnce(&[Attempt]) -> T) -> T {
        read(self.record().attempts.as_slice())
    }

    /// Returns the number of attempts begun. Takes no lock before the first.
    pub(crate) fn attempt_count(&self) -> usize {
        match self.inner.has_constraints.load(Relaxed) {
            true => self.attempts(<[_]>::len),
            false => 0,
        }
    }

    /// Calls `read` with what a log line and a cookie need of the record, under one lock.
    pub(crate) fn summary<T>(&self, read: impl FnOnce(ExchangeSummary<'_>) -> T) -> T {
        let record = self.record();
        read(ExchangeSummary {
            attempts: record.attempts.as_slice(),
            decision: record.strategy.map(|s| (s, record.candidates)),
            excluded: record.excluded,
            is_local_reply: record.is_local_reply,
            verdict: record.verdict,
            failure: record.failure,
            affinity: record.affinity.as_ref().map(|affinity| &affinity.backend),
            notes: record.notes.as_deref(),
        })
    }

    /// Returns true if an attempt at this backend has begun.
    #[must_use]
    pub fn has_tried(&self, backend: &Backend) -> bool {
        self.attempts(|all| all.iter().any(|a| a.backend.is_same(backend)))
    }

    /// Returns how the last attempt at this backend ended; `None` while it runs, or if there was none.
    #[must_use]
    pub fn last_outcome_at(&self, backend: &Backend) -> Option<Outcome> {
        self.attempts(|all| {
            let mut there = all.iter().rev().filter(|a| a.backend.is_same(backend));
            there.next().and_then(|attempt| attempt.outcome)
        })
    }

    /// Returns the backend of the attempt that began last.
    #[must_use]
    pub fn backend(&self) -> Option<Backend> {
        self.attempts(|all| all.last().map(|a| a.backend.clone()))
    }

    /// Returns the backend whose response the client gets: that of the last attempt that neither
    /// failed nor was given up. The result is certain once the response head is out: while an attempt
    /// and its hedge both run, either may win.
    #[must_use]
    pub fn answered_by(&self) -> Option<Backend> {
        self.attempts(|all| answer(all).map(|a| a.backend.clone()))
    }

    /// Returns the kind of error that the request as a whole failed with; `None` if it did not fail.
    #[must_use]
    pub fn failure(&self) -> Option<ErrorKind> {
        self.record().failure
    }

    /// Returns the number of request body bytes read from the client so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.inner.received.load(Relaxed)
    }

    /// A poisoned lock is taken as it is: a panic in a closure that reads the attempts must not make
    /// each later layer of the request panic.
    #[inline]
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

/// The end of a request, for a log line and a cookie; see [`Exchange::summary`].
///
/// Borrowed from the locked record: it is for one reading, and cannot be kept.
pub(crate) struct ExchangeSummary<'a> {
    pub(crate) attempts: &'a [Attempt],
    pub(crate) decision: Option<(&'static str, usize)>,
    pub(crate) excluded: Excluded,
    pub(crate) is_local_reply: bool,
    pub(crate) verdict: Option<StickyVerdict>,
    pub(crate) failure: Option<ErrorKind>,
    pub(crate) affinity: Option<&'a Backend>,
    pub(crate) notes: Option<&'a Notes>,
}

impl<'a> ExchangeSummary<'a> {
    /// Returns the attempt whose response the client gets.
    pub(crate) fn answer(&self) -> Option<&'a Attempt> {
        answer(self.attempts)
    }

    /// Returns the attempt that ended last, and when it did. That is not the last one begun where a
    /// hedge was not needed.
    pub(crate) fn last_end(&self) -> Option<(&'a Attempt, Instant)> {
        let ended = |attempt: &'a Attempt| Some((attempt, attempt.began + attempt.duration?));
        self.attempts
            .iter()
            .filter_map(ended)
            .max_by_key(|(_, at)| *at)
    }

    /// Returns true if a response is whole: that of a backend, beside which a hedge may have been
    /// cancelled later, or one that was made without the backend.
    pub(crate) fn has_answer(&self) -> bool {
        let is_ok = |attempt: &Attempt| attempt.outcome == Some(Outcome::Ok);
        self.is_local_reply || self.attempts.iter().any(is_ok)
    }

    /// Does what [`Exchange::answered_by`] does.
    pub(crate) fn answered_by(&self) -> Option<&'a Backend> {
        self.answer().map(|attempt| &attempt.backend)
    }
}

/// Returns the attempt whose response the client gets.
fn answer(attempts: &[Attempt]) -> Option<&Attempt> {
    // One that runs has sent its head, if the client has one: its body is on the way.
    let answers = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
    attempts.iter().rev().find(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::PickRecord;

    fn backend(id: &str) -> Backend {
        Backend::new(id, "http://127.0.0.1:1").unwrap()
    }

    fn pick(candidates: usize, verdict: Option<StickyVerdict>, backend: Backend) -> PickRecord {
        PickRecord {
            strategy: "test",
            candidates,
            excluded: Excluded::default(),
            verdict,
            backend,
        }
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
        assert!(exchange.answered_by().is_none(), "no backend was asked");
        let a = exchange.begin_attempt(backend("a"));
        exchange.end_attempt(a, Outcome::Failed(ErrorKind::Connect));
        assert!(exchange.answered_by().is_none(), "a failure is no answer");
        let b = exchange.record_pick(pick(2, None, backend("b")));
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
        // The outcome of the first attempt, that of the later one, and the backend that answered.
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
    fn a_given_up_attempt_stays_so_and_a_whole_response_can_be_discarded() {
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
    fn the_affinity_and_the_backends_tried_constrain_a_pick() {
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
        let first = exchange.record_pick(pick(2, Some(StickyVerdict::Valid), a.clone()));
        assert!(matches!(
            exchange.pick_constraints().affinity,
            Some(AffinityState::Running)
        ));
        exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
        assert!(matches!(
            exchange.pick_constraints().affinity,
            Some(AffinityState::Tried)
        ));
        exchange.record_pick(pick(1, None, b.clone()));
        assert_eq!(
            exchange.pick_constraints().tried,
            [a.incarnation(), b.incarnation()]
        );
        assert_eq!(exchange.sticky_verdict(), Some(StickyVerdict::Valid));
        assert_eq!(exchange.decision(), Some(("test", 1)));
    }

    #[test]
    fn a_head_is_copied_once_a_layer_asks() {
        let (mut head, ()) = http::Request::new(()).into_parts();
        let exchange = Exchange::of(&mut head.extensions);
        head.headers.insert("x-mine", "1".parse().unwrap());
        exchange.offer_head_copy(&head, false);
        assert!(exchange.take_head_copy().is_none(), "no layer asked");
        exchange.ask_for_head_copy();
        exchange.offer_head_copy(&head, true);
        exchange.offer_head_copy(&head, false);
        let copy = exchange.take_head_copy().unwrap();
        assert!(copy.sent, "the first counts");
        assert_eq!(copy.head.headers, head.headers);
        assert!(
            copy.head.extensions.get::<Exchange>().is_some(),
            "the record goes along"
        );
        assert!(exchange.take_head_copy().is_none(), "once");
        exchange.ask_for_head_copy();
        exchange.offer_head_copy(&head, true);
        let weak = Arc::downgrade(&exchange.inner);
        drop((exchange, head, copy));
        assert!(
            weak.upgrade().is_none(),
            "a copy that no layer took keeps nothing alive"
        );
    }

    #[test]
    fn later_handles_share_the_record() {
        let mut extensions = Extensions::new();
        let one = Exchange::of(&mut extensions);
        Exchange::of(&mut extensions).add_received(7);
        assert_eq!(one.received(), 7);
    }
}
