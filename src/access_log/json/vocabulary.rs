//! The names of a line's fields in each vocabulary, as constants of the encoder.
//!
//! The encoder is generic over a [`Vocabulary`], so that a name is a constant where it is written: a
//! choice of names costs no look-up, and the default names cost nothing for it.
//!
//! A new field needs a constant in the trait, a name in each of the three lists (a missing one does
//! not compile), a row in `schema.md` and a place in the encoder. Names of OpenTelemetry and ECS are
//! published ones or begin with `evenkeel.`: `names_are_published_ones_or_our_own` has the lists.
//!
//! The slots are functions with a `static` inside, because a `static` cannot be generic: each
//! vocabulary has a key of its own, so that a cached text is never one of another vocabulary.

use super::super::FieldNames;
use crate::{context::ConnCache, slots::SlotKey};

/// The JSON around a field's name.
///
/// Three forms, because a field is written with one copy: the comma before it, its name, and the quote
/// that begins its value or ends the one before. Each is a constant of some twenty bytes.
pub(super) struct Key {
    /// `,"name":`
    pub(super) bare: &'static [u8],
    /// `,"name":"`
    pub(super) text: &'static [u8],
    /// `","name":"`, after the content of a string.
    pub(super) next: &'static [u8],
}

pub(super) trait Vocabulary {
    const NAMES: FieldNames;
    /// The beginning of a line, up to the time.
    const START: &'static [u8];
    /// What follows the time in every line.
    const HEADER: &'static [u8];
    /// Addresses have their ports in fields of their own; protocols and TLS versions are numbers.
    const IS_SPLIT: bool;
    /// A failure has the fields `error.type` and `error.message`.
    const HAS_ERROR: bool;

    const NODE: Key;
    const LISTENER: Key;
    const LISTENER_PORT: Key;
    const CLIENT: Key;
    const PEER: Key;
    const TLS_VERSION: Key;
    const TLS_CIPHER: Key;
    const TLS_KEY_EXCHANGE: Key;
    const TLS_RESUMED: Key;
    const ALPN: Key;
    const SNI: Key;
    const TLS_FAILURE: Key;
    const CLIENT_SUBJECT: Key;
    const CLIENT_FINGERPRINT: Key;
    const REQUEST_ID: Key;
    const TRACE_ID: Key;
    const SPAN_ID: Key;
    const METHOD: Key;
    const SCHEME: Key;
    const HOST: Key;
    const HOST_PORT: Key;
    const PATH: Key;
    const QUERY: Key;
    const PROTOCOL: Key;
    const USER_AGENT: Key;
    const REFERER: Key;
    const STATUS: Key;
    const DURATION: Key;
    const TTFB: Key;
    const QUEUE: Key;
    const RECEIVED: Key;
    const SENT: Key;
    const BACKEND: Key;
    const BACKEND_ADDRESS: Key;
    const LOCALITY: Key;
    const CONNECT: Key;
    const TLS: Key;
    const HEAD: Key;
    const BODY: Key;
    const ATTEMPTS: Key;
    const STRATEGY: Key;
    const CANDIDATES: Key;
    const EXCLUDED: Key;
    const STICKY: Key;
    const USER: Key;
    const AUTH_SCHEME: Key;
    const AUTH_USER: Key;
    const AUTH_REASON: Key;
    const FIELDS: Key;
    const SAMPLE_RATE: Key;
    const TRUNCATED: Key;
    const OUTCOME: Key;
    const DETAIL: Key;

    /// Where a connection caches its fields; those with the fingerprint of its certificate apart.
    fn conn_slot(fingerprint: bool) -> &'static SlotKey<ConnCache<Box<[u8]>>>;
    /// Where a backend caches its fields.
    fn backend_slot() -> &'static SlotKey<Box<[u8]>>;
}

macro_rules! vocabulary {
    (
        $(#[$doc:meta])* $type:ident:
        start $start:literal, header $header:literal, split $split:literal, error $error:literal;
        $($key:ident $name:literal,)*
    ) => {
        $(#[$doc])*
        pub(super) struct $type;

        impl Vocabulary for $type {
            const NAMES: FieldNames = FieldNames::$type;
            const START: &'static [u8] = concat!("{\"", $start, "\":\"").as_bytes();
            const HEADER: &'static [u8] = $header.as_bytes();
            const IS_SPLIT: bool = $split;
            const HAS_ERROR: bool = $error;
            $(const $key: Key = Key {
                bare: concat!(",\"", $name, "\":").as_bytes(),
                text: concat!(",\"", $name, "\":\"").as_bytes(),
                next: concat!("\",\"", $name, "\":\"").as_bytes(),
            };)*

            fn conn_slot(fingerprint: bool) -> &'static SlotKey<ConnCache<Box<[u8]>>> {
                static SLOT: SlotKey<ConnCache<Box<[u8]>>> = SlotKey::new();
                static WITH_FINGERPRINT: SlotKey<ConnCache<Box<[u8]>>> = SlotKey::new();
                match fingerprint {
                    true => &WITH_FINGERPRINT,
                    false => &SLOT,
                }
            }

            fn backend_slot() -> &'static SlotKey<Box<[u8]>> {
                static SLOT: SlotKey<Box<[u8]>> = SlotKey::new();
                &SLOT
            }
        }

        #[cfg(test)]
        impl $type {
            pub(super) const ALL: &[&str] = &[$start, $($name),*];
        }
    };
}

vocabulary! {
    /// The names of this crate.
    Own:
    start "time", header r#","schema":1"#, split false, error false;
    NODE "node",
    LISTENER "listener",
    LISTENER_PORT "listener",
    CLIENT "client",
    PEER "peer",
    TLS_VERSION "tls_version",
    TLS_CIPHER "tls_cipher",
    TLS_KEY_EXCHANGE "tls_key_exchange",
    TLS_RESUMED "tls_resumed",
    ALPN "alpn",
    SNI "sni",
    TLS_FAILURE "tls_failure",
    CLIENT_SUBJECT "tls_client_subject",
    CLIENT_FINGERPRINT "tls_client_fingerprint",
    REQUEST_ID "request_id",
    TRACE_ID "trace_id",
    SPAN_ID "span_id",
    METHOD "method",
    SCHEME "scheme",
    HOST "host",
    HOST_PORT "host",
    PATH "path",
    QUERY "query",
    PROTOCOL "protocol",
    USER_AGENT "user_agent",
    REFERER "referer",
    STATUS "status",
    DURATION "duration_ms",
    TTFB "ttfb_ms",
    QUEUE "queue_ms",
    RECEIVED "received",
    SENT "sent",
    BACKEND "backend",
    BACKEND_ADDRESS "backend_address",
    LOCALITY "locality",
    CONNECT "connect_ms",
    TLS "tls_ms",
    HEAD "head_ms",
    BODY "body_ms",
    ATTEMPTS "attempts",
    STRATEGY "strategy",
    CANDIDATES "candidates",
    EXCLUDED "excluded",
    STICKY "sticky",
    USER "user",
    AUTH_SCHEME "auth_scheme",
    AUTH_USER "auth_user",
    AUTH_REASON "auth_reason",
    FIELDS "fields",
    SAMPLE_RATE "sample_rate",
    TRUNCATED "truncated",
    OUTCOME "outcome",
    DETAIL "detail",
}

vocabulary! {
    /// The semantic conventions of OpenTelemetry; what they have no name for is under `evenkeel`.
    OpenTelemetry:
    start "timestamp", header r#","evenkeel.schema":1"#, split true, error true;
    NODE "service.instance.id",
    LISTENER "network.local.address",
    LISTENER_PORT "network.local.port",
    CLIENT "client.address",
    PEER "network.peer.address",
    TLS_VERSION "tls.protocol.version",
    TLS_CIPHER "tls.cipher",
    TLS_KEY_EXCHANGE "tls.curve",
    TLS_RESUMED "tls.resumed",
    ALPN "tls.next_protocol",
    SNI "tls.client.server_name",
    TLS_FAILURE "evenkeel.tls_failure",
    CLIENT_SUBJECT "tls.client.subject",
    CLIENT_FINGERPRINT "tls.client.hash.sha256",
    REQUEST_ID "evenkeel.request_id",
    TRACE_ID "trace_id",
    SPAN_ID "span_id",
    METHOD "http.request.method",
    SCHEME "url.scheme",
    HOST "server.address",
    HOST_PORT "server.port",
    PATH "url.path",
    QUERY "url.query",
    PROTOCOL "network.protocol.version",
    USER_AGENT "user_agent.original",
    REFERER "evenkeel.referer",
    STATUS "http.response.status_code",
    DURATION "evenkeel.duration_ms",
    TTFB "evenkeel.ttfb_ms",
    QUEUE "evenkeel.queue_ms",
    RECEIVED "http.request.body.size",
    SENT "http.response.body.size",
    BACKEND "evenkeel.backend",
    BACKEND_ADDRESS "evenkeel.backend_address",
    LOCALITY "evenkeel.locality",
    CONNECT "evenkeel.connect_ms",
    TLS "evenkeel.tls_ms",
    HEAD "evenkeel.head_ms",
    BODY "evenkeel.body_ms",
    ATTEMPTS "evenkeel.attempts",
    STRATEGY "evenkeel.strategy",
    CANDIDATES "evenkeel.candidates",
    EXCLUDED "evenkeel.excluded",
    STICKY "evenkeel.sticky",
    USER "user.name",
    AUTH_SCHEME "evenkeel.auth_scheme",
    AUTH_USER "evenkeel.auth_user",
    AUTH_REASON "evenkeel.auth_reason",
    FIELDS "evenkeel.fields",
    SAMPLE_RATE "evenkeel.sample_rate",
    TRUNCATED "evenkeel.truncated",
    OUTCOME "evenkeel.outcome",
    DETAIL "error.message",
}

vocabulary! {
    /// The Elastic Common Schema; what it has no name for is under `evenkeel`.
    Ecs:
    start "@timestamp",
    header r#","ecs.version":"9.4.0","event.kind":"event","event.category":["web"],"event.type":["access"],"event.dataset":"evenkeel.access","evenkeel.schema":1"#,
    split true, error true;
    NODE "observer.name",
    LISTENER "server.address",
    LISTENER_PORT "server.port",
    CLIENT "client.ip",
    PEER "source.ip",
    TLS_VERSION "tls.version",
    TLS_CIPHER "tls.cipher",
    TLS_KEY_EXCHANGE "tls.curve",
    TLS_RESUMED "tls.resumed",
    ALPN "tls.next_protocol",
    SNI "tls.client.server_name",
    TLS_FAILURE "evenkeel.tls_failure",
    CLIENT_SUBJECT "tls.client.subject",
    CLIENT_FINGERPRINT "tls.client.hash.sha256",
    REQUEST_ID "http.request.id",
    TRACE_ID "trace.id",
    SPAN_ID "span.id",
    METHOD "http.request.method",
    SCHEME "url.scheme",
    HOST "url.domain",
    HOST_PORT "url.port",
    PATH "url.path",
    QUERY "url.query",
    PROTOCOL "http.version",
    USER_AGENT "user_agent.original",
    REFERER "http.request.referrer",
    STATUS "http.response.status_code",
    DURATION "event.duration",
    TTFB "evenkeel.ttfb_ms",
    QUEUE "evenkeel.queue_ms",
    RECEIVED "http.request.body.bytes",
    SENT "http.response.body.bytes",
    BACKEND "evenkeel.backend",
    BACKEND_ADDRESS "evenkeel.backend_address",
    LOCALITY "evenkeel.locality",
    CONNECT "evenkeel.connect_ms",
    TLS "evenkeel.tls_ms",
    HEAD "evenkeel.head_ms",
    BODY "evenkeel.body_ms",
    ATTEMPTS "evenkeel.attempts",
    STRATEGY "evenkeel.strategy",
    CANDIDATES "evenkeel.candidates",
    EXCLUDED "evenkeel.excluded",
    STICKY "evenkeel.sticky",
    USER "user.name",
    AUTH_SCHEME "evenkeel.auth_scheme",
    AUTH_USER "evenkeel.auth_user",
    AUTH_REASON "evenkeel.auth_reason",
    FIELDS "labels",
    SAMPLE_RATE "evenkeel.sample_rate",
    TRUNCATED "evenkeel.truncated",
    OUTCOME "evenkeel.outcome",
    DETAIL "error.message",
}
