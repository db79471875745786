//! How requests and attempts ended, as numbers that index counters.

use http::StatusCode;

use super::shard::{Counter, Sharded, Writer};
use crate::{
    context::{Outcome, RequestOutcome},
    error::ErrorKind,
};

fn request_index(outcome: RequestOutcome) -> usize {
    match outcome {
        RequestOutcome::Ok => 0,
        RequestOutcome::ClientAbort => 1,
        RequestOutcome::Superseded => 2,
        RequestOutcome::Failed(kind) => kind_index(kind),
    }
}

fn request_name(index: usize) -> &'static str {
    match index {
        0 => "ok",
        1 => "client_abort",
        2 => "superseded",
        _ => kind_name(index),
    }
}

fn attempt_index(outcome: Option<Outcome>) -> usize {
    match outcome {
        Some(Outcome::Ok) => 0,
        // The request ended, so that an attempt without an outcome was given up with it.
        None | Some(Outcome::Cancelled) => 1,
        Some(Outcome::Discarded) => 2,
        Some(Outcome::Hedged) => 3,
        Some(Outcome::Failed(kind)) => kind_index(kind),
    }
}

#[cold]
fn kind_index(kind: ErrorKind) -> usize {
    FIRST_KIND + kind as usize
}

fn attempt_name(index: usize) -> &'static str {
    match index {
        0 => Outcome::Ok.as_str(),
        1 => Outcome::Cancelled.as_str(),
        2 => Outcome::Discarded.as_str(),
        3 => Outcome::Hedged.as_str(),
        _ => kind_name(index),
    }
}

fn kind_name(index: usize) -> &'static str {
    let kind = index
        .checked_sub(FIRST_KIND)
        .and_then(|i| ErrorKind::ALL.get(i));
    kind.map_or("other", |kind| kind.as_str())
}

/// Counters by how requests, or attempts, ended.
#[derive(Default)]
pub(super) struct OutcomeCounters([Counter; OUTCOMES]);

impl OutcomeCounters {
    pub(super) fn add_request(&self, writer: Writer, outcome: RequestOutcome) {
        self.add(writer, request_index(outcome));
    }

    pub(super) fn add_attempt(&self, writer: Writer, outcome: Option<Outcome>) {
        self.add(writer, attempt_index(outcome));
    }

    fn add(&self, writer: Writer, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.add(writer, 1);
        }
    }
}

/// Returns the outcomes of requests that occurred, by name.
pub(super) fn requests<T: Default>(
    sharded: &Sharded<T>,
    counters: impl Fn(&T) -> &OutcomeCounters,
) -> Vec<(&'static str, u64)> {
    occurred(sharded, counters, request_name)
}

/// Returns the outcomes of attempts that occurred, by name.
pub(super) fn attempts<T: Default>(
    sharded: &Sharded<T>,
    counters: impl Fn(&T) -> &OutcomeCounters,
) -> Vec<(&'static str, u64)> {
    occurred(sharded, counters, attempt_name)
}

fn occurred<T: Default>(
    sharded: &Sharded<T>,
    counters: impl Fn(&T) -> &OutcomeCounters,
    name: impl Fn(usize) -> &'static str,
) -> Vec<(&'static str, u64)> {
    let sums = (0..OUTCOMES).map(|i| (name(i), sharded.sum(|shard| &counters(shard).0[i])));
    sums.filter(|(_, sum)| *sum > 0).collect()
}

/// Counters by the class of the response's status: 1xx to 5xx, and 0 for no response.
#[derive(Default)]
pub(super) struct StatusCounters([Counter; STATUS_CLASSES]);

impl StatusCounters {
    pub(super) fn add(&self, writer: Writer, status: Option<StatusCode>) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        // A status from 600 on is no class of HTTP (RFC 9110 §15): a server error.
        self.0[class.min(STATUS_CLASSES - 1)].add(writer, 1);
    }
}

/// Returns the number of requests by class.
pub(super) fn classes<T: Default>(
    sharded: &Sharded<T>,
    counters: impl Fn(&T) -> &StatusCounters,
) -> [u64; STATUS_CLASSES] {
    std::array::from_fn(|class| sharded.sum(|shard| &counters(shard).0[class]))
}

/// Where the kinds of errors begin: behind four names of attempts.
const FIRST_KIND: usize = 4;
/// The names, and all kinds of errors.
const OUTCOMES: usize = FIRST_KIND + ErrorKind::ALL.len();
pub(super) const STATUS_CLASSES: usize = 6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_outcome_of_an_attempt_has_a_name_of_its_own() {
        let all: BTreeSet<_> = (0..OUTCOMES).map(attempt_name).collect();
        assert_eq!(all.len(), OUTCOMES);
    }

    #[test]
    fn an_outcome_is_counted_under_its_name() {
        let kinds = ErrorKind::ALL.into_iter().map(RequestOutcome::Failed);
        let outcomes = [
            RequestOutcome::Ok,
            RequestOutcome::ClientAbort,
            RequestOutcome::Superseded,
        ];
        for outcome in kinds.chain(outcomes) {
            let counters = Sharded::<OutcomeCounters>::new();
            let writer = Writer::current();
            counters.of(writer).add_request(writer, outcome);
            let name = match outcome {
                RequestOutcome::ClientAbort => "client_abort",
                RequestOutcome::Failed(kind) => kind.as_str(),
                RequestOutcome::Ok => "ok",
                RequestOutcome::Superseded => "superseded",
            };
            assert_eq!(requests(&counters, |c| c), [(name, 1)]);
        }
        let kinds = ErrorKind::ALL.into_iter().map(Outcome::Failed);
        let outcomes = [
            Outcome::Ok,
            Outcome::Cancelled,
            Outcome::Discarded,
            Outcome::Hedged,
        ];
        for outcome in kinds.chain(outcomes) {
            let counters = Sharded::<OutcomeCounters>::new();
            let writer = Writer::current();
            counters.of(writer).add_attempt(writer, Some(outcome));
            assert_eq!(attempts(&counters, |c| c), [(outcome.as_str(), 1)]);
        }
    }

    #[test]
    fn a_status_is_counted_in_its_class() {
        let counters = Sharded::<StatusCounters>::new();
        let writer = Writer::current();
        for status in [101, 200, 204, 301, 404, 499, 500, 999] {
            let status = StatusCode::from_u16(status).unwrap();
            counters.of(writer).add(writer, Some(status));
        }
        counters.of(writer).add(writer, None);
        assert_eq!(classes(&counters, |c| c), [1, 1, 2, 1, 2, 2]);
    }
}
