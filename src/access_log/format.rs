//! A line of JSON, written by hand into a buffer that is there already.

use std::{
    cell::Cell,
    io::Write,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Version;

use super::{
    Entry,
    entry::{RequestEntry, RequestId},
};
use crate::context::{Attempt, AuthFailure, Outcome, Peer, TlsInfo};

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

/// Writes a number.
macro_rules! number {
    ($out:expr, $name:literal, $value:expr) => {{
        key!($out, $name);
        digits($out, $value);
    }};
}

/// Writes a duration as milliseconds.
macro_rules! duration {
    ($out:expr, $name:literal, $value:expr) => {{
        key!($out, $name);
        millis($out, $value);
    }};
}

/// Writes `entry` as one line.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.reserve(LINE);
    out.extend_from_slice(b"{\"time\":\"");
    write_time(entry.time, out);
    out.push(b'"');
    if let Some(node) = entry.node {
        text!(out, "node", node.as_bytes());
    }
    write_addresses(entry, out);
    if let Some(request) = &entry.request {
        write_request(request, entry.tls.is_some(), out);
    }
    if let Some(status) = entry.status {
        number!(out, "status", status.into());
    }
    duration!(out, "duration_ms", entry.duration);
    if let Some(ttfb) = entry.ttfb {
        duration!(out, "ttfb_ms", ttfb);
    }
    if entry.request.is_some() {
        number!(out, "received", entry.received);
        number!(out, "sent", entry.sent);
    }
    write_attempts(entry.attempts, out);
    if let Some((strategy, candidates)) = entry.decision {
        plain!(out, "strategy", strategy);
        number!(out, "candidates", candidates as u64);
    }
    if let Some(sticky) = entry.sticky {
        plain!(out, "sticky", sticky.as_str());
    }
    if let Some(tls) = entry.tls {
        write_tls(tls, out);
    }
    if let Some(auth) = entry.auth {
        write_auth(auth, out);
    }
    plain!(out, "outcome", entry.outcome);
    if let Some(detail) = entry.detail.filter(|d| !d.is_empty()) {
        text!(out, "detail", detail.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}

fn write_addresses(entry: &Entry<'_>, out: &mut Vec<u8>) {
    match entry.listener {
        Some(Peer::Tcp(address)) => {
            out.extend_from_slice(b",\"listener\":\"");
            write_address(address, out);
            out.push(b'"');
        }
        Some(Peer::Unix) => plain!(out, "listener", "unix"),
        _ => {}
    }
    if let Some(client) = entry.client {
        out.extend_from_slice(b",\"client\":\"");
        write_ip(out, client.ip());
        out.push(b'"');
    }
    if let Some(peer) = entry.peer.and_then(Peer::address) {
        if entry.client != Some(peer) {
            out.extend_from_slice(b",\"peer\":\"");
            write_ip(out, peer.ip());
            out.push(b'"');
        }
    }
}

fn write_request(request: &RequestEntry<'_>, tls: bool, out: &mut Vec<u8>) {
    match request.id {
        RequestId::Given(id) => text!(out, "request_id", id),
        RequestId::Made(id) => {
            let mut text = [0; 32];
            for (pair, byte) in text.chunks_exact_mut(2).zip(id.to_be_bytes()) {
                pair[0] = HEX[usize::from(byte >> 4)];
                pair[1] = HEX[usize::from(byte & 15)];
            }
            out.extend_from_slice(b",\"request_id\":\"");
            out.extend_from_slice(&text);
            out.push(b'"');
        }
    }
    text!(out, "method", request.method.as_str().as_bytes());
    if tls {
        plain!(out, "scheme", "https");
    } else {
        plain!(out, "scheme", "http");
    }
    let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(host) = authority.or(request.host) {
        text!(out, "host", host);
    }
    text!(out, "path", request.uri.path().as_bytes());
    if let Some(query) = request.query {
        text!(out, "query", query.as_bytes());
    }
    match request.version {
        Version::HTTP_09 => plain!(out, "protocol", "HTTP/0.9"),
        Version::HTTP_10 => plain!(out, "protocol", "HTTP/1.0"),
        Version::HTTP_2 => plain!(out, "protocol", "HTTP/2"),
        Version::HTTP_3 => plain!(out, "protocol", "HTTP/3"),
        _ => plain!(out, "protocol", "HTTP/1.1"),
    }
    if let Some(agent) = request.user_agent {
        text!(out, "user_agent", agent);
    }
    if let Some(referer) = request.referer {
        text!(out, "referer", referer);
    }
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
    let backend = &chosen.backend;
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
    if attempts.len() > 1 {
        write_all_attempts(attempts, out);
    }
}

/// What a retry or a hedge adds.
#[cold]
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
            duration!(out, "duration_ms", duration);
        }
        out.push(b'}');
    }
    out.push(b']');
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

fn write_auth(auth: &AuthFailure, out: &mut Vec<u8>) {
    text!(out, "auth_scheme", auth.scheme.as_bytes());
    if let Some(user) = auth.user.as_deref() {
        text!(out, "auth_user", user.as_bytes());
    }
    if !auth.reason.is_empty() {
        text!(out, "auth_reason", auth.reason.as_bytes());
    }
}

fn digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, value: Duration) {
    let whole = value.as_secs().saturating_mul(1_000);
    digits(out, whole.saturating_add(value.subsec_millis().into()));
    let rest = u64::from(value.subsec_micros() % 1_000);
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

fn digit(value: u64) -> u8 {
    // The remainder is below ten.
    b'0' + (value % 10) as u8
}

fn write_address(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => write_ip(out, ip),
        ip @ IpAddr::V6(_) => {
            out.push(b'[');
            write_ip(out, ip);
            out.push(b']');
        }
    }
    out.push(b':');
    digits(out, address.port().into());
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let mut text = [0; 15];
            let mut at = 0;
            for octet in v4.octets() {
                if at > 0 {
                    text[at] = b'.';
                    at += 1;
                }
                if octet >= 100 {
                    text[at] = b'0' + octet / 100;
                    at += 1;
                }
                if octet >= 10 {
                    text[at] = b'0' + octet / 10 % 10;
                    at += 1;
                }
                text[at] = b'0' + octet % 10;
                at += 1;
            }
            out.extend_from_slice(&text[..at]);
        }
        IpAddr::V6(v6) => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Writes what a JSON string may hold (RFC 8259 §7), whatever bytes come; what is not UTF-8
/// becomes U+FFFD.
fn escaped(out: &mut Vec<u8>, value: &[u8]) {
    if are_plain(value) {
        out.extend_from_slice(value);
    } else {
        escape(out, value);
    }
}

#[cold]
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                // Control characters, and the line ends that some readers know besides.
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Returns true where nothing needs an escape: looks at eight bytes at once, the last eight
/// perhaps twice.
fn are_plain(value: &[u8]) -> bool {
    let Some(last) = value.last_chunk() else {
        return value.iter().all(|&b| is_plain(b));
    };
    let words = value
        .chunks_exact(8)
        .filter_map(|chunk| chunk.first_chunk());
    let odd = words.fold(odd_bytes(*last), |odd, word| odd | odd_bytes(*word));
    odd == 0
}

/// Returns 0 if all eight bytes are plain.
fn odd_bytes(word: [u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(word);
    let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |byte: u8| {
        let differs = word ^ (ONES * u64::from(byte));
        differs.wrapping_sub(ONES) & !differs
    };
    (word | below(b' ') | is(b'"') | is(b'\\') | is(0x7f)) & (ONES << 7)
}

fn is_plain(b: u8) -> bool {
    (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\'
}

/// Writes RFC 3339 in UTC with milliseconds; the second is formatted once.
fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = since.as_secs();
    let (known, mut text) = SECOND.get();
    if known != second {
        text = format_second(second);
        SECOND.set((second, text));
    }
    let millis = u64::from(since.subsec_millis());
    let millis = [digit(millis / 100), digit(millis / 10), digit(millis)];
    out.extend_from_slice(&text);
    out.extend_from_slice(&[b'.', millis[0], millis[1], millis[2], b'Z']);
}

fn format_second(second: u64) -> [u8; 19] {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (0..width).rev() {
            text[at + i] = digit(value);
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, rest / 3_600);
    put(14, 2, rest / 60 % 60);
    put(17, 2, rest % 60);
    text
}

/// Days since 1970 as a date of the Gregorian calendar: eras of 400 years, years from March on,
/// so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

thread_local! {
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((0, *b"1970-01-01T00:00:00")) };
}

/// What nearly every line fits into.
const LINE: usize = 1_024;
const ONES: u64 = 0x0101_0101_0101_0101;
const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (second, wanted) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_164_799, "2024-02-28T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(std::str::from_utf8(&format_second(second)).unwrap(), wanted);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_json_string(value in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut out = vec![b'"'];
            escaped(&mut out, &value);
            out.push(b'"');
            let back: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(back, String::from_utf8_lossy(&value));
        }

        #[test]
        fn eight_bytes_at_once_are_judged_as_one_by_one(
            mut value in prop::collection::vec(b' '..=b'~', 0..40),
            odd in prop::option::of((any::<u8>(), any::<prop::sample::Index>())),
        ) {
            if let (Some((byte, at)), false) = (odd, value.is_empty()) {
                let at = at.index(value.len());
                value[at] = byte;
            }
            prop_assert_eq!(are_plain(&value), value.iter().all(|&b| is_plain(b)));
        }

        #[test]
        fn durations_are_numbers(micros in 0_u64..u64::MAX / 2) {
            let mut out = b"{\"x\":1".to_vec();
            out.extend_from_slice(b",\"d\":");
            millis(&mut out, Duration::from_micros(micros));
            out.push(b'}');
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let wanted = micros as f64 / 1_000.0;
            prop_assert!((value["d"].as_f64().unwrap() - wanted).abs() <= wanted * 1e-12);
        }
    }
}
