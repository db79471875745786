//! The request target (RFC 9112 §3.2) and its host (RFC 3986 §3.2.2).
//!
//! | form | for | example |
//! |---|---|---|
//! | origin | all methods but CONNECT | `/a?b` |
//! | absolute | all methods but CONNECT, as to a proxy | `http://a/b` |
//! | authority | CONNECT only | `a:443` |
//! | asterisk | OPTIONS only | `*` |
//!
//! `http::Uri` parses the rest; what it accepts beyond RFC 9112 (a fragment, a user name, raw
//! UTF-8) is refused here first. A user name before the host is how `http://good@evil/` looks like
//! another host.

use bytes::Bytes;
use http::{Method, Uri, uri::PathAndQuery};

use super::Malformed;

/// Reads a target in one of the forms that the method allows. `allow_raw` accepts UTF-8 that the
/// client did not percent-encode.
///
/// # Errors
///
/// When the target has another form, a control character, or a fragment: a fragment is not part of
/// a target, and peers disagree about where it ends.
pub(crate) fn read(method: &Method, target: Bytes, allow_raw: bool) -> Result<Uri, Malformed> {
    // `Uri` refuses all other bytes that are not allowed.
    if memchr::memchr2(b'#', 0x7f, &target).is_some() || !(allow_raw || target.is_ascii()) {
        return Err(BAD_BYTE);
    }
    match target.first() {
        _ if *method == Method::CONNECT => authority_form(target),
        Some(b'/') => Uri::from_maybe_shared(target).map_err(|_error| BAD_TARGET),
        Some(b'*') if *method == Method::OPTIONS && target.len() == 1 => Ok(ASTERISK.clone()),
        _ => absolute_form(method, target),
    }
}

/// Reads the authority form: a host and a port, for CONNECT only (RFC 9112 §3.2.3).
///
/// A port is required (RFC 9112 §3.2.3): CONNECT has no default one.
fn authority_form(target: Bytes) -> Result<Uri, Malformed> {
    let has_port = target
        .iter()
        .rposition(|&byte| byte == b':')
        .is_some_and(|at| target[at + 1..].iter().all(u8::is_ascii_digit) && at + 1 < target.len());
    if !has_port || !is_host(&target) {
        return Err(Malformed::bad("a CONNECT target other than host and port"));
    }
    Uri::from_maybe_shared(target).map_err(|_error| BAD_TARGET)
}

/// Reads the absolute form: scheme, host and path (RFC 9112 §3.2.2).
///
/// Cold: clients send it to proxies only.
#[cold]
fn absolute_form(method: &Method, target: Bytes) -> Result<Uri, Malformed> {
    let has_scheme = |scheme: &&&[u8]| {
        let begin = target.get(..scheme.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
    };
    let after = SCHEMES.iter().find(has_scheme).ok_or(BAD_TARGET)?.len();
    let authority = &target[after..];
    // A `\` does not end an authority, and is refused by `is_host`.
    let end = authority
        .iter()
        .position(|&byte| matches!(byte, b'/' | b'?'));
    if !is_host(&authority[..end.unwrap_or(authority.len())]) {
        return Err(BAD_TARGET);
    }
    let has_path = end.is_some();
    let uri = Uri::from_maybe_shared(target).map_err(|_error| BAD_TARGET)?;
    if has_path || *method != Method::OPTIONS {
        return Ok(uri);
    }
    // RFC 9112 §3.2.4: OPTIONS without a path concerns the server as a whole.
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).map_err(|_error| BAD_TARGET)
}

/// Returns true for a host name or an address with an optional port: no user name, path, blank or
/// other byte that a reader could take for the end of the host.
///
/// The port may be empty (`a:`), as RFC 3986 §3.2.3 allows, and has five digits at most. IPv6
/// addresses are not parsed further: brackets around names and colons.
pub(crate) fn is_host(host: &[u8]) -> bool {
    let is_name = |byte: &u8| REG_NAME[usize::from(*byte)];
    let name = match host {
        [b'[', inner @ ..] => {
            let is_inner = |byte: &&u8| is_name(byte) || **byte == b':';
            match inner.iter().take_while(is_inner).count() {
                0 => return false,
                // Without its bracket, a colon would begin a port for one reader and not for
                // another.
                length if inner.get(length) != Some(&b']') => return false,
                length => length + 2,
            }
        }
        _ => host.iter().take_while(|byte| is_name(byte)).count(),
    };
    match &host[name..] {
        _ if name == 0 => false,
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit) && digits.len() <= 5,
        _ => false,
    }
}

/// The bytes of a registered name (RFC 3986 §3.2.2).
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=%";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};
/// Some WebSocket clients send their own scheme.
const SCHEMES: [&[u8]; 4] = [b"http://", b"https://", b"ws://", b"wss://"];
static ASTERISK: std::sync::LazyLock<Uri> = std::sync::LazyLock::new(|| Uri::from_static("*"));
const BAD_TARGET: Malformed = Malformed::bad("a target in none of the forms of RFC 9112");
pub(crate) const BAD_BYTE: Malformed =
    Malformed::bad("a target with a fragment or a byte outside of visible ASCII");

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(method: &Method, target: &str) -> Option<String> {
        let target = Bytes::copy_from_slice(target.as_bytes());
        let uri = read(method, target, false).ok()?;
        Some(format!(
            "{}|{}",
            uri.authority().map_or("", |a| a.as_str()),
            uri.path_and_query().map_or("", |p| p.as_str())
        ))
    }

    #[test]
    fn a_target_has_one_of_four_forms() {
        for (method, target, found) in [
            (Method::GET, "/", Some("|/")),
            (Method::GET, "/a\"?b=%20|{}", Some("|/a\"?b=%20|{}")),
            (Method::GET, "//a", Some("|//a")),
            (Method::GET, "http://a/b?c", Some("a|/b?c")),
            (Method::GET, "HTTPS://a:1", Some("a:1|/")),
            (Method::GET, "http://a?b", Some("a|?b")),
            (Method::OPTIONS, "*", Some("|*")),
            (Method::OPTIONS, "http://a", Some("a|*")),
            (Method::OPTIONS, "http://a/", Some("a|/")),
            (Method::CONNECT, "a:443", Some("a:443|")),
            (Method::CONNECT, "[::1]:443", Some("[::1]:443|")),
            (Method::CONNECT, "a", None),
            (Method::CONNECT, "a:", None),
            (Method::CONNECT, "/", None),
            (Method::GET, "*", None),
            (Method::GET, "**", None),
            (Method::OPTIONS, "**", None),
            (Method::GET, "a:443", None),
            (Method::GET, "ws://a/b", Some("a|/b")),
            (Method::GET, "ftp://a/", None),
            (Method::GET, "http:///a", None),
            (Method::GET, "http://u@a/", None),
            (Method::GET, "http://a b/", None),
            (Method::GET, "/#a", None),
            (Method::GET, "/\u{e9}", None),
            (Method::GET, "/\u{7f}", None),
            (Method::GET, "a", None),
            (Method::GET, "", None),
        ] {
            assert_eq!(
                uri(&method, target).as_deref(),
                found,
                "{method} {target:?}"
            );
        }
    }

    #[test]
    fn raw_utf_8_is_accepted_where_it_is_allowed() {
        let target = Bytes::from_static("/a?b=\u{e9}".as_bytes());
        assert!(read(&Method::GET, target.clone(), true).is_ok());
        assert!(read(&Method::GET, target, false).is_err());
        assert!(read(&Method::GET, Bytes::from_static(b"/\xff"), true).is_err());
        assert!(read(&Method::GET, Bytes::from_static(b"/#\xc3\xa9"), true).is_err());
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        for good in [
            "a",
            "a.b:80",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "a_b.c",
            "a:",
        ] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in [
            "", ":80", "a@b", "a/b", "a b", "a:b", "[::1", "[]", "a:123456", "a\"b", "a#b", "a?b",
            "[::1]x",
        ] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
