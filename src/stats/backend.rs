//! What is recorded of a backend: an attachment, so that it leaves with the backend.

use http::StatusCode;

use super::{
    histogram::{HistogramCounters, HistogramSnapshot, Sample},
    outcome::{self, OutcomeCounters, STATUS_CLASSES, StatusCounters},
    shard::{Counter, Sharded, Writer},
};
use crate::{
    context::{Attempt, Outcome, RequestOutcome, StickyVerdict},
    pool::{Attachment, Backend, CheckCounts, ConnectionCounts},
};

/// What one backend did since it joined the pool.
///
/// A request belongs to the backend whose response the client got, or else to the one that was tried
/// last. Each attempt belongs to its own backend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackendStats {
    /// The backend. Its getters show the present state, which may be later than these numbers.
    pub backend: Backend,
    /// The requests by the class of their status: 1 to 5, and 0 for those that got no response.
    pub statuses: [u64; STATUS_CLASSES],
    /// The requests by how they ended, in the words of the access log's `outcome`. Outcomes that did
    /// not occur are left out.
    pub outcomes: Vec<(&'static str, u64)>,
    /// The attempts by how they ended: [`Outcome::as_str`](crate::context::Outcome::as_str).
    pub attempts: Vec<(&'static str, u64)>,
    /// The attempts that began after another attempt of their request had ended.
    pub retries: u64,
    /// The attempts that began while another attempt of their request ran.
    pub hedges: u64,
    /// The time from the beginning of the attempt to the request's end. Tunnels are left out.
    pub duration: HistogramSnapshot,
    /// The time from the beginning of the attempt to the head of the response.
    pub time_to_first_byte: HistogramSnapshot,
    /// The requests by what became of their sticky cookie; empty without sticky sessions. Verdicts
    /// that did not occur are left out.
    pub sticky: Vec<(StickyVerdict, u64)>,
    /// The sticky sessions that began here, those that moved here included.
    pub sessions: u64,
    /// The connections to the backend.
    pub connections: ConnectionCounts,
    /// The active checks.
    pub checks: CheckCounts,
    /// The number of times that measured health changed.
    pub transitions: u64,
    /// The number of times that outlier detection took the backend out of service.
    pub ejections: u64,
}

impl BackendStats {
    /// Returns the number of requests that ended.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.statuses.iter().sum()
    }
}

/// The counters of one backend.
pub(super) struct BackendCounters(Sharded<Counters>);

#[derive(Default)]
struct Counters {
    statuses: StatusCounters,
    outcomes: OutcomeCounters,
    attempts: OutcomeCounters,
    retries: Counter,
    hedges: Counter,
    duration: HistogramCounters,
    time_to_first_byte: HistogramCounters,
    sticky: [Counter; VERDICTS.len()],
    sessions: Counter,
}

/// The end of a request at its backend.
pub(super) struct EndedRequest {
    pub(super) outcome: RequestOutcome,
    pub(super) status: Option<StatusCode>,
    /// The nanoseconds from the beginning of the attempt to the head of the response.
    pub(super) head: Option<u64>,
    /// The nanoseconds from the beginning of the attempt to the end of the request; `None` for a
    /// tunnel.
    pub(super) duration: Option<u64>,
    pub(super) verdict: Option<StickyVerdict>,
    pub(super) begins_session: bool,
}

/// How an attempt came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptKind {
    First,
    Hedge,
    Retry,
}

impl AttemptKind {
    /// Returns how the attempt at this index came about.
    pub(super) fn of(attempts: &[Attempt], index: usize) -> Self {
        let (Some(attempt), Some(before)) = (attempts.get(index), attempts.get(..index)) else {
            return Self::First;
        };
        // A response that is retried may be kept until its successor has begun.
        let ran = |earlier: &Attempt| match (earlier.outcome, earlier.duration) {
            (Some(Outcome::Discarded), _) => false,
            (_, None) => true,
            (_, Some(duration)) => earlier.began + duration > attempt.began,
        };
        match before {
            [] => Self::First,
            before if before.iter().any(ran) => Self::Hedge,
            _ => Self::Retry,
        }
    }
}

impl BackendCounters {
    pub(super) fn add_attempt(&self, writer: Writer, attempt: &Attempt, kind: AttemptKind) {
        let counters = self.0.of(writer);
        counters.attempts.add_attempt(writer, attempt.outcome);
        match kind {
            AttemptKind::First => {}
            AttemptKind::Hedge => counters.hedges.add(writer, 1),
            AttemptKind::Retry => counters.retries.add(writer, 1),
        }
    }

    pub(super) fn add_request(&self, writer: Writer, request: &EndedRequest) {
        let counters = self.0.of(writer);
        counters.statuses.add(writer, request.status);
        counters.outcomes.add_request(writer, request.outcome);
        let duration = request.duration.map(Sample::of);
        if let Some(duration) = duration {
            counters.duration.record(writer, duration);
        }
        if let Some(head) = request.head {
            // A response without a body ends with its head.
            let sample = duration.filter(|_| request.head == request.duration);
            let sample = sample.unwrap_or_else(|| Sample::of(head));
            counters.time_to_first_byte.record(writer, sample);
        }
        let verdict = request.verdict.map(position);
        if let Some(counter) = verdict.and_then(|at| counters.sticky.get(at)) {
            counter.add(writer, 1);
        }
        if request.begins_session {
            counters.sessions.add(writer, 1);
        }
    }

    pub(super) fn read(&self, backend: &Backend) -> BackendStats {
        let counters = &self.0;
        let sticky = VERDICTS.iter().enumerate();
        let sticky = sticky.map(|(at, verdict)| (*verdict, counters.sum(|c| &c.sticky[at])));
        let mut stats = BackendStats {
            backend: backend.clone(),
            statuses: outcome::classes(counters, |c| &c.statuses),
            outcomes: outcome::requests(counters, |c| &c.outcomes),
            attempts: outcome::attempts(counters, |c| &c.attempts),
            retries: counters.sum(|c| &c.retries),
            hedges: counters.sum(|c| &c.hedges),
            duration: HistogramSnapshot::default(),
            time_to_first_byte: HistogramSnapshot::default(),
            sticky: sticky.filter(|(_, number)| *number > 0).collect(),
            sessions: counters.sum(|c| &c.sessions),
            connections: backend.connections(),
            checks: backend.checks(),
            transitions: backend.transitions(),
            ejections: backend.ejections(),
        };
        for shard in counters.iter() {
            shard.duration.add_to(&mut stats.duration);
            shard
                .time_to_first_byte
                .add_to(&mut stats.time_to_first_byte);
        }
        stats
    }
}

impl Default for BackendCounters {
    fn default() -> Self {
        Self(Sharded::new())
    }
}

impl Attachment for BackendCounters {}

/// Returns where the verdict is in [`VERDICTS`].
fn position(verdict: StickyVerdict) -> usize {
    match verdict {
        StickyVerdict::Valid => 0,
        StickyVerdict::None => 1,
        StickyVerdict::Invalid => 2,
        StickyVerdict::Down => 3,
        StickyVerdict::Draining => 4,
        StickyVerdict::OverCapacity => 5,
    }
}

const VERDICTS: [StickyVerdict; 6] = [
    StickyVerdict::Valid,
    StickyVerdict::None,
    StickyVerdict::Invalid,
    StickyVerdict::Down,
    StickyVerdict::Draining,
    StickyVerdict::OverCapacity,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_is_where_it_is_counted() {
        let positions: Vec<_> = VERDICTS.into_iter().map(position).collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 5]);
    }
}
