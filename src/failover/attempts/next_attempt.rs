//! The next attempt: whether the layer allows one, and what it sends.
//!
//! A retry passes these questions, the cheap ones first and the payment last, so that nothing is paid
//! for an attempt that another reason forbids:
//!
//! 1. Is an attempt left, and is the client not the cause?
//! 2. Did the inner service give the head back?
//! 3. Does the policy want a retry?
//! 4. Can the body be sent again?
//! 5. Does the budget pay?
//!
//! An error that is not retried keeps its head: a layer outside may want it.

use std::{fmt, mem, sync::Arc, time::Duration};

use http::{HeaderMap, Request, request::Parts};
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::retry_cost::{RetryCost, puts_no_load};
use crate::{
    context::Exchange,
    error::{Error, ErrorKind},
    failover::{
        future::PendingAttempt,
        layer::Settings,
        policy::{Decision, Failed},
        replay::Replay,
        service::FailoverState,
    },
    wire::retry_after,
};

/// What a request needs to be sent again.
pub(in crate::failover) struct Retries<S, B> {
    state: Arc<FailoverState<S>>,
    replay: Replay<B>,
    /// Attempts begun or planned, the first included; a hedge that found no backend is not counted.
    used: u32,
    cost: RetryCost,
    /// Why the first attempt failed.
    first_error: Option<Error>,
}

impl<S, B> Retries<S, B> {
    /// The first attempt is under way.
    pub(in crate::failover) fn new(state: Arc<FailoverState<S>>, replay: Replay<B>) -> Self {
        Self {
            state,
            replay,
            used: 1,
            cost: RetryCost::default(),
            first_error: None,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.state.settings
    }

    pub(super) fn may_try_again(&self) -> bool {
        self.used < self.state.settings.max_attempts
    }

    /// Frees what is kept of the request's body: there is no further attempt.
    pub(super) fn drop_replay(&mut self) {
        mem::replace(&mut self.replay, Replay::Empty).give_up();
    }

    /// Pays for another attempt; false where the budget does not allow it.
    pub(super) fn pay(&mut self, now: Instant) -> bool {
        let budget = &self.state.settings.budget;
        self.cost.pay(|| budget.withdraw(now))
    }

    /// Takes back a hedge that is paid for and does not begin.
    pub(super) fn waive_hedge(&mut self) {
        self.cost.waive();
        self.refund_surplus();
    }

    /// Takes back a hedge that began and found no backend.
    pub(super) fn withdraw_hedge(&mut self) {
        self.used -= 1;
        self.waive_hedge();
    }

    /// Notes whether an attempt that failed put load on a backend.
    pub(super) fn record_failure(&mut self, error: &Error) {
        if puts_no_load(error) {
            self.cost.waive();
        }
    }

    /// Keeps the error of one of two attempts, while the other runs.
    pub(super) fn keep_error(&mut self, error: Error) {
        self.refund_surplus();
        self.first_error.get_or_insert(error);
    }

    /// Gives back to the budget what was paid for attempts that put load on no backend.
    pub(super) fn refund_surplus(&mut self) {
        for _ in 0..self.cost.take_surplus() {
            self.state.settings.budget.refund();
        }
    }

    /// Returns the error that the request ends with. Why the first attempt failed says more than
    /// that there was no other backend.
    pub(super) fn give_up(&mut self, last: Error) -> Error {
        self.refund_surplus();
        match last.kind() {
            ErrorKind::NoBackend => self.first_error.take().unwrap_or(last),
            _ => last,
        }
    }
}

impl<S: Clone, B: Body> Retries<S, B> {
    /// Prepares the attempt that follows this error, or returns the error where there is none.
    pub(super) fn plan_retry(
        &mut self,
        mut error: Error,
    ) -> Result<Box<PendingAttempt<S, B>>, Error> {
        let settings = &self.state.settings;
        if !self.may_try_again() || error.is_client() {
            return Err(error);
        }
        // No copy was made in advance: the service that failed has the head and returns it with the
        // error.
        let Some(head) = error.take_unsent() else {
            return Err(error);
        };
        let failed = Failed::new(&error, &head, self.replay.is_untouched());
        let wanted = settings.policy.decide(&failed) == Decision::Retry;
        if !wanted || !self.replay.is_possible() {
            return Err(error.with_unsent(head));
        }
        let backend = head.extensions.get::<Exchange>();
        let backend = backend.and_then(Exchange::backend);
        let backend = backend.as_ref().map(|backend| backend.id());
        let (attempts, kind) = (self.used, error.kind());
        let withdraw = || settings.budget.withdraw(Instant::now());
        if !self.cost.pay(withdraw) {
            tracing::debug!(
                target: "evenkeel::failover",
                backend, attempts, error = %kind, "no retry: the budget is used up"
            );
            return Err(error.with_unsent(head));
        }
        tracing::debug!(
            target: "evenkeel::failover",
            backend, attempts, error = %kind, "trying another backend"
        );
        // An error has no `Retry-After` of a backend; the wait is jitter alone.
        let wait = settings.backoff.wait(attempts, None, fastrand::f64());
        let next = self.begin(head, wait.unwrap_or_default());
        self.first_error.get_or_insert(error);
        Ok(next)
    }

    /// Prepares the attempt that follows a response with a status that is tried again, from a copy
    /// of the head; `None` where the response stands.
    pub(super) fn plan_status_retry(
        &mut self,
        response: &HeaderMap,
        head: &Parts,
    ) -> Option<Box<PendingAttempt<S, B>>> {
        let (settings, attempts) = (&self.state.settings, self.used);
        if !self.may_try_again() || !self.replay.is_possible() {
            return None;
        }
        // Seconds or a date (RFC 9110 §10.2.3); what is neither asks for nothing.
        let asked = retry_after::read(response);
        let wait = settings.backoff.wait(attempts, asked, fastrand::f64())?;
        let withdraw = || settings.budget.withdraw(Instant::now());
        if !self.cost.pay(withdraw) {
            tracing::debug!(
                target: "evenkeel::failover",
                attempts, "no retry of a status: the budget is used up"
            );
            return None;
        }
        // A second copy: the first stays for a response that is to be tried again as well.
        Some(self.begin(head.clone(), wait))
    }

    /// Makes an attempt that begins after a wait.
    ///
    /// Counts the attempt and makes its body, which ends the reading of the one before. The service is
    /// a clone, polled until it is ready before it is called.
    pub(super) fn begin(&mut self, head: Parts, wait: Duration) -> Box<PendingAttempt<S, B>> {
        self.used += 1;
        let body = self.replay.next_body(!self.may_try_again());
        Box::new(PendingAttempt {
            service: self.state.clone_inner(),
            request: Request::from_parts(head, body),
            // A timer of tokio, as few requests wait: the wheel is exact to 10 ms only.
            backoff: (!wait.is_zero()).then(|| Box::pin(sleep(wait))),
        })
    }
}

impl<S, B> fmt::Debug for Retries<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries")
            .field("used", &self.used)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}
