//! Where the body of a message ends (RFC 9112 §6).

#[cfg(feature = "http2")]
use http::{HeaderMap, header};
use http::{Method, StatusCode};

use super::{Malformed, MalformedKind};

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    /// It ends with the connection: only answers do.
    Close,
    Length(u64),
    /// There is none.
    None,
}

/// The length and the coding that a message declares, filled in field by field.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) length: Option<u64>,
    pub(crate) chunked: bool,
}

impl Declared {
    /// Reads a `Content-Length` of a request, which may say so once.
    pub(crate) fn request_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() {
            return Err(Malformed::bad("Content-Length twice"));
        }
        self.length = Some(content_length(value).ok_or(BAD_LENGTH)?);
        Ok(())
    }

    /// Reads a `Content-Length` of an answer. Equal ones, in several fields or in one list, count
    /// as one (RFC 9112 §6.3); returns true if this is the first and stands alone in its field.
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

    #[cold]
    fn response_lengths(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut elements = value.split(|&byte| byte == b',');
        // `split` yields at least one.
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

    /// Reads a `Transfer-Encoding`: one field that says `chunked` and no more.
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

    /// Decides for a request; `is_http10` is HTTP/1.0, which knows no transfer codings.
    pub(crate) fn request_framing(self, is_http10: bool) -> Result<Framing, Malformed> {
        self.check(is_http10)?;
        Ok(match self.length {
            _ if self.chunked => Framing::Chunked,
            None | Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
        })
    }

    /// Decides for an answer.
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

/// Returns true for a status whose answers have no body, whatever their fields say.
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Returns true for a method whose requests say that they have no content where they have none
/// (RFC 9110 §8.6).
pub(crate) fn anticipates_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Reads a length: digits and no more, up to 19 of them.
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

/// Returns the length that the fields of a message declare whose framing HTTP/2 enforces.
#[cfg(feature = "http2")]
pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    content_length(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

/// Leaves one of the lengths of an answer that HTTP/2 found to be equal.
#[cfg(all(feature = "http2", feature = "proxy"))]
pub(crate) fn keep_one_length(headers: &mut HeaderMap) {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let (Some(first), true) = (lengths.next(), lengths.next().is_some()) {
        let first = first.clone();
        headers.insert(header::CONTENT_LENGTH, first);
    }
}

/// RFC 9112 §6.1 has 501 for a coding that is not known, §6.3 has 400 where `chunked` is not the
/// last or not the only one of its kind: the end of such a message cannot be found.
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

const BAD_LENGTH: Malformed = Malformed::bad("a Content-Length that is no number");
const TWO_LENGTHS: Malformed = Malformed::bad("two values of Content-Length");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits() {
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
    fn a_request_ends_where_one_field_says_so() {
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
    fn equal_lengths_of_an_answer_are_one() {
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
