//! How a hedge begins: with a copy of the head, where the request may be sent twice.
//!
//! A hedge is due in one round of the future's loop and begins in the next: in between, the attempt
//! that runs is polled and may offer a copy of its head, which is where the head is by then. What
//! could still stop the hedge is asked last, when the head is there: whether the first attempt still
//! runs, whether the request belongs to a connection, what the policy says. A refusal takes the
//! payment back, and no other hedge is tried.

use std::time::Duration;

use http::{Request, Response, header, request::Parts};
use http_body::Body;
use tower_service::Service;

use super::{
    monitored::Monitored,
    running::{Running, RunningHedge},
};
use crate::{
    error::BoxError,
    failover::{future::AttemptFuture, replay::ReplayBody},
    wire::connection::authenticates_connection,
};

impl<S, B, R> Monitored<S, B>
where
    S: Service<Request<ReplayBody<B>>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: Body,
{
    /// Begins a second attempt beside the first, if that still runs and its head was copied.
    pub(super) fn begin_hedge(&mut self, first: usize) {
        match self.take_head_copy() {
            Some((head, _)) if self.runs(first) && self.may_be_hedged(&head) => {
                tracing::debug!(
                    target: "evenkeel::failover",
                    backend = self.backend(first).as_deref(), "hedging a request that takes long"
                );
                // Where the hedge will stand in the record, once the balancer has picked a backend for
                // it.
                let number = self.exchange.attempt_count();
                let next = self.retries.begin(head, Duration::ZERO);
                let attempt = Box::pin(AttemptFuture::Readying { next: Some(next) });
                let hedge = Box::new(RunningHedge { attempt, number });
                // It is not polled here: the loop of the future does, with the rest of this poll.
                self.running = Running::Pair { first, hedge };
            }
            _ => {
                self.hedges = false;
                self.retries.waive_hedge();
            }
        }
    }

    /// Two backends would get it: the policy may know of effects that the method does not show.
    fn may_be_hedged(&self, head: &Parts) -> bool {
        !belongs_to_connection(head) && self.retries.settings().policy.may_hedge(head)
    }

    /// Takes the copy that the service made, else one of the copy made ahead.
    /// Returns also whether some of it may have gone out.
    pub(super) fn take_head_copy(&self) -> Option<(Parts, bool)> {
        let offered = self
            .exchange
            .take_head_copy()
            .map(|copy| (copy.head, copy.sent));
        offered.or_else(|| Some(((**self.head_copy.as_ref()?).clone(), true)))
    }
}

/// Returns true if this request is part of a connection, so that no other backend may get it.
///
/// NTLM and Negotiate authenticate the connection (RFC 4559): another one knows nothing of the client.
fn belongs_to_connection(head: &Parts) -> bool {
    let mut auth = head.headers.get_all(header::AUTHORIZATION).iter();
    head.headers.contains_key(header::UPGRADE)
        || auth.any(|value| authenticates_connection(value.as_bytes()))
}
