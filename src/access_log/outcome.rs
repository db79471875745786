//! The `outcome` of a line: how a request ended, from its attempts and from how its line ended.
//!
//! The rule itself is [`RequestOutcome::of`] in `context`, which the metrics share: a copy here and
//! there differed, and a fault that one mended stood in the other. This file adds the names and the
//! reasons.
//!
//! A detail comes from the first of: the request's own cause, the attempt that ended last, the layer
//! that gave it up. Nothing is computed for a request that is `ok`.

use http::StatusCode;

use crate::{
    context::{Ended, ExchangeSummary, RequestOutcome},
    error::ErrorKind,
};

/// Returns the name of the outcome.
#[inline(always)]
pub(super) fn outcome(
    record: &ExchangeSummary<'_>,
    ended: Ended,
    status: Option<StatusCode>,
) -> &'static str {
    match RequestOutcome::of(record, ended, status) {
        RequestOutcome::ClientAbort => CLIENT_ABORT,
        RequestOutcome::Failed(kind) => name(kind),
        RequestOutcome::Ok => OK,
        RequestOutcome::Superseded => SUPERSEDED,
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

/// Texts that are constants cost nothing; the others were made when the failure happened, because a
/// log said that it shows them ([`Exchange::want_details`](crate::context::Exchange::want_details)).
#[cold]
#[inline(never)]
fn detail_of_failure<'a>(
    record: &ExchangeSummary<'a>,
    outcome: &'static str,
    ended: Ended,
    (status, sent): (Option<StatusCode>, u64),
) -> Option<&'a str> {
    match (outcome, ended) {
        // How far the response had come is all that is known of a client that went away.
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
            let of_attempt = || record.last_to_end()?.detail.as_deref();
            let by_layer = "a layer inside the log gave the request up and answered it";
            let of_layer = || match record.failure {
                None if ended == Ended::Whole => Some(by_layer),
                _ => None,
            };
            of_request.or_else(of_attempt).or_else(of_layer)
        }
    }
}

/// Not inlined, so that a request without a failure does not touch the table of names.
#[cold]
#[inline(never)]
fn name(kind: ErrorKind) -> &'static str {
    kind.as_str()
}

const OK: &str = "ok";
const CLIENT_ABORT: &str = "client_abort";
const SUPERSEDED: &str = "superseded";
