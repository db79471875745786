//! How a request ended as a whole: one rule, for the access log and for the numbers.
//!
//! The rules in their order; the first that fits decides:
//!
//! | the record and the end | outcome |
//! |---|---|
//! | the server dropped the request | client abort |
//! | a failure was answered for, or the attempt that ended last failed | that failure |
//! | whole, but the last attempt was cancelled and no response is whole | superseded |
//! | whole with 408 or 504 while an attempt still runs | time-out |
//! | a layer outside answered | superseded, or time-out with 408 and 504 |
//! | the service or the body failed without a kind | failed: `service` |
//! | else | ok |
//!
//! The access log and the metrics had a copy each, which differed; they share this one.

use http::StatusCode;

use super::{Attempt, ExchangeSummary, Outcome};
use crate::error::ErrorKind;

/// What ended a request, as the layer that records it saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The last byte of the response went out, or the tunnel closed.
    Whole,
    /// The service or the body failed.
    Failed,
    /// The server dropped the request, because the client went away.
    Dropped,
    /// A layer outside dropped the request, and answered it.
    Superseded,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    ClientAbort,
    Failed(ErrorKind),
    Ok,
    Superseded,
}

impl RequestOutcome {
    /// Returns the failure that was answered for, or else how the attempt ended that ended last.
    #[inline]
    pub(crate) fn of(
        record: &ExchangeSummary<'_>,
        ended: Ended,
        status: Option<StatusCode>,
    ) -> Self {
        if ended == Ended::Dropped {
            return Self::ClientAbort;
        }
        let last = record.last_to_end();
        let began = last.is_some();
        let last = last.and_then(|attempt| attempt.outcome);
        match (record.failure, last, ended) {
            (Some(kind), ..) | (None, Some(Outcome::Failed(kind)), _) => Self::Failed(kind),
            // A whole response, but not of the backend that was asked: a layer gave the attempt up.
            (None, Some(Outcome::Cancelled), Ended::Whole) if !record.has_answer() => {
                superseded(status)
            }
            // A layer's time-out may end the request before it ends the attempt.
            (None, None, Ended::Whole) if began && is_timeout(status) => superseded(status),
            (None, _, Ended::Superseded) => superseded(status),
            (None, _, Ended::Failed) => Self::Failed(ErrorKind::Service),
            (None, ..) => Self::Ok,
        }
    }
}

impl<'a> ExchangeSummary<'a> {
    /// Returns the attempt that ended last; one that still runs counts as the last. It is not always
    /// the last one begun: a hedge may not have been needed.
    pub(crate) fn last_to_end(&self) -> Option<&'a Attempt> {
        match self.attempts {
            [only] => Some(only),
            all => all.iter().max_by_key(|attempt| {
                let duration = attempt.duration.unwrap_or_default();
                (attempt.duration.is_none(), attempt.began + duration)
            }),
        }
    }
}

/// Returns the outcome of a request that a layer answered in place of the service below it.
#[cold]
#[inline(never)]
fn superseded(status: Option<StatusCode>) -> RequestOutcome {
    match is_timeout(status) {
        true => RequestOutcome::Failed(ErrorKind::Timeout),
        false => RequestOutcome::Superseded,
    }
}

fn is_timeout(status: Option<StatusCode>) -> bool {
    matches!(
        status,
        Some(StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT)
    )
}
