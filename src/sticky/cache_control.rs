//! `Cache-Control: private` for a response that sets the cookie (RFC 9111 §5.2.2.7).
//!
//! The danger: a shared cache that stores a response with `Set-Cookie` hands one client's session to
//! all. RFC 9111 §7.3 leaves it to the response's directives, so they are changed, as little as
//! possible:
//!
//! | the response has | it gets |
//! |---|---|
//! | no `Cache-Control` | `private` |
//! | `no-store` or `private` | no change |
//! | `public, max-age=60` | `private, max-age=60` |
//! | `private="set-cookie", max-age=60` | `private, max-age=60` |
//! | an unterminated quoted string | a field `private` before its own |
//!
//! Fields are read as bytes: one byte that is not ASCII must not make `no-store` disappear, as it did
//! once.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};

/// Keeps shared caches from storing the response, and with it the cookie of one client. Adds
/// `private`, and removes the directives that concern shared caches alone; every other directive
/// stays byte for byte. Leaves a response with `no-store` or `private` unchanged.
pub(super) fn make_private(headers: &mut HeaderMap) {
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, PRIVATE);
        return;
    }
    let fields: Vec<HeaderValue> = headers.get_all(CACHE_CONTROL).iter().cloned().collect();
    if !fields.iter().all(|field| closes_quotes(field.as_bytes())) {
        // The end of a directive in an unterminated quoted string is unknown. Joined with other
        // fields, the string would swallow their directives.
        headers.insert(CACHE_CONTROL, PRIVATE);
        for field in fields {
            headers.append(CACHE_CONTROL, field);
        }
        return;
    }
    let directives = || {
        let all = fields.iter().flat_map(|f| directives_of(f.as_bytes()));
        all.map(<[u8]>::trim_ascii).filter(|d| !d.is_empty())
    };
    // With an argument, either directive forbids less, or has no meaning.
    let suffices = |d: &[u8]| is(d, "no-store") || is(d, "private");
    if directives().any(suffices) {
        return;
    }
    let mut kept = PRIVATE.as_bytes().to_vec();
    for directive in directives().filter(|d| !is_for_shared_caches(d)) {
        kept.extend_from_slice(b", ");
        kept.extend_from_slice(directive);
    }
    // Pieces of valid values make a valid value.
    let kept = HeaderValue::from_maybe_shared(Bytes::from(kept));
    headers.insert(CACHE_CONTROL, kept.unwrap_or(PRIVATE));
}

/// Returns true for a directive that concerns shared caches alone, and for `private` with field
/// names: the whole response is private now.
fn is_for_shared_caches(directive: &[u8]) -> bool {
    let name = directive.split(|&b| b == b'=').next().unwrap_or_default();
    ["public", "s-maxage", "private", "proxy-revalidate"]
        .iter()
        .any(|wanted| is(name.trim_ascii_end(), wanted))
}

fn is(directive: &[u8], name: &str) -> bool {
    directive.eq_ignore_ascii_case(name.as_bytes())
}

/// Splits a field at its commas, except those in quoted strings (RFC 9111 §5.2).
fn directives_of(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quotes = Quotes::default();
    field.split(move |&byte| {
        quotes.read(byte);
        byte == b',' && !quotes.open
    })
}

/// Returns true if the field has no unterminated quoted string.
fn closes_quotes(field: &[u8]) -> bool {
    let mut quotes = Quotes::default();
    field.iter().for_each(|&byte| quotes.read(byte));
    !quotes.open
}

/// Whether a position is inside a quoted string (RFC 9110 §5.6.4).
#[derive(Default)]
struct Quotes {
    open: bool,
    escaped: bool,
}

impl Quotes {
    fn read(&mut self, byte: u8) {
        match byte {
            _ if std::mem::take(&mut self.escaped) => {}
            b'\\' => self.escaped = self.open,
            b'"' => self.open = !self.open,
            _ => {}
        }
    }
}

const PRIVATE: HeaderValue = HeaderValue::from_static("private");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(given: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(CACHE_CONTROL, HeaderValue::from_bytes(value).unwrap());
        }
        make_private(&mut headers);
        let got = headers.get_all(CACHE_CONTROL).iter();
        got.map(|value| value.as_bytes().to_vec()).collect()
    }

    #[test]
    fn shared_caches_do_not_store_the_response() {
        let table: [(&[&[u8]], &[&[u8]]); 17] = [
            (&[], &[b"private"]),
            (&[b""], &[b"private"]),
            (&[b"no-store"], &[b"no-store"]),
            (&[b"private"], &[b"private"]),
            (&[b"public, max-age=60"], &[b"private, max-age=60"]),
            (&[b"max-age=60, s-maxage=10"], &[b"private, max-age=60"]),
            (
                &[b"Public", b"must-revalidate"],
                &[b"private, must-revalidate"],
            ),
            (
                &[b"private=\"set-cookie\", max-age=1"],
                &[b"private, max-age=1"],
            ),
            (&[b"private=\"a, b\", max-age=1"], &[b"private, max-age=1"]),
            (
                &[b"x=\"a\\\", public\", public"],
                &[b"private, x=\"a\\\", public\""],
            ),
            // Bytes that are not ASCII.
            (&[b"no-store, x=\xe9"], &[b"no-store, x=\xe9"]),
            (&[b"x=\xe9", b"No-Store"], &[b"x=\xe9", b"No-Store"]),
            (
                &[b"no-cache, x=\"\xc3\xa9\", public"],
                &[b"private, no-cache, x=\"\xc3\xa9\""],
            ),
            (&[b"\xff"], &[b"private, \xff"]),
            // With an argument it is another directive.
            (&[b"no-store=\"a\""], &[b"private, no-store=\"a\""]),
            // An unterminated quoted string.
            (
                &[b"x=\"a, public", b"no-store"],
                &[b"private", b"x=\"a, public", b"no-store"],
            ),
            (&[b"x=\"a\\\""], &[b"private", b"x=\"a\\\""]),
        ];
        for (given, wanted) in table {
            let given_text: Vec<_> = given.iter().map(|v| v.escape_ascii().to_string()).collect();
            assert_eq!(kept(given), wanted, "{given_text:?}");
        }
    }

    proptest! {
        /// A directive that forbids something stays, whatever bytes are around it.
        #[test]
        fn no_restricting_directive_is_lost(
            before in proptest::collection::vec(any_byte(), 0..12),
            after in proptest::collection::vec(any_byte(), 0..12),
            strict in prop_oneof![Just("no-store"), Just("no-cache"), Just("must-understand")],
        ) {
            let field = [&before[..], b",", strict.as_bytes(), b",", &after].concat();
            let got = kept(&[&field]);
            let is_there = |field: &[u8]| {
                field.split(|&b| b == b',').any(|d| d.trim_ascii() == strict.as_bytes())
            };
            prop_assert!(got.iter().any(|field| is_there(field)), "{got:?}");
        }
    }

    fn any_byte() -> impl Strategy<Value = u8> {
        prop_oneof![
            Just(b','),
            Just(b'"'),
            Just(b'\\'),
            Just(b'='),
            Just(b' '),
            Just(b'a'),
            0x80_u8..
        ]
    }
}
