//! A request head of the common kind, or not.

use std::{cell::RefCell, mem::MaybeUninit};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};

use crate::{
    context::spare,
    server::{Body, http::HEAD_SIZE},
};

/// What the bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Something that the codec has to decide about.
    Odd,
    /// What may become a head of the common kind.
    Partial,
    Request {
        /// The connection may carry another.
        keep: bool,
        /// Of the head.
        length: usize,
    },
}

/// Reads a head that is whole, strict and without a body (RFC 9112 §2 to §6), into `place`: it is
/// large, and would be moved at each return.
pub(super) fn find(bytes: &[u8], place: &mut Option<Request<Body>>) -> Found {
    match plain(bytes, place) {
        Some(keep) => Found::Request {
            keep,
            length: bytes.len(),
        },
        None => parse(bytes, place),
    }
}

/// Reads a head that came alone and whole, line by line; `None` where anything is not as nearly
/// all clients have it. It takes nothing that `parse` does not take the same way.
fn plain(bytes: &[u8], place: &mut Option<Request<Body>>) -> Option<bool> {
    if bytes.len() > HEAD_SIZE || !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let line = &bytes[..line_end(bytes, 0)?];
    let line = line.strip_suffix(b" HTTP/1.1")?;
    let space = line.iter().position(|&byte| byte == b' ')?;
    let (method, target) = (&line[..space], &line[space + 1..]);
    let visible = |byte: &u8| (0x21..0x7f).contains(byte);
    if target.first() != Some(&b'/') || !target.iter().all(visible) {
        return None;
    }
    let method = match method {
        b"GET" => Method::GET,
        b"CONNECT" => return None,
        other => Method::from_bytes(other).ok()?,
    };
    // The only copy: names that are new and values are parts of it.
    let head = copy(bytes);
    let target = head.slice(space + 1..space + 1 + target.len());
    let uri = Uri::from_maybe_shared(target).ok()?;
    let mut headers = MAPS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let at = line.len() + b" HTTP/1.1\r\n".len();
    let Some(keep) = NAMES.with_borrow_mut(|names| lines(&head, at, names, &mut headers)) else {
        keep_map(headers);
        return None;
    };
    put(place, method, uri, headers);
    Some(keep)
}

/// Reads the lines of the fields, which begin at `at`.
fn lines(head: &Bytes, mut at: usize, names: &mut Names, headers: &mut HeaderMap) -> Option<bool> {
    let (mut keep, mut empty, mut count) = (None, false, 0);
    loop {
        let end = line_end(head, at)?;
        if end == at {
            // Another head may follow.
            return (end + 2 == head.len()).then_some(keep.unwrap_or(true));
        }
        count += 1;
        let line = &head[at..end];
        let colon = line.iter().position(|&byte| byte == b':')?;
        let known = names.get(&line[..colon])?;
        let (mut from, mut to) = (at + colon + 1, end);
        while from < to && matches!(head[from], b' ' | b'\t') {
            from += 1;
        }
        while from < to && matches!(head[to - 1], b' ' | b'\t') {
            to -= 1;
        }
        match known.kind {
            Kind::Any => {}
            Kind::Connection if keep.is_none() => keep = Some(persists(&head[from..to])?),
            Kind::Length if !empty && head[from..to] == *b"0" => empty = true,
            Kind::Connection | Kind::Length | Kind::Odd => return None,
        }
        if count > MAX_FIELDS {
            return None;
        }
        let value = HeaderValue::from_maybe_shared(head.slice(from..to)).ok()?;
        headers.try_append(known.name.clone(), value).ok()?;
        at = end + 2;
    }
}

/// Returns where the CRLF is that ends the line; `None` where LF stands alone.
fn line_end(bytes: &[u8], at: usize) -> Option<usize> {
    let end = at + memchr::memchr(b'\n', &bytes[at..])?;
    (end > at && bytes[end - 1] == b'\r').then(|| end - 1)
}

/// Copies a head to behind those that came before it: an allocation for many.
fn copy(head: &[u8]) -> Bytes {
    if head.len() > SHARES {
        return Bytes::copy_from_slice(head);
    }
    HEADS.with_borrow_mut(|heads| {
        // From its beginning again, where all of them are gone.
        if !heads.try_reclaim(head.len()) {
            *heads = BytesMut::with_capacity(BLOCK);
        }
        heads.extend_from_slice(head);
        heads.split().freeze()
    })
}

fn put(place: &mut Option<Request<Body>>, method: Method, uri: Uri, headers: HeaderMap) {
    let request = place.insert(Request::new(Body::empty()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    *request.extensions_mut() = spare::take();
}

/// What a field means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Connection,
    Length,
    /// For the codec.
    Odd,
}

impl Kind {
    fn of(name: &HeaderName) -> Self {
        match *name {
            header::CONNECTION => Self::Connection,
            header::CONTENT_LENGTH => Self::Length,
            header::EXPECT
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE => Self::Odd,
            _ => Self::Any,
        }
    }
}

/// Names as clients spell them, and what they mean: most are the same in every request, and a look
/// here costs a fraction of what parsing one does.
struct Names {
    slots: [Option<Known>; NAME_SLOTS],
}

struct Known {
    spelled: Box<[u8]>,
    name: HeaderName,
    kind: Kind,
}

impl Names {
    fn get(&mut self, spelled: &[u8]) -> Option<&Known> {
        let (first, last) = (*spelled.first()?, *spelled.last()?);
        let hash = spelled.len() * 7 + usize::from(first) * 3 + usize::from(last);
        let slot = &mut self.slots[hash % NAME_SLOTS];
        match slot {
            Some(known) if *known.spelled == *spelled => {}
            _ => learn(slot, spelled)?,
        }
        slot.as_ref()
    }
}

#[cold]
fn learn(slot: &mut Option<Known>, spelled: &[u8]) -> Option<()> {
    if spelled.len() > KEEP_NAME {
        return None;
    }
    let name = HeaderName::from_bytes(spelled).ok()?;
    let kind = Kind::of(&name);
    let spelled = spelled.into();
    *slot = Some(Known {
        spelled,
        name,
        kind,
    });
    Some(())
}

/// Decides about what is not quite as the plain kind.
#[cold]
fn parse(bytes: &[u8], place: &mut Option<Request<Body>>) -> Found {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_SIZE => return Found::Partial,
        Ok(httparse::Status::Partial) | Err(_) => return Found::Odd,
    };
    let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
        return Found::Odd;
    };
    // RFC 9112 §2.2: lines end with CRLF, and none comes before the first.
    let begins = !bytes.starts_with(b"\r") && !bytes.starts_with(b"\n");
    let strict = begins && bytes[..length].ends_with(b"\r\n\r\n");
    if length > HEAD_SIZE || !strict || !target.starts_with('/') {
        return Found::Odd;
    }
    // The only copy: names and values are parts of it.
    let head = Head {
        origin: bytes.as_ptr() as usize,
        bytes: copy(&bytes[..length]),
    };
    let mut headers = MAPS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let taken = take(method, target, parsed.headers, &head, &mut headers);
    let Some((method, uri, keep)) = taken else {
        keep_map(headers);
        return Found::Odd;
    };
    put(place, method, uri, headers);
    Found::Request { keep, length }
}

/// Keeps the memory of a map for another request.
pub(super) fn keep_map(mut headers: HeaderMap) {
    headers.clear();
    MAPS.with_borrow_mut(|maps| {
        if maps.len() < KEPT {
            maps.push(headers);
        }
    });
}

/// A copy of the head, and where the one that was parsed begins.
struct Head {
    origin: usize,
    bytes: Bytes,
}

impl Head {
    fn part(&self, part: &[u8]) -> Bytes {
        let begin = (part.as_ptr() as usize).wrapping_sub(self.origin);
        self.bytes.slice(begin..begin + part.len())
    }
}

/// Makes what the request is of; `None` where that is for the codec.
fn take(
    method: &str,
    target: &str,
    fields: &[httparse::Header<'_>],
    head: &Head,
    headers: &mut HeaderMap,
) -> Option<(Method, Uri, bool)> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    if method == Method::CONNECT {
        return None;
    }
    let uri = Uri::from_maybe_shared(head.part(target.as_bytes())).ok()?;
    let mut keep = None;
    let mut empty = false;
    for field in fields {
        let begin = (field.name.as_ptr() as usize).wrapping_sub(head.origin);
        if begin < 2 || head.bytes[begin - 2] != b'\r' {
            // The line before ended with LF alone.
            return None;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match Kind::of(&name) {
            Kind::Any => {}
            Kind::Connection if keep.is_none() => keep = Some(persists(field.value)?),
            // Many clients say so of a POST without content.
            Kind::Length if !empty && field.value == b"0" => empty = true,
            Kind::Connection | Kind::Length | Kind::Odd => return None,
        }
        let value = HeaderValue::from_maybe_shared(head.part(field.value)).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some((method, uri, keep.unwrap_or(true)))
}

/// RFC 9112 §9.3, of the two values that everybody sends.
fn persists(value: &[u8]) -> Option<bool> {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        Some(true)
    } else if value.eq_ignore_ascii_case(b"close") {
        Some(false)
    } else {
        None
    }
}

thread_local! {
    static HEADS: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
    static NAMES: RefCell<Names> = const {
        RefCell::new(Names {
            slots: [const { None }; NAME_SLOTS],
        })
    };
}

/// Some ten heads; whoever keeps a part of one (a request that waits, say) keeps as much.
const BLOCK: usize = 4 * 1024;
/// A longer head has memory of its own.
const SHARES: usize = BLOCK / 4;
/// As many as the codec's.
const MAX_FIELDS: usize = 100;
/// As many as requests usually end between two that begin; each is about a KiB.
const KEPT: usize = 64;
/// Browsers send a dozen or two.
const NAME_SLOTS: usize = 64;
/// Longer names are rare, and would be kept for good: 4 KiB a thread at most.
const KEEP_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &str) -> &'static str {
        match find(bytes.as_bytes(), &mut None) {
            Found::Odd => "odd",
            Found::Partial => "partial",
            Found::Request { length, .. } if length == bytes.len() => "request",
            Found::Request { .. } => "request and more",
        }
    }

    #[test]
    fn only_the_common_kind_is_taken() {
        for (head, found) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "request"),
            ("GET / HTTP/1.1\r\n\r\n", "request"),
            (
                "DELETE /a?b=c HTTP/1.1\r\nHOST: a\r\nCookie: a=b; c=d\r\n\r\n",
                "request",
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
                "request",
            ),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", "request"),
            (
                "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                "request and more",
            ),
            ("GET / HTTP/1.1\r\nhost: a\r\n", "partial"),
            ("", "partial"),
            ("G", "partial"),
            // A line that ends with LF alone, wherever it is.
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost: a\nb: c\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n", "odd"),
            ("\r\nGET / HTTP/1.1\r\n\r\n", "odd"),
            ("\nGET / HTTP/1.1\r\n\r\n", "odd"),
            // For the codec: bodies, switches, other versions and forms of the target.
            ("POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\na", "odd"),
            ("POST / HTTP/1.1\r\ncontent-length: 00\r\n\r\n", "odd"),
            (
                "POST / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
                "odd",
            ),
            (
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
                "odd",
            ),
            ("GET / HTTP/1.1\r\nexpect: 100-continue\r\n\r\n", "odd"),
            (
                "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
                "odd",
            ),
            ("GET / HTTP/1.1\r\nupgrade: x\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nte: trailers\r\n\r\n", "odd"),
            (
                "GET / HTTP/1.1\r\nconnection: keep-alive\r\nconnection: close\r\n\r\n",
                "odd",
            ),
            ("GET / HTTP/1.0\r\n\r\n", "odd"),
            ("GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n", "odd"),
            ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "odd"),
            ("CONNECT /a HTTP/1.1\r\nhost: a\r\n\r\n", "odd"),
            // For the codec to refuse.
            ("GET / HTTP/1.1\r\nho st: a\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n", "odd"),
            ("GET / HTTP/1.1\r\nhost: a\0b\r\n\r\n", "odd"),
            ("GET / HTTP/2.0\r\n\r\n", "odd"),
            ("GET /\u{7f} HTTP/1.1\r\n\r\n", "odd"),
            ("garbage\r\n\r\n", "odd"),
        ] {
            assert_eq!(kind(head), found, "{head:?}");
        }
        let many = "a: b\r\n".repeat(101);
        assert_eq!(kind(&format!("GET / HTTP/1.1\r\n{many}\r\n")), "odd");
        let long = "a".repeat(HEAD_SIZE);
        assert_eq!(kind(&format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n")), "odd");
        assert_eq!(kind(&format!("GET / HTTP/1.1\r\na: {long}")), "odd");
    }

    /// What a request says.
    fn said(found: Found, request: Option<Request<Body>>) -> Option<String> {
        let Found::Request { keep, length } = found else {
            return None;
        };
        let (parts, _) = request.unwrap().into_parts();
        let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
        Some(format!("{method} {uri} {headers:?} {keep} {length}"))
    }

    fn compare(bytes: &[u8]) {
        let mut quick = None;
        let Some(keep) = plain(bytes, &mut quick) else {
            return;
        };
        let length = bytes.len();
        let found = Found::Request { keep, length };
        let mut place = None;
        let parsed = parse(bytes, &mut place);
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(said(found, quick), said(parsed, place), "{text:?}");
    }

    proptest::proptest! {
        /// Whatever the quick way takes, the other takes the same way.
        #[test]
        fn what_is_read_line_by_line_is_what_the_parser_reads(
            parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..14),
            begins in proptest::bool::weighted(0.8),
            ends in proptest::bool::weighted(0.9),
            changed in proptest::option::of((0_usize..80, 0_u8..=255)),
        ) {
            let mut bytes = Vec::new();
            if begins {
                bytes.extend_from_slice(b"GET /a HTTP/1.1\r\n");
            }
            for part in parts {
                bytes.extend_from_slice(part);
            }
            if ends {
                bytes.extend_from_slice(b"\r\n");
            }
            if let Some((at, byte)) = changed {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            compare(&bytes);
        }
    }

    /// Of which heads are made, and what is nearly one.
    const PARTS: [&[u8]; 30] = [
        b"host: a\r\n",
        b"Host: b\r\n",
        b"a: 1\r\n",
        b"A:2\r\n",
        b"a:  \t x y \t \r\n",
        b"b:\r\n",
        b"b: \r\n",
        b"Connection: close\r\n",
        b"connection: Keep-Alive\r\n",
        b"connection: x\r\n",
        b"content-length: 0\r\n",
        b"content-length: 1\r\n",
        b"te: trailers\r\n",
        b"upgrade: x\r\n",
        b"c: \xff\xfe\r\n",
        b"c: \x01\r\n",
        b"c: a\rb\r\n",
        b"c: a\n",
        b"d : x\r\n",
        b" e: folded\r\n",
        b": nameless\r\n",
        b"no-colon\r\n",
        b"f\xff: x\r\n",
        b"g!#$%&'*+.^_`|~: x\r\n",
        b"h{}: x\r\n",
        b"POST /x?y=\"{}|<>^`\\# HTTP/1.1\r\n",
        b"X-NEW /\x7f HTTP/1.1\r\n",
        b"get / HTTP/1.1\r\n",
        b"\r\n",
        b"\n",
    ];

    #[test]
    fn every_target_that_is_read_line_by_line_is_one_for_the_parser() {
        for byte in 0..=255 {
            for head in [
                [&b"GET /a"[..], &[byte], b"b HTTP/1.1\r\nhost: a\r\n\r\n"].concat(),
                [&b"G"[..], &[byte], b"T / HTTP/1.1\r\nhost: a\r\n\r\n"].concat(),
                [&b"GET / HTTP/1.1\r\nx"[..], &[byte], b"y: a\r\n\r\n"].concat(),
                [&b"GET / HTTP/1.1\r\nx: a"[..], &[byte], b"b\r\n\r\n"].concat(),
                [&b"GET / HTTP/1.1\r\nx: a"[..], &[byte], b"\r\n\r\n"].concat(),
            ] {
                compare(&head);
            }
        }
    }

    #[test]
    fn nearly_every_head_is_read_line_by_line() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET /a?b=c HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nAccept: */*\r\n\r\n",
            "POST /a HTTP/1.1\r\nhost: a\r\nContent-Length: 0\r\n\r\n",
            "DELETE /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        ] {
            assert!(plain(head.as_bytes(), &mut None).is_some(), "{head:?}");
        }
    }

    #[test]
    fn heads_that_are_kept_stay_what_they_were() {
        let mut kept = Vec::new();
        for number in 0..200_usize {
            let filler = "x".repeat(if number % 7 == 0 { SHARES } else { number });
            let head = format!("GET /{number} HTTP/1.1\r\na: {filler}\r\nb: {number}\r\n\r\n");
            let mut request = None;
            find(head.as_bytes(), &mut request);
            let request = request.unwrap();
            if number % 3 == 0 {
                kept.push((number, filler, request));
            }
        }
        for (number, filler, request) in kept {
            assert_eq!(request.uri().path(), format!("/{number}"));
            assert_eq!(request.headers()["a"], filler);
            assert_eq!(request.headers()["b"], number.to_string());
        }
    }

    #[test]
    fn a_block_is_used_again_once_its_heads_are_gone() {
        let head = b"GET /a HTTP/1.1\r\nhost: a\r\nb: c\r\n\r\n";
        let once = || {
            let mut request = None;
            find(head, &mut request);
            keep_map(std::mem::take(request.as_mut().unwrap().headers_mut()));
        };
        once();
        let cost = allocation_counter::measure(|| (0..1_000).for_each(|_| once()));
        assert_eq!(cost.count_total, 0);
    }

    #[test]
    fn a_request_is_what_its_head_says() {
        let bytes =
            b"PUT /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\na:  2 \r\nConnection: close\r\n\r\nrest";
        let mut request = None;
        let Found::Request { keep, length } = find(bytes, &mut request) else {
            panic!("it is one")
        };
        let request = request.unwrap();
        assert_eq!((keep, &bytes[length..]), (false, &b"rest"[..]));
        assert_eq!(request.method(), Method::PUT);
        assert_eq!(request.uri(), "/a?b");
        let values: Vec<_> = request.headers().get_all("a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert_eq!(request.headers()["host"], "x");
    }
}
