//! What time brings to a request: a hedge, the end of a try, the end of all.

use std::{task::Context, time::Duration};

use http::{Request, Response, header, request::Parts};
use http_body::Body;
use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::{Attempts, HeadRequest, Hedge, HedgeSlot, Role, TimeoutStep};
use crate::{
    context::Outcome,
    error::{BoxError, Error, ErrorKind},
    failover::{
        future::{Attempt, PendingAttempt},
        replay::{Replay, ReplayBody},
        service::FailoverState,
    },
    wire::connection::authenticates_connection,
};

/// What is due.
enum Due {
    Hedge { first: usize },
    Nothing { before: Duration },
    Total,
    Try { which: Role, number: usize },
}

impl<S, B, R> Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// Looks at the clock, where something depends on it.
    pub(in crate::failover) fn poll_timeouts(
        &mut self,
        cx: &mut Context<'_>,
    ) -> TimeoutStep<Response<R>> {
        let (Some(monitor), Some(shared)) = (&mut self.monitor, &self.shared) else {
            return TimeoutStep::Wait;
        };
        if let Some(asked) = monitor.asked.take() {
            return match asked {
                HeadRequest::Hedge { first } => self.begin_hedge(first),
                HeadRequest::Retry { which, number } => self.time_out(which, number),
            };
        }
        if monitor.timer.is_armed() {
            if monitor.timer.poll(cx).is_pending() {
                return TimeoutStep::Wait;
            }
        } else {
            let Some(first) = shared.settings.first_due(monitor.hedges) else {
                return TimeoutStep::Wait;
            };
            if !std::mem::replace(&mut monitor.looked, true) {
                monitor.timer.arm(first.min(LOOK), cx);
                return TimeoutStep::Wait;
            }
            // It rang before: what became of that decides when it rings again.
        }
        let now = Instant::now();
        let due = self.due(now);
        let (Some(monitor), Some(shared)) = (&mut self.monitor, &self.shared) else {
            return TimeoutStep::Wait;
        };
        let asked = match due {
            Due::Total => return TimeoutStep::End(self.out_of_time(now)),
            Due::Nothing { before } => {
                monitor.timer.arm(before, cx);
                return TimeoutStep::Wait;
            }
            Due::Hedge { .. } if !self.cost.pay(|| shared.settings.budget.withdraw(now)) => {
                tracing::debug!(target: "evenkeel::failover", "no hedge: the budget is used up");
                monitor.timer.arm(LOOK, cx);
                return TimeoutStep::Wait;
            }
            Due::Hedge { first } => HeadRequest::Hedge { first },
            Due::Try { which, number } => HeadRequest::Retry { which, number },
        };
        monitor.asked = Some(asked);
        if monitor.copy.is_none() {
            monitor.exchange.want_head();
        }
        TimeoutStep::PollAgain
    }

    fn due(&mut self, now: Instant) -> Due {
        let hedged = self.hedge().map(|hedge| (hedge.first, hedge.number));
        let (Some(monitor), Some(shared)) = (&self.monitor, &self.shared) else {
            return Due::Nothing { before: LOOK };
        };
        let settings = &shared.settings;
        let mut clock = Clock { now, before: LOOK };
        if settings
            .timeout
            .is_some_and(|t| clock.is_over(monitor.exchange.began(), t))
        {
            return Due::Total;
        }
        let may_hedge = monitor.hedges && hedged.is_none() && self.attempts < settings.max_attempts;
        let bound = monitor.exchange.affinity().map(|affinity| affinity.backend);
        monitor.exchange.attempts(|all| {
            let runs = |number: &usize| all.get(*number).is_some_and(|a| a.outcome.is_none());
            let (first, hedge) = hedged.unwrap_or((Some(monitor.before), None));
            let first = first.filter(runs);
            let each = [(Role::First, first), (Role::Hedge, hedge.filter(runs))];
            for (which, number) in each {
                let (Some(number), Some(limit)) = (number, settings.per_try_timeout) else {
                    continue;
                };
                if clock.is_over(all[number].began, limit) {
                    return Due::Try { which, number };
                }
            }
            if let (true, Some(first), Some(hedge)) = (may_hedge, first, &settings.hedge) {
                let attempt = &all[first];
                // A session is moved only once its backend is known to be out.
                let stays = bound.is_some_and(|bound| {
                    bound.is_same(&attempt.backend) && attempt.backend.keeps_sessions()
                });
                if clock.is_over(attempt.began, hedge.delay()) && !stays {
                    return Due::Hedge { first };
                }
            }
            Due::Nothing {
                before: clock.before,
            }
        })
    }

    /// Begins a second attempt beside the first, if that still runs and its head was lent.
    fn begin_hedge(&mut self, first: usize) -> TimeoutStep<Response<R>> {
        let (Some(monitor), Some(shared), Some(replay)) =
            (&self.monitor, &self.shared, &self.replay)
        else {
            return TimeoutStep::PollAgain;
        };
        let head = monitor.head();
        match head {
            Some((head, _)) if monitor.runs(first) && may_be_hedged(&head) => {
                tracing::debug!(
                    target: "evenkeel::failover",
                    backend = monitor.backend(first).as_deref(), "hedging a request that takes long"
                );
                let before = monitor.exchange.count();
                let next = pending_attempt(shared, replay, self.attempts, head, Duration::ZERO);
                self.attempts += 1;
                let hedge = Some(Hedge {
                    attempt: Box::pin(Attempt::Readying { next: Some(next) }),
                    number: None,
                    before,
                    first: Some(first),
                });
                match &mut self.beside {
                    Some(beside) => beside.hedge = hedge,
                    none => *none = Some(Box::new(HedgeSlot { hedge, held: None })),
                }
            }
            _ => self.forgo_hedge(),
        }
        TimeoutStep::PollAgain
    }

    /// Ends an attempt whose time is up.
    fn time_out(&mut self, which: Role, number: usize) -> TimeoutStep<Response<R>> {
        let Some(monitor) = &self.monitor else {
            return TimeoutStep::PollAgain;
        };
        let head = monitor.head();
        if !monitor.runs(number) {
            return TimeoutStep::PollAgain;
        }
        let kind = match &head {
            Some((_, false)) => ErrorKind::ConnectTimeout,
            Some((_, true)) | None => ErrorKind::ResponseHeadTimeout,
        };
        monitor.exchange.end_attempt(number, Outcome::Failed(kind));
        let mut error = Error::new(kind).with_source("the time for one try is up");
        if kind == ErrorKind::ResponseHeadTimeout {
            error = error.after_sending();
        }
        if let Some((head, _)) = head {
            error = error.with_unsent(head);
        }
        TimeoutStep::TimedOut(which, error)
    }

    /// Ends the request, as its time is up. What ran for most of it is charged.
    fn out_of_time(&mut self, now: Instant) -> Result<Response<R>, Error> {
        let held = self.beside.as_mut().and_then(|beside| beside.held.take());
        let kept = held.as_ref().and_then(|held| held.number);
        let mut begun = 0;
        if let (Some(monitor), Some(shared)) = (&self.monitor, &self.shared) {
            let exchange = &monitor.exchange;
            let half = shared.settings.timeout.unwrap_or_default() / 2;
            begun = exchange.count();
            // The answer that the client gets ends with its body.
            for number in (0..begun).filter(|number| Some(*number) != kept) {
                let began = exchange.attempts(|all| all[number].began);
                let outcome = match now.saturating_duration_since(began) >= half {
                    true => Outcome::Failed(ErrorKind::ResponseHeadTimeout),
                    false => Outcome::Cancelled,
                };
                // Of those that have ended, the end stays.
                exchange.end_attempt(number, outcome);
            }
        }
        self.beside = None;
        if let Some(held) = held {
            return Ok(held.response);
        }
        let late = |kind| Error::new(kind).with_source("the time for all tries is up");
        Err(match begun {
            0 => late(ErrorKind::QueueTimeout),
            _ => late(ErrorKind::ResponseHeadTimeout).after_sending(),
        })
    }
}

/// When something is due, and how long until the next of those that are not.
struct Clock {
    now: Instant,
    before: Duration,
}

impl Clock {
    fn is_over(&mut self, began: Instant, limit: Duration) -> bool {
        let left = limit.saturating_sub(self.now.saturating_duration_since(began));
        if !left.is_zero() {
            self.before = self.before.min(left);
        }
        left.is_zero()
    }
}

/// Makes an attempt that begins after a wait.
pub(super) fn pending_attempt<S: Clone, B: Body>(
    shared: &FailoverState<S>,
    replay: &Replay<B>,
    attempts: u32,
    head: Parts,
    wait: Duration,
) -> Box<PendingAttempt<S, B>> {
    let body = replay.next_body(attempts + 1 == shared.settings.max_attempts);
    Box::new(PendingAttempt {
        service: shared.clone_inner(),
        request: Request::from_parts(head, body),
        backoff: (!wait.is_zero()).then(|| Box::pin(sleep(wait))),
    })
}

/// Whether two backends may get this request at once: not where it belongs to a connection.
fn may_be_hedged(head: &Parts) -> bool {
    let mut auth = head.headers.get_all(header::AUTHORIZATION).iter();
    !head.headers.contains_key(header::UPGRADE)
        && !auth.any(|value| authenticates_connection(value.as_bytes()))
}

/// Most requests are over by then: what waits for longer looks again, and the wheel stays small.
const LOOK: Duration = Duration::from_millis(100);
