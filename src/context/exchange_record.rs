//! The methods by which layers write an [`Exchange`]; readers use those in `exchange.rs`.
//!
//! The copy of a head takes two steps and a flag, because the head is in the hands of the innermost
//! service while the layer that needs it is far above:
//!
//! ```text
//! failover: ask_for_head_copy ─▶ flag ─▶ proxy: offer_head_copy (each time it waits) ─▶ failover: take
//! ```
//!
//! A request that needs no second attempt pays one relaxed load for each wait.

use std::sync::atomic::Ordering::Relaxed;

use super::{Affinity, Exchange, Outcome, StickyVerdict};
use crate::{
    error::ErrorKind,
    pool::{Backend, Excluded},
};
use http::request::Parts;

/// A pick: see [`Exchange::record_pick`].
pub(crate) struct PickRecord {
    pub(crate) strategy: &'static str,
    /// How many backends it was made from.
    pub(crate) candidates: usize,
    /// How many it left out.
    pub(crate) excluded: Excluded,
    pub(crate) verdict: Option<StickyVerdict>,
    pub(crate) backend: Backend,
}

/// A copy of a request's head that was made while an attempt runs; see [`Exchange::ask_for_head_copy`].
///
/// Most requests need one attempt, so the head is copied only if a layer asks:
///
/// ```
/// use evenkeel::context::Exchange;
/// use http::Request;
///
/// let mut request = Request::new(());
/// let exchange = Exchange::of(request.extensions_mut());
/// let (head, ()) = request.into_parts();
/// exchange.offer_head_copy(&head, true);
/// assert!(exchange.take_head_copy().is_none(), "no layer asked");
///
/// exchange.ask_for_head_copy(); // as failover does, when a hedge is due
/// exchange.offer_head_copy(&head, true); // as the proxy does, while it waits
/// let copy = exchange.take_head_copy().unwrap();
/// assert!(copy.sent && copy.head.method == "GET");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct HeadCopy {
    /// The head that the attempt was called with.
    pub head: Parts,
    /// True if a byte of the request may have reached the backend.
    pub sent: bool,
}

/// # Writing
///
/// The layers of this crate call these methods. A layer of your own calls them if it replaces one of
/// those: a balancer begins and ends attempts, a sticky layer sets the affinity.
impl Exchange {
    /// Asks the balancer for this backend, which a sticky cookie names. The balancer picks another if
    /// this one cannot take the request.
    pub fn set_affinity(&self, backend: Backend) {
        // Before the flag: a pick that sees the flag finds the affinity.
        self.record().affinity = Some(Affinity { backend });
        self.inner.has_constraints.store(true, Relaxed);
    }

    /// Records what the balancer did with the affinity.
    pub fn set_sticky_verdict(&self, verdict: StickyVerdict) {
        self.record().verdict = Some(verdict);
    }

    /// Records the name of the strategy that made the pick, and the number of backends that it picked
    /// from.
    pub fn set_decision(&self, strategy: &'static str, candidates: usize) {
        let mut record = self.record();
        record.strategy = Some(strategy);
        record.candidates = candidates;
    }

    /// Begins an attempt at this backend now, and returns the number by which
    /// [`end_attempt`](Self::end_attempt) ends it. Numbers count from 0.
    pub fn begin_attempt(&self, backend: Backend) -> usize {
        self.inner.has_constraints.store(true, Relaxed);
        self.record().attempts.begin(backend)
    }

    /// Records a pick under one lock: the decision, the verdict if there is one, and the attempt, whose
    /// number it returns.
    pub(crate) fn record_pick(&self, pick: PickRecord) -> usize {
        self.inner.has_constraints.store(true, Relaxed);
        let mut record = self.record();
        record.strategy = Some(pick.strategy);
        record.candidates = pick.candidates;
        record.excluded = pick.excluded;
        record.verdict = pick.verdict.or(record.verdict);
        record.attempts.begin(pick.backend)
    }

    /// Ends an attempt now. Later calls for the same attempt change nothing, with one exception:
    /// [`Outcome::Discarded`] replaces [`Outcome::Ok`], since a whole response may still be discarded.
    ///
    /// A layer that gives up an attempt, because a hedge won or its time is up, calls this *before* it
    /// drops the attempt's future. The layers below get no result from a dropped future: they read
    /// [`last_outcome_at`](Self::last_outcome_at) to decide whether the backend is charged. If the
    /// attempt has no outcome by then, they take the drop for the client's.
    pub fn end_attempt(&self, number: usize, outcome: Outcome) {
        if let Some(attempt) = self.record().attempts.get_mut(number) {
            // The first outcome counts: a layer above may have ended the attempt before its drop does.
            let ended = attempt.outcome;
            if ended == Some(Outcome::Ok) && outcome == Outcome::Discarded {
                attempt.outcome = Some(outcome);
                return;
            } else if ended.is_some() {
                return;
            }
            attempt.end(outcome, self.head_after(attempt.began));
            self.count_end();
        }
        // The lock has been released above: the observer is code of another module.
        self.attempt_ended(number);
    }

    /// Ends an attempt as [`Outcome::Ok`] now, at the head of its response, which has no body.
    pub(crate) fn end_attempt_at_head(&self, number: usize) {
        if let Some(attempt) = self.record().attempts.get_mut(number) {
            if attempt.outcome.is_some() {
                return;
            }
            attempt.end_at_head();
            self.count_end();
        }
        self.attempt_ended(number);
    }

    /// Asks the service that holds the request's head for a copy, so that another attempt can begin
    /// beside the one that runs, or in its stead. The service makes the copy when it is polled next;
    /// [`take_head_copy`](Self::take_head_copy) returns it. Requests that need no second attempt are not copied.
    pub fn ask_for_head_copy(&self) {
        // A copy that was made earlier and not taken may belong to another attempt.
        self.record().head_copy = None;
        self.inner.head_copy_wanted.store(true, Relaxed);
    }

    /// Makes a copy of the head if a layer asked for one. The service that talks to the backend calls
    /// this each time that it has to wait for the response; `sent` is true if a byte of the request may
    /// have reached the backend. Costs one relaxed load unless a copy was asked for.
    pub fn offer_head_copy(&self, head: &Parts, sent: bool) {
        if !self.inner.head_copy_wanted.load(Relaxed) {
            return;
        }
        // Outside the lock: a copy of a head allocates.
        let mut head = head.clone();
        // A record that held a handle of itself would never be freed.
        head.extensions.remove::<Self>();
        let mut record = self.record();
        // Asked again under the lock: the layer may have withdrawn, or another attempt may have
        // offered.
        if self.inner.head_copy_wanted.swap(false, Relaxed) {
            record.head_copy = Some(Box::new(HeadCopy { head, sent }));
        }
    }

    /// Takes the copy that [`ask_for_head_copy`](Self::ask_for_head_copy) asked for; `None` if none was made. Withdraws
    /// the request for a copy in either case.
    #[must_use]
    pub fn take_head_copy(&self) -> Option<HeadCopy> {
        let mut record = self.record();
        self.inner.head_copy_wanted.store(false, Relaxed);
        let mut copy = *record.head_copy.take()?;
        drop(record);
        // It was taken out when the copy was made; the next attempt is one of the same record.
        copy.head.extensions.insert(self.clone());
        Some(copy)
    }

    /// Records the kind of error that the request as a whole failed with. A later call replaces it. See
    /// also [`fail_with`](Self::fail_with), which keeps the cause as well.
    pub fn fail(&self, kind: ErrorKind) {
        self.record().failure = Some(kind);
    }

    /// Adds to the number of request body bytes read from the client.
    pub fn add_received(&self, bytes: u64) {
        self.inner.received.fetch_add(bytes, Relaxed);
    }
}
