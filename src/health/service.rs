//! What happens to a request: the service and its future.
//!
//! Each attempt is judged once, at the first of these:
//!
//! | what happens | evidence |
//! |---|---|
//! | the proxy answered itself (`LocalReply`) | none |
//! | a response head | by status and by the fields that ask for an ejection |
//! | then its body breaks off | takes the success back; see `body` |
//! | an error | by its kind: the backend's faults count, those of the client and of this process do not |
//! | dropped, a hedge won | a failure: it hung |
//! | dropped, `failover` recorded a failure | as that error |
//! | dropped otherwise | none (invariant E) |
//!
//! An [`Observation`] is the evidence that is still to come; it is taken when it is judged, so that
//! nothing counts twice. The simulation's mutation `HangUpCounts` breaks invariant E on purpose.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use super::{
    ResponseBody,
    layer_state::HealthTask,
    outlier::OutlierRecord,
    outlier::{
        Evidence, asks_for_ejection, ejection_requested, judge_error, judge_status, lost_to_hedge,
        remove_ejection_fields,
    },
};
#[cfg(any(feature = "proxy", test))]
use crate::context::{CallSelected, Selection};
#[cfg(test)]
use crate::mutation::{self, Mutation};
use crate::{
    context::{Attempt, Exchange, LocalReply, Outcome, Selected},
    error::{BoxError, Error},
    pool::{AttachmentCache, Backend, Circuit},
};

/// Judges the responses of backends, and keeps their checks running; see the [module](super).
#[derive(Clone)]
pub struct Health<S> {
    inner: S,
    task: Arc<HealthTask>,
    recent: AttachmentCache<OutlierRecord>,
}

impl<S> Health<S> {
    /// The service keeps the task alive, and with it the checks.
    pub(super) fn new(inner: S, task: Arc<HealthTask>) -> Self {
        Self {
            inner,
            task,
            recent: AttachmentCache::default(),
        }
    }

    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service, to be changed.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, on its own.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// A trial is recognized by the circuit at the time of the call: the pool lets one request at a
    /// time through to a half-open backend, and this is it.
    fn observe(&mut self, backend: &Backend, exchange: Option<&Exchange>) -> Option<Observation> {
        let state = self.task.state();
        let record = state.cached_record(backend, &mut self.recent)?;
        Some(Observation {
            exchange: exchange.cloned(),
            began: record.clock(),
            is_trial: backend.circuit() == Circuit::HalfOpen,
            record,
        })
    }
}

impl<S, B, R> Service<Request<B>> for Health<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Before the pick, so that the first request of all finds checked backends.
        self.task.ensure();
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let extensions = request.extensions();
        let observation = match extensions.get::<Selected>() {
            Some(Selected(backend)) => self.observe(backend, extensions.get::<Exchange>()),
            None => None,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            observation,
        }
    }
}

#[cfg(any(feature = "proxy", test))]
impl<S, B, R> CallSelected<Request<B>> for Health<S>
where
    S: CallSelected<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    /// As `call`, for this crate's own stack, where the backend is an argument.
    fn call_selected(&mut self, request: Request<B>, selection: Selection<'_>) -> Self::Future {
        let observation = self.observe(selection.backend, Some(selection.exchange));
        ResponseFuture {
            inner: self.inner.call_selected(request, selection),
            observation,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Health<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("inner", &self.inner)
            .field("task", &self.task)
            .finish()
    }
}

/// An attempt whose end says something about its backend.
struct Observation {
    record: Arc<OutlierRecord>,
    /// Holds the outcome of an attempt that lost to a hedge.
    exchange: Option<Exchange>,
    /// `None` if latency is not measured.
    began: Option<Instant>,
    /// The only request to a backend whose circuit is half open.
    is_trial: bool,
}

impl Observation {
    /// Counts a response by its head, and removes the fields that are meant for the balancer alone.
    /// Returns the record that counts how the body ends.
    fn respond<R>(self, response: &mut Response<R>) -> Option<Arc<OutlierRecord>> {
        if response.extensions().get::<LocalReply>().is_some() {
            return None;
        }
        if let Some(began) = self.began {
            self.record.took(began.elapsed());
        }
        let rules = self.record.rules();
        if rules.immediate && asks_for_ejection(response.headers()) {
            remove_ejection_fields(response.headers_mut());
            // A trial that asks for an ejection is a failed trial; any other response ejects the
            // backend whatever its record.
            match self.is_trial {
                true => self.end(Evidence::Failure(ejection_requested())),
                false => self.record.ejection_requested(),
            }
        } else {
            self.end(judge_status(rules, response.status()));
        }
        Some(self.record)
    }

    /// Runs on the request path. A success is two atomic operations; only a failure takes a lock.
    fn end(&self, evidence: Evidence) {
        match evidence {
            Evidence::Success => {
                self.record.success();
                if self.is_trial {
                    self.record.trial_passed();
                }
            }
            // The pool ends the trial; if it is over already, the record counts an ordinary
            // failure.
            Evidence::Failure(reason) if self.is_trial => self.record.trial_failed(reason),
            Evidence::Failure(reason) => self.record.failure(reason),
            Evidence::Nothing => {}
        }
    }

    /// Without a result: a client that went away, a hedge that was faster, or a try that was given
    /// up.
    ///
    /// Reads the record of the exchange, as only that knows why the future was dropped: the layer
    /// above records the outcome before it drops the attempt.
    #[cold]
    fn dropped(self) {
        #[cfg(test)]
        if mutation::is(Mutation::HangUpCounts) {
            return self.end(Evidence::Failure(lost_to_hedge()));
        }
        let Some(exchange) = &self.exchange else {
            return;
        };
        let outcome = exchange.attempts(|all| {
            let of = |a: &&Attempt| a.backend.incarnation() == self.record.incarnation();
            // The last attempt with this backend: a retry may have used it before.
            all.iter()
                .rev()
                .find(of)
                .and_then(|attempt| attempt.outcome)
        });
        match outcome {
            Some(Outcome::Hedged) => self.end(Evidence::Failure(lost_to_hedge())),
            // Its time for one try, or for all, was up.
            Some(Outcome::Failed(kind)) => self.end(judge_error(&Error::new(kind))),
            _ => {}
        }
    }
}

pin_project! {
    /// The response of a [`Health`].
    ///
    /// Dropped before its end it judges nothing: a client that goes away says nothing about the
    /// backend (invariant E). Only where a hedge won against it, that counts as a hang, and where failover
    /// gave it up, as the failure that it noted.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        observation: Option<Observation>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(observation) = this.project().observation.take() {
                observation.dropped();
            }
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A response is moved once.
        match this.inner.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(mut response)) => {
                let observation = this.observation.take();
                // The record goes to the body: its end can take the success back.
                let record = observation.and_then(|seen| seen.respond(&mut response));
                Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, record))))
            }
            Poll::Ready(Err(error)) => {
                let error = Error::from_boxed(error.into());
                if let Some(observation) = this.observation.take() {
                    observation.end(judge_error(&error));
                }
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
