//! Message body length: `Content-Length`, `Transfer-Encoding` and the rules between them (RFC 9112
//! §6).
//!
//! ```text
//!   request:   Transfer-Encoding: chunked ─▶ Chunked     response: to HEAD, 1xx, 204, 304 ─▶ None
//!              Content-Length: n > 0      ─▶ Length(n)             chunked                ─▶ Chunked
//!              neither, or 0              ─▶ None                  Content-Length: n      ─▶ Length(n)
//!              both                       ─▶ refused               neither                ─▶ Close
//! ```
//!
//! A request with both fields is legal to accept by RFC 9112 §6.3 (the coding wins); it is refused
//! here, since it is what request smuggling is made of. An empty `Content-Length` is not a number:
//! HAProxy forwarded such a field (CVE-2023-40225), and a backend may take it for 0.

#[cfg(feature = "http2")]
use http::{HeaderMap, header};
use http::{Method, StatusCode};

use super::{Malformed, MalformedKind};

/// How a recipient finds the end of a body (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The last chunk ends it.
    Chunked,
    /// The end of the connection ends it; only responses have such a body.
    Close,
    /// It has this many bytes.
    Length(u64),
    /// There is no body.
    None,
}

/// The length and the transfer coding that a message declares, read field by field.
///
/// Filled by the scan of the fields in their order; evaluated once at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
}

impl Declared {
    /// Reads a `Content-Length` of a request.
    ///
    /// # Errors
    ///
    /// When it is not a number, or the request has a second one: a proxy in between may have taken
    /// the other.
    pub(crate) fn request_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() {
            return Err(Malformed::bad("Content-Length twice"));
        }
        self.length = Some(content_length(value).ok_or(BAD_LENGTH)?);
        Ok(())
    }

    /// Reads a `Content-Length` of a response. Equal lengths, in several fields or in one list,
    /// count as one (RFC 9112 §6.3). Returns true if this is the first length and the only one in
    /// its field.
    ///
    /// # Errors
    ///
    /// When a length is not a number, or two lengths differ.
    pub(crate) fn response_length(&mut self, value: &[u8]) -> Result<bool, Malformed> {
        if self.length.is_none() {
            self.length = content_length(value);
            if self.length.is_some() {
                return Ok(true);
            }
        }
        self.response_lengths(value)?;
        Ok(false)
    }

    /// Cold: only a list or a second field comes here.
    #[cold]
    fn response_lengths(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut elements = value.split(|&byte| byte == b',');
        // `split` yields at least one element.
        // A list such as `5, 5`, or an element that is no number.
        let first = elements.next().unwrap_or_default().trim_ascii();
        let length = content_length(first).ok_or(BAD_LENGTH)?;
        for other in elements {
            if content_length(other.trim_ascii()) != Some(length) {
                return Err(TWO_LENGTHS);
            }
        }
        if self.length.is_some_and(|before| before != length) {
            return Err(TWO_LENGTHS);
        }
        self.length = Some(length);
        Ok(())
    }

    /// Reads a `Transfer-Encoding`: `chunked`, once.
    ///
    /// # Errors
    ///
    /// When the field has any other coding, or the message has a second field.
    pub(crate) fn transfer_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.chunked {
            return Err(Malformed::bad("Transfer-Encoding twice"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(unknown_coding(value));
        }
        self.chunked = true;
        Ok(())
    }

    /// Returns the framing of a request. HTTP/1.0 has no transfer codings.
    ///
    /// # Errors
    ///
    /// When a length and a transfer coding are declared, or a transfer coding in HTTP/1.0: two
    /// readers could find different ends (RFC 9112 §11.2).
    pub(crate) fn request_framing(self, is_http10: bool) -> Result<Framing, Malformed> {
        self.check(is_http10)?;
        Ok(match self.length {
            _ if self.chunked => Framing::Chunked,
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        })
    }

    /// Returns the framing of a response; `to_head` if it answers a HEAD request.
    ///
    /// # Errors
    ///
    /// As [`request_framing`](Self::request_framing).
    pub(crate) fn response_framing(
        self,
        status: StatusCode,
        is_http10: bool,
        to_head: bool,
    ) -> Result<Framing, Malformed> {
        self.check(is_http10)?;
        Ok(match self.length {
            _ if to_head || is_bodiless(status) => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        })
    }

    fn check(self, is_http10: bool) -> Result<(), Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed::bad("Content-Length beside Transfer-Encoding"));
        }
        if self.chunked && is_http10 {
            return Err(Malformed::bad("Transfer-Encoding in HTTP/1.0"));
        }
        Ok(())
    }
}

/// Returns true for a status whose responses never have a body: 1xx, 204 and 304 (RFC 9112 §6.3).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Returns true for a method that anticipates content: a request without a body should then say
/// `Content-Length: 0` (RFC 9110 §8.6).
pub(crate) fn anticipates_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Reads a length of 1 to 19 decimal digits; returns `None` for anything else, signs and blanks
/// included.
///
/// 19 digits fit into 63 bits: no overflow. Leading zeros are digits.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let mut length = 0_u64;
    for byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length * 10 + u64::from(digit);
    }
    Some(length)
}

/// Returns the declared length of an HTTP/2 message. `h2` enforces that the body matches it.
///
/// The first one, if there are several: `h2` has refused those that differ.
#[cfg(feature = "http2")]
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    content_length(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// Removes all but one `Content-Length` of an HTTP/2 response; `h2` has found them to be equal.
#[cfg(feature = "http2")]
pub(crate) fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), true) = (lengths.next(), lengths.next().is_some()) {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
}

/// Returns 501 for an unknown coding before a final `chunked` (RFC 9112 §6.1), else 400: without a
/// final `chunked`, the end of the request cannot be found (§6.3).
///
/// `gzip, chunked` is legal and not implemented; `chunked, gzip` has no end that can be found.
#[cold]
fn unknown_coding(value: &[u8]) -> Malformed {
    let codings: Vec<_> = value
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .collect();
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let ends_well = codings.last().is_some_and(is_chunked);
    if ends_well && codings.iter().filter(|coding| is_chunked(coding)).count() == 1 {
        return Malformed::new(
            MalformedKind::NotImplemented,
            "a Transfer-Encoding before chunked",
        );
    }
    Malformed::bad("a Transfer-Encoding other than chunked")
}

const BAD_LENGTH: Malformed = Malformed::bad("a Content-Length that is not a number");
const TWO_LENGTHS: Malformed = Malformed::bad("two different values of Content-Length");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_consists_of_digits() {
        for (value, length) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("9999999999999999999", Some(9_999_999_999_999_999_999)),
            ("18446744073709551616", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("1 ", None),
            ("0x1", None),
            ("1,1", None),
        ] {
            assert_eq!(content_length(value.as_bytes()), length, "{value:?}");
        }
    }

    fn request(lengths: &[&str], codings: &[&str], is_http10: bool) -> Result<Framing, u16> {
        let status = |malformed: Malformed| malformed.status().as_u16();
        let mut declared = Declared::default();
        for length in lengths {
            declared.request_length(length.as_bytes()).map_err(status)?;
        }
        for coding in codings {
            declared
                .transfer_coding(coding.as_bytes())
                .map_err(status)?;
        }
        declared.request_framing(is_http10).map_err(status)
    }

    #[test]
    fn the_framing_of_a_request_follows_from_one_field() {
        for (lengths, codings, is_http10, framing) in [
            (&[][..], &[][..], false, Ok(Framing::None)),
            (&["0"], &[], false, Ok(Framing::None)),
            (&["5"], &[], true, Ok(Framing::Length(5))),
            (&[], &["Chunked"], false, Ok(Framing::Chunked)),
            (&["5", "5"], &[], false, Err(400)),
            (&["5"], &["chunked"], false, Err(400)),
            (&[], &["chunked"], true, Err(400)),
            (&[], &["chunked", "chunked"], false, Err(400)),
            (&[], &["gzip, chunked"], false, Err(501)),
            (&[], &["identity, chunked"], false, Err(501)),
            (&[], &["chunked, chunked"], false, Err(400)),
            (&[], &["chunked, gzip"], false, Err(400)),
            (&[], &["gzip"], false, Err(400)),
            (&[], &[""], false, Err(400)),
            (&[], &["\x0bchunked"], false, Err(400)),
            (&[], &["chunked;q=1"], false, Err(400)),
        ] {
            assert_eq!(
                request(lengths, codings, is_http10),
                framing,
                "{lengths:?} {codings:?}"
            );
        }
    }

    #[test]
    fn equal_lengths_of_a_response_count_as_one() {
        for (values, last) in [
            (&["5"][..], Ok(true)),
            (&["5", "5"], Ok(false)),
            (&["5, 5"], Ok(false)),
            (&["5,05"], Ok(false)),
            (&["5", "6"], Err(TWO_LENGTHS)),
            (&["5, 6"], Err(TWO_LENGTHS)),
            (&["5,"], Err(TWO_LENGTHS)),
            (&["five"], Err(BAD_LENGTH)),
        ] {
            let mut declared = Declared::default();
            let read: Result<Vec<_>, _> = values
                .iter()
                .map(|value| declared.response_length(value.as_bytes()))
                .collect();
            let read = read.map(|all| all.last().copied().unwrap_or_default());
            assert_eq!(read, last, "{values:?}");
        }
    }
}
