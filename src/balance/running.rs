//! An attempt under way: its lease, and its entry in the record.
//!
//! The value moves from the future to the body, or into a tunnel, and its drop is the one place where
//! an attempt ends. Each way out first says how (`end`, `fail`, `end_at_head`, `until_dropped`); a
//! drop without that is a cancellation, which is what a client that goes away, a time-out layer and a
//! losing hedge look like from here.
//!
//! The order at the end is fixed: the strategy gets its result, the record gets the outcome, the slot
//! is freed last. A test or a scrape that sees the count at 0 therefore finds all records complete.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{state::BalanceState, strategy::Ended};
#[cfg(any(feature = "proxy", test))]
use crate::context::Selection;
use crate::{
    context::{Attempt, Exchange, Outcome},
    error::Error,
    pool::{Backend, Lease},
};

/// An attempt under way: its lease, and its entry in the exchange. If it is dropped without a call
/// of [`end`](Self::end), the attempt was cancelled.
#[derive(Debug)]
pub(super) struct RunningAttempt {
    // Released after the end is recorded, so that a reader of the count finds the record complete.
    lease: Lease,
    exchange: Exchange,
    number: usize,
    outcome: Outcome,
    /// The response has no body: the attempt ends with its head.
    at_head: bool,
    /// Set until the response head, if the strategy wants the results of attempts.
    observer: Option<Arc<BalanceState>>,
}

impl RunningAttempt {
    pub(super) fn new(
        lease: Lease,
        exchange: Exchange,
        number: usize,
        observer: Option<Arc<BalanceState>>,
    ) -> Self {
        Self {
            lease,
            exchange,
            number,
            outcome: Outcome::Cancelled,
            at_head: false,
            observer,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        self.lease.backend()
    }

    /// The pick as the built-in stack passes it on: borrowed, so that nothing is counted or boxed.
    #[cfg(any(feature = "proxy", test))]
    pub(super) fn selection(&self) -> Selection<'_> {
        Selection {
            backend: self.backend(),
            exchange: &self.exchange,
            number: self.number,
        }
    }

    /// Announces the attempt to the record's observer, which may change the headers for the backend.
    #[inline]
    pub(super) fn announce(&self, headers: &mut HeaderMap) {
        self.exchange
            .attempt_begun(self.number, self.backend(), headers);
    }

    /// Records the status of the response, and reports it to the strategy.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.exchange.attempt_answered(self.number, status);
        self.report(Ended::Answered(status));
    }

    /// Reports the result to the strategy; only the first call counts.
    ///
    /// An attempt that failover gave up is dropped like one of a client that went away. Failover
    /// enters its verdict in the record before it drops the future (`Exchange::end_attempt`), and that
    /// verdict counts: a backend that hangs would otherwise look fast to a strategy that measures
    /// latency.
    pub(super) fn report(&mut self, how: Ended) {
        if let Some(shared) = self.observer.take() {
            // The record has the beginning, so that the attempt holds no second one; the clock is read
            // only here, for a strategy that wants results.
            let noted = |all: &[Attempt]| all.get(self.number).map(|a| (a.began, a.outcome));
            if let Some((began, outcome)) = self.exchange.attempts(noted) {
                let how = match (how, outcome) {
                    // Failover dropped it because its time was up.
                    (Ended::Cancelled, Some(Outcome::Failed(kind))) => Ended::Failed(kind),
                    _ => how,
                };
                let strategy = &shared.strategy;
                strategy.ended(self.lease.backend(), began.elapsed(), how);
            }
        }
    }

    /// Consumes the attempt: its drop at the end of this function records the outcome and frees the
    /// slot.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Ends the attempt at the head of a response without a body.
    pub(super) fn end_at_head(mut self) {
        self.outcome = Outcome::Ok;
        self.at_head = true;
    }

    /// Ends the attempt as cancelled, with a response that was made without the backend.
    pub(super) fn end_without_backend(self) {
        self.exchange.set_local_reply();
    }

    /// Ends the attempt as failed.
    pub(super) fn fail(self, error: &Error) {
        self.exchange.fail_attempt(self.number, error);
        self.end(Outcome::Failed(error.kind()));
    }

    /// Lets a drop count as success: a tunnel ends by being dropped.
    pub(super) fn until_dropped(mut self) -> Self {
        self.outcome = Outcome::Ok;
        self
    }
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        self.report(Ended::Cancelled);
        match self.at_head {
            false => self.exchange.end_attempt(self.number, self.outcome),
            true => self.exchange.end_attempt_at_head(self.number),
        }
    }
}
