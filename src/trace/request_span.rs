//! The span of a request, from its arrival to its last byte.
//!
//! | the end | `error.type` | `otel.status_code` |
//! |---|---|---|
//! | the last byte of a response below 500 | | |
//! | the last byte of a response of 500 and more | the kind of the failure, or the status | ERROR |
//! | the service or the body failed | the kind, or `_OTHER` | ERROR |
//! | a drop before the end | `cancelled` | |
//! | a drop behind the head of a 5xx | as for its last byte | ERROR |
//!
//! Nothing is computed for a span that no subscriber wants: `info_span!` evaluates the fields only
//! then, and the box, the record and the observer are made only then.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tracing::{Span, field::Empty, info_span};

use super::{
    attempt_spans::{AttemptSpans, record_ids},
    layer::Config,
    propagate::{sent_parent, write_fields},
};
use crate::{
    context::{ConnInfo, Exchange, TraceContext},
    error::Error,
};

/// The span of a request that a subscriber wants. It ends with its drop.
pub(super) struct RequestSpan {
    span: Span,
    attempts: Arc<AttemptSpans>,
    exchange: Exchange,
    status: Option<StatusCode>,
    /// The end is known: a drop says nothing.
    is_over: bool,
}

impl RequestSpan {
    /// Continues or begins the trace of a request, and returns its span if a subscriber wants it.
    pub(super) fn begin<B>(config: &Config, request: &mut Request<B>) -> Option<Box<Self>> {
        let sent = sent_parent(config.trusted.as_ref(), request);
        // A layer above may have continued or begun the trace.
        let above = request.extensions().get::<TraceContext>().copied();
        let parent = above.or(sent);
        // `tracestate` goes with the `traceparent` of the header alone.
        let is_continued = parent
            .zip(sent)
            .is_some_and(|(it, sent)| it.trace_id == sent.trace_id);
        let span = make(request);
        let is_enabled = !span.is_disabled();
        let tracer = config.span_context.as_ref().filter(|_| is_enabled);
        let context = match tracer.and_then(|context| context(&span, parent.as_ref())) {
            Some(context) => context,
            None => {
                let context = config.own_context(parent.as_ref());
                if is_enabled {
                    record_ids(&span, &context);
                }
                context
            }
        };
        // Also without a subscriber: the backend sees the trace, and the access log its ids.
        write_fields(request.headers_mut(), &context, is_continued);
        request.extensions_mut().insert(context);
        if !is_enabled {
            return None;
        }
        let exchange = Exchange::of(request.extensions_mut());
        // The description of a failed attempt's status is the text of its cause.
        exchange.want_details();
        let attempts = AttemptSpans::new(span.clone(), context, config.span_context.clone());
        exchange.observe_attempts(attempts.clone());
        Some(Box::new(Self {
            span,
            attempts,
            exchange,
            status: None,
            is_over: false,
        }))
    }

    pub(super) fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
        self.span.in_scope(call)
    }

    /// Records the response's head.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        let code = i64::from(status.as_u16());
        self.span.record("http.response.status_code", code);
    }

    /// Records that the service or the body failed.
    pub(super) fn failed<E: 'static>(&mut self, error: &E) {
        self.is_over = true;
        let kind = self.exchange.failure();
        let kind = kind.or_else(|| Error::of(error).map(Error::kind));
        self.record_error(kind.map_or(OTHER, |kind| kind.as_str()));
    }

    /// Lets a drop count as the end of the response: a tunnel ends by being dropped.
    pub(super) fn lasts_until_dropped(&mut self) {
        self.is_over = true;
        self.record_status();
    }

    /// Ends the span, if there is one: the last byte went out.
    #[inline]
    pub(super) fn finish(span: &mut Option<Box<Self>>) {
        if let Some(mut span) = span.take() {
            span.lasts_until_dropped();
        }
    }

    /// Records an error if the status is one. To a server, only 5xx are (OpenTelemetry, HTTP spans,
    /// Status).
    fn record_status(&self) {
        let Some(status) = self.status.filter(StatusCode::is_server_error) else {
            return;
        };
        match self.exchange.failure() {
            Some(kind) => self.record_error(kind.as_str()),
            None => self.record_error(status.as_str()),
        }
    }

    fn record_error(&self, kind: &str) {
        self.span.record("error.type", kind);
        self.span.record("otel.status_code", "ERROR");
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if !self.is_over {
            // A client that hangs up on a failure does not undo it.
            match self.status.is_some_and(|status| status.is_server_error()) {
                true => self.record_status(),
                false => drop(self.span.record("error.type", CANCELLED)),
            }
        }
        // The record may outlive the request, and must not hold the span open.
        self.attempts.close();
    }
}

/// Makes the span of a request. The values of its fields are computed only if a subscriber wants it.
#[inline]
fn make<B>(request: &Request<B>) -> Span {
    info_span!(
        target: "evenkeel::trace",
        "request",
        otel.kind = "server",
        otel.name = method(request.method()).unwrap_or("HTTP"),
        otel.status_code = Empty,
        http.request.method = method(request.method()).unwrap_or(OTHER),
        http.request.method_original = original_method(request.method()),
        url.scheme = scheme(request),
        url.path = cut(original_uri(request).path(), MAX_PATH),
        server.address = authority(request).map(|authority| host_and_port(authority).0),
        server.port = authority(request).and_then(|authority| host_and_port(authority).1),
        client.address = client(request),
        network.protocol.version = version(request.version()),
        user_agent.original = text(request, &header::USER_AGENT).map(|agent| cut(agent, MAX_AGENT)),
        http.response.status_code = Empty,
        "error.type" = Empty,
        trace_id = Empty,
        span_id = Empty,
    )
}

/// Returns the name of a method that OpenTelemetry knows. Names that clients invent would be as many
/// names of spans.
fn method(method: &Method) -> Option<&str> {
    let name = method.as_str();
    METHODS.contains(&name).then_some(name)
}

fn original_method(asked: &Method) -> Option<&str> {
    match method(asked) {
        None => Some(cut(asked.as_str(), MAX_METHOD)),
        Some(_) => None,
    }
}

fn scheme<B>(request: &Request<B>) -> &str {
    let conn = ConnInfo::of(request.extensions());
    match request.uri().scheme_str() {
        Some(scheme) => scheme,
        None if conn.is_some_and(|conn| conn.tls().is_some()) => "https",
        None => "http",
    }
}

fn original_uri<B>(request: &Request<B>) -> &Uri {
    #[cfg(feature = "axum")]
    if let Some(original) = request.extensions().get::<axum::extract::OriginalUri>() {
        return &original.0;
    }
    request.uri()
}

fn authority<B>(request: &Request<B>) -> Option<&str> {
    match request.uri().authority() {
        Some(authority) => Some(authority.as_str()),
        None => text(request, &header::HOST),
    }
}

fn text<'a, B>(request: &'a Request<B>, name: &header::HeaderName) -> Option<&'a str> {
    let value = request.headers().get(name).map(HeaderValue::to_str);
    value.and_then(Result::ok)
}

/// Splits a host and its port. An IPv6 address is in brackets (RFC 3986 §3.2.2), and leaves without.
fn host_and_port(authority: &str) -> (&str, Option<i64>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (authority, None),
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    (cut(bare.unwrap_or(host), MAX_HOST), port.map(i64::from))
}

fn client<B>(request: &Request<B>) -> Option<tracing::field::DisplayValue<std::net::IpAddr>> {
    let client = ConnInfo::client_of(request.extensions())?;
    Some(tracing::field::display(client.ip()))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// Returns the beginning of a text, whole characters only.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// OpenTelemetry's word for a value that is in no list.
const OTHER: &str = "_OTHER";
/// The name of the outcome of an attempt that was dropped; here, of a request.
const CANCELLED: &str = "cancelled";
/// The methods that OpenTelemetry's conventions for HTTP know.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];
/// Longer than the longest registered method.
const MAX_METHOD: usize = 64;
/// The longest name in DNS.
const MAX_HOST: usize = 255;
/// Tracers keep whole spans in memory until they are exported: a client must not fill it.
const MAX_PATH: usize = 4_096;
/// Longer than the longest of browsers.
const MAX_AGENT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_split_from_its_port() {
        for (authority, host, port) in [
            ("shop.example", "shop.example", None),
            ("shop.example:8443", "shop.example", Some(8_443)),
            ("shop.example:", "shop.example", None),
            ("shop.example:x", "shop.example", None),
            ("192.0.2.1:80", "192.0.2.1", Some(80)),
            ("[2001:db8::1]:80", "2001:db8::1", Some(80)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("", "", None),
        ] {
            assert_eq!(host_and_port(authority), (host, port), "{authority:?}");
        }
    }

    #[test]
    fn fields_that_clients_choose_are_bounded() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 3), "");
        let invented = Method::from_bytes(&[b'X'; 100]).unwrap();
        assert_eq!(method(&invented), None);
        assert_eq!(original_method(&invented).unwrap().len(), MAX_METHOD);
        assert_eq!(original_method(&Method::GET), None);
        assert_eq!(method(&Method::PATCH), Some("PATCH"));
    }

    #[test]
    fn a_span_without_a_subscriber_costs_no_allocation() {
        let mut request = Request::new(());
        request
            .headers_mut()
            .insert("user-agent", HeaderValue::from_static("curl"));
        assert!(make(&request).is_disabled());
        let made = allocation_counter::measure(|| {
            for _ in 0..100 {
                assert!(std::hint::black_box(make(&request)).is_disabled());
            }
        });
        assert_eq!(made.count_total, 0);
    }
}
