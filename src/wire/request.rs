//! The head of a request (RFC 9112 §3), read strictly and written.
//!
//! A head that two readers could take for different messages is refused. Values are slices of one
//! copy of the head; short heads share a block, and the memory of header maps is reused by the
//! thread.
//!
//! ```text
//!   bytes ─▶ find_end ─▶ request_line ─▶ copy_head ─▶ target ─▶ fields ─▶ Semantics::finish ─▶ Head, Request
//!              │ each byte once            │ the one copy             │ each field once
//!              └ a wrong first byte is     └ shared block of 4 KiB    └ meaning, checked against one another
//!                found at once
//! ```
//!
//! The order of the checks decides the status that a client gets for a head with two faults: the
//! line before the fields, a field before what is missing. `malformed_requests.md` of the server
//! lists the statuses, and a test sends each row.
//!
//! A caller has to pass a complete head: `find_end` says where it ends. The two are apart, since a
//! connection reads a head in pieces and must search each byte once (a client that sends a byte at
//! a time would otherwise cost the square of the head's length).

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Version};

use super::{
    Malformed, MalformedKind,
    connection::{self, ConnectionOptions},
    fields::{self, Field, MAX_FIELDS, SectionRules},
    framing::{Declared, Framing},
    target,
};

/// What the head says about the message and its connection.
///
/// Together with the request itself this is all that the rest of the server needs: no other code
/// looks at the framing fields again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The length of the head in bytes.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
    /// The connection may carry another request after this one.
    pub(crate) keep_alive: bool,
    /// The client waits for 100 (Continue) before it sends the body.
    pub(crate) expects_continue: bool,
    /// The client asks to switch protocols.
    pub(crate) upgrades: bool,
    /// The client accepts trailers (`TE: trailers`).
    pub(crate) accepts_trailers: bool,
    /// The request is HTTP/1.0.
    pub(crate) is_http10: bool,
}

/// Deviations from RFC 9112 that known clients send, and that a server may accept.
///
/// Both make two readers of one message disagree if the backend is stricter or laxer than this
/// reader: switch one on only for clients that are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// A `Host` field without a value in HTTP/1.1.
    pub(crate) empty_host: bool,
    /// UTF-8 in a target that is not percent-encoded.
    pub(crate) raw_target: bool,
}

/// Returns the length of the empty lines that precede a request. A server skips them (RFC 9112
/// §2.2): some clients send a CRLF after a body.
pub(crate) fn blank_lines(bytes: &[u8]) -> usize {
    let pairs = bytes.chunks_exact(2).take_while(|pair| *pair == b"\r\n");
    2 * pairs.count()
}

/// Searches for the end of a head; see [`fields::find_end`].
///
/// # Errors
///
/// As `fields::find_end`, and as soon as the first bytes are not a method: a client of another
/// protocol gets a response at once, not after the time-out for a head.
pub(crate) fn find_end(bytes: &[u8], searched: &mut usize) -> Result<Option<usize>, Malformed> {
    let before = *searched;
    let found = fields::find_end(bytes, searched)?;
    // Only while the first bytes come: one look at them is enough.
    if found.is_none() && before < 8 {
        let method = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
        // A lone CR may be the first half of an empty line.
        if !method.is_empty() && method != b"\r" && Method::from_bytes(method).is_err() {
            return Err(BAD_LINE);
        }
    }
    Ok(found)
}

/// Reads the complete head in `bytes` into `slot`, with a default body. A request is large;
/// returned by value it would be moved at each return.
///
/// # Errors
///
/// When the head is malformed; `slot` is unchanged then.
pub(crate) fn read<B: Default>(
    bytes: &[u8],
    allowed: Allowed,
    slot: &mut Option<Request<B>>,
) -> Result<Head, Malformed> {
    let end = fields::line_end(bytes, 0)?;
    let line = request_line(&bytes[..end])?;
    // The only copy: values, and names that are not in the cache, are slices of it.
    // Copied before the target is parsed, since the URI keeps a slice of it.
    let head = copy_head(bytes);
    let from = line.method.as_str().len() + 1;
    let target = head.slice(from..from + line.target_length);
    let uri = target::read(&line.method, target, allowed.raw_target)?;
    let mut headers = take_recycled_map();
    let mut semantics = Semantics::default();
    let rules = SectionRules {
        max_fields: MAX_FIELDS,
        blanks_before_colon: false,
    };
    let read = fields::read(&head, end + 2, rules, &mut headers, |field, value| {
        semantics.read_field(field, value)
    });
    let result = read.and_then(|length| {
        semantics.finish(
            length,
            line.is_http10,
            line.method == Method::CONNECT,
            allowed,
        )
    });
    let Ok(head) = result else {
        // The map of a refused head is reused as well: a flood of such heads costs no allocation
        // each.
        recycle_map(headers);
        return result;
    };
    let request = slot.insert(Request::new(B::default()));
    *request.method_mut() = line.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    if line.is_http10 {
        *request.version_mut() = Version::HTTP_10;
    }
    Ok(head)
}

/// Returns the method and the path of a malformed head for its log line, as far as they can be
/// read.
///
/// Never fails. The query is left out, as it may hold secrets.
#[cold]
pub(crate) fn identify(bytes: &[u8]) -> (Option<Method>, Option<String>) {
    let bytes = &bytes[blank_lines(bytes)..];
    let line = bytes
        .split(|&b| b == b'\r' || b == b'\n')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let target = words
        .next()
        .filter(|target| method.is_some() && !target.is_empty());
    let target = target.map(|target| {
        let path = target
            .split(|&byte| byte == b'?')
            .next()
            .unwrap_or_default();
        String::from_utf8_lossy(&path[..path.len().min(MAX_LOGGED_TARGET)]).into_owned()
    });
    (method, target)
}

struct RequestLine {
    method: Method,
    target_length: usize,
    is_http10: bool,
}

/// Exactly two blanks: one behind the method, one before the version. Others are a part of the
/// target, which refuses them.
fn request_line(line: &[u8]) -> Result<RequestLine, Malformed> {
    let (rest, is_http10) = match line.strip_suffix(b" HTTP/1.1") {
        Some(rest) => (rest, false),
        None => parse_other_version(line)?,
    };
    let space = memchr::memchr(b' ', rest).ok_or(BAD_LINE)?;
    let method = match &rest[..space] {
        // Most requests; the others go through the parser of the `http` crate.
        b"GET" => Method::GET,
        other => Method::from_bytes(other).map_err(|_error| BAD_LINE)?,
    };
    Ok(RequestLine {
        method,
        target_length: rest.len() - space - 1,
        is_http10,
    })
}

/// Parses a version other than HTTP/1.1. An unknown minor version counts as the highest known one
/// (RFC 9110 §2.5).
#[cold]
fn parse_other_version(line: &[u8]) -> Result<(&[u8], bool), Malformed> {
    let space = line
        .iter()
        .rposition(|&byte| byte == b' ')
        .ok_or(BAD_LINE)?;
    match &line[space + 1..] {
        b"HTTP/1.0" => Ok((&line[..space], true)),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => Ok((&line[..space], false)),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Malformed::new(
                MalformedKind::Version,
                "a version other than HTTP/1",
            ))
        }
        _ => Err(BAD_LINE),
    }
}

/// What the fields read so far mean for the message and the connection.
#[derive(Default)]
struct Semantics {
    declared: Declared,
    options: ConnectionOptions,
    host: Host,
    upgrade: bool,
    expects_continue: bool,
    accepts_trailers: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Host {
    #[default]
    Absent,
    Empty,
    Present,
}

impl Semantics {
    /// Reads a field; returns true, as all fields of a request go into its map.
    fn read_field(&mut self, field: Field, value: &[u8]) -> Result<bool, Malformed> {
        match field {
            Field::Connection => self.options.read(value)?,
            Field::ContentLength => self.declared.request_length(value)?,
            Field::Expect => self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            Field::Host => {
                if self.host != Host::Absent {
                    return Err(Malformed::bad("Host twice"));
                }
                self.host = match value {
                    [] => Host::Empty,
                    value if target::is_host(value) => Host::Present,
                    _ => return Err(Malformed::bad("an invalid Host")),
                };
            }
            Field::Te => {
                let mut codings = connection::elements(value);
                self.accepts_trailers |= codings.any(|c| c.eq_ignore_ascii_case(b"trailers"));
            }
            Field::TransferEncoding => self.declared.transfer_coding(value)?,
            Field::Upgrade => self.upgrade |= names_a_supported_upgrade(value),
            Field::Authenticate | Field::HopByHop | Field::Plain => {}
        }
        Ok(true)
    }

    /// Checks the fields against one another and returns the head.
    ///
    /// # Errors
    ///
    /// If Host is missing or twice, the framing is ambiguous, or a CONNECT has a body.
    fn finish(
        &self,
        length: usize,
        is_http10: bool,
        is_connect: bool,
        allowed: Allowed,
    ) -> Result<Head, Malformed> {
        // RFC 9112 §3.2: HTTP/1.1 requires exactly one Host.
        match self.host {
            Host::Absent if !is_http10 => return Err(Malformed::bad("no Host")),
            Host::Empty if !is_http10 && !allowed.empty_host => {
                return Err(Malformed::bad("an empty Host"));
            }
            Host::Absent | Host::Empty | Host::Present => {}
        }
        let framing = self.declared.request_framing(is_http10)?;
        if is_connect && framing != Framing::None {
            return Err(Malformed::bad("a CONNECT with a body"));
        }
        let options = &self.options;
        Ok(Head {
            length,
            framing,
            keep_alive: !options.close && (!is_http10 || options.keep_alive),
            // RFC 9110 §10.1.1: a server ignores the expectation in HTTP/1.0 and without a body.
            expects_continue: self.expects_continue && !is_http10 && framing != Framing::None,
            // RFC 9110 §7.8: `Upgrade` has no meaning unless `Connection` names it.
            upgrades: self.upgrade && options.upgrade && !is_http10,
            accepts_trailers: self.accepts_trailers && !is_http10,
            is_http10,
        })
    }
}

/// Returns true if `Upgrade` names a protocol that a service may switch to. `h2c` is none: RFC 9113
/// §3.1 has removed that upgrade, which many clients still offer.
fn names_a_supported_upgrade(value: &[u8]) -> bool {
    connection::elements(value).any(|protocol| {
        !protocol
            .get(..2)
            .is_some_and(|p| p.eq_ignore_ascii_case(b"h2"))
    })
}

/// Writes the head of a request that [`read`] has read.
///
/// For hyper's codec in an upgrade. The fields are written as they were read, hop-by-hop ones
/// included.
pub(crate) fn write<B>(request: &Request<B>, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    let uri = request.uri();
    match (uri.authority(), uri.path_and_query()) {
        (Some(authority), None) => out.extend_from_slice(authority.as_str().as_bytes()),
        // RFC 9112 §3.2.4: the target had no path.
        (Some(authority), Some(target)) if target.as_str() == "*" => {
            out.extend_from_slice(uri.scheme_str().unwrap_or("http").as_bytes());
            out.extend_from_slice(b"://");
            out.extend_from_slice(authority.as_str().as_bytes());
        }
        (Some(_), Some(_)) => out.extend_from_slice(uri.to_string().as_bytes()),
        (None, target) => {
            out.extend_from_slice(target.map_or("/", |target| target.as_str()).as_bytes());
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers() {
        super::write_field(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Copies a head into a block that it shares with earlier heads: one allocation serves several.
///
/// A head of over 1 KiB gets an allocation of its own, as few would fit into a block.
fn copy_head(head: &[u8]) -> Bytes {
    if head.len() > MAX_SHARED_HEAD {
        return Bytes::copy_from_slice(head);
    }
    HEAD_BLOCK.with_borrow_mut(|heads| {
        // Reclaims the block once all heads in it are dropped.
        if !heads.try_reclaim(head.len()) {
            *heads = BytesMut::with_capacity(HEAD_BLOCK_SIZE);
        }
        heads.extend_from_slice(head);
        heads.split().freeze()
    })
}

fn take_recycled_map() -> HeaderMap {
    RECYCLED_MAPS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps the memory of a header map for another request of this thread.
///
/// The values are dropped first: they may be the last to hold a block of heads.
pub(crate) fn recycle_map(mut headers: HeaderMap) {
    headers.clear();
    RECYCLED_MAPS.with_borrow_mut(|maps| {
        // The map keeps the capacity of the largest head that it had: 100 fields at most.
        if maps.len() < MAX_RECYCLED_MAPS {
            maps.push(headers);
        }
    });
}

thread_local! {
    static HEAD_BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::new());
    static RECYCLED_MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

const BAD_LINE: Malformed = Malformed::bad("no method, target and version in the request line");
/// Room for about ten heads. A caller that keeps a clone of one header value keeps the block alive.
const HEAD_BLOCK_SIZE: usize = 4 * 1024;
/// A longer head has an allocation of its own.
pub(crate) const MAX_SHARED_HEAD: usize = HEAD_BLOCK_SIZE / 4;
/// Header maps kept by a thread, about a KiB each. Rarely do more requests end between two that
/// begin.
const MAX_RECYCLED_MAPS: usize = 64;
/// The longest path in the log line of a malformed head, in bytes.
const MAX_LOGGED_TARGET: usize = 1_024;

#[cfg(test)]
mod tests;
