//! A request that is being recorded, from its arrival to its end.

use std::sync::Arc;

use http::StatusCode;
use tokio::time::Instant;

use super::{
    backend::{self, AttemptKind},
    handle::Inner,
    listener,
    outcome::{Ended, RequestOutcome},
    shard::Writer,
};
use crate::context::{Exchange, ExchangeSummary, service_poll};

/// A request that has arrived and not ended. Its drop ends it: the client went away.
#[derive(Default)]
pub(crate) struct Recording(Option<Open>);

struct Open {
    stats: Arc<Inner>,
    listener: usize,
    exchange: Exchange,
    status: Option<StatusCode>,
    head: Option<Instant>,
    is_tunnel: bool,
}

impl Recording {
    /// Counts the request as accepted.
    pub(super) fn begin(stats: Arc<Inner>, listener: usize, exchange: Exchange) -> Self {
        stats.listeners.accept(listener);
        Self(Some(Open {
            stats,
            listener,
            exchange,
            status: None,
            head: None,
            is_tunnel: false,
        }))
    }

    /// Records the status of the response.
    pub(crate) fn status(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.status = Some(status);
        }
    }

    /// Records that the head of the response came now, and that more follows.
    pub(crate) fn head(&mut self) {
        if let Some(open) = &mut self.0 {
            open.head = Some(Instant::now());
        }
    }

    /// Records that the response opened a tunnel: its duration says nothing about the backend.
    pub(crate) fn tunnel(&mut self) {
        if let Some(open) = &mut self.0 {
            open.is_tunnel = true;
        }
    }

    /// Ends the request with the head of its response, which has no body.
    #[inline]
    pub(crate) fn end_at_head(&mut self) {
        if let Some(open) = self.0.take() {
            open.end(Ended::Whole, End::AtHead);
        }
    }

    /// Ends the request. Later calls have no effect.
    #[inline]
    pub(crate) fn end(&mut self, ended: Ended) {
        if let Some(open) = self.0.take() {
            open.end(ended, End::At(Instant::now()));
        }
    }
}

/// When a request ends.
#[derive(Clone, Copy)]
enum End {
    At(Instant),
    /// With the head of its response, now.
    AtHead,
}

impl Drop for Recording {
    #[inline]
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            open.dropped();
        }
    }
}

impl Open {
    /// Ends a request that was dropped before the response's end. Under `evenkeel::serve`, a drop
    /// within a poll of the service is not the client's doing: a layer outside gave the request up,
    /// and answers it.
    #[cold]
    #[inline(never)]
    fn dropped(mut self) {
        if !service_poll::is_polled() {
            return self.end(Ended::Dropped, End::At(Instant::now()));
        }
        service_poll::after_poll(Box::new(move |status| {
            self.status = status.or(self.status);
            self.end(Ended::Superseded, End::At(Instant::now()));
        }));
    }

    #[inline(never)]
    fn end(self, ended: Ended, end: End) {
        let writer = Writer::current();
        let (outcome, now) = self.exchange.summary(|record| {
            let outcome = RequestOutcome::of(&record, ended, self.status);
            let (now, head) = match end {
                End::At(now) => (now, self.head),
                End::AtHead => {
                    let now = end_of_answer(&record);
                    (now, Some(now))
                }
            };
            self.end_at_backends(writer, &record, outcome, (now, head));
            (outcome, now)
        });
        let request = listener::EndedRequest {
            outcome,
            status: self.status,
            began: self.exchange.began(),
            ended: (!self.is_tunnel).then_some(now),
        };
        self.stats.listeners.end(self.listener, writer, &request);
    }

    fn end_at_backends(
        &self,
        writer: Writer,
        record: &ExchangeSummary<'_>,
        outcome: RequestOutcome,
        (now, head): (Instant, Option<Instant>),
    ) {
        let answering = record.answer();
        let charged = answering.or_else(|| record.attempts.last());
        for (index, attempt) in record.attempts.iter().enumerate() {
            let counters = self.stats.counters(&attempt.backend);
            counters.add_attempt(writer, attempt, AttemptKind::of(record.attempts, index));
            if !charged.is_some_and(|charged| std::ptr::eq(charged, attempt)) {
                continue;
            }
            let stays = record
                .affinity
                .is_some_and(|named| named.is_same(&attempt.backend));
            counters.add_request(
                writer,
                &backend::EndedRequest {
                    attempt,
                    outcome,
                    status: self.status,
                    head: head.filter(|_| answering.is_some()),
                    ended: (!self.is_tunnel).then_some(now),
                    verdict: record.verdict,
                    begins_session: record.verdict.is_some() && answering.is_some() && !stays,
                },
            );
        }
    }
}

/// Returns the time now. The attempt that answered without a body has just read the clock, which costs
/// as much as a few dozen counters.
fn end_of_answer(record: &ExchangeSummary<'_>) -> Instant {
    let answer = record.answer();
    let ended = answer.and_then(|attempt| Some(attempt.began + attempt.duration?));
    ended.unwrap_or_else(Instant::now)
}
