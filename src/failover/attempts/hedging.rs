//! How a hedge begins: with a copy of the head, where the request may be sent twice.

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
                let number = self.exchange.attempt_count();
                let next = self.retries.begin(head, Duration::ZERO);
                let attempt = Box::pin(AttemptFuture::Readying { next: Some(next) });
                let hedge = Box::new(RunningHedge { attempt, number });
                self.running = Running::Pair { first, hedge };
            }
            _ => {
                self.hedges = false;
                self.retries.waive_hedge();
            }
        }
    }

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
fn belongs_to_connection(head: &Parts) -> bool {
    let mut auth = head.headers.get_all(header::AUTHORIZATION).iter();
    head.headers.contains_key(header::UPGRADE)
        || auth.any(|value| authenticates_connection(value.as_bytes()))
}
