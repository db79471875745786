//! A line of JSON, written by hand into a buffer that is there already: its opening when the
//! request comes, its end at the request's.

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use http::{Method, Version};

use super::{
    Entry,
    entry::{RefusedEntry, RequestEntry, RequestId},
    pen::{Buffer, Pen},
};
use crate::{
    context::{Attempt, AuthFailure, ConnCache, ConnInfo, Outcome, Peer, StickyVerdict, TlsInfo},
    pool::Backend,
    slots::SlotKey,
};

/// Writes `entry` as one line.
pub(super) fn write<'a>(entry: &Entry<'_>, pen: Pen<'a>) -> Option<Pen<'a>> {
    let since = entry.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let pen = pen.time(since)?;
    let pen = write_node(entry.node, pen)?;
    let mut pen = write_addresses(entry.listener, entry.client, entry.peer, pen)?;
    if let Some(tls) = entry.tls {
        pen = write_tls(tls, pen)?;
    }
    if let Some(request) = &entry.request {
        pen = write_request(request, entry.tls.is_some(), pen)?;
    }
    if let Some(refused) = &entry.refused {
        pen = write_refused(refused, pen)?;
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
    write_end(&end, pen)
}

/// Returns what each line says of this balancer, behind the time.
pub(super) fn node(name: Option<&str>) -> Box<[u8]> {
    written(|pen| write_node(name, pen))
}

fn write_node<'a>(name: Option<&str>, pen: Pen<'a>) -> Option<Pen<'a>> {
    match name {
        Some(name) => pen
            .put(br#"","node":""#)?
            .text(name.as_bytes())?
            .put(br#"""#),
        None => pen.put(br#"""#),
    }
}

/// Returns what each line says of a connection; `None` at its first request.
///
/// Also `None` where the request has a client of its own.
pub(super) fn conn_text(conn: &ConnInfo) -> Option<&[u8]> {
    if conn.forwarded_client().is_some() {
        return None;
    }
    static TEXT: SlotKey<ConnCache<Box<[u8]>>> = SlotKey::new();
    let text = ConnCache::get_or_compute(conn, &TEXT, || written(|pen| write_conn(conn, pen)));
    text.map(|text| &**text)
}

#[inline(never)]
pub(super) fn write_conn<'a>(conn: &ConnInfo, pen: Pen<'a>) -> Option<Pen<'a>> {
    let (listener, peer) = (Some(*conn.local()), Some(*conn.peer()));
    let pen = write_addresses(listener, conn.client(), peer, pen)?;
    match conn.tls() {
        Some(tls) => write_tls(tls, pen),
        None => Some(pen),
    }
}

fn write_addresses(
    listener: Option<Peer>,
    client: Option<SocketAddr>,
    peer: Option<Peer>,
    mut pen: Pen<'_>,
) -> Option<Pen<'_>> {
    match listener {
        Some(Peer::Tcp(address)) => {
            pen = pen
                .put(br#","listener":""#)?
                .address(address)?
                .put(br#"""#)?;
        }
        Some(Peer::Unix) => pen = pen.put(br#","listener":"unix""#)?,
        _ => {}
    }
    if let Some(client) = client {
        pen = pen.put(br#","client":""#)?.ip(client.ip())?.put(br#"""#)?;
    }
    if let Some(peer) = peer.and_then(Peer::address) {
        if client != Some(peer) {
            pen = pen.put(br#","peer":""#)?.ip(peer.ip())?.put(br#"""#)?;
        }
    }
    Some(pen)
}

fn write_tls<'a>(tls: &TlsInfo, pen: Pen<'a>) -> Option<Pen<'a>> {
    let mut pen = pen
        .put(br#","tls_version":""#)?
        .word(tls.version.as_bytes())?
        .put(br#"","tls_cipher":""#)?
        .word(tls.cipher.as_bytes())?
        .put(br#"""#)?;
    if let Some(group) = tls.key_exchange {
        pen = pen
            .put(br#","tls_key_exchange":""#)?
            .word(group.as_bytes())?
            .put(br#"""#)?;
    }
    pen = match tls.resumed {
        true => pen.put(br#","tls_resumed":true"#)?,
        false => pen.put(br#","tls_resumed":false"#)?,
    };
    if let Some(alpn) = &tls.alpn {
        pen = pen.put(br#","alpn":""#)?.text(alpn)?.put(br#"""#)?;
    }
    if let Some(sni) = tls.sni.as_deref() {
        pen = pen
            .put(br#","sni":""#)?
            .text(sni.as_bytes())?
            .put(br#"""#)?;
    }
    Some(pen)
}

/// Writes what a line says of the request.
#[inline(always)]
pub(super) fn write_request<'a>(
    request: &RequestEntry<'_>,
    tls: bool,
    pen: Pen<'a>,
) -> Option<Pen<'a>> {
    let pen = pen.put(br#","request_id":""#)?;
    let pen = match request.id {
        RequestId::Given(id) => pen.text(id)?,
        RequestId::Made(id) => pen.id(id)?,
    };
    let pen = match *request.method {
        Method::GET => pen.put(br#"","method":"GET"#)?,
        // A token (RFC 9110 §5.6.2): nothing to escape.
        ref other => {
            let pen = pen.put(br#"","method":""#)?;
            pen.word(other.as_str().as_bytes())?
        }
    };
    let mut pen = match tls {
        true => pen.put(br#"","scheme":"https""#)?,
        false => pen.put(br#"","scheme":"http""#)?,
    };
    let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(host) = authority.or(request.host) {
        pen = pen.put(br#","host":""#)?.text(host)?.put(br#"""#)?;
    }
    pen = pen
        .put(br#","path":""#)?
        .text(request.uri.path().as_bytes())?;
    if let Some(query) = request.query {
        pen = pen.put(br#"","query":""#)?.text(query.as_bytes())?;
    }
    pen = match request.version {
        Version::HTTP_11 => pen.put(br#"","protocol":"HTTP/1.1""#)?,
        Version::HTTP_2 => pen.put(br#"","protocol":"HTTP/2""#)?,
        other => pen.put(br#"","protocol":"HTTP/"#)?.word(number(other))?,
    };
    if let Some(agent) = request.user_agent {
        pen = pen.put(br#","user_agent":""#)?.text(agent)?.put(br#"""#)?;
    }
    if let Some(referer) = request.referer {
        pen = pen.put(br#","referer":""#)?.text(referer)?.put(br#"""#)?;
    }
    Some(pen)
}

#[cold]
fn write_refused<'a>(refused: &RefusedEntry<'_>, mut pen: Pen<'a>) -> Option<Pen<'a>> {
    if let Some(method) = refused.method {
        pen = pen
            .put(br#","method":""#)?
            .word(method.as_str().as_bytes())?
            .put(br#"""#)?;
    }
    if let Some(path) = refused.path {
        pen = pen
            .put(br#","path":""#)?
            .text(path.as_bytes())?
            .put(br#"""#)?;
    }
    Some(pen)
}

/// What stands behind HTTP/ of a version that is seldom met.
#[cold]
fn number(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => br#"0.9""#,
        Version::HTTP_10 => br#"1.0""#,
        Version::HTTP_3 => br#"3""#,
        _ => br#"1.1""#,
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
#[inline(always)]
pub(super) fn write_end<'a>(end: &End<'_>, mut pen: Pen<'a>) -> Option<Pen<'a>> {
    pen = match end.status {
        Some(200) => pen.put(br#","status":200,"duration_ms":"#)?,
        Some(status) => pen
            .put(br#","status":"#)?
            .number(status.into())?
            .put(br#","duration_ms":"#)?,
        None => pen.put(br#","duration_ms":"#)?,
    };
    pen = pen.millis(end.duration)?;
    if let Some(ttfb) = end.ttfb {
        pen = pen.put(br#","ttfb_ms":"#)?.millis(ttfb)?;
    }
    if let Some((received, sent)) = end.bytes {
        pen = match received {
            0 => pen.put(br#","received":0,"sent":"#)?,
            _ => pen
                .put(br#","received":"#)?
                .number(received)?
                .put(br#","sent":"#)?,
        };
        pen = pen.number(sent)?;
    }
    pen = write_attempts(end.attempts, pen)?;
    if let Some((strategy, candidates)) = end.decision {
        pen = pen
            .put(br#","strategy":""#)?
            .word(strategy.as_bytes())?
            .put(br#"","candidates":"#)?
            .number(candidates as u64)?;
    }
    if let Some(sticky) = end.sticky {
        pen = pen
            .put(br#","sticky":""#)?
            .word(sticky.as_str().as_bytes())?
            .put(br#"""#)?;
    }
    if let Some(auth) = end.auth {
        pen = write_auth(auth, pen)?;
    }
    let detail = end.detail.filter(|d| !d.is_empty());
    if detail.is_none() && end.outcome == "ok" {
        return pen.put(b",\"outcome\":\"ok\"}\n");
    }
    let outcome = end.outcome.as_bytes();
    pen = pen.put(br#","outcome":""#)?.word(outcome)?;
    if let Some(detail) = detail {
        pen = pen.put(br#"","detail":""#)?.text(detail.as_bytes())?;
    }
    pen.put(b"\"}\n")
}

#[inline]
fn write_attempts<'a>(attempts: &[Attempt], pen: Pen<'a>) -> Option<Pen<'a>> {
    match attempts {
        [] => Some(pen),
        [only] => write_backend(&only.backend, pen),
        many => write_all_attempts(many, pen),
    }
}

/// Writes what each line says of a backend: computed once.
#[inline]
fn write_backend<'a>(backend: &Backend, pen: Pen<'a>) -> Option<Pen<'a>> {
    static TEXT: SlotKey<Box<[u8]>> = SlotKey::new();
    let compute = || written(|pen| write_backend_anew(backend, pen));
    match backend.slots().get_or_init(&TEXT, compute) {
        Some(text) => pen.word(text),
        None => write_backend_anew(backend, pen),
    }
}

fn write_backend_anew<'a>(backend: &Backend, pen: Pen<'a>) -> Option<Pen<'a>> {
    let pen = pen
        .put(br#","backend":""#)?
        .text(backend.id().as_bytes())?
        .put(br#"","backend_address":""#)?;
    let pen = match backend.configured_unix_socket() {
        Some(path) => pen.text(path.as_os_str().as_encoded_bytes())?,
        None => pen.text(backend.shown_address().to_string().as_bytes())?,
    };
    pen.put(br#"""#)
}

/// What a retry or a hedge adds.
#[cold]
#[inline(never)]
fn write_all_attempts<'a>(attempts: &[Attempt], mut pen: Pen<'a>) -> Option<Pen<'a>> {
    let answered = |a: &&Attempt| matches!(a.outcome, None | Some(Outcome::Ok));
    let chosen = attempts.iter().rev().find(answered);
    if let Some(chosen) = chosen.or_else(|| attempts.last()) {
        pen = write_backend(&chosen.backend, pen)?;
    }
    pen = pen.put(br#","attempts":"#)?;
    for (i, attempt) in attempts.iter().enumerate() {
        pen = match i {
            0 => pen.put(br#"[{"backend":""#)?,
            _ => pen.put(br#",{"backend":""#)?,
        };
        pen = pen
            .text(attempt.backend.id().as_bytes())?
            .put(br#"","outcome":""#)?
            .word(attempt.outcome.map_or("running", |o| o.as_str()).as_bytes())?
            .put(br#"""#)?;
        if let Some(duration) = attempt.duration {
            pen = pen.put(br#","duration_ms":"#)?.millis(duration)?;
        }
        pen = pen.put(b"}")?;
    }
    pen.put(b"]")
}

#[cold]
#[inline(never)]
fn write_auth<'a>(auth: &AuthFailure, pen: Pen<'a>) -> Option<Pen<'a>> {
    let mut pen = pen
        .put(br#","auth_scheme":""#)?
        .text(auth.scheme.as_bytes())?
        .put(br#"""#)?;
    if let Some(user) = auth.user.as_deref() {
        pen = pen
            .put(br#","auth_user":""#)?
            .text(user.as_bytes())?
            .put(br#"""#)?;
    }
    if !auth.reason.is_empty() {
        pen = pen
            .put(br#","auth_reason":""#)?
            .text(auth.reason.as_bytes())?
            .put(br#"""#)?;
    }
    Some(pen)
}

/// Returns words that are written once and kept.
fn written(write: impl for<'a> Fn(Pen<'a>) -> Option<Pen<'a>>) -> Box<[u8]> {
    Buffer::of(write).written().into()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::Uri;
    use tokio::time::Instant;

    use super::*;
    use crate::error::ErrorKind;

    fn line(entry: &Entry<'_>) -> String {
        let line = written(|pen| write(entry, pen));
        String::from_utf8(line.into()).unwrap()
    }

    fn entry(time: SystemTime) -> Entry<'static> {
        Entry::new(time, Duration::from_micros(1_234_567), "ok")
    }

    #[test]
    fn a_line_is_written_to_the_byte_as_readers_know_it() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_164_799_007);
        let attempt = |id, outcome, duration| Attempt {
            backend: Backend::new(id, "http://127.0.0.1:9001").unwrap(),
            began: Instant::now(),
            duration,
            outcome,
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
            let words = written(|pen| write_backend(&backend, pen));
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
