//! The response body, which holds the lease until the last byte.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::running::RunningAttempt;
use crate::{
    context::{Attempt, Exchange, Outcome},
    error::{Error, ErrorKind},
    pool::{Backend, Lease},
};

pin_project! {
    /// The inner service's response body, with the lease: the request is in flight until the
    /// body ends, fails or is dropped.
    #[derive(Debug, Default)]
    pub struct ResponseBody<R> {
        #[pin]
        inner: R,
        running: Option<RunningAttempt>,
    }
}

impl<R: Body> ResponseBody<R> {
    /// `running` is `None` for a tunnel, which holds the attempt itself.
    #[inline]
    pub(super) fn new(inner: R, mut running: Option<RunningAttempt>) -> Self {
        // hyper drops an ended body without polling it.
        if inner.is_end_stream() {
            if let Some(running) = running.take() {
                running.end(Outcome::Ok);
            }
        }
        Self { inner, running }
    }

    /// Returns the inner body, and releases the lease: the attempt ends as cancelled, unless the body
    /// had ended.
    pub fn into_inner(self) -> R {
        self.inner
    }
}

impl<R> Body for ResponseBody<R>
where
    R: Body,
    R::Error: 'static,
{
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let outcome = match &frame {
            Some(Ok(_)) if !this.inner.is_end_stream() => return Poll::Ready(frame),
            Some(Ok(_)) | None => Outcome::Ok,
            Some(Err(error)) => {
                Outcome::Failed(Error::kind_of(error).unwrap_or(ErrorKind::Service))
            }
        };
        if let Some(running) = this.running.take() {
            running.end(outcome);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An attempt that runs: its lease, and its line in the exchange. Dropped without a word, it was
/// cancelled.
#[derive(Debug)]
pub(super) struct Running {
    // Released after the end is noted: whoever reads the count finds the record whole.
    lease: Lease,
    exchange: Exchange,
    number: usize,
    outcome: Outcome,
    /// Until the response head, where the strategy wants to know how it went.
    watched: Option<Arc<Shared>>,
}

impl Running {
    pub(super) fn new(
        lease: Lease,
        exchange: Exchange,
        number: usize,
        watched: Option<Arc<Shared>>,
    ) -> Self {
        Self {
            lease,
            exchange,
            number,
            outcome: Outcome::Cancelled,
            watched,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        self.lease.backend()
    }

    #[cfg(any(feature = "proxy", test))]
    pub(super) fn selection(&self) -> Selection<'_> {
        Selection {
            backend: self.backend(),
            exchange: &self.exchange,
            number: self.number,
        }
    }

    /// Tells the strategy how it went so far; only the first call counts.
    pub(super) fn tell(&mut self, how: Ended) {
        if let Some(shared) = self.watched.take() {
            let noted = |all: &[Attempt]| all.get(self.number).map(|a| (a.began, a.outcome));
            if let Some((began, outcome)) = self.exchange.attempts(noted) {
                let how = match (how, outcome) {
                    // Failover gave it up, as its time was up.
                    (Ended::Cancelled, Some(Outcome::Failed(kind))) => Ended::Failed(kind),
                    _ => how,
                };
                let strategy = &shared.strategy;
                strategy.ended(self.lease.backend(), began.elapsed(), how);
            }
        }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Makes its drop a good end, as that of a tunnel is.
    pub(super) fn until_dropped(mut self) -> Self {
        self.outcome = Outcome::Ok;
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell(Ended::Cancelled);
        self.exchange.end_attempt(self.number, self.outcome);
    }
}
