//! The opening of a line: what is known when a request arrives, from the time to the referer.
//!
//! What a line shares with others is formatted once: the constant header with the layer, the addresses
//! and TLS facts with the connection, from its second request on (the first may be the only one, and a
//! cache would cost it more than it saves). What is left is the time, the id and the request's own
//! fields.
//!
//! The `next` form of a key closes the string before it: `method`, `scheme`, `query` and `protocol`
//! always follow a string, so that one copy writes both.

use std::net::SocketAddr;

use http::{Method, Version};

use super::{
    Cursor,
    vocabulary::{Key, Vocabulary},
    written,
};
use crate::{
    access_log::{
        RefusedEntry, RequestEntry, RequestId, fields::client_subject, opening::OpeningFacts,
    },
    context::{ClientIdentity, ConnCache, ConnInfo, HandshakeFailure, Peer, TlsInfo, TraceContext},
};

/// Writes the opening. `cached` is what [`cached_conn`] returned.
#[inline(always)]
pub(super) fn write_opening<'a, V: Vocabulary>(
    facts: &OpeningFacts<'_>,
    cached: Option<&[u8]>,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor
        .key(V::START)?
        .moment(facts.began)?
        .put_slice(facts.node)?;
    let conn = facts.conn;
    let cursor = match (cached, conn) {
        (Some(text), _) => cursor.put_slice(text)?,
        (None, Some(conn)) => write_conn::<V>(conn, facts.client_fingerprint, cursor)?,
        (None, None) => cursor,
    };
    let tls = conn.is_some_and(|conn| conn.tls().is_some());
    write_request::<V>(&facts.request, facts.trace, tls, cursor)
}

/// Returns what follows the time in each line: the constant fields, and the name of the balancer.
pub(super) fn header<V: Vocabulary>(node: Option<&str>) -> Box<[u8]> {
    written(|cursor| write_header::<V>(node, cursor))
}

pub(super) fn write_header<'a, V: Vocabulary>(
    node: Option<&str>,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor.put(b"\"")?.key(V::HEADER)?;
    match node {
        Some(name) => cursor.text_field(&V::NODE, name.as_bytes()),
        None => Some(cursor),
    }
}

/// Returns the fields of a connection as JSON; `None` at the connection's first request, and for a
/// request that trusted proxies forwarded, as its client differs from the connection's.
pub(super) fn cached_conn<V: Vocabulary>(conn: &ConnInfo, fingerprint: bool) -> Option<&[u8]> {
    // One connection of a proxy carries requests of many clients, and the cache would show the first.
    if conn.forwarded_client().is_some() {
        return None;
    }
    let compute = || written(|cursor| write_conn::<V>(conn, fingerprint, cursor));
    ConnCache::get_or_compute(conn, V::conn_slot(fingerprint), compute).map(|text| &**text)
}

#[inline(never)]
fn write_conn<'a, V: Vocabulary>(
    conn: &ConnInfo,
    fingerprint: bool,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let (listener, peer) = (Some(*conn.local()), Some(*conn.peer()));
    let cursor = write_addresses::<V>(listener, conn.client(), peer, cursor)?;
    match conn.tls() {
        Some(tls) => write_tls::<V>(tls, fingerprint, cursor),
        None => Some(cursor),
    }
}

pub(super) fn write_addresses<V: Vocabulary>(
    listener: Option<Peer>,
    client: Option<SocketAddr>,
    peer: Option<Peer>,
    mut cursor: Cursor<'_>,
) -> Option<Cursor<'_>> {
    match listener {
        Some(Peer::Tcp(address)) if V::IS_SPLIT => {
            cursor = cursor.key(V::LISTENER.text)?.ip(address.ip())?.put(b"\"")?;
            cursor = cursor.number_field(&V::LISTENER_PORT, address.port().into())?;
        }
        Some(Peer::Tcp(address)) => {
            cursor = cursor.key(V::LISTENER.text)?.address(address)?.put(b"\"")?;
        }
        Some(Peer::Unix) => cursor = cursor.text_field(&V::LISTENER, b"unix")?,
        _ => {}
    }
    if let Some(client) = client {
        cursor = cursor.key(V::CLIENT.text)?.ip(client.ip())?.put(b"\"")?;
    }
    if let Some(peer) = peer.and_then(Peer::address)
        && client != Some(peer)
    {
        cursor = cursor.key(V::PEER.text)?.ip(peer.ip())?.put(b"\"")?;
    }
    Some(cursor)
}

pub(super) fn write_tls<'a, V: Vocabulary>(
    tls: &TlsInfo,
    fingerprint: bool,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let version = match V::IS_SPLIT {
        true => tls.version.trim_start_matches("TLSv"),
        false => tls.version,
    };
    let mut cursor = cursor
        .text_field(&V::TLS_VERSION, version.as_bytes())?
        .text_field(&V::TLS_CIPHER, tls.cipher.as_bytes())?;
    if let Some(group) = tls.key_exchange {
        cursor = cursor.text_field(&V::TLS_KEY_EXCHANGE, group.as_bytes())?;
    }
    cursor = cursor.key(V::TLS_RESUMED.bare)?;
    cursor = match tls.resumed {
        true => cursor.put(b"true")?,
        false => cursor.put(b"false")?,
    };
    if let Some(alpn) = &tls.alpn {
        cursor = cursor.text_field(&V::ALPN, alpn)?;
    }
    if let Some(sni) = tls.sni.as_deref() {
        cursor = cursor.text_field(&V::SNI, sni.as_bytes())?;
    }
    match &tls.client {
        Some(client) => write_client::<V>(client, fingerprint, cursor),
        None => Some(cursor),
    }
}

/// Writes what a client's certificate says.
fn write_client<'a, V: Vocabulary>(
    client: &ClientIdentity,
    fingerprint: bool,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    if !client.subject.is_empty() {
        cursor = cursor.text_field(&V::CLIENT_SUBJECT, client_subject(client).as_bytes())?;
    }
    match (fingerprint, V::IS_SPLIT) {
        (false, _) => Some(cursor),
        (true, false) => cursor.text_field(&V::CLIENT_FINGERPRINT, client.fingerprint.as_bytes()),
        // The other vocabularies ask for capital letters.
        (true, true) => {
            let upper = client.fingerprint.to_ascii_uppercase();
            cursor.text_field(&V::CLIENT_FINGERPRINT, upper.as_bytes())
        }
    }
}

/// Writes why a handshake failed, and the name that the client asked for.
#[cold]
pub(super) fn write_failure<'a, V: Vocabulary>(
    failure: HandshakeFailure,
    server_name: Option<&str>,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    if let Some(name) = server_name {
        cursor = cursor.text_field(&V::SNI, name.as_bytes())?;
    }
    cursor.text_field(&V::TLS_FAILURE, failure.as_str().as_bytes())
}

/// Writes the fields of the request.
#[inline(always)]
pub(super) fn write_request<'a, V: Vocabulary>(
    request: &RequestEntry<'_>,
    trace: Option<TraceContext>,
    tls: bool,
    cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    let cursor = cursor.key(V::REQUEST_ID.text)?;
    let mut cursor = match request.id {
        RequestId::Given(id) => cursor.text(id)?,
        RequestId::Made(id) => cursor.id(id)?,
    };
    if let Some(trace) = trace {
        cursor = write_trace::<V>(trace, cursor)?;
    }
    cursor = cursor.key(V::METHOD.next)?;
    cursor = match *request.method {
        Method::GET => cursor.put(b"GET")?,
        // A token (RFC 9110 §5.6.2): nothing to escape.
        ref other => cursor.put_slice(other.as_str().as_bytes())?,
    };
    cursor = cursor.key(V::SCHEME.next)?;
    cursor = match tls {
        true => cursor.put(b"https\"")?,
        false => cursor.put(b"http\"")?,
    };
    if let Some(host) = request.host {
        cursor = match V::IS_SPLIT {
            true => write_split_host::<V>(host, cursor)?,
            false => cursor.text_field(&V::HOST, host)?,
        };
    }
    cursor = cursor.key(V::PATH.text)?.text(request.path.as_bytes())?;
    if let Some(query) = request.query {
        cursor = cursor.key(V::QUERY.next)?.text(query.as_bytes())?;
    }
    cursor = cursor.key(V::PROTOCOL.next)?;
    if !V::IS_SPLIT {
        cursor = cursor.put(b"HTTP/")?;
    }
    cursor = match request.version {
        Version::HTTP_11 => cursor.put(b"1.1\"")?,
        Version::HTTP_2 => cursor.put(b"2\"")?,
        other => cursor.put_slice(number(other))?,
    };
    if let Some(agent) = request.user_agent {
        cursor = cursor.text_field(&V::USER_AGENT, agent)?;
    }
    if let Some(referer) = request.referer {
        cursor = cursor.text_field(&V::REFERER, referer)?;
    }
    Some(cursor)
}

/// Writes the ids of trace and span, after the content of a string.
#[inline(never)]
fn write_trace<'a, V: Vocabulary>(trace: TraceContext, cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let [a, b, c, d, e, f, g, h] = trace.span_id;
    let span = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    cursor
        .key(V::TRACE_ID.next)?
        .id(u128::from_be_bytes(trace.trace_id))?
        .key(V::SPAN_ID.next)?
        .half_id(span)
}

/// Writes host and port as fields of their own.
fn write_split_host<'a, V: Vocabulary>(host: &[u8], cursor: Cursor<'a>) -> Option<Cursor<'a>> {
    let (name, port) = split_port(host);
    let cursor = cursor.text_field(&V::HOST, name)?;
    match port {
        Some(port) => cursor.number_field(&V::HOST_PORT, port.into()),
        None => Some(cursor),
    }
}

/// Splits the port off an authority. What does not end in one is all name.
fn split_port(host: &[u8]) -> (&[u8], Option<u16>) {
    let Some(colon) = host.iter().rposition(|&b| b == b':') else {
        return (host, None);
    };
    let (name, digits) = (&host[..colon], &host[colon + 1..]);
    // The last part of an IPv6 address without brackets is no port.
    let is_address = name.contains(&b':') && !name.ends_with(b"]");
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let port = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    match port.filter(|_| is_number && !is_address) {
        Some(port) => (name, Some(port)),
        None => (host, None),
    }
}

#[cold]
pub(super) fn write_refused<'a, V: Vocabulary>(
    refused: &RefusedEntry<'_>,
    mut cursor: Cursor<'a>,
) -> Option<Cursor<'a>> {
    if let Some(method) = refused.method {
        cursor = cursor.text_field(&V::METHOD, method.as_str().as_bytes())?;
    }
    match refused.path {
        Some(path) => cursor.text_field(&V::PATH, path.as_bytes()),
        None => Some(cursor),
    }
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

impl<'a> Cursor<'a> {
    /// Writes a field whose value is text.
    #[inline(always)]
    pub(super) fn text_field(self, key: &Key, value: &[u8]) -> Option<Self> {
        self.key(key.text)?.text(value)?.put(b"\"")
    }

    /// Writes a field whose value is a number.
    #[inline(always)]
    pub(super) fn number_field(self, key: &Key, value: u64) -> Option<Self> {
        self.key(key.bare)?.number(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_split_off() {
        for (host, name, port) in [
            ("shop.example", "shop.example", None),
            ("shop.example:8443", "shop.example", Some(8443)),
            ("[::1]:80", "[::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("::1", "::1", None),
            ("fe80::1:80", "fe80::1:80", None),
            ("a:", "a:", None),
            ("a:+8", "a:+8", None),
            ("a:99999", "a:99999", None),
            (":80", "", Some(80)),
        ] {
            assert_eq!(
                split_port(host.as_bytes()),
                (name.as_bytes(), port),
                "{host}"
            );
        }
    }
}
