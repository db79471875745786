//! HTTP/1.1 as bytes: the crate's one reading and one writing of RFC 9112.
//!
//! Server, proxy, checks, sticky sessions and consistent hashing read a message here, so that no
//! two of them can take the same bytes for different messages. Nothing here reads a socket or a
//! clock: functions take bytes and return what they mean, or [`Malformed`].
//!
//! | file | grammar |
//! |---|---|
//! | `request` | request line, fields, what they say of the message (RFC 9112 §2, §3, §5, §6) |
//! | `response` | status line and fields of an answer, both ways (§4) |
//! | `fields` | the end of a head, field lines, the names that are seen again and again (§5) |
//! | `target` | the four forms of a target, and the host (§3.2) |
//! | `framing` | `Content-Length`, `Transfer-Encoding`, where a body ends (§6) |
//! | `chunked` | chunks, in both directions (§7.1) |
//! | `trailers` | the fields behind a body, and those that may stand there (RFC 9110 §6.5) |
//! | `connection` | options of `Connection`, fields that end at a hop (RFC 9110 §7.6.1) |
//! | `cookie` | the pairs of a `Cookie` field (RFC 6265 §5.4) |
//! | `retry_after` | the seconds of `Retry-After` (RFC 9110 §10.2.3) |

use std::{error, fmt};

use http::StatusCode;

pub(crate) mod chunked;
pub(crate) mod connection;
pub(crate) mod cookie;
pub(crate) mod fields;
pub(crate) mod framing;
#[cfg_attr(
    not(feature = "server"),
    expect(dead_code, reason = "only a server reads requests")
)]
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod retry_after;
pub(crate) mod target;
pub(crate) mod trailers;

/// What is wrong with a message. The connection that it came by carries no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) kind: MalformedKind,
    reason: &'static str,
    /// The status of the answer, where it is an answer and its status was read.
    response_status: Option<StatusCode>,
}

/// Which status a server refuses the message with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MalformedKind {
    /// 400.
    Bad,
    /// 431: too many fields, or too long ones.
    HeadTooLarge,
    /// 501: a transfer coding that is not known here.
    NotImplemented,
    /// 414.
    TargetTooLong,
    /// 505.
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

    fn with_response_status(mut self, status: StatusCode) -> Self {
        self.response_status = Some(status);
        self
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// Returns the status that a server refuses the message with.
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

/// Writes a field's line.
// One copy of the code for all that is written of a request and its answer.
#[inline(never)]
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number to this base, 16 at most.
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
    fn numbers_are_written_as_fmt_does() {
        for value in [0, 7, 10, 1_024, u64::MAX] {
            let (mut decimal, mut hex) = (Vec::new(), Vec::new());
            write_number(value, 10, &mut decimal);
            write_number(value, 16, &mut hex);
            assert_eq!(String::from_utf8(decimal).unwrap(), value.to_string());
            assert_eq!(String::from_utf8(hex).unwrap(), format!("{value:X}"));
        }
    }
}
