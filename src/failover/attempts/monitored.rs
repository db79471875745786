//! A request with deadlines, hedges or statuses to try again: which attempt wins, and which backend
//! is charged.
//!
//! Which backend is charged is decided by rules that all go through the record, as the layers below
//! get no result from a future that is dropped:
//!
//! | how an attempt ends | its outcome in the record | written |
//! |---|---|---|
//! | its response is the client's | that of its body | by balance |
//! | a hedge beat it | `hedged`, a failure of its backend | here, before it is dropped |
//! | it was the hedge and lost | `cancelled` | by its drop |
//! | its time is up | a time-out, a failure of its backend | here, before it is dropped |
//! | a better response replaced its held one | `discarded` | here, before it is dropped |
//!
//! The word "before" is the invariant: `Exchange::end_attempt` keeps the first outcome that it gets,
//! and a drop writes `cancelled`.

use std::{
    fmt,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Role, Step,
    next_attempt::Retries,
    retry_cost::found_no_backend,
    running::{Ended, HeldResponse, Running},
};
use crate::{
    context::{Attempt, Exchange, Outcome},
    error::{BoxError, Error},
    failover::{
        policy::{Answered, Decision},
        replay::ReplayBody,
    },
    timer::wheel::Timer,
};

/// The attempts of a request whose record, clock or statuses matter.
pub(in crate::failover) struct Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) retries: Retries<S, B>,
    pub(super) exchange: Exchange,
    pub(super) running: Running<S, B>,
    /// Boxed, because few requests have one.
    held: Option<Box<HeldResponse<S::Response>>>,
    pub(super) timer: Timer,
    /// The timer was armed once.
    pub(super) was_armed: bool,
    /// A hedge may begin.
    pub(super) hedges: bool,
    /// The time to the response head counts in the percentile.
    sampled: bool,
    /// What the head was asked for, until the attempt had a chance to copy it.
    pub(super) awaits_head: Option<AwaitsHead>,
    /// The head, where a response may be what calls for another attempt.
    pub(super) head_copy: Option<Box<Parts>>,
}

/// What the head of the request is asked for.
#[derive(Clone, Copy)]
pub(super) enum AwaitsHead {
    /// A hedge beside this attempt.
    Hedge { first: usize },
    /// The end of an attempt whose time is up, and perhaps a retry.
    Timeout { role: Role, number: usize },
}

impl<S, B> Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// The first attempt is under way.
    pub(in crate::failover) fn new(
        retries: Retries<S, B>,
        exchange: Exchange,
        hedges: bool,
        sampled: bool,
        head_copy: Option<Box<Parts>>,
    ) -> Self {
        let number = exchange.attempt_count();
        Self {
            retries,
            exchange,
            running: Running::Single { number },
            held: None,
            timer: Timer::default(),
            was_armed: false,
            hedges,
            sampled,
            awaits_head: None,
            head_copy,
        }
    }

    /// Returns true once the balancer has picked a backend for this attempt.
    pub(super) fn has_begun(&self, number: usize) -> bool {
        self.exchange.attempt_count() > number
    }

    pub(super) fn runs(&self, number: usize) -> bool {
        let runs = |all: &[Attempt]| all.get(number).is_some_and(|a| a.outcome.is_none());
        self.exchange.attempts(runs)
    }

    pub(super) fn backend(&self, number: usize) -> Option<String> {
        let id = |all: &[Attempt]| all.get(number).map(|a| a.backend.id().to_owned());
        self.exchange.attempts(id)
    }

    /// Takes the held response: the client gets it.
    pub(super) fn take_held(&mut self) -> Option<HeldResponse<S::Response>> {
        self.held.take().map(|held| *held)
    }

    /// Drops the held response, as another attempt did better.
    fn discard_held(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        // Before the response is dropped, which would end the attempt as cancelled.
        if let Some(number) = held.number {
            self.exchange.end_attempt(number, Outcome::Discarded);
        }
    }

    /// Drops the held response once its successor has begun.
    fn discard_replaced(&mut self) {
        let successor = self.held.as_ref().and_then(|held| held.successor);
        if successor.is_some_and(|number| self.has_begun(number)) {
            self.discard_held();
        }
    }

    /// Does without what the head was asked for, as an attempt ended first: a hedge, or the end of
    /// that attempt.
    fn cancel_head_request(&mut self, ended: Role) {
        match self.awaits_head {
            Some(AwaitsHead::Hedge { .. }) => {
                self.awaits_head = None;
                self.retries.waive_hedge();
            }
            Some(AwaitsHead::Timeout { role, .. }) if role == ended => self.awaits_head = None,
            Some(AwaitsHead::Timeout { .. }) | None => {}
        }
    }
}

impl<S, B, R> Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// See [`Attempts::accept`](super::Attempts::accept).
    pub(super) fn accept(&mut self, response: &Response<R>) -> bool {
        // With two attempts, the winner and the loser must be recorded: `attempt_ended` does.
        let Running::Single { number } = self.running else {
            return false;
        };
        if self.held.is_some() || self.may_be_retried(response) {
            return false;
        }
        // A hedge that was paid for and waits for its head does not begin: its price comes back.
        self.cancel_head_request(Role::First);
        self.record_win(number, None);
        true
    }

    /// Returns true if the status is one that is tried again, where the policy agrees.
    fn may_be_retried(&self, response: &Response<R>) -> bool {
        self.head_copy.is_some() && self.retries.settings().is_retried(response.status())
    }

    /// Asks the policy about a status that is tried again.
    fn is_retried(&self, response: &Response<R>) -> bool {
        let Some(head) = self.head_copy.as_deref() else {
            return false;
        };
        let settings = self.retries.settings();
        settings.is_retried(response.status()) && {
            let answered = Answered::new(response.status(), response.headers(), head);
            settings.policy.decide_status(&answered) == Decision::Retry
        }
    }

    /// See [`Attempts::poll_hedge`](super::Attempts::poll_hedge).
    pub(super) fn poll_hedge(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<R>, Error>> {
        self.discard_replaced();
        let (first, hedge) = match &mut self.running {
            Running::Single { .. } => return Poll::Pending,
            Running::Pair { first, hedge } => (Some(*first), hedge),
            Running::HedgeAlone { hedge } => (None, hedge),
        };
        // At the first poll the hedge calls the balancer, which picks within the call: if the record
        // then has no attempt of this number, the request waits in the queue.
        let polled = hedge.attempt.as_mut().poll(cx);
        let (is_calling, number) = (hedge.attempt.is_calling(), hedge.number);
        if let Some(first) = first
            && polled.is_pending()
            && is_calling
            && !self.has_begun(number)
        {
            // It waits in the balancer's queue: hedges would take the room of requests.
            self.running = Running::Single { number: first };
            self.withdraw_hedge();
        }
        polled
    }

    /// Does without a hedge that found no backend, and without further ones.
    fn withdraw_hedge(&mut self) {
        self.hedges = false;
        self.retries.withdraw_hedge();
    }

    /// See [`Attempts::attempt_ended`](super::Attempts::attempt_ended).
    pub(super) fn attempt_ended(
        &mut self,
        role: Role,
        result: Result<Response<R>, Error>,
    ) -> Step<S, B, Response<R>> {
        self.discard_replaced();
        self.cancel_head_request(role);
        // What runs is settled first; all that follows may begin another attempt.
        let ended = self.running.end(role);
        match result {
            Ok(response) if self.is_retried(&response) => {
                self.status_answered(role, &ended, response)
            }
            Ok(response) => {
                self.record_win(ended.number, ended.beaten);
                Step::End(Ok(response))
            }
            Err(error) => self.attempt_failed(role, &ended, error),
        }
    }

    fn attempt_failed(
        &mut self,
        role: Role,
        ended: &Ended,
        error: Error,
    ) -> Step<S, B, Response<R>> {
        // The other attempt may yet answer: no retry begins beside it, as at most two run.
        if !ended.alone {
            let is_hedge = role == Role::Hedge;
            if is_hedge && found_no_backend(&error) && !self.has_begun(ended.number) {
                self.withdraw_hedge();
            } else {
                self.retries.record_failure(&error);
                self.retries.keep_error(error);
            }
            return Step::AwaitOther(role);
        }
        self.retries.record_failure(&error);
        // A response, though not a good one, is more than an error.
        if let Some(held) = self.take_held() {
            self.retries.refund_surplus();
            return Step::End(Ok(held.response));
        }
        match self.retries.plan_retry(error) {
            Ok(next) => {
                let number = self.exchange.attempt_count();
                self.running = Running::Single { number };
                Step::Try(next)
            }
            Err(error) => Step::End(Err(self.retries.give_up(error))),
        }
    }

    /// Decides about a response with a status that is tried again.
    fn status_answered(
        &mut self,
        role: Role,
        ended: &Ended,
        response: Response<R>,
    ) -> Step<S, B, Response<R>> {
        let count = self.exchange.attempt_count();
        // This response replaces it, whether the attempt that it is of ran alone or not.
        self.discard_held();
        let (step, successor) = if ended.alone {
            let head = self.head_copy.as_deref();
            let next =
                head.and_then(|head| self.retries.plan_status_retry(response.headers(), head));
            let Some(next) = next else {
                self.record_win(ended.number, None);
                return Step::End(Ok(response));
            };
            self.running = Running::Single { number: count };
            (Step::Try(next), Some(count))
        } else {
            (Step::AwaitOther(role), None)
        };
        self.held = Some(Box::new(HeldResponse {
            response,
            number: (ended.number < count).then_some(ended.number),
            successor,
        }));
        step
    }

    /// Records that an attempt won, against which other one, and how long both took.
    fn record_win(&mut self, number: usize, beaten: Option<usize>) {
        if let Some(beaten) = beaten {
            // Before it is dropped: the health layer reads it then.
            self.exchange.end_attempt(beaten, Outcome::Hedged);
            tracing::debug!(
                target: "evenkeel::failover",
                backend = self.backend(beaten).as_deref(), "a hedge won against this backend"
            );
        }
        if let (true, Some(hedge)) = (self.sampled, &self.retries.settings().hedge) {
            // One reading for both, and only for requests that are sampled.
            let now = Instant::now();
            self.exchange.attempts(|all| {
                let won = all.get(number);
                let lost = beaten.and_then(|beaten| all.get(beaten));
                for attempt in won.into_iter().chain(lost) {
                    hedge.record(now.saturating_duration_since(attempt.began), now);
                }
            });
        }
        self.discard_held();
        // A hedge that still runs is dropped.
        self.running = Running::Single { number };
        self.retries.drop_replay();
    }
}

impl<S, B> fmt::Debug for Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitored")
            .field("retries", &self.retries)
            .field("hedged", &self.running.is_hedged())
            .field("holds_response", &self.held.is_some())
            .finish_non_exhaustive()
    }
}
