//! A client and its request.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower_service::Service;

use super::{
    either_balance::EitherBalance,
    oracle::Invariant,
    setup::millis,
    trace::What,
    world::{Backends, ClientRequest, RequestBody, World},
};
use crate::{
    context::{Exchange, Outcome},
    failover::Failover,
    health::Health,
};

pub(super) type Stack = Failover<EitherBalance<Health<Backends>>>;

/// One client and its request.
pub(super) struct Client {
    pub(super) world: Arc<World>,
    pub(super) asked: Arc<ClientRequest>,
    pub(super) exchange: Exchange,
    pub(super) over: bool,
}

impl Client {
    pub(super) async fn run(mut self, stack: Arc<Mutex<Stack>>) {
        let plan = self.asked.plan;
        let mut request = Request::new(RequestBody::new(plan.upload));
        if plan.post {
            *request.method_mut() = Method::POST;
        }
        request.extensions_mut().insert(self.exchange.clone());
        request.extensions_mut().insert(self.asked.clone());
        let world = self.world.clone();
        let answer = async move {
            std::future::poll_fn(|cx| {
                Service::<Request<RequestBody>>::poll_ready(&mut *lock(&stack), cx)
            })
            .await?;
            world.oracle().asked();
            let answer = lock(&stack).call(request);
            let mut response = answer.await?;
            drop(stack);
            while let Some(frame) = response.body_mut().frame().await {
                frame?;
            }
            Ok::<_, crate::Error>(response.status().as_u16())
        };
        let how = {
            let mut answer = pin!(answer);
            match plan.timeout {
                None => Some(answer.await),
                Some(timeout) => tokio::select! {
                    biased;
                    answer = &mut answer => Some(answer),
                    () = sleep(millis(timeout)) => {
                        // Before the drop, which is what it explains.
                        self.asked.gone.store(true, Relaxed);
                        None
                    }
                },
            }
        };
        match how {
            Some(Ok(200)) => self.end("whole"),
            Some(Ok(_)) => self.end("an error's status"),
            Some(Err(error)) => self.end(error.kind().as_str()),
            None => self.end("hung up"),
        }
    }

    fn end(&mut self, how: &'static str) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let at = self.world.at();
        let number = self.asked.number;
        let wrong = self.exchange.attempts(|all| {
            let whole = all
                .iter()
                .filter(|a| a.outcome == Some(Outcome::Ok))
                .count();
            let twice = |i: usize| {
                all[..i]
                    .iter()
                    .any(|before| before.backend.is_same(&all[i].backend))
            };
            let answered = matches!(how, "whole" | "an error's status");
            if whole > 1 {
                Some("is answered twice")
            } else if answered && whole != 1 {
                Some("is answered by no backend")
            } else if all.iter().any(|a| a.outcome.is_none()) {
                Some("is over, and an attempt is not")
            } else if (0..all.len()).any(twice) {
                Some("is tried twice at one backend")
            } else if all.len() > self.world.settings.attempts as usize {
                Some("is tried too often")
            } else {
                None
            }
        });
        let seen = self.asked.seen.load(Relaxed);
        let repeated = self.asked.plan.post && seen > 1;
        let wrong = wrong.or_else(|| repeated.then_some("is a POST, and two backends saw it"));
        let mut oracle = self.world.oracle();
        oracle.trace.push(
            at,
            What::Over {
                request: number,
                how,
            },
        );
        oracle.counts.add(match how {
            "whole" => "whole answers",
            "hung up" => "hang-ups",
            _ => "other ends",
        });
        if self.exchange.attempts(|all| all.len() > 1) {
            oracle.counts.add("requests tried again");
        }
        if let Some(wrong) = wrong {
            let what = format!("request {number} {wrong} ({how})");
            oracle.violate(at, Invariant::Requests, what);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Aborted with its layer, after all that it held.
        self.end("hung up");
    }
}

pub(super) fn lock(stack: &Mutex<Stack>) -> MutexGuard<'_, Stack> {
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}
