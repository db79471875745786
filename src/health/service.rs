//! What happens to a request.

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
    outlier::{Verdict, asked_out, asks_out, forget_asking, judge_error, judge_hung, judge_status},
    owner::Owner,
    watch::Watch,
};
#[cfg(any(feature = "proxy", test))]
use crate::context::{CallSelected, Selection};
#[cfg(test)]
use crate::sabotage::{self, Sabotage};
use crate::{
    context::{Attempt, Exchange, LocalReply, Outcome, Selected},
    error::{BoxError, Error},
    pool::{AttachmentCache, Backend},
};

/// Judges what backends answer, and keeps their checks running; see the [module](super).
#[derive(Clone)]
pub struct Health<S> {
    inner: S,
    owner: Arc<Owner>,
    recent: AttachmentCache<Watch>,
}

impl<S> Health<S> {
    pub(super) fn new(inner: S, owner: Arc<Owner>) -> Self {
        Self {
            inner,
            owner,
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

    fn judging(&mut self, backend: &Backend, exchange: Option<&Exchange>) -> Option<Judging> {
        let core = self.owner.core();
        let watch = core.watch_again(backend, &mut self.recent)?;
        Some(Judging {
            exchange: exchange.cloned(),
            began: watch.clock(),
            is_trial: watch.is_trial(),
            watch,
        })
    }
}

impl<S, B, R> Service<Request<B>> for Health<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // Before the pick, so that the first request of all finds checked backends.
        self.owner.ensure();
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_boxed(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let extensions = request.extensions();
        let judging = match extensions.get::<Selected>() {
            Some(Selected(backend)) => self.judging(backend, extensions.get::<Exchange>()),
            None => None,
        };
        ResponseFuture {
            inner: self.inner.call(request),
            judging,
        }
    }
}

#[cfg(any(feature = "proxy", test))]
impl<S, B, R> CallSelected<Request<B>> for Health<S>
where
    S: CallSelected<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    fn call_selected(&mut self, request: Request<B>, selection: Selection<'_>) -> Self::Future {
        let judging = self.judging(selection.backend, Some(selection.exchange));
        ResponseFuture {
            inner: self.inner.call_selected(request, selection),
            judging,
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Health<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("inner", &self.inner)
            .field("owner", &self.owner)
            .finish()
    }
}

/// An attempt whose end says something about its backend.
struct Judging {
    watch: Arc<Watch>,
    /// Where it is told that a hedge won against it.
    exchange: Option<Exchange>,
    /// `None` where nobody asks how long it takes.
    began: Option<Instant>,
    /// The only request to a backend whose circuit is half open.
    is_trial: bool,
}

impl Judging {
    /// Draws what follows from a response; takes away what it says to the balancer alone.
    fn respond<R>(self, response: &mut Response<R>) {
        if response.extensions().get::<LocalReply>().is_some() {
            return;
        }
        if let Some(began) = self.began {
            self.watch.took(began.elapsed());
        }
        let rules = self.watch.rules();
        if rules.immediate && asks_out(response.headers()) {
            forget_asking(response.headers_mut());
            match self.is_trial {
                true => self.end(Verdict::Failure(asked_out())),
                false => self.watch.asked_out(),
            }
            return;
        }
        let verdict = judge_status(rules, response.status());
        self.end(verdict);
    }

    fn end(self, verdict: Verdict) {
        match verdict {
            Verdict::Success => {
                self.watch.success();
                if self.is_trial {
                    self.watch.trial_passed();
                }
            }
            Verdict::Failure(reason) if self.is_trial => self.watch.trial_failed(reason),
            Verdict::Failure(reason) => self.watch.failure(reason),
            Verdict::Nothing => {}
        }
    }

    /// Without a result: a client that went away, a hedge that was faster, or a try that was given
    /// up.
    #[cold]
    fn dropped(self) {
        #[cfg(test)]
        if sabotage::is(Sabotage::HangUpCounts) {
            return self.end(Verdict::Failure(judge_hung()));
        }
        let Some(exchange) = &self.exchange else {
            return;
        };
        let outcome = exchange.attempts(|all| {
            let of = |a: &&Attempt| a.backend.incarnation() == self.watch.incarnation();
            all.iter()
                .rev()
                .find(of)
                .and_then(|attempt| attempt.outcome)
        });
        match outcome {
            Some(Outcome::Hedged) => self.end(Verdict::Failure(judge_hung())),
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
        judging: Option<Judging>,
    }

    impl<F> PinnedDrop for ResponseFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(judging) = this.project().judging.take() {
                judging.dropped();
            }
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<R>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A response is moved once.
        match this.inner.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(mut response)) => {
                if let Some(judging) = this.judging.take() {
                    judging.respond(&mut response);
                }
                Poll::Ready(Ok(response))
            }
            Poll::Ready(Err(error)) => {
                let error = Error::from_boxed(error.into());
                if let Some(judging) = this.judging.take() {
                    judging.end(judge_error(&error));
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
