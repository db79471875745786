//! The `outcome` of a line: how a request ended, from its attempts and from how its line ended.

use http::StatusCode;

use crate::{
    context::{Attempt, ExchangeSummary, Outcome},
    error::ErrorKind,
};

/// What ended a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The last byte of the response went out, or the tunnel closed.
    Whole,
    /// The service or the body failed.
    Failed,
    /// The server dropped the request, because the client went away.
    Dropped,
    /// A layer outside the log dropped the request, and answered it.
    #[cfg(feature = "server")]
    Superseded,
}

/// Returns the outcome: the failure that was answered for, or else how the attempt ended that ended
/// last. That is not the last one begun where a hedge was not needed.
#[inline(always)]
pub(super) fn outcome(
    record: &ExchangeSummary<'_>,
    ended: Ended,
    status: Option<StatusCode>,
) -> &'static str {
    if ended == Ended::Dropped {
        return CLIENT_ABORT;
    }
    let end_of = |a: &&Attempt| {
        let duration = a.duration.unwrap_or_default();
        (a.duration.is_none(), a.began + duration)
    };
    let last = match record.attempts {
        [only] => Some(only),
        attempts => attempts.iter().max_by_key(end_of),
    };
    let began = last.is_some();
    let last = last.and_then(|attempt| attempt.outcome);
    match (record.failure, last, ended) {
        (Some(kind), ..) | (None, Some(Outcome::Failed(kind)), _) => name(kind),
        // A whole response, but not of the backend that was asked: a layer below the log gave the
        // attempt up.
        (None, Some(Outcome::Cancelled), Ended::Whole) => superseded(status),
        // A layer's time-out may end the line before it ends the attempt.
        (None, None, Ended::Whole) if began && is_timeout(status) => superseded(status),
        #[cfg(feature = "server")]
        (None, _, Ended::Superseded) => superseded(status),
        (None, _, Ended::Failed) => SERVICE,
        (None, ..) => OK,
    }
}

/// Returns the outcome of a request that a layer answered in place of the service below it.
#[cold]
#[inline(never)]
fn superseded(status: Option<StatusCode>) -> &'static str {
    match is_timeout(status) {
        true => name(ErrorKind::Timeout),
        false => SUPERSEDED,
    }
}

fn is_timeout(status: Option<StatusCode>) -> bool {
    matches!(
        status,
        Some(StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT)
    )
}

/// Not inlined, so that a request without a failure does not touch the table of names.
#[cold]
#[inline(never)]
fn name(kind: ErrorKind) -> &'static str {
    kind.as_str()
}

const OK: &str = "ok";
const SERVICE: &str = "service";
const CLIENT_ABORT: &str = "client_abort";
const SUPERSEDED: &str = "superseded";
