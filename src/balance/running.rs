//! An attempt under way: its lease, and its entry in the record.

use std::sync::Arc;

use super::{state::BalanceState, strategy::Ended};
#[cfg(any(feature = "proxy", test))]
use crate::context::Selection;
use crate::{
    context::{Attempt, Exchange, Outcome},
    error::ErrorKind,
    pool::{Backend, Lease},
};

/// An attempt that runs: its lease, and its line in the exchange. Dropped without a word, it was
/// cancelled.
#[derive(Debug)]
pub(super) struct RunningAttempt {
    // Released after the end is noted: whoever reads the count finds the record whole.
    lease: Lease,
    exchange: Exchange,
    number: usize,
    outcome: Outcome,
    /// Until the response head, where the strategy wants to know how it went.
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
            observer,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        self.lease.backend()
    }

    #[cfg(any(feature = "proxy", test))]
    pub(super) fn selection(&self) -> Selection<'_> {
        Selection {
            backend: self.backend(),
            exchange: &self.exchange,
            number: self.number,
        }
    }

    /// Tells the strategy how it went so far; only the first call counts.
    pub(super) fn report(&mut self, how: Ended) {
        if let Some(shared) = self.observer.take() {
            let noted = |all: &[Attempt]| all.get(self.number).map(|a| (a.began, a.outcome));
            if let Some((began, outcome)) = self.exchange.attempts(noted) {
                let how = match (how, outcome) {
                    // Failover gave it up, as its time was up.
                    (Ended::Cancelled, Some(Outcome::Failed(kind))) => Ended::Failed(kind),
                    _ => how,
                };
                let strategy = &shared.strategy;
                strategy.ended(self.lease.backend(), began.elapsed(), how);
            }
        }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Makes its drop a good end, as that of a tunnel is.
    pub(super) fn until_dropped(mut self) -> Self {
        self.outcome = Outcome::Ok;
        self
    }
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        self.report(Ended::Cancelled);
        if let Outcome::Failed(kind) = self.outcome {
            // Those before the head, the layer below has seen itself.
            if matches!(
                kind,
                ErrorKind::ResponseBody | ErrorKind::ResponseBodyTimeout
            ) {
                self.lease.backend().report_broken_response(kind);
            }
        }
        self.exchange.end_attempt(self.number, self.outcome);
    }
}
