//! A request that is being recorded, from its arrival to its end.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{
    backend::{self, AttemptKind},
    handle::Inner,
    listener,
    shard::Writer,
};
use crate::context::{Attempt, Ended, Exchange, ExchangeSummary, RequestOutcome, service_poll};

/// A request that has arrived and not ended. Its drop ends it: the client went away.
#[derive(Default)]
pub(crate) struct Recording(Option<Open>);

struct Open {
    stats: Arc<Inner>,
    /// A small number, so that the record stays small: it moves with the future and the body.
    listener: u8,
    /// Has the time of the response's head, too.
    exchange: Exchange,
    status: Option<StatusCode>,
    is_tunnel: bool,
}

impl Recording {
    /// Counts the request as accepted.
    pub(super) fn begin(stats: Arc<Inner>, listener: usize, exchange: Exchange) -> Self {
        stats.listeners.accept(listener);
        Self(Some(Open {
            stats,
            listener: u8::try_from(listener).unwrap_or(u8::MAX),
            exchange,
            status: None,
            is_tunnel: false,
        }))
    }

    /// Records the status of the response.
    pub(crate) fn status(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.status = Some(status);
        }
    }

    /// Records that the head of the response came now, and that more follows. Where a layer below,
    /// such as a log, has read the clock at the head, that time counts.
    pub(crate) fn head(&mut self) {
        if let Some(open) = &self.0
            && open.exchange.head_nanos().is_none()
        {
            open.exchange.set_head_at(Instant::now());
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
            open.end(ended, End::Now);
        }
    }

    /// Returns the number of attempts that have ended, for [`end_in_poll`](Self::end_in_poll).
    #[inline]
    pub(crate) fn ends(&self) -> u32 {
        self.0.as_ref().map_or(0, |open| open.exchange.ends())
    }

    /// As [`end`](Self::end), for a body whose poll returned its end; `ends` is what
    /// [`ends`](Self::ends) returned before that poll.
    #[inline]
    pub(crate) fn end_in_poll(&mut self, ended: Ended, ends: u32) {
        if let Some(open) = self.0.take() {
            let end = match open.exchange.ends() == ends {
                true => End::Now,
                false => End::WithAttempt,
            };
            open.end(ended, end);
        }
    }
}

/// When a request ends, and what has read the clock for it. A reading costs as much as a few dozen
/// counters.
#[derive(Clone, Copy)]
enum End {
    /// With the head of its response. The attempt that answered has just read the clock.
    AtHead,
    Now,
    /// With the attempt that ended last, which has just read the clock.
    WithAttempt,
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
            return self.end(Ended::Dropped, End::Now);
        }
        service_poll::after_poll(Box::new(move |status| {
            self.status = status.or(self.status);
            self.end(Ended::Superseded, End::Now);
        }));
    }

    #[inline(never)]
    fn end(self, ended: Ended, end: End) {
        let writer = Writer::current();
        let (outcome, duration) = self.exchange.summary(|record| {
            let outcome = RequestOutcome::of(&record, ended, self.status);
            let duration = self.duration(&record, end);
            let head = match end {
                End::AtHead => Some(duration),
                End::Now | End::WithAttempt => self.exchange.head_nanos(),
            };
            self.end_at_backends(writer, &record, outcome, Times { head, duration });
            (outcome, duration)
        });
        let request = listener::EndedRequest {
            outcome,
            status: self.status,
            duration: (!self.is_tunnel).then_some(duration),
        };
        let listener = usize::from(self.listener);
        self.stats.listeners.end(listener, writer, &request);
    }

    /// Returns the nanoseconds from the request's arrival to its end.
    #[inline]
    fn duration(&self, record: &ExchangeSummary<'_>, end: End) -> u64 {
        let attempt = match end {
            End::AtHead => record.answer(),
            End::Now => None,
            End::WithAttempt => record.last_end().map(|(attempt, _)| attempt),
        };
        let ended = attempt.and_then(|attempt| {
            let duration = nanos(attempt.duration?);
            Some(self.nanos_until(attempt.began).saturating_add(duration))
        });
        ended.unwrap_or_else(|| self.nanos_until(Instant::now()))
    }

    /// Returns the nanoseconds from the request's arrival to a moment.
    #[inline]
    fn nanos_until(&self, moment: Instant) -> u64 {
        nanos(moment.saturating_duration_since(self.exchange.began()))
    }

    fn end_at_backends(
        &self,
        writer: Writer,
        record: &ExchangeSummary<'_>,
        outcome: RequestOutcome,
        times: Times,
    ) {
        let answering = record.answer();
        let charged = answering.or_else(|| record.attempts.last());
        for (index, attempt) in record.attempts.iter().enumerate() {
            let kind = AttemptKind::of(record.attempts, index);
            let is_charged = charged.is_some_and(|charged| std::ptr::eq(charged, attempt));
            self.stats.with_counters(&attempt.backend, |counters| {
                counters.add_attempt(writer, attempt, kind);
                if is_charged {
                    let began = self.nanos_until(attempt.began);
                    // A head that another attempt got is not this one's.
                    let head = times.head.filter(|_| answering.is_some());
                    let request = backend::EndedRequest {
                        outcome,
                        status: self.status,
                        head: head.and_then(|head| head.checked_sub(began)),
                        duration: (!self.is_tunnel).then_some(times.duration.saturating_sub(began)),
                        verdict: record.verdict,
                        begins_session: begins_session(record, attempt),
                    };
                    counters.add_request(writer, &request);
                }
            });
        }
    }
}

/// Nanoseconds from the arrival of a request.
#[derive(Clone, Copy)]
struct Times {
    /// To the head of the response.
    head: Option<u64>,
    /// To the end.
    duration: u64,
}

/// Returns whether a sticky session begins with this attempt, or moves with it to its backend.
fn begins_session(record: &ExchangeSummary<'_>, attempt: &Attempt) -> bool {
    let named = record.affinity;
    record.verdict.is_some()
        && record.answer().is_some()
        && !named.is_some_and(|named| named.is_same(&attempt.backend))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
