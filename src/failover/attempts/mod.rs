//! The attempts of a request: which of them run, which answer is kept, and what follows when one
//! ends.
//!
//! A request that is neither retried nor watched by a clock passes through. One that may be retried
//! needs [`Retries`]: the body to send again, and the account of what was paid. Deadlines, hedges
//! and statuses to try again need [`Monitored`] as well, which knows the number of each attempt in
//! the [`Exchange`](crate::context::Exchange):
//!
//! ```text
//!                     a hedge begins            the first attempt ends
//!    ┌─────────▶ Single ───────────▶ Pair ───────────────────────────▶ HedgeAlone
//!    │            ▲  │                │                                     │
//!    │            │  │                └─ the hedge ends, or finds no backend │
//!    │            │  │                   (back to Single)                    │
//!    │            └──┘ retry                                                │
//!    └──────────────────────────────────────────────────────────────────────┘ retry
//! ```
//!
//! In each state, one response with a status that is tried again may be held: the client gets it if
//! no other attempt does better.

mod hedging;
mod monitored;
mod next_attempt;
mod retry_cost;
mod running;
mod timeouts;

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

pub(super) use self::{monitored::Monitored, next_attempt::Retries};
use super::{future::PendingAttempt, replay::ReplayBody};
use crate::error::{BoxError, Error};

/// What a request may do beside its first attempt. The future of the attempt that began first, of
/// those that run, is the caller's.
// No variant is boxed, though they differ in size: that would cost each request an allocation.
pub(super) enum Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// No retry, and no deadline: the first result stands.
    PassThrough,
    /// Another attempt may follow a failure.
    Retrying(Retries<S, B>),
    /// Deadlines, hedges or statuses to try again are configured as well.
    Monitored(Monitored<S, B>),
}

/// One of two attempts that run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    First,
    Hedge,
}

/// What follows the end of an attempt.
pub(super) enum Step<S, B, R> {
    /// The request ends with this result.
    End(Result<R, Error>),
    /// Another attempt begins.
    Try(Box<PendingAttempt<S, B>>),
    /// The attempt in this role is over; the other one may yet answer.
    AwaitOther(Role),
}

/// What the clock asks for.
pub(super) enum TimeoutStep<R> {
    /// The attempts must be polled again: a hedge began, or the head is asked for.
    PollAgain,
    /// The request ends with this result.
    End(Result<R, Error>),
    /// The time of one attempt is up. It is ended in the record, and must be dropped.
    TimedOut(Role, Error),
    /// Nothing is due; the task is woken when something is.
    Wait,
}

impl<S, B, R> Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// Returns true if this response of the first attempt is the client's at once, and records
    /// that; false where [`attempt_ended`](Self::attempt_ended) must decide.
    pub(super) fn accept(&mut self, response: &Response<R>) -> bool {
        match self {
            Self::PassThrough => true,
            Self::Retrying(retries) => {
                retries.drop_replay();
                true
            }
            Self::Monitored(monitored) => monitored.accept(response),
        }
    }

    /// Decides what follows the end of an attempt.
    pub(super) fn attempt_ended(
        &mut self,
        role: Role,
        result: Result<Response<R>, Error>,
    ) -> Step<S, B, Response<R>> {
        match (self, result) {
            // Neither counted nor copied: `max_attempts` is 1.
            (Self::PassThrough, result) => Step::End(result),
            (Self::Retrying(retries), Ok(response)) => {
                retries.drop_replay();
                Step::End(Ok(response))
            }
            (Self::Retrying(retries), Err(error)) => {
                retries.record_failure(&error);
                match retries.plan_retry(error) {
                    Ok(next) => Step::Try(next),
                    Err(error) => Step::End(Err(retries.give_up(error))),
                }
            }
            (Self::Monitored(monitored), result) => monitored.attempt_ended(role, result),
        }
    }

    /// Polls the hedge, if one runs.
    pub(super) fn poll_hedge(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<R>, Error>> {
        match self {
            Self::PassThrough | Self::Retrying(_) => Poll::Pending,
            Self::Monitored(monitored) => monitored.poll_hedge(cx),
        }
    }

    /// Looks at the clock, if anything depends on it.
    pub(super) fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> TimeoutStep<Response<R>> {
        match self {
            Self::PassThrough | Self::Retrying(_) => TimeoutStep::Wait,
            Self::Monitored(monitored) => monitored.poll_timeouts(cx),
        }
    }
}

impl<S, B> fmt::Debug for Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassThrough => f.write_str("PassThrough"),
            Self::Retrying(retries) => f.debug_tuple("Retrying").field(retries).finish(),
            Self::Monitored(monitored) => f.debug_tuple("Monitored").field(monitored).finish(),
        }
    }
}
