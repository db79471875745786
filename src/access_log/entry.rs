//! [`Entry`]: a line as a value.
//!
//! An [`Entry`] is the public view of a line: what a sink of another crate, the tracing sink and the
//! combined format read. The JSON encoder reads the parts (`OpeningFacts`, `End`) instead, because it
//! writes the first part while the request is there. A field that is added must be added to both, and
//! `schema.md` has a row for it, which the tests of `json` compare with the encoder.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{Extensions, Method, Uri, Version};

use super::{FieldNames, Truncated};
use crate::{
    context::{
        Attempt, AuthFailure, HandshakeFailure, LogFields, Outcome, Peer, StickyVerdict, TlsInfo,
        TraceContext,
    },
    pool::Excluded,
};

/// One line, borrowed from the request that it is about, for a [`Sink`](super::Sink) to format or to
/// count.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// When the request arrived; for a connection that ended without a request, when the server
    /// accepted it.
    pub time: SystemTime,
    /// The name of this balancer; see [`AccessLogLayer::node`](super::AccessLogLayer::node).
    pub node: Option<&'a str>,
    /// The address that the client connected to.
    pub listener: Option<Peer>,
    /// The other end of the transport connection: the client, or a proxy in front of this one.
    pub peer: Option<Peer>,
    /// The client: the peer, or the client that a trusted proxy in front forwards for.
    pub client: Option<SocketAddr>,
    /// The request; `None` for a connection that ended without one.
    pub request: Option<RequestEntry<'a>>,
    /// The request that the server refused before it reached a service, as far as it could be read.
    pub refused: Option<RefusedEntry<'a>>,
    /// The status of the response; `None` if there was no response.
    pub status: Option<u16>,
    /// From [`time`](Self::time) to the end.
    pub duration: Duration,
    /// From [`time`](Self::time) to the head of the response.
    pub ttfb: Option<Duration>,
    /// From [`time`](Self::time) to the beginning of the first attempt at a backend: the wait inside
    /// this process. `None` if there was no attempt.
    pub queued: Option<Duration>,
    /// Body bytes from the client; of a tunnel, all its bytes in this direction.
    pub received: u64,
    /// Body bytes to the client; of a tunnel, all its bytes in this direction.
    pub sent: u64,
    /// The attempts at backends, in the order in which they began.
    pub attempts: &'a [Attempt],
    /// The strategy that chose the backend, and the number of backends it chose from.
    pub decision: Option<(&'static str, usize)>,
    /// How many backends the last pick left out, and why.
    pub excluded: Excluded,
    /// What became of the client's affinity; `None` without a sticky layer.
    pub sticky: Option<StickyVerdict>,
    /// What the TLS handshake agreed on; `None` over cleartext.
    pub tls: Option<&'a TlsInfo>,
    /// Why the TLS handshake failed; `None` if it did not.
    pub tls_failure: Option<HandshakeFailure>,
    /// The server name (SNI) of a TLS handshake that failed, if the client sent it.
    pub server_name: Option<&'a str>,
    /// True if the line shows the fingerprint of the client's certificate; see
    /// [`AccessLogLayer::client_fingerprint`](super::AccessLogLayer::client_fingerprint).
    pub client_fingerprint: bool,
    /// The user that the application authenticated.
    pub user: Option<&'a str>,
    /// A failed authentication.
    pub auth: Option<&'a AuthFailure>,
    /// The probability with which [`Sampled`](super::Sampled) kept the line; `None` for a line that
    /// was certain to be kept.
    pub sample_rate: Option<f64>,
    /// How the request ended; the [module](super) lists the values.
    pub outcome: &'static str,
    /// Why the request ended so, in at most 256 bytes of text; `None` where the outcome says it all.
    pub detail: Option<&'a str>,
    /// The trace and the span, if a layer above the log inserted them.
    pub trace: Option<TraceContext>,
    /// Fields of the application's own.
    pub fields: Option<&'a LogFields>,
    /// The extensions of the response; `None` unless the sink
    /// [kept them](super::Opening::keep_response_extensions), or without a response.
    pub extensions: Option<&'a Extensions>,
    /// The fields that were cut.
    pub truncated: Truncated,
    /// The vocabulary that the fields are to be named in.
    pub names: FieldNames,
}

impl Entry<'_> {
    /// Makes an entry without any other field.
    ///
    /// For a connection that ended without a request; its caller fills in what it knows.
    pub(super) fn new(time: SystemTime, duration: Duration, outcome: &'static str) -> Self {
        Self {
            time,
            node: None,
            listener: None,
            peer: None,
            client: None,
            request: None,
            refused: None,
            status: None,
            duration,
            ttfb: None,
            queued: None,
            received: 0,
            sent: 0,
            attempts: &[],
            decision: None,
            excluded: Excluded::default(),
            sticky: None,
            tls: None,
            tls_failure: None,
            server_name: None,
            client_fingerprint: false,
            user: None,
            auth: None,
            sample_rate: None,
            outcome,
            detail: None,
            trace: None,
            fields: None,
            extensions: None,
            truncated: Truncated::default(),
            names: FieldNames::Own,
        }
    }

    /// Returns the attempt whose response the client got, or else the last one: the one that `backend`,
    /// `locality` and the phases of a line are of. `None` if no backend was asked.
    #[must_use]
    pub fn answering(&self) -> Option<&Attempt> {
        answering(self.attempts)
    }
}

/// Returns the attempt whose response the client got, or else the last one.
///
/// An attempt that still runs counts as answering: a line may be written while a losing hedge is about
/// to be dropped. With one attempt, the usual case, nothing is compared.
#[inline]
pub(super) fn answering(attempts: &[Attempt]) -> Option<&Attempt> {
    match attempts {
        [only] => Some(only),
        attempts => {
            let answered = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
            attempts
                .iter()
                .rev()
                .find(answered)
                .or_else(|| attempts.last())
        }
    }
}

/// The request of an [`Entry`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestEntry<'a> {
    /// The id.
    pub id: RequestId<'a>,
    /// The method.
    pub method: &'a Method,
    /// The target as the client sent it, also under axum's `nest`.
    pub uri: &'a Uri,
    /// The path of the target, cut at its [limit](super::FieldLimits).
    pub path: &'a str,
    /// The version of HTTP.
    pub version: Version,
    /// The host and the port that the request is for: of the target, or else of the `Host` field.
    pub host: Option<&'a [u8]>,
    /// The query as [`AccessLogLayer::query`](super::AccessLogLayer::query) left it; `None` if
    /// queries are not logged.
    pub query: Option<&'a str>,
    /// The `User-Agent` field.
    pub user_agent: Option<&'a [u8]>,
    /// The `Referer` field; `None` if it is not logged.
    pub referer: Option<&'a [u8]>,
}

/// A request that the server refused, as far as it could be read.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RefusedEntry<'a> {
    /// The method.
    pub method: Option<&'a Method>,
    /// The path as the client sent it, without the query.
    pub path: Option<&'a str>,
}

/// The id of a request: the same in this log and in the `X-Request-Id` that the backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestId<'a> {
    /// The `X-Request-Id` of a trusted client.
    Given(&'a [u8]),
    /// A random id, written as 32 hexadecimal digits.
    Made(u128),
}
