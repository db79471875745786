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
    Superseded,
}

/// Returns the outcome: the failure that was answered for, or else how the attempt ended that ended
/// last.
#[inline(always)]
pub(super) fn outcome(
    record: &ExchangeSummary<'_>,
    ended: Ended,
    status: Option<StatusCode>,
) -> &'static str {
    if ended == Ended::Dropped {
        return CLIENT_ABORT;
    }
    let last = last_ended(record.attempts);
    let began = last.is_some();
    let last = last.and_then(|attempt| attempt.outcome);
    match (record.failure, last, ended) {
        (Some(kind), ..) | (None, Some(Outcome::Failed(kind)), _) => name(kind),
        // A whole response, but not of the backend that was asked: a layer below the log gave the
        // attempt up.
        (None, Some(Outcome::Cancelled), Ended::Whole) if !record.has_answer() => {
            superseded(status)
        }
        // A layer's time-out may end the line before it ends the attempt.
        (None, None, Ended::Whole) if began && is_timeout(status) => superseded(status),
        (None, _, Ended::Superseded) => superseded(status),
        (None, _, Ended::Failed) => SERVICE,
        (None, ..) => OK,
    }
}

/// Returns why a request ended so; `None` where the outcome says it all.
#[inline(always)]
pub(super) fn detail<'a>(
    record: &ExchangeSummary<'a>,
    outcome: &'static str,
    ended: Ended,
    progress: (Option<StatusCode>, u64),
) -> Option<&'a str> {
    match outcome == OK {
        true => None,
        false => detail_of_failure(record, outcome, ended, progress),
    }
}

#[cold]
#[inline(never)]
fn detail_of_failure<'a>(
    record: &ExchangeSummary<'a>,
    outcome: &'static str,
    ended: Ended,
    (status, sent): (Option<StatusCode>, u64),
) -> Option<&'a str> {
    match (outcome, ended) {
        (CLIENT_ABORT, _) => Some(match (status, sent) {
            (None, _) => "the client went away before the response",
            (Some(_), 0) => "the client went away after the head of the response",
            (Some(_), _) => "the client went away within the body of the response",
        }),
        (_, Ended::Superseded) => {
            Some("a layer outside the log gave the request up and answered it")
        }
        _ => {
            let of_request = record.notes.and_then(|notes| notes.detail.as_deref());
            let of_attempt = || last_ended(record.attempts)?.detail.as_deref();
            let by_layer = "a layer inside the log gave the request up and answered it";
            let of_layer = || match record.failure {
                None if ended == Ended::Whole => Some(by_layer),
                _ => None,
            };
            of_request.or_else(of_attempt).or_else(of_layer)
        }
    }
}

/// Returns the attempt that ended last: not always the last one begun, where a hedge was not needed.
fn last_ended(attempts: &[Attempt]) -> Option<&Attempt> {
    let end_of = |a: &&Attempt| {
        let duration = a.duration.unwrap_or_default();
        (a.duration.is_none(), a.began + duration)
    };
    match attempts {
        [only] => Some(only),
        attempts => attempts.iter().max_by_key(end_of),
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
