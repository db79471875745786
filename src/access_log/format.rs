//! A line of JSON, written by hand into a buffer that is there already: its opening when the
//! request comes, its end at the request's.

use std::time::{Duration, UNIX_EPOCH};

use http::Version;

use super::{
    Entry,
    entry::{RequestEntry, RequestId},
    text::{digits, escaped, hex, millis, write_address, write_ip, write_time},
};
use crate::{
    context::{Attempt, AuthFailure, ConnInfo, Outcome, Peer, StickyVerdict, TlsInfo},
    pool::Backend,
};

/// Writes the key of a field, its length known to the compiler.
macro_rules! key {
    ($out:expr, $name:literal) => {
        $out.extend_from_slice(concat!(",\"", $name, "\":").as_bytes())
    };
}

/// Writes a string that may hold anything.
macro_rules! text {
    ($out:expr, $name:literal, $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $name, "\":\"").as_bytes());
        escaped($out, $value);
        $out.push(b'"');
    }};
}

/// Writes a string of ours that needs no escape.
macro_rules! plain {
    ($out:expr, $name:literal, $value:expr) => {{
        $out.extend_from_slice(concat!(",\"", $name, "\":\"").as_bytes());
        $out.extend_from_slice($value.as_bytes());
        $out.push(b'"');
    }};
}

/// Writes `entry` as one line.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    open(since, out);
    out.extend_from_slice(&node(entry.node));
    write_connection(entry, out);
    if let Some(request) = &entry.request {
        write_request(request, entry.tls.is_some(), out);
    }
    let end = End {
        status: entry.status,
        duration: entry.duration,
        ttfb: entry.ttfb,
        bytes: entry.request.map(|_| (entry.received, entry.sent)),
        attempts: entry.attempts,
        decision: entry.decision,
        sticky: entry.sticky,
        auth: entry.auth,
        outcome: entry.outcome,
        detail: entry.detail,
    };
    write_end(&end, out);
}

/// Begins a line, with the time since 1970.
pub(super) fn open(since: Duration, out: &mut Vec<u8>) {
    out.reserve(LINE);
    out.extend_from_slice(b"{\"time\":\"");
    write_time(out, since);
    out.push(b'"');
}

/// Returns what each line says of this balancer.
pub(super) fn node(name: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(name) = name {
        text!(&mut out, "node", name.as_bytes());
    }
    out
}

/// Writes what each line says of a connection.
pub(super) fn write_conn(conn: &ConnInfo, out: &mut Vec<u8>) {
    let (listener, peer) = (Some(*conn.local()), Some(*conn.peer()));
    write_addresses(listener, conn.client(), peer, out);
    if let Some(tls) = conn.tls() {
        write_tls(tls, out);
    }
}

fn write_connection(entry: &Entry<'_>, out: &mut Vec<u8>) {
    write_addresses(entry.listener, entry.client, entry.peer, out);
    if let Some(tls) = entry.tls {
        write_tls(tls, out);
    }
}

fn write_addresses(
    listener: Option<Peer>,
    client: Option<std::net::SocketAddr>,
    peer: Option<Peer>,
    out: &mut Vec<u8>,
) {
    match listener {
        Some(Peer::Tcp(address)) => {
            out.extend_from_slice(b",\"listener\":\"");
            write_address(out, address);
            out.push(b'"');
        }
        Some(Peer::Unix) => plain!(out, "listener", "unix"),
        _ => {}
    }
    if let Some(client) = client {
        out.extend_from_slice(b",\"client\":\"");
        write_ip(out, client.ip());
        out.push(b'"');
    }
    if let Some(peer) = peer.and_then(Peer::address) {
        if client != Some(peer) {
            out.extend_from_slice(b",\"peer\":\"");
            write_ip(out, peer.ip());
            out.push(b'"');
        }
    }
}

fn write_tls(tls: &TlsInfo, out: &mut Vec<u8>) {
    plain!(out, "tls_version", tls.version);
    plain!(out, "tls_cipher", tls.cipher);
    if let Some(group) = tls.key_exchange {
        plain!(out, "tls_key_exchange", group);
    }
    key!(out, "tls_resumed");
    out.extend_from_slice(if tls.resumed { b"true" } else { b"false" });
    if let Some(alpn) = &tls.alpn {
        text!(out, "alpn", alpn);
    }
    if let Some(sni) = tls.sni.as_deref() {
        text!(out, "sni", sni.as_bytes());
    }
}

/// Writes what a line says of the request.
pub(super) fn write_request(request: &RequestEntry<'_>, tls: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"request_id\":\"");
    match request.id {
        RequestId::Given(id) => escaped(out, id),
        RequestId::Made(id) => out.extend_from_slice(&hex(id)),
    }
    out.extend_from_slice(b"\",\"method\":\"");
    // A token (RFC 9110 §5.6.2): nothing to escape.
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(if tls { SCHEMES[1] } else { SCHEMES[0] });
    let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(host) = authority.or(request.host) {
        text!(out, "host", host);
    }
    text!(out, "path", request.uri.path().as_bytes());
    if let Some(query) = request.query {
        text!(out, "query", query.as_bytes());
    }
    out.extend_from_slice(match request.version {
        Version::HTTP_09 => b",\"protocol\":\"HTTP/0.9\"",
        Version::HTTP_10 => b",\"protocol\":\"HTTP/1.0\"",
        Version::HTTP_2 => b",\"protocol\":\"HTTP/2\"",
        Version::HTTP_3 => b",\"protocol\":\"HTTP/3\"",
        _ => b",\"protocol\":\"HTTP/1.1\"" as &[u8],
    });
    if let Some(agent) = request.user_agent {
        text!(out, "user_agent", agent);
    }
    if let Some(referer) = request.referer {
        text!(out, "referer", referer);
    }
}

/// What a line says from the status on.
pub(super) struct End<'a> {
    pub(super) status: Option<u16>,
    pub(super) duration: Duration,
    pub(super) ttfb: Option<Duration>,
    /// Received and sent; of a request only.
    pub(super) bytes: Option<(u64, u64)>,
    pub(super) attempts: &'a [Attempt],
    pub(super) decision: Option<(&'static str, usize)>,
    pub(super) sticky: Option<StickyVerdict>,
    pub(super) auth: Option<&'a AuthFailure>,
    pub(super) outcome: &'static str,
    pub(super) detail: Option<&'a str>,
}

/// Ends a line.
pub(super) fn write_end(end: &End<'_>, out: &mut Vec<u8>) {
    if let Some(status) = end.status {
        key!(out, "status");
        digits(out, status.into());
    }
    key!(out, "duration_ms");
    millis(out, end.duration);
    if let Some(ttfb) = end.ttfb {
        key!(out, "ttfb_ms");
        millis(out, ttfb);
    }
    if let Some((received, sent)) = end.bytes {
        key!(out, "received");
        digits(out, received);
        key!(out, "sent");
        digits(out, sent);
    }
    write_attempts(end.attempts, out);
    if let Some((strategy, candidates)) = end.decision {
        plain!(out, "strategy", strategy);
        key!(out, "candidates");
        digits(out, candidates as u64);
    }
    if let Some(sticky) = end.sticky {
        plain!(out, "sticky", sticky.as_str());
    }
    if let Some(auth) = end.auth {
        write_auth(auth, out);
    }
    plain!(out, "outcome", end.outcome);
    if let Some(detail) = end.detail.filter(|d| !d.is_empty()) {
        text!(out, "detail", detail.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

fn write_attempts(attempts: &[Attempt], out: &mut Vec<u8>) {
    let answered = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
    let Some(chosen) = attempts
        .iter()
        .rev()
        .find(answered)
        .or_else(|| attempts.last())
    else {
        return;
    };
    out.extend_from_slice(chosen.backend.told(backend));
    if attempts.len() > 1 {
        write_all_attempts(attempts, out);
    }
}

/// Returns what each line says of a backend that answered.
fn backend(backend: &Backend) -> Box<[u8]> {
    let out = &mut Vec::new();
    text!(out, "backend", backend.id().as_bytes());
    out.extend_from_slice(b",\"backend_address\":\"");
    match backend.unix_path() {
        Some(path) => escaped(out, path.as_os_str().as_encoded_bytes()),
        None => {
            escaped(out, backend.host().as_bytes());
            out.push(b':');
            digits(out, backend.port().into());
        }
    }
    out.push(b'"');
    std::mem::take(out).into()
}

/// What a retry or a hedge adds.
#[cold]
#[inline(never)]
fn write_all_attempts(attempts: &[Attempt], out: &mut Vec<u8>) {
    key!(out, "attempts");
    for (i, attempt) in attempts.iter().enumerate() {
        out.extend_from_slice(if i == 0 {
            b"[{\"backend\":\""
        } else {
            b",{\"backend\":\""
        });
        escaped(out, attempt.backend.id().as_bytes());
        out.push(b'"');
        plain!(
            out,
            "outcome",
            attempt.outcome.map_or("running", |o| o.as_str())
        );
        if let Some(duration) = attempt.duration {
            key!(out, "duration_ms");
            millis(out, duration);
        }
        out.push(b'}');
    }
    out.push(b']');
}

#[cold]
#[inline(never)]
fn write_auth(auth: &AuthFailure, out: &mut Vec<u8>) {
    text!(out, "auth_scheme", auth.scheme.as_bytes());
    if let Some(user) = auth.user.as_deref() {
        text!(out, "auth_user", user.as_bytes());
    }
    if !auth.reason.is_empty() {
        text!(out, "auth_reason", auth.reason.as_bytes());
    }
}

/// Without and with TLS.
const SCHEMES: [&[u8]; 2] = [b"\",\"scheme\":\"http\"", b"\",\"scheme\":\"https\""];
/// What nearly every line fits into.
const LINE: usize = 1_024;
