//! What layers write into an [`Exchange`].

use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts;
use tokio::time::Instant;

use super::{Affinity, Exchange, Outcome, StickyVerdict};
use crate::{error::ErrorKind, pool::Backend};

/// A copy of a request's head, made while an attempt runs; see [`Exchange::want_head`].
#[derive(Debug)]
#[non_exhaustive]
pub struct LentHead {
    /// The head, as the attempt had it.
    pub head: Parts,
    /// Whether a byte of the request may have gone out.
    pub sent: bool,
}

/// What layers write: a layer of your own in the place of one of this crate calls these.
impl Exchange {
    /// Asks for a backend: what a sticky cookie names. Written by sticky, read by balance.
    pub fn set_affinity(&self, backend: Backend) {
        self.record().affinity = Some(Affinity { backend });
        self.inner.has_constraints.store(true, Relaxed);
    }

    /// Writes what became of stickiness.
    pub fn set_sticky_verdict(&self, verdict: StickyVerdict) {
        self.record().verdict = Some(verdict);
    }

    /// Notes which strategy decided, among how many.
    pub fn set_decision(&self, strategy: &'static str, candidates: usize) {
        let mut record = self.record();
        record.strategy = Some(strategy);
        record.candidates = candidates;
    }

    /// Begins an attempt and returns its number, to be given to [`end_attempt`](Self::end_attempt).
    pub fn begin_attempt(&self, backend: Backend) -> usize {
        self.inner.has_constraints.store(true, Relaxed);
        self.record().attempts.begin(backend)
    }

    /// Notes a pick as a whole, under one lock: the decision, the verdict where there is one, and
    /// the attempt, whose number it returns.
    pub(crate) fn record_pick(
        &self,
        strategy: &'static str,
        candidates: usize,
        verdict: Option<StickyVerdict>,
        backend: Backend,
    ) -> usize {
        self.inner.has_constraints.store(true, Relaxed);
        let mut record = self.record();
        record.strategy = Some(strategy);
        record.candidates = candidates;
        record.verdict = verdict.or(record.verdict);
        record.attempts.begin(backend)
    }

    /// Ends an attempt; only the first call for it counts, but that [`Outcome::Discarded`]
    /// replaces [`Outcome::Ok`]: what is discarded may have ended already.
    ///
    /// Whoever gives up on an attempt (a hedge won against it, its time is up) ends it here
    /// *before* dropping its future: layers below, whose futures are dropped without a result,
    /// read the verdict with [`last_outcome_at`](Self::last_outcome_at) and charge the backend,
    /// or do not. What is dropped without a word was cancelled from the client's side.
    pub fn end_attempt(&self, number: usize, outcome: Outcome) {
        if let Some(attempt) = self.record().attempts.get_mut(number) {
            let ended = attempt.outcome;
            if ended == Some(Outcome::Ok) && outcome == Outcome::Discarded {
                attempt.outcome = Some(outcome);
            } else if ended.is_none() {
                attempt.outcome = Some(outcome);
                attempt.duration = Some(Instant::now().saturating_duration_since(attempt.began));
            }
        }
    }

    /// Asks whoever holds the request's head for a copy of it, the next time that it is polled:
    /// another attempt begins beside one that runs, or in its place. So no request is copied
    /// ahead for the few that need it.
    pub fn want_head(&self) {
        // One that was lent before and not taken may be of another attempt.
        self.record().lent = None;
        self.inner.head_wanted.store(true, Relaxed);
    }

    /// Lends a copy of the head, if one is asked for. To be called by the service that talks to
    /// the backend, when it has to wait for the response; `sent` tells whether a byte of the
    /// request may have gone out. One load where nobody asks.
    pub fn lend_head(&self, head: &Parts, sent: bool) {
        if !self.inner.head_wanted.load(Relaxed) {
            return;
        }
        let mut head = head.clone();
        // Kept here, the record would keep itself alive.
        head.extensions.remove::<Self>();
        let mut record = self.record();
        if self.inner.head_wanted.swap(false, Relaxed) {
            record.lent = Some(Box::new(LentHead { head, sent }));
        }
    }

    /// Takes the copy that was asked for; `None` where nobody lent one. In either case it is no
    /// longer asked for.
    #[must_use]
    pub fn take_head(&self) -> Option<LentHead> {
        let mut record = self.record();
        self.inner.head_wanted.store(false, Relaxed);
        let mut lent = *record.lent.take()?;
        drop(record);
        lent.head.extensions.insert(self.clone());
        Some(lent)
    }

    /// Notes why the request as a whole failed; the last call counts.
    pub fn fail(&self, kind: ErrorKind) {
        self.record().failure = Some(kind);
    }

    /// Counts request body bytes read from the client.
    pub fn add_received(&self, bytes: u64) {
        self.inner.received.fetch_add(bytes, Relaxed);
    }
}
