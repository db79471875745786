//! What becomes known of a request after it has moved on to the backend, and the line's end.
//!
//! Bytes and times have one owner each: bytes of the request and all of an attempt are in the
//! exchange, which other layers write; status, the time to the head and bytes of the response are
//! here, as only this layer counts them where it stands.
//!
//! The end reads the clock at most once. If the response ended with its head, or in the poll in which
//! the last attempt ended, that reading is used: a reading is no small part of what a line costs.

use std::{sync::Arc, time::Duration};

use http::{Extensions, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::{
    Closing,
    closing::End,
    layer::Config,
    opening::KeptRequest,
    outcome::{detail, outcome},
    truncated::Field,
};
use crate::context::{AuthFailure, Ended, Exchange, ExchangeSummary, LogFields, Tunnel};

/// What becomes known of a request after it has moved on to the backend.
pub(super) struct Progress {
    pub(super) config: Arc<Config>,
    pub(super) exchange: Exchange,
    /// Its scheme is shown if the authentication fails. `None` from the response's head on.
    pub(super) authorization: Option<HeaderValue>,
    status: Option<StatusCode>,
    /// The time to the response's head.
    ttfb: Option<Duration>,
    pub(super) auth: Option<Box<AuthFailure>>,
    /// The response's, if a sink wants them.
    pub(super) extensions: Option<Extensions>,
    /// Bytes of the response's body so far.
    pub(super) sent: u64,
    pub(super) tunnel: Option<Tunnel>,
    /// The id, if the client gets it back.
    pub(super) returned_id: Option<HeaderValue>,
    pub(super) end_clock: EndClock,
}

impl Progress {
    #[inline]
    pub(super) fn new(config: Arc<Config>, exchange: Exchange) -> Self {
        Self {
            config,
            exchange,
            authorization: None,
            status: None,
            ttfb: None,
            auth: None,
            extensions: None,
            sent: 0,
            tunnel: None,
            returned_id: None,
            end_clock: EndClock::None,
        }
    }

    #[inline]
    pub(super) fn set_status(&mut self, status: StatusCode) {
        let now = Instant::now();
        self.status = Some(status);
        let ttfb = now.saturating_duration_since(self.exchange.began());
        self.ttfb = Some(ttfb);
        self.exchange.set_time_to_head(ttfb);
    }

    /// Hands the line to the sink.
    #[inline]
    pub(super) fn close(&self, request: &KeptRequest, ended: Ended) {
        let began = self.exchange.began();
        // A tunnel counts at its two ends, as no body passes this layer any more.
        let bytes = match &self.tunnel {
            Some(tunnel) => (tunnel.to_backend(), tunnel.to_client()),
            None => (self.exchange.received(), self.sent),
        };
        // The record stays locked while the sink runs, so that nothing is copied out of it. A sink
        // that called the exchange would wait for itself: see `Sink`.
        self.exchange.summary(|record| {
            let mut truncated = request.truncated;
            let fields = record.notes.map(|notes| &notes.fields);
            if fields.is_some_and(LogFields::is_truncated) {
                truncated.add(Field::Fields);
            }
            let first = record.attempts.first();
            // Of the first attempt: a retry waits as well, and that shows in `attempts` and in the
            // duration.
            let queued = first.map(|a| a.began.saturating_duration_since(began));
            let outcome = outcome(&record, ended, self.status);
            self.config.sink.close(&Closing {
                began,
                node: self.config.node.as_deref(),
                request,
                extensions: self.extensions.as_ref(),
                end: End {
                    status: self.status.map(|status| status.as_u16()),
                    duration: self.duration(&record, queued),
                    ttfb: self.ttfb,
                    queued,
                    bytes: Some(bytes),
                    attempts: record.attempts,
                    decision: record.decision,
                    excluded: record.excluded,
                    sticky: record.verdict,
                    user: record.notes.and_then(|notes| notes.user.as_deref()),
                    auth: self.auth.as_deref(),
                    sample_rate: None,
                    outcome,
                    detail: detail(&record, outcome, ended, (self.status, self.sent)),
                    fields: fields.filter(|fields| !fields.is_empty()),
                    truncated,
                    names: self.config.names,
                },
            });
        });
    }

    /// Returns the time from the request's arrival to its end. Reads the clock only if nothing else
    /// has.
    #[inline]
    fn duration(&self, record: &ExchangeSummary<'_>, queued: Option<Duration>) -> Duration {
        let began = self.exchange.began();
        let known = match (self.end_clock, record.attempts) {
            (EndClock::Head, _) => self.ttfb,
            (EndClock::Attempt, [only]) => only
                .duration
                .zip(queued)
                .map(|(time, before)| before + time),
            (EndClock::Attempt, _) => record
                .last_end()
                .map(|(_, at)| at.saturating_duration_since(began)),
            (EndClock::None, _) => None,
        };
        known.unwrap_or_else(|| Instant::now().saturating_duration_since(began))
    }
}

/// What has read the clock for the end of a line.
///
/// It is set by what ends the line, at the moment when it knows that the clock was just read: the
/// reading must be of the same poll, or the duration would be short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EndClock {
    /// The attempt that ended last, in the poll that returned the response's last byte.
    Attempt,
    /// The response's head is its end.
    Head,
    /// It is to be read.
    None,
}
