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

/// Writes `entry` as one line.
pub(super) fn write(entry: &Entry<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    write_time(entry.time, out);
    out.push(b'"');
    text(out, "node", entry.node);
    match entry.listener {
        Some(Peer::Tcp(address)) => address_field(out, "listener", address),
        Some(Peer::Unix) => plain(out, "listener", "unix"),
        _ => {}
    }
    if let Some(client) = entry.client {
        ip_field(out, "client", client.ip());
    }
    if let Some(peer) = entry.peer.and_then(Peer::address) {
        if entry.client != Some(peer) {
            ip_field(out, "peer", peer.ip());
        }
    }
    if let Some(request) = &entry.request {
        write_request(request, entry.tls.is_some(), out);
    }
    if let Some(status) = entry.status {
        number(out, "status", status.into());
    }
    millis(out, "duration_ms", entry.duration);
    if let Some(ttfb) = entry.ttfb {
        millis(out, "ttfb_ms", ttfb);
    }
    if entry.request.is_some() {
        number(out, "received", entry.received);
        number(out, "sent", entry.sent);
    }
    write_attempts(entry.attempts, out);
    if let Some((strategy, candidates)) = entry.decision {
        plain(out, "strategy", strategy);
        number(out, "candidates", candidates as u64);
    }
    if let Some(sticky) = entry.sticky {
        plain(out, "sticky", sticky.as_str());
    }
    if let Some(tls) = entry.tls {
        write_tls(tls, out);
    }
    if let Some(auth) = entry.auth {
        write_auth(auth, out);
    }
    plain(out, "outcome", entry.outcome);
    text(out, "detail", entry.detail.filter(|d| !d.is_empty()));
    out.extend_from_slice(b"}\n");
}

fn write_request(request: &RequestEntry<'_>, tls: bool, out: &mut Vec<u8>) {
    match request.id {
        RequestId::Given(id) => bytes(out, "request_id", id),
        RequestId::Made(id) => {
            key(out, "request_id");
            out.push(b'"');
            for byte in id.to_be_bytes() {
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            out.push(b'"');
        }
    }
    bytes(out, "method", request.method.as_str().as_bytes());
    plain(out, "scheme", if tls { "https" } else { "http" });
    let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(host) = authority.or(request.host) {
        bytes(out, "host", host);
    }
    bytes(out, "path", request.uri.path().as_bytes());
    text(out, "query", request.query);
    plain(
        out,
        "protocol",
        match request.version {
            Version::HTTP_09 => "HTTP/0.9",
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_3 => "HTTP/3",
            _ => "HTTP/1.1",
        },
    );
    if let Some(agent) = request.user_agent {
        bytes(out, "user_agent", agent);
    }
    if let Some(referer) = request.referer {
        bytes(out, "referer", referer);
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
    bytes(out, "backend", backend.id().as_bytes());
    key(out, "backend_address");
    out.push(b'"');
    match backend.unix_path() {
        Some(path) => escaped(out, path.as_os_str().as_encoded_bytes()),
        None => {
            escaped(out, backend.host().as_bytes());
            out.push(b':');
            digits(out, backend.port().into());
        }
    }
    out.push(b'"');
    if attempts.len() < 2 {
        return;
    }
    key(out, "attempts");
    for (i, attempt) in attempts.iter().enumerate() {
        out.extend_from_slice(if i == 0 {
            b"[{\"backend\":\""
        } else {
            b",{\"backend\":\""
        });
        escaped(out, attempt.backend.id().as_bytes());
        out.push(b'"');
        plain(
            out,
            "outcome",
            attempt.outcome.map_or("running", |o| o.as_str()),
        );
        if let Some(duration) = attempt.duration {
            millis(out, "duration_ms", duration);
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn write_tls(tls: &TlsInfo, out: &mut Vec<u8>) {
    plain(out, "tls_version", tls.version);
    plain(out, "tls_cipher", tls.cipher);
    if let Some(group) = tls.key_exchange {
        plain(out, "tls_key_exchange", group);
    }
    key(out, "tls_resumed");
    out.extend_from_slice(if tls.resumed { b"true" } else { b"false" });
    if let Some(alpn) = &tls.alpn {
        bytes(out, "alpn", alpn);
    }
    text(out, "sni", tls.sni.as_deref());
}

fn write_auth(auth: &AuthFailure, out: &mut Vec<u8>) {
    bytes(out, "auth_scheme", auth.scheme.as_bytes());
    text(out, "auth_user", auth.user.as_deref());
    text(
        out,
        "auth_reason",
        Some(auth.reason.as_str()).filter(|r| !r.is_empty()),
    );
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A value of ours that needs no escape.
fn plain(out: &mut Vec<u8>, name: &str, value: &str) {
    key(out, name);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        bytes(out, name, value.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    key(out, name);
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    key(out, name);
    digits(out, value);
}

fn digits(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, name: &str, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    key(out, name);
    digits(out, micros / 1_000);
    let rest = micros % 1_000;
    out.push(b'.');
    out.push(digit(rest / 100));
    out.push(digit(rest / 10));
    out.push(digit(rest));
}

fn digit(value: u64) -> u8 {
    // The remainder is below ten.
    b'0' + (value % 10) as u8
}

fn ip_field(out: &mut Vec<u8>, name: &str, ip: IpAddr) {
    key(out, name);
    out.push(b'"');
    write_ip(out, ip);
    out.push(b'"');
}

fn address_field(out: &mut Vec<u8>, name: &str, address: SocketAddr) {
    key(out, name);
    out.push(b'"');
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
    out.push(b'"');
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                digits(out, octet.into());
            }
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
    if value.iter().all(|&b| is_plain(b)) {
        out.extend_from_slice(value);
        return;
    }
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
    out.extend_from_slice(&text);
    out.push(b'.');
    let millis = u64::from(since.subsec_millis());
    out.push(digit(millis / 100));
    out.push(digit(millis / 10));
    out.push(digit(millis));
    out.push(b'Z');
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
        fn durations_are_numbers(micros in 0_u64..u64::MAX / 2) {
            let mut out = b"{\"x\":1".to_vec();
            millis(&mut out, "d", Duration::from_micros(micros));
            out.push(b'}');
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            let wanted = micros as f64 / 1_000.0;
            prop_assert!((value["d"].as_f64().unwrap() - wanted).abs() <= wanted * 1e-12);
        }
    }
}
