//! The head of a response (RFC 9112 §4): read from a backend, written to a client.
//!
//! Read from backends: leniently where RFC 9112 demands it, strictly elsewhere, without hop-by-hop
//! fields. Written to clients: framing and `Connection` by this crate, all other fields as the
//! service names them.
//!
//! | the service's response | framing to an HTTP/1.1 client | to an HTTP/1.0 client |
//! |---|---|---|
//! | to HEAD, 204, 304 | none | none |
//! | an empty body | `Content-Length: 0` | the same |
//! | a body of known size, or with `Content-Length` | that length | the same |
//! | a body of unknown size | chunked | the end of the connection |

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::SizeHint;

use super::{
    Malformed, MalformedKind,
    connection::{ConnectionOptions, authenticates_connection},
    fields::{self, Field, MAX_FIELDS, SectionRules},
    framing::{Declared, Framing, content_length, is_bodiless},
    write_field, write_number,
};

/// What the head says about the message and its connection.
///
/// `keep_alive` is false for HTTP/1.0, whatever its `Connection` says: an intermediary in between
/// may have passed that field on blindly (RFC 9112 §9.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    /// Where the body ends; `Close` takes the connection with it.
    pub(crate) framing: Framing,
    /// The connection may carry another request after this response.
    pub(crate) keep_alive: bool,
    /// The backend authenticates the connection (NTLM, Negotiate) rather than the request.
    pub(crate) connection_auth: bool,
    /// The fields that `Connection` names: they must not be forwarded, nor as trailers.
    pub(crate) nominated: Vec<HeaderName>,
}

/// Searches for the end of a head; see [`fields::find_end`].
///
/// # Errors
///
/// As `fields::find_end`, and as soon as the first bytes are not those of a status line: an
/// exchange does not wait for the rest of another protocol.
pub(crate) fn find_end(buf: &[u8], searched: &mut usize) -> Result<Option<usize>, Malformed> {
    let start = buf.len().min(PREFIX.len());
    if buf[..start] != PREFIX[..start] {
        return Err(Malformed::bad("not an HTTP/1 status line"));
    }
    fields::find_end(buf, searched).map_err(|error| match error.kind {
        MalformedKind::TargetTooLong => {
            Malformed::new(MalformedKind::HeadTooLarge, "a head over 32 KiB")
        }
        _ => error,
    })
}

/// Reads the complete head of a response into `headers`, without the hop-by-hop fields (RFC 9110
/// §7.6.1); `to_head` if it answers a HEAD request.
///
/// # Errors
///
/// When the head is malformed. `headers` may hold a part of the fields then.
pub(crate) fn read(
    head: &Bytes,
    to_head: bool,
    headers: &mut HeaderMap,
) -> Result<Head, Malformed> {
    let (status, is_http10, at) = status_line(head)?;
    let mut semantics = Semantics {
        status,
        declared: Declared::default(),
        options: ConnectionOptions::default(),
        repeats_length: false,
        connection_auth: false,
    };
    let rules = SectionRules {
        max_fields: MAX_FIELDS,
        blanks_before_colon: true,
    };
    fields::read(head, at, rules, headers, |field, value| {
        semantics.read_field(field, value)
    })
    .and_then(|_| semantics.finish(is_http10, to_head, headers))
    .map_err(|error| error.with_response_status(status))
}

/// Reads the status line; returns the status, whether it is HTTP/1.0, and where the fields begin.
///
/// The reason may be empty, and the blank before it may be missing: some backends leave both out.
fn status_line(head: &[u8]) -> Result<(StatusCode, bool, usize), Malformed> {
    let end = fields::line_end(head, 0)?;
    let text = &head[..end];
    let is_http10 = match text.get(PREFIX.len()) {
        Some(b'0') => true,
        // RFC 9110 §2.5: an unknown minor version counts as the highest known one.
        Some(b'1'..=b'9') => false,
        _ => return Err(BAD_STATUS_LINE),
    };
    let (Some(b' '), Some(code)) = (text.get(8), text.get(9..12)) else {
        return Err(BAD_STATUS_LINE);
    };
    // A reason goes to the client unchanged, so it must not hold a line end.
    let is_valid_reason = match &text[12..] {
        [] => true,
        [b' ', reason @ ..] => fields::is_value(reason),
        _ => false,
    };
    if !is_valid_reason {
        return Err(BAD_STATUS_LINE);
    }
    match StatusCode::from_bytes(code) {
        Ok(status) => Ok((status, is_http10, end + 2)),
        Err(_) if code.iter().all(u8::is_ascii_digit) => Err(Malformed::bad("a status below 100")),
        Err(_) => Err(BAD_STATUS_LINE),
    }
}

/// What the fields read so far mean for the message and the connection.
struct Semantics {
    status: StatusCode,
    declared: Declared,
    options: ConnectionOptions,
    /// The length was declared more than once: one field replaces the others.
    repeats_length: bool,
    connection_auth: bool,
}

impl Semantics {
    /// Reads a field; returns true if it is forwarded to the client.
    fn read_field(&mut self, field: Field, value: &[u8]) -> Result<bool, Malformed> {
        match field {
            // Forwarded like any other field; the connection is bound to its client from now on.
            Field::Authenticate => self.connection_auth |= authenticates_connection(value),
            Field::ContentLength => {
                let is_sole = self.declared.response_length(value)?;
                self.repeats_length |= !is_sole;
                // RFC 9110 §8.6: 1xx and 204 must not have a length.
                let is_forwarded = is_sole && self.allows_content_length();
                if !is_forwarded && !fields::is_value(value) {
                    return Err(fields::BAD_VALUE);
                }
                return Ok(is_forwarded);
            }
            // With the 101 that it explains, and the 426 that demands it (RFC 9110 §15.5.22).
            Field::Upgrade if self.allows_upgrade() => {}
            Field::Connection
            | Field::HopByHop
            | Field::Te
            | Field::TransferEncoding
            | Field::Upgrade => {
                // `HeaderValue` checks the values that are forwarded; this one is checked here.
                if !fields::is_value(value) {
                    return Err(fields::BAD_VALUE);
                }
                match field {
                    Field::Connection => self.options.read(value)?,
                    Field::TransferEncoding => self.declared.transfer_coding(value)?,
                    _ => {}
                }
                return Ok(false);
            }
            Field::Expect | Field::Host | Field::Plain => {}
        }
        Ok(true)
    }

    /// A length in a 1xx or 204 is dropped and not refused: some backends send `Content-Length: 0`.
    fn allows_content_length(&self) -> bool {
        !self.status.is_informational() && self.status != StatusCode::NO_CONTENT
    }

    fn allows_upgrade(&self) -> bool {
        matches!(
            self.status,
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED
        )
    }

    /// Checks the fields against one another, completes `headers` and returns the head.
    ///
    /// Fields that `Connection` names are removed here, since they may come before it.
    fn finish(
        self,
        is_http10: bool,
        to_head: bool,
        headers: &mut HeaderMap,
    ) -> Result<Head, Malformed> {
        for name in &self.options.nominated {
            headers.remove(name);
        }
        // One field for all of them: a client could take another one.
        let rewrites = self.repeats_length && self.allows_content_length();
        if let (true, Some(length)) = (rewrites, self.declared.length) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        let framing = self
            .declared
            .response_framing(self.status, is_http10, to_head)?;
        Ok(Head {
            status: self.status,
            framing,
            keep_alive: !is_http10 && !self.options.close && framing != Framing::Close,
            connection_auth: self.connection_auth,
            nominated: self.options.nominated,
        })
    }
}

/// What the head of a response depends on beside its status and fields.
///
/// What is known before the first frame.
pub(crate) struct BodyInfo {
    /// The request is a HEAD.
    pub(crate) to_head: bool,
    /// The body has no bytes.
    pub(crate) is_empty: bool,
    /// The size of the body, as far as it is known.
    pub(crate) size: SizeHint,
    /// The client speaks HTTP/1.0: the end of the connection ends a body of unknown length.
    pub(crate) is_http10: bool,
}

/// Writes the head and returns the framing of the body. Sets `keep_alive` to false if the fields or
/// the framing end the connection. Calls `write_date` if `headers` have no `Date`.
///
/// # Errors
///
/// A reason, when HTTP/1.1 cannot express the response: an interim status, a bad `Content-Length`,
/// or more than 64 options in `Connection`.
///
/// `headers` are written as they are, but for `Content-Length` and `Transfer-Encoding`, which the
/// writer decides, and a `Trailer` without a body to follow.
pub(crate) fn write(
    status: StatusCode,
    reason: Option<&[u8]>,
    headers: &HeaderMap,
    body: &BodyInfo,
    keep_alive: &mut bool,
    write_date: impl FnOnce(&mut Vec<u8>),
    out: &mut Vec<u8>,
) -> Result<Framing, &'static str> {
    if status.is_informational() {
        return Err("a final response with a status of 1xx");
    }
    // The version is always HTTP/1.1, also to HTTP/1.0 clients (RFC 9110 §2.5).
    write_status(status, reason, out);
    let is_bodiless = is_bodiless(status);
    let sends_body = !is_bodiless && !body.to_head;
    let mut declared = None;
    let mut options = ConnectionOptions::default();
    let (mut has_connection, mut has_date) = (false, false);
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH => {
                let value = value.as_bytes();
                let length = content_length(value).ok_or("a bad Content-Length")?;
                if declared.is_some_and(|(other, _)| other != length) {
                    return Err("two lengths in Content-Length");
                }
                declared = Some((length, value));
                continue;
            }
            // The writer decides the framing itself.
            header::TRANSFER_ENCODING => continue,
            header::TRAILER if !sends_body => continue,
            header::CONNECTION => {
                options
                    .read(value.as_bytes())
                    .map_err(|error| error.reason())?;
                has_connection = true;
            }
            header::DATE => has_date = true,
            _ => {}
        }
        write_field(out, name.as_str(), value.as_bytes());
    }
    // After the fields, as only these say whether a length is declared.
    let framing = write_framing(status, body, sends_body, is_bodiless, declared, out);
    // A service that says `connection: close` ends the connection, too.
    *keep_alive &= !options.close && framing != Framing::Close;
    if !*keep_alive && !options.close {
        write_field(out, "connection", b"close");
    // An HTTP/1.0 client closes unless it is answered so (RFC 9112 §9.3).
    } else if *keep_alive && body.is_http10 && !has_connection {
        write_field(out, "connection", b"keep-alive");
    }
    if !has_date {
        write_date(out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(framing)
}

/// Writes the head of an interim response (1xx), without hop-by-hop fields.
pub(crate) fn write_interim(status: StatusCode, mut headers: HeaderMap, out: &mut Vec<u8>) {
    super::connection::remove_hop_by_hop(&mut headers);
    // RFC 9110 §8.6: a 1xx must not have a length.
    headers.remove(header::CONTENT_LENGTH);
    write_status(status, None, out);
    for (name, value) in &headers {
        write_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// An unknown status without a reason of the service gets `<none>`, as hyper writes it: the blank
/// behind the code is required, the text is not.
fn write_status(status: StatusCode, reason: Option<&[u8]>, out: &mut Vec<u8>) {
    if status == StatusCode::OK && reason.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let known = || status.canonical_reason().unwrap_or("<none>").as_bytes();
    out.extend_from_slice(reason.unwrap_or_else(known));
    out.extend_from_slice(b"\r\n");
}

/// Writes `Content-Length` if the length is known, else `Transfer-Encoding`, and returns the
/// framing (RFC 9112 §6.3).
fn write_framing(
    status: StatusCode,
    body: &BodyInfo,
    sends_body: bool,
    is_bodiless: bool,
    declared: Option<(u64, &[u8])>,
    out: &mut Vec<u8>,
) -> Framing {
    let known = if body.is_empty {
        Some(0)
    } else {
        body.size.exact()
    };
    let announced = match (declared.map(|(length, _)| length), known) {
        // RFC 9110 §8.6: a 204 must not have a length.
        _ if status == StatusCode::NO_CONTENT => None,
        // The length that a GET would have had.
        (Some(length), _) if body.to_head => Some(length),
        // The body is empty, whatever length was declared.
        (_, Some(0)) if !body.to_head => (!is_bodiless).then_some(0),
        (Some(length), _) => Some(length),
        (None, Some(0)) => None,
        (None, known) => known.filter(|_| !is_bodiless),
    };
    match (announced, declared) {
        // The declared digits, unchanged.
        (Some(length), Some((same, value))) if same == length => {
            write_field(out, "content-length", value);
        }
        (Some(length), _) => {
            out.extend_from_slice(b"content-length: ");
            write_number(length, 10, out);
            out.extend_from_slice(b"\r\n");
        }
        (None, _) => {}
    }
    match announced {
        _ if !sends_body => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None if body.is_http10 => Framing::Close,
        None => {
            write_field(out, "transfer-encoding", b"chunked");
            Framing::Chunked
        }
    }
}

const PREFIX: &[u8] = b"HTTP/1.";
const BAD_STATUS_LINE: Malformed = Malformed::bad("a bad status line");

#[cfg(test)]
mod tests;
