//! The trace context of a request: what it came with, and what the backend gets.
//!
//! | the request's `traceparent` | the trace | `tracestate` |
//! |---|---|---|
//! | one, well formed, of a trusted sender | continued: its id, its flag | passes, if well formed |
//! | malformed, or two | begun here | removed |
//! | of a sender that is not trusted | begun here | removed |
//! | any, and a layer above has a context | that one's | passes if the field names the same trace |
//! | none | begun here | removed |
//!
//! Ids are random and not secret: a fast generator makes them. `traceparent` values share a block of 4
//! KiB, as ids of requests do in the access log.

use std::cell::RefCell;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::{
    layer::Config,
    traceparent::{self, LENGTH},
    tracestate::Tracestate,
};
use crate::context::{ConnInfo, TraceContext, TrustedPeers};

/// Returns the context in the header fields, if they are well formed and their sender is trusted.
pub(super) fn sent_parent<B>(
    trusted: Option<&TrustedPeers>,
    request: &Request<B>,
) -> Option<TraceContext> {
    let mut fields = request.headers().get_all(TRACEPARENT).iter();
    let field = fields.next()?;
    // Of two parents neither counts.
    if fields.next().is_some() || !trusted.is_none_or(|trusted| is_trusted(trusted, request)) {
        return None;
    }
    traceparent::parse(field.as_bytes())
}

/// Returns true if the last hop is trusted, whatever client it forwards for.
fn is_trusted<B>(trusted: &TrustedPeers, request: &Request<B>) -> bool {
    let extensions = request.extensions();
    let sender = match ConnInfo::of(extensions) {
        Some(conn) => conn.sender(),
        None => ConnInfo::peer_of(extensions),
    };
    sender.is_some_and(|sender| trusted.contains(sender.ip()))
}

impl Config {
    /// Makes the context of the request's own span.
    pub(super) fn own_context(&self, parent: Option<&TraceContext>) -> TraceContext {
        match parent {
            Some(parent) => TraceContext::new(parent.trace_id, new_span_id(), parent.sampled),
            None => {
                // Not zero: an id of zeros is invalid (W3C Trace Context §3.2.2.3).
                let id = fastrand::u128(1..);
                TraceContext::new(id.to_be_bytes(), new_span_id(), self.samples(id))
            }
        }
    }

    /// Decides by the id alone, as OpenTelemetry's `TraceIdRatioBased` does: samplers with the same
    /// ratio decide the same.
    fn samples(&self, trace_id: u128) -> bool {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the lower half of the id decides"
        )]
        let drawn = trace_id as u64 >> 1;
        self.sampling_ratio >= 1.0 || (drawn as f64) < self.sampling_ratio * SAMPLES
    }
}

pub(super) fn new_span_id() -> [u8; 8] {
    fastrand::u64(1..).to_be_bytes()
}

/// Writes the fields for the backend. `tracestate` belongs to its `traceparent`: it passes only if that
/// one is continued.
pub(super) fn write_fields(headers: &mut HeaderMap, context: &TraceContext, is_continued: bool) {
    let states = headers.get_all(TRACESTATE).iter();
    let state = match is_continued {
        true => Tracestate::of(states.map(HeaderValue::as_bytes)),
        false if headers.contains_key(TRACESTATE) => Tracestate::Remove,
        false => Tracestate::Keep,
    };
    match state {
        Tracestate::Keep => {}
        Tracestate::Remove => drop(headers.remove(TRACESTATE)),
        Tracestate::Replace(value) => match HeaderValue::try_from(value) {
            Ok(value) => drop(headers.insert(TRACESTATE, value)),
            Err(_) => drop(headers.remove(TRACESTATE)),
        },
    }
    write_traceparent(headers, context);
}

/// Writes the `traceparent` for the backend.
pub(super) fn write_traceparent(headers: &mut HeaderMap, context: &TraceContext) {
    if let Some(value) = header_value(&traceparent::write(context)) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Returns a header value in a block that it shares with others of this thread.
fn header_value(value: &[u8; LENGTH]) -> Option<HeaderValue> {
    // `try_with` fails if the thread is about to end.
    let shared = VALUES.try_with(|values| {
        let mut values = values.borrow_mut();
        if values.capacity() < value.len() {
            *values = BytesMut::with_capacity(BLOCK);
        }
        // `split` leaves the rest of the block here; the values share its memory.
        values.extend_from_slice(value);
        values.split().freeze()
    });
    HeaderValue::from_maybe_shared(shared.ok()?).ok()
}

thread_local! {
    static VALUES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The number of values of which the sampled part is a share: 2^63, as the lowest bit is left out.
const SAMPLES: f64 = 9_223_372_036_854_775_808.0;
/// The size of a block of values: a caller that clones one keeps this many bytes alive.
const BLOCK: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_sampled_traces_is_the_ratio() {
        for (ratio, least, most) in [(0.0, 0, 0), (0.25, 22_000, 28_000), (1.0, 100_000, 100_000)] {
            let config = Config {
                sampling_ratio: ratio,
                ..Config::default()
            };
            let mut random = fastrand::Rng::with_seed(7);
            let sampled = (0..100_000).filter(|_| config.samples(random.u128(..)));
            let sampled = sampled.count();
            assert!((least..=most).contains(&sampled), "{ratio}: {sampled}");
        }
    }

    #[test]
    fn a_state_without_its_parent_does_not_pass() {
        let context = TraceContext::new([1; 16], [2; 8], true);
        for (is_continued, states, left) in [
            (true, &["a=1", "b=2"][..], &["a=1,b=2"][..]),
            (true, &["bad"], &[]),
            (true, &["a=1"], &["a=1"]),
            (false, &["a=1"], &[]),
            (false, &[], &[]),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(TRACEPARENT, HeaderValue::from_static("x"));
            headers.append(TRACEPARENT, HeaderValue::from_static("y"));
            for state in states {
                headers.append(TRACESTATE, HeaderValue::from_static(state));
            }
            write_fields(&mut headers, &context, is_continued);
            let found: Vec<_> = headers.get_all(TRACESTATE).iter().collect();
            assert_eq!(found, left);
            let parents: Vec<_> = headers.get_all(TRACEPARENT).iter().collect();
            assert_eq!(parents, [context.to_string().as_str()]);
        }
    }
}
