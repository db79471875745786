//! HTTP/1.1 as bytes: the crate's only reader and writer of RFC 9112.
//!
//! Servers, proxies and health checks must agree on where a message begins and ends. Two readers
//! that differ in one rule can take the same bytes for different messages, which is how request
//! smuggling works (RFC 9112 §11.2). Every module of this crate therefore reads and writes HTTP/1.1
//! here; a test in `tests/it/architecture.rs` refuses a second reader elsewhere.
//!
//! The functions are pure: they take bytes and return what the bytes mean, or [`Malformed`]. They
//! read no socket and no clock.
//!
//! | file | grammar |
//! |---|---|
//! | `request` | request line and fields of a request (RFC 9112 §2, §3, §5, §6) |
//! | `response` | status line and fields of a response, read and written (§4) |
//! | `fields` | the end of a head, field lines, a cache of field names (§5) |
//! | `target` | the four forms of a request target, and the host (§3.2) |
//! | `framing` | `Content-Length`, `Transfer-Encoding`, where a body ends (§6) |
//! | `chunked` | chunks, read and written (§7.1) |
//! | `trailers` | the trailer section, and the fields allowed in it (RFC 9110 §6.5) |
//! | `connection` | options of `Connection`, hop-by-hop fields (RFC 9110 §7.6.1) |
//! | `cookie` | the pairs of a `Cookie` field (RFC 6265 §5.4) |
//! | `retry_after` | the seconds of `Retry-After` (RFC 9110 §10.2.3) |
//!
//! Reading is strict where two readers could differ, and lenient only where RFC 9112 demands it.
//! [`request::Allowed`] holds the two exceptions that a user can switch on.
//!
//! # What is strict, and what is not
//!
//! | input | rule here | why |
//! |---|---|---|
//! | a line that ends in a bare LF | refused | RFC 9112 §2.2 allows to accept it; a peer that does not finds another message |
//! | a folded line (obs-fold), blanks before a colon in a request | refused | §5.1, §5.2 |
//! | blanks before a colon in a response | removed | §5.1 demands it of a proxy |
//! | `Content-Length` twice in a request, even if equal | refused | a proxy in front may have used the other |
//! | equal lengths in a response | one length | §6.3 allows it |
//! | `Transfer-Encoding` other than `chunked` once | refused | §6.1: the end could not be found |
//! | empty lines before a request | skipped | §2.2: old clients send one behind a body |
//! | an unknown minor version | as 1.1 | RFC 9110 §2.5 |
//!
//! # Cost
//!
//! Reading a head copies it once and hardly allocates: values are slices of the copy, names come from a
//! cache, header maps are reused by the thread. The benchmark `end_to_end` counts the instructions.

use std::{error, fmt};

use http::StatusCode;

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod cookie;
pub(crate) mod fields;
pub(crate) mod framing;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod retry_after;
pub(crate) mod target;
pub(crate) mod trailers;

/// Why a message cannot be read. Its connection must be closed: the next message has no known
/// start.
///
/// It holds static text only, so that making one costs nothing: a client can send as many as it
/// likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) kind: MalformedKind,
    reason: &'static str,
    /// The status of the malformed message, if it is a response and its status line was read.
    response_status: Option<StatusCode>,
}

/// The kinds of malformed messages, one for each status that a server responds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MalformedKind {
    /// 400 (Bad Request).
    Bad,
    /// 431 (Request Header Fields Too Large): too many fields, or too long a head.
    HeadTooLarge,
    /// 501 (Not Implemented): a transfer coding other than `chunked`.
    NotImplemented,
    /// 414 (URI Too Long): the first line alone is too long.
    TargetTooLong,
    /// 505 (HTTP Version Not Supported).
    Version,
}

impl Malformed {
    pub(crate) const fn new(kind: MalformedKind, reason: &'static str) -> Self {
        Self {
            kind,
            reason,
            response_status: None,
        }
    }

    pub(crate) const fn bad(reason: &'static str) -> Self {
        Self::new(MalformedKind::Bad, reason)
    }

    /// Adds the status of the malformed response.
    fn with_response_status(mut self, status: StatusCode) -> Self {
        self.response_status = Some(status);
        self
    }

    /// Returns the reason, for logs and errors.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// Returns the status of the response with which a server refuses the message.
    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            MalformedKind::Bad => StatusCode::BAD_REQUEST,
            MalformedKind::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            MalformedKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            MalformedKind::TargetTooLong => StatusCode::URI_TOO_LONG,
            MalformedKind::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason)?;
        match self.response_status {
            Some(status) => write!(f, " (status {})", status.as_u16()),
            None => Ok(()),
        }
    }
}

impl error::Error for Malformed {}

/// Writes one field line.
// Not inlined: one copy of the code stays in the instruction cache for every caller.
/// Neither name nor value is checked: both come from a `HeaderMap`, or are constants. A value with
/// CR or LF would end the line.
#[inline(never)]
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes `number` in the given base, 2 to 16, with upper-case digits and no leading zeros.
///
/// # Panics
///
/// With a base below 2 or above 16. All callers pass constants.
pub(crate) fn write_number(mut number: u64, base: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_core_fmt_writes_them() {
        for value in [0, 7, 10, 1_024, u64::MAX] {
            let (mut decimal, mut hex) = (Vec::new(), Vec::new());
            write_number(value, 10, &mut decimal);
            write_number(value, 16, &mut hex);
            assert_eq!(String::from_utf8(decimal).unwrap(), value.to_string());
            assert_eq!(String::from_utf8(hex).unwrap(), format!("{value:X}"));
        }
    }
}
