//! The clock: which deadline or hedge is due, and what follows when a deadline is.
//!
//! The clock is looked at last in each poll, after the attempts: a response that is ready at the
//! moment of its deadline wins, as in tower's `Timeout`. A time-out that polls its timer first throws
//! such a response away.
//!
//! One timer serves all deadlines of a request and the hedge. It is armed for the first of them, and
//! for 100 ms at most, so that most requests are over before it fires and the wheel holds few entries:
//!
//! ```text
//! call ─▶ first poll: arm(min(first due, 100 ms)) ─▶ fires ─▶ due? ─ nothing ─▶ arm(rest, 100 ms at most)
//!                                                             ├ hedge ─────▶ ask for the head ─▶ begin
//!                                                             ├ one try ───▶ ask for the head ─▶ end it
//!                                                             └ all tries ─▶ end the request
//! ```
//!
//! A time-out asks for the head because a retry needs it, and because the copy says whether some of
//! the request may have been sent: only then is it a time-out of the response.

use std::{mem, task::Context, time::Duration};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    Role, TimeoutStep,
    monitored::{AwaitsHead, Monitored},
    running::Running,
};
use crate::{
    context::Outcome,
    error::{BoxError, Error, ErrorKind},
    failover::replay::ReplayBody,
};

/// What is due.
enum Due {
    /// A hedge beside this attempt.
    Hedge { first: usize },
    /// Nothing yet; the next look is this long away.
    Nothing { wait: Duration },
    /// The end of the request.
    Total,
    /// The end of one attempt.
    Attempt { role: Role, number: usize },
}

impl<S, B, R> Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// See [`Attempts::poll_timeouts`](super::Attempts::poll_timeouts).
    pub(super) fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> TimeoutStep<Response<R>> {
        match self.awaits_head.take() {
            None => {}
            Some(AwaitsHead::Hedge { first }) => {
                self.begin_hedge(first);
                return TimeoutStep::PollAgain;
            }
            Some(AwaitsHead::Timeout { role, number }) => return self.time_out(role, number),
        }
        if self.timer.is_armed() {
            if self.timer.poll(cx).is_pending() {
                return TimeoutStep::Wait;
            }
        } else {
            let Some(first) = self.retries.settings().first_due(self.hedges) else {
                return TimeoutStep::Wait;
            };
            if !mem::replace(&mut self.was_armed, true) {
                self.timer.arm(first.min(LOOK), cx);
                return TimeoutStep::Wait;
            }
            // The timer fired before; what is due now decides when it fires again.
        }
        let now = Instant::now();
        self.awaits_head = Some(match self.due(now) {
            Due::Total => return TimeoutStep::End(self.out_of_time(now)),
            Due::Nothing { wait } => {
                self.timer.arm(wait, cx);
                return TimeoutStep::Wait;
            }
            Due::Hedge { .. } if !self.retries.pay(now) => {
                tracing::debug!(target: "evenkeel::failover", "no hedge: the budget is used up");
                self.timer.arm(LOOK, cx);
                return TimeoutStep::Wait;
            }
            Due::Hedge { first } => AwaitsHead::Hedge { first },
            Due::Attempt { role, number } => AwaitsHead::Timeout { role, number },
        });
        if self.head_copy.is_none() {
            self.exchange.ask_for_head_copy();
        }
        TimeoutStep::PollAgain
    }

    fn due(&self, now: Instant) -> Due {
        let settings = self.retries.settings();
        let mut clock = Clock { now, wait: LOOK };
        if settings
            .timeout
            .is_some_and(|t| clock.is_over(self.exchange.began(), t))
        {
            return Due::Total;
        }
        let may_hedge = self.hedges && !self.running.is_hedged() && self.retries.may_try_again();
        // Read outside `attempts`, whose closure holds the lock of the record.
        let bound = self.exchange.affinity().map(|affinity| affinity.backend);
        self.exchange.attempts(|all| {
            let runs = |number: &usize| all.get(*number).is_some_and(|a| a.outcome.is_none());
            let (first, hedge) = self.running.numbers();
            let first = first.filter(runs);
            let each = [(Role::First, first), (Role::Hedge, hedge.filter(runs))];
            for (role, number) in each {
                let (Some(number), Some(limit)) = (number, settings.per_try_timeout) else {
                    continue;
                };
                if clock.is_over(all[number].began, limit) {
                    return Due::Attempt { role, number };
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
            Due::Nothing { wait: clock.wait }
        })
    }

    /// Ends an attempt whose time is up.
    fn time_out(&mut self, role: Role, number: usize) -> TimeoutStep<Response<R>> {
        let head = self.take_head_copy();
        // It has ended within the round that made the copy; its result is handled as any other.
        if !self.runs(number) {
            return TimeoutStep::PollAgain;
        }
        let kind = match &head {
            Some((_, false)) => ErrorKind::ConnectTimeout,
            Some((_, true)) | None => ErrorKind::ResponseHeadTimeout,
        };
        let limit = self.retries.settings().per_try_timeout.unwrap_or_default();
        let cause = format!("the time for one try is up: the limit is {limit:?}");
        // It is in the record before the attempt is dropped: health and balance read it there.
        let mut error = Error::new(kind).with_source(cause);
        self.exchange.fail_attempt(number, &error);
        if kind == ErrorKind::ResponseHeadTimeout {
            error = error.after_sending();
        }
        if let Some((head, _)) = head {
            error = error.with_unsent(head);
        }
        TimeoutStep::TimedOut(role, error)
    }

    /// Ends the request, as its time is up. Attempts that ran for half of it are charged.
    fn out_of_time(&mut self, now: Instant) -> Result<Response<R>, Error> {
        let held = self.take_held();
        let kept = held.as_ref().and_then(|held| held.number);
        let limit = self.retries.settings().timeout.unwrap_or_default();
        // An attempt that began a moment before the end had no fair chance, and its backend is not to
        // blame.
        let half = limit / 2;
        let late = |kind| {
            let cause = format!("the time for all tries is up: the limit is {limit:?}");
            Error::new(kind).with_source(cause)
        };
        let begun = self.exchange.attempt_count();
        // The answer that the client gets ends with its body.
        for number in (0..begun).filter(|number| Some(*number) != kept) {
            let began = self.exchange.attempts(|all| all[number].began);
            // Of those that have ended, the end stays.
            match now.saturating_duration_since(began) >= half {
                true => {
                    let error = late(ErrorKind::ResponseHeadTimeout);
                    self.exchange.fail_attempt(number, &error);
                }
                false => self.exchange.end_attempt(number, Outcome::Cancelled),
            }
        }
        // A hedge is dropped.
        self.running = Running::Single { number: 0 };
        if let Some(held) = held {
            return Ok(held.response);
        }
        Err(match begun {
            // No attempt began: the request spent its time in the balancer's queue.
            0 => late(ErrorKind::QueueTimeout),
            _ => late(ErrorKind::ResponseHeadTimeout).after_sending(),
        })
    }
}

/// Whether a time is over, and how long until the next that is not.
struct Clock {
    now: Instant,
    wait: Duration,
}

impl Clock {
    fn is_over(&mut self, began: Instant, limit: Duration) -> bool {
        let left = limit.saturating_sub(self.now.saturating_duration_since(began));
        if !left.is_zero() {
            self.wait = self.wait.min(left);
        }
        left.is_zero()
    }
}

/// Most requests are over by then. One that waits for longer looks again, so that the timer wheel
/// stays small.
const LOOK: Duration = Duration::from_millis(100);
