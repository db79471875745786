//! What becomes of a request's attempts: who wins, who is charged, and when another begins.

mod fare;
mod plan;
mod time;

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
    fare::{Fare, found_none, puts_no_load},
    plan::what_stands,
};
use super::{
    future::{Attempt, Next},
    replay::{Replay, ReplayBody},
    service::Shared,
};
use crate::{
    context::{Attempt as Tried, Exchange, Outcome},
    error::{BoxError, Error},
    timer::wheel::Timer,
};

/// A request's way through its attempts, but for the first of those that run.
pub(super) struct Course<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    /// `None` where there is neither a second attempt nor a deadline.
    shared: Option<Arc<Shared<S>>>,
    /// `None` once there can be no further attempt.
    replay: Option<Replay<B>>,
    attempts: u32,
    fare: Fare,
    /// Why the first attempt failed.
    first: Option<Error>,
    watch: Option<Watch>,
    /// Boxed, as it is rare.
    beside: Option<Box<Beside<S, B>>>,
}

/// What is needed where there are deadlines, hedges or statuses to look at.
pub(super) struct Watch {
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
    asked: Option<Asked>,
    /// The head, where a response may be what calls for another attempt.
    copy: Option<Box<Parts>>,
}

/// What a copy of the head was asked for.
#[derive(Clone, Copy)]
enum Asked {
    Hedge { first: usize },
    Retry { which: Which, number: usize },
}

/// One of two attempts that run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Hedge,
}

/// What there is beside the attempt begun first.
struct Beside<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    hedge: Option<Hedge<S, B>>,
    held: Option<Held<S::Response>>,
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
struct Held<R> {
    response: R,
    number: Option<usize>,
    /// Let go of once the record has more attempts than this.
    until: Option<usize>,
}

/// What follows the end of an attempt.
pub(super) enum Step<S, B, R> {
    End(Result<R, Error>),
    Try(Box<Next<S, B>>),
    /// For the other one.
    Wait(Which),
}

/// What the time brings.
pub(super) enum Turn<R> {
    Again,
    End(Result<R, Error>),
    Lost(Which, Error),
    Sleep,
}

impl Watch {
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

impl<S, B> Course<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    pub(super) fn new(
        shared: Option<Arc<Shared<S>>>,
        replay: Option<Replay<B>>,
        watch: Option<Watch>,
    ) -> Self {
        Self {
            shared,
            replay,
            attempts: 1,
            fare: Fare::default(),
            first: None,
            watch,
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
        let (Some(held), Some(watch)) = (beside.held.take(), &self.watch) else {
            return;
        };
        if let Some(number) = held.number {
            watch.exchange.end_attempt(number, Outcome::Discarded);
        }
    }

    /// Where another attempt has begun, the answer of the one before is not needed.
    fn let_go(&mut self) {
        let held = self.beside.as_ref().and_then(|beside| beside.held.as_ref());
        if let (Some(until), Some(watch)) = (held.and_then(|held| held.until), &self.watch) {
            if watch.exchange.count() > until {
                self.discard();
            }
        }
    }
}

impl<S, B, R> Course<S, B>
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
        self.let_go();
        let Some(watch) = &self.watch else {
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
            let count = watch.exchange.count();
            if count > hedge.before {
                hedge.number = Some(count - 1);
            } else if hedge.before > 0 && polled.is_pending() {
                // It waits for a backend with room: that is no time for hedges.
                self.take_back();
                return Poll::Pending;
            }
        }
        polled
    }

    /// Takes back a hedge that found no backend.
    fn take_back(&mut self) {
        if let Some(beside) = &mut self.beside {
            beside.hedge = None;
        }
        self.attempts -= 1;
        self.no_hedge();
    }

    /// Does without the hedge whose head was asked for, where an answer came first.
    fn cancel_asking(&mut self) {
        if let Some(watch) = &mut self.watch {
            if matches!(watch.asked, Some(Asked::Hedge { .. })) {
                watch.asked = None;
                self.fare.spare();
                self.give_back();
            }
        }
    }

    /// Does without a hedge that is paid for.
    fn no_hedge(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.hedges = false;
        }
        self.fare.spare();
        self.give_back();
    }

    /// Gives back to the budget what attempts that put load on nobody had paid.
    fn give_back(&mut self) {
        if let Some(shared) = &self.shared {
            for _ in 0..self.fare.take_surplus() {
                shared.settings.budget.refund();
            }
        }
    }

    /// Notes the end where an answer of the only attempt is the client's; false where more is to
    /// be looked at.
    pub(super) fn is_won(&mut self, response: &Response<R>) -> bool {
        if self.beside.is_some() || self.is_refusal(response) {
            return false;
        }
        self.cancel_asking();
        let own = self.watch.as_ref().map(|watch| watch.before);
        self.won(own, None);
        true
    }

    /// Decides what follows an attempt's end.
    pub(super) fn settle(
        &mut self,
        which: Which,
        result: Result<Response<R>, Error>,
    ) -> Step<S, B, Response<R>> {
        self.let_go();
        self.cancel_asking();
        let own = self.watch.as_ref().map(|watch| watch.before);
        // Its number in the record, that of one that it may have won against, and whether none
        // other runs.
        let (number, loser, alone) = match (which, &mut self.beside) {
            (Which::First, Some(beside)) => match &mut beside.hedge {
                Some(hedge) => (hedge.first.take(), None, false),
                None => (own, None, true),
            },
            (Which::Hedge, Some(beside)) => match beside.hedge.take() {
                Some(hedge) => (hedge.number, hedge.first, hedge.first.is_none()),
                None => (None, None, true),
            },
            (_, None) => (own, None, true),
        };
        let error = match result {
            Ok(response) if self.is_refusal(&response) => {
                return self.refused(which, number, alone, response);
            }
            Ok(response) => {
                self.won(number, loser);
                return Step::End(Ok(response));
            }
            Err(error) => error,
        };
        if !alone && which == Which::Hedge && number.is_none() && found_none(&error) {
            self.take_back();
            return Step::Wait(which);
        }
        if puts_no_load(&error) {
            self.fare.spare();
        }
        if !alone {
            // The other one may yet answer.
            self.give_back();
            self.first.get_or_insert(error);
            return Step::Wait(which);
        }
        if let Some(held) = self.beside.as_mut().and_then(|beside| beside.held.take()) {
            self.give_back();
            return Step::End(Ok(held.response));
        }
        match self.plan(error) {
            Ok(next) => Step::Try(next),
            Err(error) => {
                self.give_back();
                Step::End(Err(what_stands(&mut self.first, error)))
            }
        }
    }

    /// Notes who won and who lost, and how long it took.
    fn won(&mut self, number: Option<usize>, loser: Option<usize>) {
        if let Some(watch) = &self.watch {
            if let Some(loser) = loser {
                // Before it is dropped: what lies below reads it then.
                watch.exchange.end_attempt(loser, Outcome::Hedged);
                tracing::debug!(
                    target: "evenkeel::failover",
                    backend = watch.backend(loser).as_deref(), "a hedge won against it"
                );
            }
            let hedge = self.shared.as_ref().and_then(|s| s.settings.hedge.as_ref());
            if let (true, Some(hedge)) = (watch.sampled, hedge) {
                let now = Instant::now();
                watch.exchange.attempts(|all| {
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

impl<S, B> fmt::Debug for Course<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Course")
            .field("attempts", &self.attempts)
            .field(
                "hedged",
                &self.beside.as_ref().is_some_and(|b| b.hedge.is_some()),
            )
            .finish_non_exhaustive()
    }
}
