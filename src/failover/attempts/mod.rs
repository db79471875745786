//! What becomes of a request's attempts: who wins, who is charged, and when another begins.

mod next_attempt;
mod retry_cost;
mod timeouts;

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, request::Parts};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use self::{
    next_attempt::error_to_return,
    retry_cost::{RetryCost, found_no_backend, puts_no_load},
};
use super::{
    future::{Attempt, PendingAttempt},
    replay::{Replay, ReplayBody},
    service::FailoverState,
};
use crate::{
    context::{Attempt as Tried, Exchange, Outcome},
    error::{BoxError, Error},
    timer::wheel::Timer,
};

/// A request's way through its attempts, but for the first of those that run.
pub(super) struct Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// `None` where there is neither a second attempt nor a deadline.
    shared: Option<Arc<FailoverState<S>>>,
    /// `None` once there can be no further attempt.
    replay: Option<Replay<B>>,
    attempts: u32,
    cost: RetryCost,
    /// Why the first attempt failed.
    first: Option<Error>,
    monitor: Option<Monitor>,
    /// Boxed, as it is rare.
    beside: Option<Box<HedgeSlot<S, B>>>,
}

/// What is needed where there are deadlines, hedges or statuses to look at.
pub(super) struct Monitor {
    exchange: Exchange,
    timer: Timer,
    /// The timer was armed once.
    looked: bool,
    /// A hedge may begin.
    hedges: bool,
    /// The time to the response head is counted.
    sampled: bool,
    /// How many attempts the record had before the one begun first, of those that run: so its
    /// number, once it is there.
    before: usize,
    asked: Option<HeadRequest>,
    /// The head, where a response may be what calls for another attempt.
    copy: Option<Box<Parts>>,
}

/// What a copy of the head was asked for.
#[derive(Clone, Copy)]
enum HeadRequest {
    Hedge { first: usize },
    Retry { which: Role, number: usize },
}

/// One of two attempts that run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    First,
    Hedge,
}

/// What there is beside the attempt begun first.
struct HedgeSlot<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    hedge: Option<Hedge<S, B>>,
    held: Option<HeldResponse<S::Response>>,
}

struct Hedge<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    attempt: Pin<Box<Attempt<S, B, S::Future>>>,
    /// Its number in the record, once it is there.
    number: Option<usize>,
    /// How many attempts were in the record before.
    before: usize,
    /// The number of the attempt that it runs beside; `None` once that is over.
    first: Option<usize>,
}

/// A response with a status that is tried again: the client gets it if nothing better comes.
struct HeldResponse<R> {
    response: R,
    number: Option<usize>,
    /// Let go of once the record has more attempts than this.
    until: Option<usize>,
}

/// What follows the end of an attempt.
pub(super) enum Step<S, B, R> {
    End(Result<R, Error>),
    Try(Box<PendingAttempt<S, B>>),
    /// For the other one.
    Wait(Role),
}

/// What the time brings.
pub(super) enum TimeoutStep<R> {
    PollAgain,
    End(Result<R, Error>),
    TimedOut(Role, Error),
    Wait,
}

impl Monitor {
    pub(super) fn new(
        exchange: Exchange,
        hedges: bool,
        sampled: bool,
        copy: Option<Box<Parts>>,
    ) -> Self {
        let before = exchange.count();
        Self {
            exchange,
            timer: Timer::default(),
            looked: false,
            hedges,
            sampled,
            before,
            asked: None,
            copy,
        }
    }

    fn runs(&self, number: usize) -> bool {
        let runs = |all: &[Tried]| all.get(number).is_some_and(|a| a.outcome.is_none());
        self.exchange.attempts(runs)
    }

    fn backend(&self, number: usize) -> Option<String> {
        let id = |all: &[Tried]| all.get(number).map(|a| a.backend.id().to_owned());
        self.exchange.attempts(id)
    }

    /// The head, and whether some of it may have gone out.
    fn head(&self) -> Option<(Parts, bool)> {
        let lent = self.exchange.take_head().map(|lent| (lent.head, lent.sent));
        lent.or_else(|| Some(((**self.copy.as_ref()?).clone(), true)))
    }
}

impl<S, B> Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) fn new(
        shared: Option<Arc<FailoverState<S>>>,
        replay: Option<Replay<B>>,
        monitor: Option<Monitor>,
    ) -> Self {
        Self {
            shared,
            replay,
            attempts: 1,
            cost: RetryCost::default(),
            first: None,
            monitor,
            beside: None,
        }
    }

    fn hedge(&mut self) -> Option<&mut Hedge<S, B>> {
        self.beside.as_mut()?.hedge.as_mut()
    }

    /// Lets go of a response that is bettered.
    fn discard(&mut self) {
        // Nearly always there is none, and nothing to move.
        let Some(beside) = &mut self.beside else {
            return;
        };
        let (Some(held), Some(monitor)) = (beside.held.take(), &self.monitor) else {
            return;
        };
        if let Some(number) = held.number {
            monitor.exchange.end_attempt(number, Outcome::Discarded);
        }
    }

    /// Where another attempt has begun, the answer of the one before is not needed.
    fn discard_replaced(&mut self) {
        let held = self.beside.as_ref().and_then(|beside| beside.held.as_ref());
        if let (Some(until), Some(monitor)) = (held.and_then(|held| held.until), &self.monitor) {
            if monitor.exchange.count() > until {
                self.discard();
            }
        }
    }
}

impl<S, B, R> Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// Polls the attempt begun later, where there is one.
    pub(super) fn poll_hedge(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<R>, Error>> {
        if self.beside.is_none() {
            return Poll::Pending;
        }
        self.discard_replaced();
        let Some(monitor) = &self.monitor else {
            return Poll::Pending;
        };
        let Some(hedge) = self
            .beside
            .as_mut()
            .and_then(|beside| beside.hedge.as_mut())
        else {
            return Poll::Pending;
        };
        let polled = hedge.attempt.as_mut().poll(cx);
        if hedge.number.is_none() && hedge.attempt.is_calling() {
            let count = monitor.exchange.count();
            if count > hedge.before {
                hedge.number = Some(count - 1);
            } else if hedge.before > 0 && polled.is_pending() {
                // It waits for a backend with room: that is no time for hedges.
                self.withdraw_hedge();
                return Poll::Pending;
            }
        }
        polled
    }

    /// Takes back a hedge that found no backend.
    fn withdraw_hedge(&mut self) {
        if let Some(beside) = &mut self.beside {
            beside.hedge = None;
        }
        self.attempts -= 1;
        self.forgo_hedge();
    }

    /// Does without the hedge whose head was asked for, where an answer came first.
    fn cancel_hedge_request(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            if matches!(monitor.asked, Some(HeadRequest::Hedge { .. })) {
                monitor.asked = None;
                self.cost.waive();
                self.refund_surplus();
            }
        }
    }

    /// Does without a hedge that is paid for.
    fn forgo_hedge(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            monitor.hedges = false;
        }
        self.cost.waive();
        self.refund_surplus();
    }

    /// Gives back to the budget what attempts that put load on nobody had paid.
    fn refund_surplus(&mut self) {
        if let Some(shared) = &self.shared {
            for _ in 0..self.cost.take_surplus() {
                shared.settings.budget.refund();
            }
        }
    }

    /// Notes the end where an answer of the only attempt is the client's; false where more is to
    /// be looked at.
    pub(super) fn accept(&mut self, response: &Response<R>) -> bool {
        if self.beside.is_some() || self.is_retried_status(response) {
            return false;
        }
        self.cancel_hedge_request();
        let own = self.monitor.as_ref().map(|monitor| monitor.before);
        self.record_win(own, None);
        true
    }

    /// Decides what follows an attempt's end.
    pub(super) fn attempt_ended(
        &mut self,
        which: Role,
        result: Result<Response<R>, Error>,
    ) -> Step<S, B, Response<R>> {
        self.discard_replaced();
        self.cancel_hedge_request();
        let own = self.monitor.as_ref().map(|monitor| monitor.before);
        // Its number in the record, that of one that it may have won against, and whether none
        // other runs.
        let (number, loser, alone) = match (which, &mut self.beside) {
            (Role::First, Some(beside)) => match &mut beside.hedge {
                Some(hedge) => (hedge.first.take(), None, false),
                None => (own, None, true),
            },
            (Role::Hedge, Some(beside)) => match beside.hedge.take() {
                Some(hedge) => (hedge.number, hedge.first, hedge.first.is_none()),
                None => (None, None, true),
            },
            (_, None) => (own, None, true),
        };
        let error = match result {
            Ok(response) if self.is_retried_status(&response) => {
                return self.status_answered(which, number, alone, response);
            }
            Ok(response) => {
                self.record_win(number, loser);
                return Step::End(Ok(response));
            }
            Err(error) => error,
        };
        if !alone && which == Role::Hedge && number.is_none() && found_no_backend(&error) {
            self.withdraw_hedge();
            return Step::Wait(which);
        }
        if puts_no_load(&error) {
            self.cost.waive();
        }
        if !alone {
            // The other one may yet answer.
            self.refund_surplus();
            self.first.get_or_insert(error);
            return Step::Wait(which);
        }
        if let Some(held) = self.beside.as_mut().and_then(|beside| beside.held.take()) {
            self.refund_surplus();
            return Step::End(Ok(held.response));
        }
        match self.plan_retry(error) {
            Ok(next) => Step::Try(next),
            Err(error) => {
                self.refund_surplus();
                Step::End(Err(error_to_return(&mut self.first, error)))
            }
        }
    }

    /// Notes who won and who lost, and how long it took.
    fn record_win(&mut self, number: Option<usize>, loser: Option<usize>) {
        if let Some(monitor) = &self.monitor {
            if let Some(loser) = loser {
                // Before it is dropped: what lies below reads it then.
                monitor.exchange.end_attempt(loser, Outcome::Hedged);
                tracing::debug!(
                    target: "evenkeel::failover",
                    backend = monitor.backend(loser).as_deref(), "a hedge won against it"
                );
            }
            let hedge = self.shared.as_ref().and_then(|s| s.settings.hedge.as_ref());
            if let (true, Some(hedge)) = (monitor.sampled, hedge) {
                let now = Instant::now();
                monitor.exchange.attempts(|all| {
                    let won = number.and_then(|number| all.get(number));
                    let lost = loser.and_then(|loser| all.get(loser));
                    for attempt in won.into_iter().chain(lost) {
                        hedge.record(now.saturating_duration_since(attempt.began), now);
                    }
                });
            }
        }
        self.discard();
        self.beside = None;
        if let Some(replay) = self.replay.take() {
            replay.give_up();
        }
    }
}

impl<S, B> fmt::Debug for Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts")
            .field("attempts", &self.attempts)
            .field(
                "hedged",
                &self.beside.as_ref().is_some_and(|b| b.hedge.is_some()),
            )
            .finish_non_exhaustive()
    }
}
