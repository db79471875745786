//! The fields of a line, in their order: the opening, from the time to the referer, and the end, from
//! the status on.

use std::{net::SocketAddr, time::UNIX_EPOCH};

use http::{Method, Version};

use super::{Buffer, Cursor};
use crate::{
    access_log::{
        Entry, FieldNames, RefusedEntry, RequestEntry, RequestId, closing::End,
        opening::OpeningFacts,
    },
    context::{Attempt, AuthFailure, ConnCache, ConnInfo, Outcome, Peer, TlsInfo},
    pool::Backend,
    slots::SlotKey,
};

/// Writes `entry` as one line.
pub(super) fn write_entry<'a>(entry: &Entry<'_>, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let cursor = cursor.time(since)?;
    let cursor = write_node(entry.node, cursor)?;
    let mut cursor = write_addresses(entry.listener, entry.client, entry.peer, cursor)?;
    if let Some(tls) = entry.tls {
        cursor = write_tls(tls, cursor)?;
    }
    if let Some(request) = &entry.request {
        cursor = write_request(request, entry.tls.is_some(), cursor)?;
    }
    if let Some(refused) = &entry.refused {
        cursor = write_refused(refused, cursor)?;
    }
    let end = End {
        status: entry.status,
        duration: entry.duration,
        ttfb: entry.ttfb,
        queued: entry.queued,
        bytes: entry.request.map(|_| (entry.received, entry.sent)),
        attempts: entry.attempts,
        decision: entry.decision,
        excluded: entry.excluded,
        sticky: entry.sticky,
        user: entry.user,
        auth: entry.auth,
        outcome: entry.outcome,
        detail: entry.detail,
        fields: entry.fields,
        truncated: entry.truncated,
        names: entry.names,
    };
    write_end(&end, cursor)
}

/// Returns the field `node` as JSON, as it follows the time in each line.
pub(in crate::access_log) fn node(_names: FieldNames, name: Option<&str>) -> Box<[u8]> {
    written(|cursor| write_node(name, cursor))
}

fn write_node<'a>(name: Option<&str>, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    match name {
        Some(name) => cursor
            .put(br#"","node":""#)?
            .text(name.as_bytes())?
            .put(br#"""#),
        None => cursor.put(br#"""#),
    }
}

/// Writes the first part of a request's line. `cached` is what [`cached_conn`] returned.
#[inline(always)]
pub(super) fn write_opening<'a>(
    facts: &OpeningFacts<'_>,
    cached: Option<&[u8]>,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor.moment(facts.began)?.put_slice(facts.node)?;
    let conn = facts.conn;
    let cursor = match (cached, conn) {
        (Some(text), _) => cursor.put_slice(text)?,
        (None, Some(conn)) => write_conn(conn, cursor)?,
        (None, None) => cursor,
    };
    let tls = conn.is_some_and(|conn| conn.tls().is_some());
    write_request(&facts.request, tls, cursor)
}

/// Returns the fields of a connection as JSON; `None` at the connection's first request, and for a
/// request that trusted proxies forwarded, as its client differs from the connection's.
pub(super) fn cached_conn(conn: &ConnInfo) -> Option<&[u8]> {
    if conn.forwarded_client().is_some() {
        return None;
    }
    static TEXT: SlotKey<ConnCache<Box<[u8]>>> = SlotKey::new();
    let text =
        ConnCache::get_or_compute(conn, &TEXT, || written(|cursor| write_conn(conn, cursor)));
    text.map(|text| &**text)
}

#[inline(never)]
fn write_conn<'a>(conn: &ConnInfo, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let (listener, peer) = (Some(*conn.local()), Some(*conn.peer()));
    let cursor = write_addresses(listener, conn.client(), peer, cursor)?;
    match conn.tls() {
        Some(tls) => write_tls(tls, cursor),
        None => Some(cursor),
    }
}

fn write_addresses(
    listener: Option<Peer>,
    client: Option<SocketAddr>,
    peer: Option<Peer>,
    mut cursor: Cursor<'_>,
) -> Option<Cursor<'_>> {
    match listener {
        Some(Peer::Tcp(address)) => {
            cursor = cursor
                .put(br#","listener":""#)?
                .address(address)?
                .put(br#"""#)?;
        }
        Some(Peer::Unix) => cursor = cursor.put(br#","listener":"unix""#)?,
        _ => {}
    }
    if let Some(client) = client {
        cursor = cursor
            .put(br#","client":""#)?
            .ip(client.ip())?
            .put(br#"""#)?;
    }
    if let Some(peer) = peer.and_then(Peer::address) {
        if client != Some(peer) {
            cursor = cursor.put(br#","peer":""#)?.ip(peer.ip())?.put(br#"""#)?;
        }
    }
    Some(cursor)
}

fn write_tls<'a>(tls: &TlsInfo, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let mut cursor = cursor
        .put(br#","tls_version":""#)?
        .put_slice(tls.version.as_bytes())?
        .put(br#"","tls_cipher":""#)?
        .put_slice(tls.cipher.as_bytes())?
        .put(br#"""#)?;
    if let Some(group) = tls.key_exchange {
        cursor = cursor
            .put(br#","tls_key_exchange":""#)?
            .put_slice(group.as_bytes())?
            .put(br#"""#)?;
    }
    cursor = match tls.resumed {
        true => cursor.put(br#","tls_resumed":true"#)?,
        false => cursor.put(br#","tls_resumed":false"#)?,
    };
    if let Some(alpn) = &tls.alpn {
        cursor = cursor.put(br#","alpn":""#)?.text(alpn)?.put(br#"""#)?;
    }
    if let Some(sni) = tls.sni.as_deref() {
        cursor = cursor
            .put(br#","sni":""#)?
            .text(sni.as_bytes())?
            .put(br#"""#)?;
    }
    Some(cursor)
}

/// Writes the fields of the request.
#[inline(always)]
fn write_request<'a>(
    request: &RequestEntry<'_>,
    tls: bool,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor.put(br#","request_id":""#)?;
    let cursor = match request.id {
        RequestId::Given(id) => cursor.text(id)?,
        RequestId::Made(id) => cursor.id(id)?,
    };
    let cursor = match *request.method {
        Method::GET => cursor.put(br#"","method":"GET"#)?,
        // A token (RFC 9110 §5.6.2): nothing to escape.
        ref other => {
            let cursor = cursor.put(br#"","method":""#)?;
            cursor.put_slice(other.as_str().as_bytes())?
        }
    };
    let mut cursor = match tls {
        true => cursor.put(br#"","scheme":"https""#)?,
        false => cursor.put(br#"","scheme":"http""#)?,
    };
    if let Some(host) = request.host {
        cursor = cursor.put(br#","host":""#)?.text(host)?.put(br#"""#)?;
    }
    cursor = cursor.put(br#","path":""#)?.text(request.path.as_bytes())?;
    if let Some(query) = request.query {
        cursor = cursor.put(br#"","query":""#)?.text(query.as_bytes())?;
    }
    cursor = match request.version {
        Version::HTTP_11 => cursor.put(br#"","protocol":"HTTP/1.1""#)?,
        Version::HTTP_2 => cursor.put(br#"","protocol":"HTTP/2""#)?,
        other => cursor
            .put(br#"","protocol":"HTTP/"#)?
            .put_slice(number(other))?,
    };
    if let Some(agent) = request.user_agent {
        cursor = cursor
            .put(br#","user_agent":""#)?
            .text(agent)?
            .put(br#"""#)?;
    }
    if let Some(referer) = request.referer {
        cursor = cursor
            .put(br#","referer":""#)?
            .text(referer)?
            .put(br#"""#)?;
    }
    Some(cursor)
}

#[cold]
fn write_refused<'a>(refused: &RefusedEntry<'_>, mut cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    if let Some(method) = refused.method {
        cursor = cursor
            .put(br#","method":""#)?
            .put_slice(method.as_str().as_bytes())?
            .put(br#"""#)?;
    }
    if let Some(path) = refused.path {
        cursor = cursor
            .put(br#","path":""#)?
            .text(path.as_bytes())?
            .put(br#"""#)?;
    }
    Some(cursor)
}

/// Returns the number of a version that few requests have, and the closing quote.
#[cold]
fn number(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => br#"0.9""#,
        Version::HTTP_10 => br#"1.0""#,
        Version::HTTP_3 => br#"3""#,
        _ => br#"1.1""#,
    }
}

/// Writes the rest of a line, from the status on.
#[inline(always)]
pub(super) fn write_end<'a>(end: &End<'_>, mut cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    cursor = match end.status {
        Some(200) => cursor.put(br#","status":200,"duration_ms":"#)?,
        Some(status) => cursor
            .put(br#","status":"#)?
            .number(status.into())?
            .put(br#","duration_ms":"#)?,
        None => cursor.put(br#","duration_ms":"#)?,
    };
    cursor = cursor.millis(end.duration)?;
    if let Some(ttfb) = end.ttfb {
        cursor = cursor.put(br#","ttfb_ms":"#)?.millis(ttfb)?;
    }
    if let Some((received, sent)) = end.bytes {
        cursor = match received {
            0 => cursor.put(br#","received":0,"sent":"#)?,
            _ => cursor
                .put(br#","received":"#)?
                .number(received)?
                .put(br#","sent":"#)?,
        };
        cursor = cursor.number(sent)?;
    }
    cursor = write_attempts(end.attempts, cursor)?;
    if let Some((strategy, candidates)) = end.decision {
        cursor = cursor
            .put(br#","strategy":""#)?
            .put_slice(strategy.as_bytes())?
            .put(br#"","candidates":"#)?
            .number(candidates as u64)?;
    }
    if let Some(sticky) = end.sticky {
        cursor = cursor
            .put(br#","sticky":""#)?
            .put_slice(sticky.as_str().as_bytes())?
            .put(br#"""#)?;
    }
    if let Some(auth) = end.auth {
        cursor = write_auth(auth, cursor)?;
    }
    let detail = end.detail.filter(|d| !d.is_empty());
    if detail.is_none() && end.outcome == "ok" {
        return cursor.put(b",\"outcome\":\"ok\"}\n");
    }
    let outcome = end.outcome.as_bytes();
    cursor = cursor.put(br#","outcome":""#)?.put_slice(outcome)?;
    if let Some(detail) = detail {
        cursor = cursor.put(br#"","detail":""#)?.text(detail.as_bytes())?;
    }
    cursor.put(b"\"}\n")
}

#[inline]
fn write_attempts<'a>(attempts: &[Attempt], cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    match attempts {
        [] => Some(cursor),
        [only] => write_backend(&only.backend, cursor),
        many => write_all_attempts(many, cursor),
    }
}

/// Writes the fields of a backend, which are formatted once and cached with the backend.
#[inline]
fn write_backend<'a>(backend: &Backend, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    static TEXT: SlotKey<Box<[u8]>> = SlotKey::new();
    let compute = || written(|cursor| format_backend(backend, cursor));
    match backend.slots().get_or_init(&TEXT, compute) {
        Some(text) => cursor.put_slice(text),
        None => format_backend(backend, cursor),
    }
}

fn format_backend<'a>(backend: &Backend, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let cursor = cursor
        .put(br#","backend":""#)?
        .text(backend.id().as_bytes())?
        .put(br#"","backend_address":""#)?;
    let cursor = match backend.configured_unix_socket() {
        Some(path) => cursor.text(path.as_os_str().as_encoded_bytes())?,
        None => cursor.text(backend.shown_address().to_string().as_bytes())?,
    };
    cursor.put(br#"""#)
}

/// Writes the fields of the backend whose answer the client got, or of the last one, and the list of
/// all attempts.
#[cold]
#[inline(never)]
fn write_all_attempts<'a>(attempts: &[Attempt], mut cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let answered = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
    let chosen = attempts.iter().rev().find(answered);
    if let Some(chosen) = chosen.or_else(|| attempts.last()) {
        cursor = write_backend(&chosen.backend, cursor)?;
    }
    cursor = cursor.put(br#","attempts":"#)?;
    for (i, attempt) in attempts.iter().enumerate() {
        cursor = match i {
            0 => cursor.put(br#"[{"backend":""#)?,
            _ => cursor.put(br#",{"backend":""#)?,
        };
        cursor = cursor
            .text(attempt.backend.id().as_bytes())?
            .put(br#"","outcome":""#)?
            .put_slice(attempt.outcome.map_or("running", |o| o.as_str()).as_bytes())?
            .put(br#"""#)?;
        if let Some(duration) = attempt.duration {
            cursor = cursor.put(br#","duration_ms":"#)?.millis(duration)?;
        }
        cursor = cursor.put(b"}")?;
    }
    cursor.put(b"]")
}

#[cold]
#[inline(never)]
fn write_auth<'a>(auth: &AuthFailure, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let mut cursor = cursor
        .put(br#","auth_scheme":""#)?
        .text(auth.scheme.as_bytes())?
        .put(br#"""#)?;
    if let Some(user) = auth.user.as_deref() {
        cursor = cursor
            .put(br#","auth_user":""#)?
            .text(user.as_bytes())?
            .put(br#"""#)?;
    }
    if !auth.reason.is_empty() {
        cursor = cursor
            .put(br#","auth_reason":""#)?
            .text(auth.reason.as_bytes())?
            .put(br#"""#)?;
    }
    Some(cursor)
}

/// Returns what `write` writes, to be cached.
fn written(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> Box<[u8]> {
    Buffer::of(write).written().into()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use http::Uri;
    use tokio::time::Instant;

    use super::*;
    use crate::{context::StickyVerdict, error::ErrorKind};

    fn line(entry: &Entry<'_>) -> String {
        let line = written(|cursor| write_entry(entry, cursor));
        String::from_utf8(line.into()).unwrap()
    }

    fn entry(time: SystemTime) -> Entry<'static> {
        Entry::new(time, Duration::from_micros(1_234_567), "ok")
    }

    #[test]
    fn a_line_is_written_to_the_byte_as_readers_know_it() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_164_799_007);
        let attempt = |id, outcome, duration| Attempt {
            duration,
            outcome,
            ..Attempt::begun(
                Backend::new(id, "http://127.0.0.1:9001").unwrap(),
                Instant::now(),
            )
        };
        let failed = Some(Outcome::Failed(ErrorKind::Connect));
        let attempts = [
            attempt("a", failed, Some(Duration::from_micros(1_500))),
            attempt("b", None, None),
        ];
        let tls = TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            alpn: Some(Bytes::from_static(b"h2")),
            ..TlsInfo::default()
        };
        let auth = AuthFailure::new("Basic", "no");
        let uri = Uri::from_static("/p%20q?x");
        let full = Entry {
            node: Some("lb-1"),
            listener: Some(Peer::Tcp("[::1]:443".parse().unwrap())),
            peer: Some(Peer::Tcp("192.0.2.9:1234".parse().unwrap())),
            client: Some("198.51.100.7:4321".parse().unwrap()),
            request: Some(RequestEntry {
                id: RequestId::Made(0xabc),
                method: &Method::POST,
                uri: &uri,
                path: uri.path(),
                version: Version::HTTP_10,
                host: Some(b"shop.example"),
                query: Some("x=\"1\""),
                user_agent: Some(b"a\tb"),
                referer: Some(b"https://shop.example/from/here"),
            }),
            status: Some(502),
            ttfb: Some(Duration::from_micros(9_999)),
            received: 12,
            sent: 12_345,
            attempts: &attempts,
            decision: Some(("round-robin", 2)),
            sticky: Some(StickyVerdict::Valid),
            tls: Some(&tls),
            auth: Some(&auth),
            outcome: "connect",
            detail: Some("gone"),
            ..entry(time)
        };
        let wanted = concat!(
            r#"{"time":"2024-02-28T23:59:59.007Z","node":"lb-1","listener":"[::1]:443","#,
            r#""client":"198.51.100.7","peer":"192.0.2.9","tls_version":"TLSv1.3","#,
            r#""tls_cipher":"TLS_AES_128_GCM_SHA256","tls_resumed":false,"alpn":"h2","#,
            r#""request_id":"00000000000000000000000000000abc","method":"POST","#,
            r#""scheme":"https","host":"shop.example","path":"/p%20q","query":"x=\"1\"","#,
            r#""protocol":"HTTP/1.0","user_agent":"a\tb","#,
            r#""referer":"https://shop.example/from/here","status":502,"#,
            r#""duration_ms":1234.567,"ttfb_ms":9.999,"received":12,"sent":12345,"#,
            r#""backend":"b","backend_address":"127.0.0.1:9001","#,
            r#""attempts":[{"backend":"a","outcome":"connect","duration_ms":1.500},"#,
            r#"{"backend":"b","outcome":"running"}],"strategy":"round-robin","candidates":2,"#,
            r#""sticky":"valid","auth_scheme":"Basic","auth_reason":"no","#,
            r#""outcome":"connect","detail":"gone"}"#,
            "\n",
        );
        assert_eq!(line(&full), wanted);
        let least = Entry {
            request: Some(RequestEntry {
                id: RequestId::Given(b"abc-1"),
                method: &Method::GET,
                uri: &uri,
                path: uri.path(),
                version: Version::HTTP_2,
                host: None,
                query: None,
                user_agent: None,
                referer: None,
            }),
            status: Some(200),
            ..entry(time)
        };
        let wanted = concat!(
            r#"{"time":"2024-02-28T23:59:59.007Z","request_id":"abc-1","method":"GET","#,
            r#""scheme":"http","path":"/p%20q","protocol":"HTTP/2","status":200,"#,
            r#""duration_ms":1234.567,"received":0,"sent":0,"outcome":"ok"}"#,
            "\n",
        );
        assert_eq!(line(&least), wanted);
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
            let words = written(|cursor| write_backend(&backend, cursor));
            let wanted = format!(r#","backend":"a","backend_address":"{address}""#);
            assert_eq!(String::from_utf8_lossy(&words), wanted);
        }
    }

    #[test]
    fn any_status_that_a_sink_hands_on_is_a_number() {
        for status in [0, 7, 99, 100, 200, 999, 1_000, u16::MAX] {
            let line = line(&Entry {
                status: Some(status),
                ..entry(UNIX_EPOCH)
            });
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["status"], status);
        }
    }
}
