//! What follows a failure, or a status that is tried again.

use http::{HeaderMap, Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::{Attempts, HedgeSlot, HeldResponse, Role, Step, timeouts::pending_attempt};
use crate::{
    context::Exchange,
    error::{BoxError, Error, ErrorKind},
    failover::{
        future::PendingAttempt,
        policy::{Decision, Failed},
        replay::ReplayBody,
    },
    wire::retry_after,
};

impl<S, B, R> Attempts<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    pub(super) fn is_retried_status(&self, response: &Response<R>) -> bool {
        let copied = self
            .monitor
            .as_ref()
            .is_some_and(|monitor| monitor.copy.is_some());
        copied
            && self
                .shared
                .as_ref()
                .is_some_and(|s| s.settings.is_retried(response.status()))
    }

    /// Counts an attempt that follows all others.
    fn begin_next(&mut self) {
        self.attempts += 1;
        if let Some(monitor) = &mut self.monitor {
            monitor.before = monitor.exchange.count();
        }
    }

    /// Decides about a response with a status that is tried again.
    pub(super) fn status_answered(
        &mut self,
        which: Role,
        number: Option<usize>,
        alone: bool,
        response: Response<R>,
    ) -> Step<S, B, Response<R>> {
        let count = self.monitor.as_ref().map_or(0, |w| w.exchange.count());
        let next = match alone {
            true => {
                self.discard();
                match self.plan_status_retry(response.headers()) {
                    Some(next) => Some(next),
                    None => {
                        self.record_win(number, None);
                        return Step::End(Ok(response));
                    }
                }
            }
            false => None,
        };
        let beside = self.beside.get_or_insert_with(|| {
            Box::new(HedgeSlot {
                hedge: None,
                held: None,
            })
        });
        beside.held = Some(HeldResponse {
            response,
            number,
            until: alone.then_some(count),
        });
        next.map_or(Step::Wait(which), Step::Try)
    }

    /// Makes the next attempt of what failed, or returns the error that stands.
    pub(super) fn plan_retry(
        &mut self,
        mut error: Error,
    ) -> Result<Box<PendingAttempt<S, B>>, Error> {
        let (Some(shared), Some(replay)) = (&self.shared, &self.replay) else {
            return Err(error);
        };
        let settings = &shared.settings;
        if self.attempts >= settings.max_attempts || error.is_client() {
            return Err(error);
        }
        let Some(head) = error.take_unsent() else {
            return Err(error);
        };
        let failed = Failed::new(&error, &head, replay.is_untouched());
        let wanted = settings.policy.decide(&failed) == Decision::Retry;
        if !wanted || !replay.is_possible() {
            return Err(error.with_unsent(head));
        }
        let backend = head.extensions.get::<Exchange>();
        let backend = backend.and_then(Exchange::backend);
        let backend = backend.as_ref().map(|backend| backend.id());
        let (attempts, kind) = (self.attempts, error.kind());
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
        let wait = settings.backoff.wait(attempts, None, fastrand::f64());
        let next = pending_attempt(shared, replay, attempts, head, wait.unwrap_or_default());
        self.begin_next();
        self.first.get_or_insert(error);
        Ok(next)
    }

    /// Makes the next attempt where a backend answered with a status that is tried again.
    fn plan_status_retry(&mut self, headers: &HeaderMap) -> Option<Box<PendingAttempt<S, B>>> {
        let (shared, replay) = (self.shared.as_ref()?, self.replay.as_ref()?);
        let copy = self.monitor.as_ref()?.copy.as_ref()?;
        let (settings, attempts) = (&shared.settings, self.attempts);
        if attempts >= settings.max_attempts || !replay.is_possible() {
            return None;
        }
        let asked = retry_after::read(headers);
        let wait = settings.backoff.wait(attempts, asked, fastrand::f64())?;
        let withdraw = || settings.budget.withdraw(Instant::now());
        if !self.cost.pay(withdraw) {
            tracing::debug!(
                target: "evenkeel::failover",
                attempts, "no retry of a status: the budget is used up"
            );
            return None;
        }
        let next = pending_attempt(shared, replay, attempts, (**copy).clone(), wait);
        self.begin_next();
        Some(next)
    }
}

/// That there is no other backend says less than why the first one failed.
pub(super) fn error_to_return(first: &mut Option<Error>, last: Error) -> Error {
    match last.kind() {
        ErrorKind::NoBackend => first.take().unwrap_or(last),
        _ => last,
    }
}
