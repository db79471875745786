//! [`Closing`]: a request that has ended, and what is known of it by then.
//!
//! A closing borrows: from the line (`request`), from the record of the exchange, which is locked
//! meanwhile (`attempts`, `user`, `detail`), and from the layer (`node`). Nothing is copied for a sink
//! that writes JSON; [`Closing::entry`] is for the others.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use tokio::time::Instant;

use http::Extensions;

use super::{Entry, FieldNames, Truncated, json::since_1970, opening::KeptRequest};
use crate::{
    context::{Attempt, AuthFailure, ConnInfo, LogFields, StickyVerdict},
    pool::Excluded,
};

/// A request that has ended: what [`Sink::close`](super::Sink::close) makes a line of.
pub struct Closing<'a> {
    pub(super) began: Instant,
    pub(super) node: Option<&'a str>,
    pub(super) request: &'a KeptRequest,
    pub(super) extensions: Option<&'a Extensions>,
    pub(super) end: End<'a>,
}

/// The part of a line that is known at the end, from the status on.
#[derive(Clone)]
pub(super) struct End<'a> {
    pub(super) status: Option<u16>,
    pub(super) duration: Duration,
    pub(super) ttfb: Option<Duration>,
    pub(super) queued: Option<Duration>,
    /// Body bytes received and sent; `None` without a request.
    pub(super) bytes: Option<(u64, u64)>,
    pub(super) attempts: &'a [Attempt],
    pub(super) decision: Option<(&'static str, usize)>,
    pub(super) excluded: Excluded,
    pub(super) sticky: Option<StickyVerdict>,
    pub(super) user: Option<&'a str>,
    pub(super) auth: Option<&'a AuthFailure>,
    pub(super) sample_rate: Option<f64>,
    pub(super) outcome: &'static str,
    pub(super) detail: Option<&'a str>,
    pub(super) fields: Option<&'a LogFields>,
    pub(super) truncated: Truncated,
    pub(super) names: FieldNames,
}

impl Closing<'_> {
    /// Returns the whole line. Its fields of the connection and of the request are `None` unless a
    /// sink [kept them](super::Opening::keep_fields).
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        let (end, fields) = (&self.end, self.request.fields.as_ref());
        let conn = fields.and_then(|fields| fields.conn.as_ref());
        let (received, sent) = end.bytes.unwrap_or_default();
        Entry {
            time: match fields {
                // A sink that kept nothing has a time all the same: the clock of the beginning, turned
                // into wall time late.
                Some(fields) => fields.time,
                None => UNIX_EPOCH + since_1970(self.began),
            },
            node: self.node,
            listener: conn.map(|c| *c.local()),
            peer: conn.map(|c| *c.peer()),
            client: conn.and_then(ConnInfo::client),
            request: fields.map(|fields| fields.entry(self.request.query.as_deref())),
            refused: None,
            status: end.status,
            duration: end.duration,
            ttfb: end.ttfb,
            queued: end.queued,
            received,
            sent,
            attempts: end.attempts,
            decision: end.decision,
            excluded: end.excluded,
            sticky: end.sticky,
            tls: conn.and_then(ConnInfo::tls),
            tls_failure: None,
            server_name: None,
            client_fingerprint: fields.is_some_and(|fields| fields.client_fingerprint),
            user: end.user,
            auth: end.auth,
            sample_rate: end.sample_rate,
            outcome: end.outcome,
            detail: end.detail,
            trace: fields.and_then(|fields| fields.trace),
            fields: end.fields,
            extensions: self.extensions,
            truncated: end.truncated,
            names: end.names,
        }
    }

    /// Returns the same, of a request whose line was kept with this probability.
    ///
    /// The end is cloned, which copies references and numbers; the line that is sampled out never gets
    /// here.
    pub(super) fn with_sample_rate(&self, rate: f64) -> Self {
        Self {
            end: End {
                sample_rate: Some(rate),
                ..self.end.clone()
            },
            ..*self
        }
    }

    /// Returns the first part of the line as JSON, if [`Opening::write_json`] wrote it.
    ///
    /// [`Opening::write_json`]: super::Opening::write_json
    pub(super) fn json(&self) -> Option<&[u8]> {
        Some(self.request.json.written()).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Closing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Closing").field(&self.entry()).finish()
    }
}
