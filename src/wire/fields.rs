//! Field lines (RFC 9112 §5): the end of a head, reading a section, a cache of field names.
//!
//! A section is read line by line in one pass. For each line: the colon, the name by the cache,
//! blanks off the value, and the value as a slice of the head.
//!
//! The cache of names maps a spelling (`Content-Type`, `content-type`) to the parsed name and its
//! meaning. It is direct-mapped: 128 slots, chosen by length, first and last byte; a collision
//! replaces the entry. A client that sends ever new names costs a parse for each, as without a
//! cache, and no memory: names of over 64 bytes have one slot in all.
//!
//! Bugs of peers that this reader must not have: an empty field name, at which HAProxy dropped the
//! fields behind it (CVE-2023-25725), and a name whose length overflowed its counter
//! (CVE-2021-40346).

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Malformed, MalformedKind};

/// What a field means for the message and the connection.
///
/// Only fields with a meaning for the hop are named; all others are `Plain` and pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// A challenge, which may bind the connection to one client.
    Authenticate,
    Connection,
    ContentLength,
    Expect,
    Host,
    /// A hop-by-hop field that this crate does not act on.
    HopByHop,
    /// A field without meaning for the framing or the connection; it is forwarded unchanged.
    Plain,
    Te,
    TransferEncoding,
    Upgrade,
}

impl Field {
    pub(crate) fn of(name: &HeaderName) -> Self {
        match *name {
            header::CONNECTION => Self::Connection,
            header::CONTENT_LENGTH => Self::ContentLength,
            header::EXPECT => Self::Expect,
            header::HOST => Self::Host,
            header::PROXY_AUTHENTICATE | header::WWW_AUTHENTICATE => Self::Authenticate,
            header::TE => Self::Te,
            header::TRANSFER_ENCODING => Self::TransferEncoding,
            header::UPGRADE => Self::Upgrade,
            _ if super::connection::is_obsolete_hop_by_hop(name.as_str()) => Self::HopByHop,
            _ => Self::Plain,
        }
    }
}

/// Searches for the empty line that ends a head, beginning at `searched`, and advances `searched`:
/// each byte is searched once, in however many pieces a head arrives. Returns the length of the
/// head once it is complete.
///
/// # Errors
///
/// As soon as a line ends in a bare LF, or the head exceeds [`MAX_HEAD`]: with
/// [`MalformedKind::TargetTooLong`] if the first line has not ended by then.
///
/// `searched` is 0 for a new head, and belongs to `buf`: a caller that removes bytes at the front
/// has to lower it.
pub(crate) fn find_end(buf: &[u8], searched: &mut usize) -> Result<Option<usize>, Malformed> {
    while let Some(found) = memchr::memchr(b'\n', &buf[*searched..]) {
        let at = *searched + found;
        if at == 0 || buf[at - 1] != b'\r' {
            return Err(BARE_LF);
        }
        *searched = at + 1;
        // CRLF behind CRLF: the empty line. The check of the CR was above.
        if at >= 3 && buf[at - 2] == b'\n' {
            return match at + 1 > MAX_HEAD {
                true => Err(head_too_large(buf)),
                false => Ok(Some(at + 1)),
            };
        }
    }
    *searched = buf.len();
    match buf.len() < MAX_HEAD {
        true => Ok(None),
        false => Err(head_too_large(buf)),
    }
}

/// Distinguishes too long a first line from too long a head.
#[cold]
fn head_too_large(buf: &[u8]) -> Malformed {
    match memchr::memchr(b'\n', &buf[..MAX_HEAD]) {
        Some(_) => HEAD_TOO_LARGE,
        None => LINE_TOO_LONG,
    }
}

/// Returns the position of the CR that ends the line beginning at `at`.
///
/// # Errors
///
/// If there is no LF, or no CR before it.
pub(crate) fn line_end(head: &[u8], at: usize) -> Result<usize, Malformed> {
    match memchr::memchr(b'\n', &head[at..]) {
        Some(found) if found > 0 && head[at + found - 1] == b'\r' => Ok(at + found - 1),
        _ => Err(BARE_LF),
    }
}

/// The rules for one section of fields.
///
/// Requests, responses and trailers differ in these two only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectionRules {
    pub(crate) max_fields: usize,
    /// Removes spaces and tabs between a name and its colon, as RFC 9112 §5.1 demands of a proxy
    /// for responses. In requests they are malformed.
    pub(crate) blanks_before_colon: bool,
}

/// Reads the field lines from `at` to the empty line that ends them, into `headers`. Calls
/// `on_field` for each field that is not [`Field::Plain`]; it returns whether the field goes into
/// `headers`. Returns the position after the section. Values share the memory of `head`.
pub(crate) fn read(
    head: &Bytes,
    mut at: usize,
    rules: SectionRules,
    headers: &mut HeaderMap,
    mut on_field: impl FnMut(Field, &[u8]) -> Result<bool, Malformed>,
) -> Result<usize, Malformed> {
    NAME_CACHE.with_borrow_mut(|names| {
        let mut count = 0;
        loop {
            let end = line_end(head, at)?;
            if end == at {
                return Ok(end + 2);
            }
            // Counted before the line is parsed: a client cannot make the reader parse more than it
            // accepts.
            count += 1;
            if count > rules.max_fields {
                return Err(TOO_MANY_FIELDS);
            }
            let line = &head[at..end];
            // Names are short: a plain loop finds the colon before a vectorized search has begun.
            let colon = line.iter().position(|&byte| byte == b':').ok_or(BAD_NAME)?;
            let mut name = &line[..colon];
            if rules.blanks_before_colon {
                while let [shorter @ .., b' ' | b'\t'] = name {
                    name = shorter;
                }
            }
            let cached = names.get(name)?;
            let (from, to) = trim(head, at + colon + 1, end);
            // A callback for each plain field would cost more than the comparison.
            if cached.field == Field::Plain || on_field(cached.field, &head[from..to])? {
                let value = HeaderValue::from_maybe_shared(head.slice(from..to))
                    .map_err(|_error| BAD_VALUE)?;
                headers
                    // `try_`: a map that is full returns an error where `append` would panic.
                    .try_append(cached.name.clone(), value)
                    .map_err(|_error| TOO_MANY_FIELDS)?;
            }
            at = end + 2;
        }
    })
}

/// Returns the range without the spaces and tabs around a value (RFC 9112 §5.1).
fn trim(head: &[u8], mut from: usize, mut to: usize) -> (usize, usize) {
    let is_blank = |byte: u8| byte == b' ' || byte == b'\t';
    while from < to && is_blank(head[from]) {
        from += 1;
    }
    while to > from && is_blank(head[to - 1]) {
        to -= 1;
    }
    (from, to)
}

/// Removes the spaces and tabs around the values of HTTP/2 fields. RFC 9113 §8.2.1 forbids them,
/// and an HTTP/1.1 reader would remove them.
#[cfg(feature = "http2")]
pub(crate) fn trim_values(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            trim_value(value);
        }
    }
}

#[cfg(feature = "http2")]
#[cold]
fn trim_value(value: &mut HeaderValue) {
    // A value holds no other byte that `trim_ascii` removes. A part of a valid value is valid.
    if let Ok(mut trimmed) = HeaderValue::from_bytes(value.as_bytes().trim_ascii()) {
        trimmed.set_sensitive(value.is_sensitive());
        *value = trimmed;
    }
}

/// Returns true for a valid field value: no control characters except tabs. Values that go into a
/// `HeaderMap` are checked by `HeaderValue`; this is for values that are not forwarded.
///
/// Bytes over 0x7F pass (obs-text, RFC 9110 §5.5).
pub(crate) fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// A cache of field names by their spelling. Peers send the same few names in every message; a
/// look-up costs a fifth of parsing a name.
struct NameCache {
    slots: [Option<CachedName>; NAME_SLOTS],
    /// The last name that was too long for the cache.
    uncached: Option<CachedName>,
}

struct CachedName {
    /// The name as the peer wrote it.
    spelling: Box<[u8]>,
    name: HeaderName,
    field: Field,
}

impl NameCache {
    /// # Errors
    ///
    /// If the name is empty or not a token (RFC 9110 §5.6.2); a folded line begins with a blank,
    /// and so is refused here.
    fn get(&mut self, spelling: &[u8]) -> Result<&CachedName, Malformed> {
        let (Some(first), Some(last)) = (spelling.first(), spelling.last()) else {
            return Err(BAD_NAME);
        };
        // Cheap, and good enough: the names in use differ in length or ends.
        let hash = spelling.len() * 7 + usize::from(*first) * 3 + usize::from(*last);
        let slot = hash % NAME_SLOTS;
        let is_hit = matches!(&self.slots[slot], Some(cached) if *cached.spelling == *spelling);
        if !is_hit {
            return self.parse(spelling, slot);
        }
        self.slots[slot].as_ref().ok_or(BAD_NAME)
    }

    #[cold]
    fn parse(&mut self, spelling: &[u8], slot: usize) -> Result<&CachedName, Malformed> {
        let name = HeaderName::from_bytes(spelling).map_err(|_error| BAD_NAME)?;
        let entry = if spelling.len() <= MAX_CACHED_NAME {
            &mut self.slots[slot]
        } else {
            &mut self.uncached
        };
        Ok(entry.insert(CachedName {
            spelling: spelling.into(),
            field: Field::of(&name),
            name,
        }))
    }
}

thread_local! {
    static NAME_CACHE: RefCell<NameCache> = const {
        RefCell::new(NameCache {
            slots: [const { None }; NAME_SLOTS],
            uncached: None,
        })
    };
}

pub(crate) const BAD_VALUE: Malformed = Malformed::bad("a field value with a control character");
pub(crate) const TOO_MANY_FIELDS: Malformed =
    Malformed::new(MalformedKind::HeadTooLarge, "more than 100 fields");
const BAD_NAME: Malformed = Malformed::bad("a field name that is not a token");
const BARE_LF: Malformed = Malformed::bad("a line that ends in a bare LF");
const HEAD_TOO_LARGE: Malformed = Malformed::new(MalformedKind::HeadTooLarge, "a head over 32 KiB");
const LINE_TOO_LONG: Malformed =
    Malformed::new(MalformedKind::TargetTooLong, "a first line over 32 KiB");
/// The longest head in bytes, including the first line. Servers and proxies commonly allow 8 to 64
/// KiB.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
/// The most fields in a head, as in Apache httpd and hyper.
pub(crate) const MAX_FIELDS: usize = 100;
/// Clients and backends together send fewer distinct names than this.
const NAME_SLOTS: usize = 128;
/// The longest name in the cache. Cached names are never freed: 16 KiB a thread at most.
const MAX_CACHED_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: SectionRules = SectionRules {
        max_fields: 3,
        blanks_before_colon: false,
    };
    const LENIENT: SectionRules = SectionRules {
        max_fields: 3,
        blanks_before_colon: true,
    };

    fn section(text: &str, rules: SectionRules) -> Result<Vec<String>, &'static str> {
        let mut headers = HeaderMap::new();
        let head = Bytes::copy_from_slice(text.as_bytes());
        read(&head, 0, rules, &mut headers, |_, _| Ok(true)).map_err(|e| e.reason())?;
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}={}", String::from_utf8_lossy(value.as_bytes()))
        };
        Ok(headers.iter().map(line).collect())
    }

    #[test]
    fn field_values_are_trimmed() {
        for (text, fields) in [
            ("\r\n", &[][..]),
            ("A:1\r\n\r\n", &["a=1"]),
            ("a: \t x y \t\r\n\r\n", &["a=x y"]),
            ("a:\r\nb:  \r\n\r\n", &["a=", "b="]),
            ("a: 1\r\na: 2\r\n\r\nrest", &["a=1", "a=2"]),
            ("a: b:c\r\n\r\n", &["a=b:c"]),
        ] {
            assert_eq!(section(text, STRICT).unwrap(), fields, "{text:?}");
        }
    }

    #[test]
    fn ambiguous_fields_are_refused() {
        for text in [
            "a: 1\n\r\n",
            "a: 1\r\n\n",
            "a: 1\r\n b: folded\r\n\r\n",
            "a : 1\r\n\r\n",
            ": 1\r\n\r\n",
            "a\r\n\r\n",
            "a b: 1\r\n\r\n",
            "a: \0\r\n\r\n",
            "a: 1\r2\r\n\r\n",
            "a: \u{7f}\r\n\r\n",
            "é: 1\r\n\r\n",
            "a: 1\r\na: 1\r\na: 1\r\na: 1\r\n\r\n",
            "a: 1\r\n",
        ] {
            assert!(section(text, STRICT).is_err(), "{text:?}");
        }
        assert_eq!(section("a \t: 1\r\n\r\n", LENIENT).unwrap(), ["a=1"]);
        assert!(section(" a: 1\r\n\r\n", LENIENT).is_err());
        assert!(section(" : 1\r\n\r\n", LENIENT).is_err());
    }

    #[test]
    fn the_end_of_a_head_is_found_in_any_slicing() {
        let head = b"GET / HTTP/1.1\r\na: b\r\n\r\nrest";
        for cut in 0..head.len() {
            let mut searched = 0;
            let first = find_end(&head[..cut], &mut searched).unwrap();
            assert_eq!(first, (cut >= 24).then_some(24), "{cut}");
            if first.is_none() {
                assert_eq!(find_end(head, &mut searched), Ok(Some(24)), "{cut}");
            }
        }
        for text in ["GET / HTTP/1.1\n", "a\r\nb: c\n\n", "\n"] {
            assert_eq!(find_end(text.as_bytes(), &mut 0), Err(BARE_LF), "{text:?}");
        }
    }

    #[test]
    fn the_length_of_a_head_is_limited() {
        let long = vec![b'a'; MAX_HEAD];
        assert_eq!(find_end(&long[1..], &mut 0), Ok(None));
        assert_eq!(find_end(&long, &mut 0), Err(LINE_TOO_LONG));
        let fields = [b"GET / HTTP/1.1\r\na: ", &long[..]].concat();
        assert_eq!(find_end(&fields, &mut 0), Err(HEAD_TOO_LARGE));
        let mut searched = 0;
        assert_eq!(find_end(&fields[..100], &mut searched), Ok(None));
        assert_eq!(find_end(&fields, &mut searched), Err(HEAD_TOO_LARGE));
    }

    #[test]
    fn a_cached_name_equals_the_parsed_name() {
        // Twice, so that the second look-up hits; many, so that names share slots.
        let names: Vec<_> = (0..300)
            .map(|i| format!("X-{}y", "a".repeat(i % 90)))
            .collect();
        for spelling in names.iter().chain(&names).map(String::as_str).chain([
            "Content-Type",
            "content-type",
            "CONTENT-TYPE",
            "Content-Typf",
            "keep-alive",
            "Upgrade",
        ]) {
            let parsed = HeaderName::from_bytes(spelling.as_bytes()).unwrap();
            NAME_CACHE.with_borrow_mut(|names| {
                let CachedName { name, field, .. } = names.get(spelling.as_bytes()).unwrap();
                assert_eq!((name, *field), (&parsed, Field::of(&parsed)), "{spelling}");
            });
        }
    }
}
