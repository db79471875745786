//! A request head of the common kind, or not.

use std::{cell::RefCell, mem::MaybeUninit};

use bytes::Bytes;
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
        bytes: Bytes::copy_from_slice(&bytes[..length]),
    };
    let mut headers = MAPS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let taken = take(method, target, parsed.headers, &head, &mut headers);
    let Some((method, uri, keep)) = taken else {
        keep_map(headers);
        return Found::Odd;
    };
    let request = place.insert(Request::new(Body::empty()));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    *request.extensions_mut() = spare::take();
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
        match name {
            header::CONNECTION if keep.is_none() => keep = Some(persists(field.value)?),
            // Many clients say so of a POST without content.
            header::CONTENT_LENGTH if !empty && field.value == b"0" => empty = true,
            header::CONNECTION
            | header::CONTENT_LENGTH
            | header::EXPECT
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE => return None,
            _ => {}
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
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// As many as the codec's.
const MAX_FIELDS: usize = 100;
/// As many as requests usually end between two that begin; each is about a KiB.
const KEPT: usize = 64;

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
