//! Tests of whole lines: to the byte, and against the documented schema and the published vocabularies.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Uri, Version};
use proptest::prelude::*;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    Buffer,
    end::format_backend,
    vocabulary::{Ecs, OpenTelemetry, Own},
    written,
};
use crate::{
    access_log::{Entry, FieldNames, RequestEntry, RequestId, Truncated, truncated::Field},
    context::{
        Attempt, AuthFailure, ClientIdentity, HandshakeFailure, LogFields, Outcome, Peer,
        StickyVerdict, TlsInfo, TraceContext,
    },
    error::ErrorKind,
    pool::{Backend, Excluded, Locality},
};

const EVERY: [FieldNames; 3] = [FieldNames::Own, FieldNames::OpenTelemetry, FieldNames::Ecs];

fn line(entry: &Entry<'_>) -> String {
    String::from_utf8(Buffer::of_entry(entry).written().to_vec()).unwrap()
}

fn parse(entry: &Entry<'_>) -> Map<String, Value> {
    let line = line(entry);
    match serde_json::from_str(&line) {
        Ok(Value::Object(fields)) => fields,
        other => panic!("{other:?}: {line}"),
    }
}

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// What an entry borrows.
struct Parts {
    attempts: [Attempt; 2],
    tls: TlsInfo,
    auth: AuthFailure,
    uri: Uri,
    fields: LogFields,
}

impl Parts {
    fn new() -> Self {
        let attempt = |id: &str, outcome, duration| {
            let backend = Backend::new(id, "http://127.0.0.1:9001").unwrap();
            let backend = backend.locality(Locality::new("eu-1/eu-1a").unwrap());
            let mut attempt = Attempt::begun(backend, Instant::now());
            (attempt.outcome, attempt.duration) = (outcome, duration);
            attempt
        };
        let failed = Some(Outcome::Failed(ErrorKind::Connect));
        let mut attempts = [
            attempt("a", failed, Some(micros(1_500))),
            attempt("b", Some(Outcome::Ok), Some(micros(30_000))),
        ];
        attempts[0].detail = Some("Connection refused".into());
        attempts[1].set_phases(micros(1_000), micros(2_000), micros(10_000));
        Self {
            attempts,
            tls: TlsInfo {
                version: "TLSv1.3",
                cipher: "TLS_AES_128_GCM_SHA256",
                key_exchange: Some("X25519"),
                alpn: Some(Bytes::from_static(b"h2")),
                sni: Some("shop.example".into()),
                client: Some(Box::new(ClientIdentity {
                    subject: "CN=app-1,O=Ex\\\"ample".into(),
                    issuer: "CN=ca".into(),
                    names: Vec::new(),
                    serial: "2a".into(),
                    fingerprint: "0fab".into(),
                    not_after: UNIX_EPOCH,
                    client_cert: HeaderValue::from_static(":AA==:"),
                    client_cert_chain: None,
                })),
                ..TlsInfo::default()
            },
            auth: AuthFailure::new("Basic", "no").user("eve"),
            uri: Uri::from_static("/p%20q?x"),
            fields: LogFields::new()
                .field("tenant", "ac\"me")
                .field("items", 3)
                .field("size", 18_446_744_073_709_551_615_u64)
                .field("share", 0.5)
                .field("huge", 1e300)
                .field("none", f64::NAN)
                .field("vip", true),
        }
    }

    fn request(&self) -> RequestEntry<'_> {
        RequestEntry {
            id: RequestId::Made(0xabc),
            method: &Method::POST,
            uri: &self.uri,
            path: self.uri.path(),
            version: Version::HTTP_10,
            host: Some(b"shop.example:8443"),
            query: Some("x=\"1\""),
            user_agent: Some(b"a\tb"),
            referer: Some(b"https://shop.example/from/here"),
        }
    }

    /// Returns a line with every field.
    fn full(&self) -> Entry<'_> {
        let mut truncated = Truncated::default();
        truncated.add(Field::Path);
        truncated.add(Field::Fields);
        let excluded = Excluded {
            unhealthy: 2,
            tried: 1,
            ..Excluded::default()
        };
        Entry {
            node: Some("lb-1"),
            listener: Some(Peer::Tcp("[::1]:443".parse().unwrap())),
            peer: Some(Peer::Tcp("192.0.2.9:1234".parse().unwrap())),
            client: Some("198.51.100.7:4321".parse().unwrap()),
            request: Some(self.request()),
            status: Some(502),
            ttfb: Some(micros(9_999)),
            queued: Some(micros(17)),
            received: 12,
            sent: 12_345,
            attempts: &self.attempts,
            decision: Some(("round-robin", 2)),
            excluded,
            sticky: Some(StickyVerdict::Valid),
            tls: Some(&self.tls),
            tls_failure: Some(HandshakeFailure::ClientClosed),
            client_fingerprint: true,
            user: Some("ada"),
            auth: Some(&self.auth),
            detail: Some("gone"),
            trace: Some(TraceContext::new([0x4b; 16], [0x0f; 8], true)),
            fields: Some(&self.fields),
            sample_rate: Some(0.25),
            truncated,
            ..entry("connect")
        }
    }

    /// Returns a line with few fields.
    fn least(&self) -> Entry<'_> {
        Entry {
            request: Some(RequestEntry {
                id: RequestId::Given(b"abc-1"),
                method: &Method::GET,
                version: Version::HTTP_2,
                host: None,
                query: None,
                user_agent: None,
                referer: None,
                ..self.request()
            }),
            status: Some(200),
            ..entry("ok")
        }
    }
}

fn entry(outcome: &'static str) -> Entry<'static> {
    let time = UNIX_EPOCH + Duration::from_millis(1_709_164_799_007);
    Entry::new(time, micros(1_234_567), outcome)
}

#[test]
fn a_line_is_written_to_the_byte_as_readers_know_it() {
    let parts = Parts::new();
    let wanted = concat!(
        r#"{"time":"2024-02-28T23:59:59.007Z","schema":1,"node":"lb-1","listener":"[::1]:443","#,
        r#""client":"198.51.100.7","peer":"192.0.2.9","tls_version":"TLSv1.3","#,
        r#""tls_cipher":"TLS_AES_128_GCM_SHA256","tls_key_exchange":"X25519","#,
        r#""tls_resumed":false,"alpn":"h2","sni":"shop.example","#,
        r#""tls_client_subject":"CN=app-1,O=Ex\\\"ample","tls_client_fingerprint":"0fab","#,
        r#""tls_failure":"client_closed","#,
        r#""request_id":"00000000000000000000000000000abc","#,
        r#""trace_id":"4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b","span_id":"0f0f0f0f0f0f0f0f","#,
        r#""method":"POST","scheme":"https","host":"shop.example:8443","path":"/p%20q","#,
        r#""query":"x=\"1\"","protocol":"HTTP/1.0","user_agent":"a\tb","#,
        r#""referer":"https://shop.example/from/here","status":502,"#,
        r#""duration_ms":1234.567,"ttfb_ms":9.999,"queue_ms":0.017,"received":12,"sent":12345,"#,
        r#""backend":"b","backend_address":"127.0.0.1:9001","locality":"eu-1/eu-1a","#,
        r#""connect_ms":1.000,"tls_ms":2.000,"head_ms":10.000,"body_ms":17.000,"#,
        r#""attempts":[{"backend":"a","outcome":"connect","duration_ms":1.500,"#,
        r#""detail":"Connection refused"},{"backend":"b","outcome":"ok","duration_ms":30.000}],"#,
        r#""strategy":"round-robin","candidates":2,"sticky":"valid","#,
        r#""excluded":{"unhealthy":2,"tried":1},"user":"ada","auth_scheme":"Basic","auth_user":"eve","#,
        r#""auth_reason":"no","fields":{"tenant":"ac\"me","items":3,"#,
        r#""size":18446744073709551615,"share":0.5,"huge":1e300,"none":null,"vip":true},"#,
        r#""sample_rate":0.25,"truncated":["path","fields"],"outcome":"connect","detail":"gone"}"#,
        "\n",
    );
    assert_eq!(line(&parts.full()), wanted);
    let wanted = concat!(
        r#"{"time":"2024-02-28T23:59:59.007Z","schema":1,"request_id":"abc-1","method":"GET","#,
        r#""scheme":"http","path":"/p%20q","protocol":"HTTP/2","status":200,"#,
        r#""duration_ms":1234.567,"received":0,"sent":0,"outcome":"ok"}"#,
        "\n",
    );
    assert_eq!(line(&parts.least()), wanted);
}

#[test]
fn a_handshake_that_failed_has_its_cause_and_the_name_that_was_asked_for() {
    let failed = Entry {
        tls_failure: Some(HandshakeFailure::UnknownServerName),
        server_name: Some("a.test"),
        ..entry("tls_handshake")
    };
    let wanted = r#""sni":"a.test","tls_failure":"unknown_server_name","#;
    assert!(line(&failed).contains(wanted), "{}", line(&failed));
}

#[test]
fn the_other_vocabularies_have_their_forms_of_values() {
    let parts = Parts::new();
    let in_names = |names| {
        parse(&Entry {
            names,
            ..parts.full()
        })
    };
    let otel = in_names(FieldNames::OpenTelemetry);
    for (field, wanted) in [
        ("network.local.address", Value::from("::1")),
        ("network.local.port", 443.into()),
        ("server.address", "shop.example".into()),
        ("server.port", 8443.into()),
        ("network.protocol.version", "1.0".into()),
        ("tls.protocol.version", "1.3".into()),
        ("tls.client.subject", "CN=app-1,O=Ex\\\"ample".into()),
        ("tls.client.hash.sha256", "0FAB".into()),
        ("evenkeel.duration_ms", 1234.567.into()),
        ("error.type", "connect".into()),
        ("error.message", "gone".into()),
    ] {
        assert_eq!(otel[field], wanted, "{field}");
    }
    let ecs = in_names(FieldNames::Ecs);
    for (field, wanted) in [
        ("event.duration", Value::from(1_234_567_000_u64)),
        ("event.outcome", "failure".into()),
        ("http.version", "1.0".into()),
        ("url.domain", "shop.example".into()),
        ("url.port", 8443.into()),
    ] {
        assert_eq!(ecs[field], wanted, "{field}");
    }
    assert_eq!(ecs["labels"]["tenant"], "ac\"me");
    for (outcome, status, wanted) in [
        ("ok", Some(200), "success"),
        ("ok", Some(404), "failure"),
        ("ok", None, "success"),
        ("client_abort", Some(200), "unknown"),
        ("timeout", Some(200), "failure"),
    ] {
        let names = FieldNames::Ecs;
        let line = parse(&Entry {
            status,
            names,
            ..entry(outcome)
        });
        assert_eq!(line["event.outcome"], wanted, "{outcome} {status:?}");
        assert_eq!(line.get("error.type").is_some(), outcome != "ok");
    }
}

/// The rows of a table of `schema.md`, without code marks, by its first heading cell.
fn rows(columns: usize) -> Vec<Vec<String>> {
    let rows = include_str!("../schema.md").lines().map(|line| {
        let cells = line.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().replace('`', ""))
            .collect::<Vec<_>>()
    });
    let is_row = |row: &Vec<String>| row.len() == columns && row[0] != "field" && row[0] != "---";
    rows.filter(is_row).collect()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Array(items) if items.iter().all(Value::is_string) => "array of strings",
        Value::Array(_) => "array of objects",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Object(_) => "object",
        Value::String(_) => "string",
    }
}

#[test]
fn the_documented_schema_is_what_the_encoder_writes() {
    let parts = Parts::new();
    for (column, names) in [
        (0, FieldNames::Own),
        (1, FieldNames::OpenTelemetry),
        (2, FieldNames::Ecs),
    ] {
        let mut documented = BTreeMap::new();
        for row in rows(7).iter().filter(|row| row[column] != "–") {
            let example: Value = serde_json::from_str(&row[6]).expect("an example is JSON");
            assert_eq!(type_of(&example), row[3], "the example of {}", row[0]);
            let was = documented.insert(row[column].clone(), row[3].clone());
            assert_eq!(was, None, "{} stands for two fields", row[column]);
        }
        let vocabulary = match names {
            FieldNames::Own => "own",
            FieldNames::OpenTelemetry => "OpenTelemetry",
            FieldNames::Ecs => "ECS",
        };
        for row in rows(5)
            .iter()
            .filter(|row| row[1].split(", ").any(|v| v == vocabulary))
        {
            documented.insert(row[0].clone(), row[2].clone());
        }
        let written = parse(&Entry {
            names,
            ..parts.full()
        });
        let fields: BTreeSet<_> = written.keys().cloned().collect();
        assert_eq!(fields, documented.keys().cloned().collect(), "{names:?}");
        for (field, value) in &written {
            let is_nanos = field == "event.duration";
            let wanted = if is_nanos {
                "integer"
            } else {
                &documented[field]
            };
            assert_eq!(type_of(value), wanted, "{field}");
        }
    }
    assert!(rows(7).len() > 50, "the table must be found");
}

/// The published names that lines use: OpenTelemetry semantic conventions 1.44 (package
/// `opentelemetry-semantic-conventions` 0.66b2 on PyPI), with the fields of its log data model.
const OPEN_TELEMETRY: &[&str] = &[
    "client.address",
    "error.message",
    "error.type",
    "http.request.body.size",
    "http.request.method",
    "http.response.body.size",
    "http.response.status_code",
    "network.local.address",
    "network.local.port",
    "network.peer.address",
    "network.protocol.version",
    "server.address",
    "server.port",
    "service.instance.id",
    "span_id",
    "timestamp",
    "tls.cipher",
    "tls.client.hash.sha256",
    "tls.client.server_name",
    "tls.client.subject",
    "tls.curve",
    "tls.next_protocol",
    "tls.protocol.version",
    "tls.resumed",
    "trace_id",
    "url.path",
    "url.query",
    "url.scheme",
    "user.name",
    "user_agent.original",
];

/// The published names that lines use: ECS 9.4 (`generated/csv/fields.csv` of `elastic/ecs`).
const ECS: &[&str] = &[
    "@timestamp",
    "client.ip",
    "ecs.version",
    "error.message",
    "error.type",
    "event.category",
    "event.dataset",
    "event.duration",
    "event.kind",
    "event.outcome",
    "event.type",
    "http.request.body.bytes",
    "http.request.id",
    "http.request.method",
    "http.request.referrer",
    "http.response.body.bytes",
    "http.response.status_code",
    "http.version",
    "labels",
    "observer.name",
    "server.address",
    "server.port",
    "source.ip",
    "span.id",
    "tls.cipher",
    "tls.client.hash.sha256",
    "tls.client.server_name",
    "tls.client.subject",
    "tls.curve",
    "tls.next_protocol",
    "tls.resumed",
    "tls.version",
    "trace.id",
    "url.domain",
    "url.path",
    "url.port",
    "url.query",
    "url.scheme",
    "user.name",
    "user_agent.original",
];

#[test]
fn names_are_published_ones_or_our_own() {
    let parts = Parts::new();
    for (names, published) in [
        (FieldNames::OpenTelemetry, OPEN_TELEMETRY),
        (FieldNames::Ecs, ECS),
    ] {
        let written = parse(&Entry {
            names,
            ..parts.full()
        });
        let foreign = written.keys().filter(|name| !name.starts_with("evenkeel."));
        let foreign: BTreeSet<_> = foreign.map(String::as_str).collect();
        assert_eq!(foreign, published.iter().copied().collect(), "{names:?}");
    }
    for all in [Own::ALL, OpenTelemetry::ALL, Ecs::ALL] {
        let distinct: BTreeSet<_> = all.iter().collect();
        // The port of an address has the address's own name where the two are one field.
        let shared = if all == Own::ALL { 2 } else { 0 };
        assert_eq!(distinct.len(), all.len() - shared);
    }
}

#[test]
fn the_address_of_a_backend_has_brackets_where_it_is_ipv6() {
    for (url, address) in [
        ("http://127.0.0.1:9001", "127.0.0.1:9001"),
        ("https://app.example/base", "app.example:443"),
        ("http://[2001:db8::1]", "[2001:db8::1]:80"),
        ("http://[::1]:9001", "[::1]:9001"),
    ] {
        let backend = Backend::new("a", url).unwrap();
        let words = written(|cursor| format_backend::<Own>(&backend, cursor));
        let wanted = format!(r#","backend":"a","backend_address":"{address}""#);
        assert_eq!(String::from_utf8_lossy(&words), wanted);
    }
}

#[test]
fn any_status_that_a_sink_hands_on_is_a_number() {
    for status in [0, 7, 99, 100, 200, 999, 1_000, u16::MAX] {
        let line = parse(&Entry {
            status: Some(status),
            ..entry("ok")
        });
        assert_eq!(line["status"], status);
    }
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..most),
        ".{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn any_bytes_of_a_client_make_one_line_of_json_in_every_vocabulary(
        host in bytes(90),
        agent in bytes(90),
        referer in bytes(90),
        id in bytes(90),
        query in ".{0,40}",
        path in ".{0,40}",
        detail in ".{0,40}",
        value in ".{0,40}",
    ) {
        let parts = Parts::new();
        let fields = LogFields::new().field("own", value.clone());
        for names in EVERY {
            let line = line(&Entry {
                request: Some(RequestEntry {
                    id: RequestId::Given(&id),
                    path: &path,
                    host: Some(&host),
                    query: Some(&query),
                    user_agent: Some(&agent),
                    referer: Some(&referer),
                    ..parts.request()
                }),
                user: Some(&value),
                fields: Some(&fields),
                detail: Some(&detail),
                names,
                ..parts.full()
            });
            prop_assert_eq!(line.matches('\n').count(), 1);
            let fields: Value = serde_json::from_str(&line).unwrap();
            let name = |own| match (names, own) {
                (FieldNames::Own, own) => own,
                (_, "path") => "url.path",
                (_, "user_agent") => "user_agent.original",
                (_, "user") => "user.name",
                (_, other) => panic!("{other}"),
            };
            prop_assert_eq!(&fields[name("path")], &path);
            prop_assert_eq!(&fields[name("user")], &value);
            let shown = String::from_utf8_lossy(&agent);
            prop_assert_eq!(&fields[name("user_agent")], &*shown);
        }
    }
}
