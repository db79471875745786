//! The head of a response, read strictly (RFC 9112 §2 to §6).

use std::{cell::RefCell, error, fmt};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// What the head says about the message and the connection.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) framing: Framing,
    /// The connection may carry another request after this response.
    pub(crate) keep_alive: bool,
    /// The backend authenticates the connection (NTLM, Negotiate), not the request.
    pub(crate) connection_auth: bool,
    /// Not an answer: the backend gave up the idle connection before the request came.
    pub(crate) stale: bool,
}

/// What the request was, as far as it decides how its response is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) head: bool,
    pub(crate) upgrade: bool,
    /// Sent over an idle connection, and can be sent again over a new one.
    pub(crate) replaceable: bool,
}

/// How the end of the body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Chunked,
    Close,
    Length(u64),
    None,
}

/// What is wrong with a message; the connection is of no more use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl error::Error for Malformed {}

/// Looks for the empty line that ends a head; `scanned` remembers how far it looked. Refuses what
/// cannot become a head at once, so that nobody waits for the rest of it.
pub(crate) fn find_end(buf: &[u8], scanned: &mut usize) -> Result<Option<usize>, Malformed> {
    let start = buf.len().min(PREFIX.len());
    if buf[..start] != PREFIX[..start] {
        return Err(Malformed("not an HTTP/1 status line"));
    }
    while let Some(found) = memchr::memchr(b'\n', &buf[*scanned..]) {
        let at = *scanned + found;
        if at == 0 || buf[at - 1] != b'\r' {
            return Err(Malformed("a line ends without CR"));
        }
        *scanned = at + 1;
        if at >= 3 && buf[at - 2] == b'\n' {
            return if at + 1 > MAX_HEAD {
                TOO_LARGE
            } else {
                Ok(Some(at + 1))
            };
        }
    }
    *scanned = buf.len();
    if buf.len() >= MAX_HEAD {
        TOO_LARGE
    } else {
        Ok(None)
    }
}

/// Parses a whole head, as [`find_end`] finds it, into `headers`, without what ends at this hop
/// (RFC 9110 §7.6.1).
pub(crate) fn parse(
    head: &Bytes,
    asked: Asked,
    headers: &mut HeaderMap,
) -> Result<Head, Malformed> {
    let (status, old, fields) = status_line(head)?;
    READER.with_borrow_mut(|reader| {
        let mut said = Said::default();
        let result = reader.read(head, fields, status, &mut said).and_then(|()| {
            let framing = said.framing(status, old, asked.head)?;
            let keep_alive = !old && !said.close && framing != Framing::Close;
            // RFC 9110 §15.5.9: whose request was on its way may repeat it on a new connection.
            let stale = asked.replaceable && status == StatusCode::REQUEST_TIMEOUT && !keep_alive;
            // Only a head that is sound replaces the fields that were there: the request's, which
            // another attempt may need.
            let switches = status == StatusCode::SWITCHING_PROTOCOLS && asked.upgrade;
            if !stale && (!status.is_informational() || switches) {
                std::mem::swap(headers, &mut reader.fresh);
            }
            Ok(Head {
                status,
                framing,
                keep_alive,
                connection_auth: said.connection_auth,
                stale,
            })
        });
        // What is left there would keep what was read in memory.
        reader.fresh.clear();
        result
    })
}

/// Reads the status line: the status, whether it is HTTP/1.0, and where the fields begin.
fn status_line(head: &[u8]) -> Result<(StatusCode, bool, usize), Malformed> {
    let end = line_end(head, 0).ok_or(BAD_STATUS)?;
    let line = &head[..end];
    let old = match line.get(PREFIX.len()) {
        Some(b'1') => false,
        Some(b'0') => true,
        _ => return Err(Malformed("an unknown HTTP version")),
    };
    let (Some(b' '), Some(code)) = (line.get(8), line.get(9..12)) else {
        return Err(BAD_STATUS);
    };
    let reason_is_fine = match &line[12..] {
        [] => true,
        [b' ', reason @ ..] => reason
            .iter()
            .all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f)),
        _ => false,
    };
    if !reason_is_fine {
        return Err(BAD_STATUS);
    }
    match StatusCode::from_bytes(code) {
        Ok(status) => Ok((status, old, end + 2)),
        Err(_) if code.iter().all(u8::is_ascii_digit) => Err(Malformed("a status out of range")),
        Err(_) => Err(BAD_STATUS),
    }
}

/// Returns where the CR is that ends the line that begins at `from`.
fn line_end(head: &[u8], from: usize) -> Option<usize> {
    // Each LF has its CR, says `find_end`.
    memchr::memchr(b'\n', &head[from..]).and_then(|at| (from + at).checked_sub(1))
}

/// What a thread reads heads with.
struct Reader {
    names: Names,
    /// The fields of the head that is read; empty in between.
    fresh: HeaderMap,
}

impl Reader {
    /// Reads the fields, each once.
    fn read(
        &mut self,
        head: &Bytes,
        mut at: usize,
        status: StatusCode,
        said: &mut Said,
    ) -> Result<(), Malformed> {
        let mut count = 0;
        while let Some(end) = line_end(head, at) {
            let line = &head[at..end];
            if line.is_empty() {
                break;
            }
            count += 1;
            if count > MAX_FIELDS {
                return Err(Malformed("more than 100 header fields"));
            }
            let colon = line.iter().position(|&b| b == b':').ok_or(BAD_NAME)?;
            let name = self.names.get(&line[..colon])?;
            let (from, to) = trim(head, at + colon + 1, end);
            if name.scope == Scope::All || said.note(name.scope, &head[from..to], status)? {
                let value = HeaderValue::from_maybe_shared(head.slice(from..to))
                    .map_err(|_error| BAD_VALUE)?;
                self.fresh
                    .try_append(name.name.clone(), value)
                    .map_err(|_error| Malformed("too many header fields"))?;
            }
            at = end + 2;
        }
        if let Some(nominated) = said.nominated.take() {
            for name in nominated.iter().filter(|name| !is_protected(name)) {
                self.fresh.remove(name);
            }
        }
        Ok(())
    }
}

/// Leaves out the white space around a value (RFC 9112 §5.1).
fn trim(head: &[u8], mut from: usize, mut to: usize) -> (usize, usize) {
    let is_space = |b: u8| b == b' ' || b == b'\t';
    while from < to && is_space(head[from]) {
        from += 1;
    }
    while to > from && is_space(head[to - 1]) {
        to -= 1;
    }
    (from, to)
}

/// What the fields say about the message and the connection.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    connection_auth: bool,
    /// Fields that `Connection` names besides the known ones; nearly always none.
    nominated: Option<Vec<HeaderName>>,
}

impl Said {
    /// Takes note of what a field says; true if it goes on to the client.
    fn note(&mut self, scope: Scope, value: &[u8], status: StatusCode) -> Result<bool, Malformed> {
        match scope {
            Scope::All => {}
            Scope::Authenticate => self.connection_auth |= authenticates_connection(value),
            Scope::Length => {
                if self.length.is_some() {
                    return Err(Malformed("Content-Length twice"));
                }
                self.length = Some(length(value)?);
                // RFC 9110 §8.6: some must not have it.
                return Ok(!status.is_informational() && status != StatusCode::NO_CONTENT);
            }
            // Only with the switch that it names.
            Scope::Upgrade if status == StatusCode::SWITCHING_PROTOCOLS => {}
            Scope::Connection | Scope::Coding | Scope::Hop | Scope::Upgrade => {
                // What goes on is checked where its value is made.
                if !value
                    .iter()
                    .all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f))
                {
                    return Err(BAD_VALUE);
                }
                match scope {
                    Scope::Connection => self.connection(value),
                    Scope::Coding if self.chunked || !value.eq_ignore_ascii_case(b"chunked") => {
                        return Err(Malformed("a Transfer-Encoding other than chunked"));
                    }
                    Scope::Coding => self.chunked = true,
                    _ => {}
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if !is_known_option(token) {
                // A name that is none can name no field.
                let nominated = self.nominated.get_or_insert_with(Vec::new);
                nominated.extend(HeaderName::from_bytes(token));
            }
        }
    }

    fn framing(
        &self,
        status: StatusCode,
        old: bool,
        to_head_request: bool,
    ) -> Result<Framing, Malformed> {
        if self.chunked && self.length.is_some() {
            return Err(Malformed("Content-Length beside Transfer-Encoding"));
        }
        if self.chunked && old {
            return Err(Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        Ok(match self.length {
            _ if to_head_request || bodiless => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        })
    }
}

/// How far a field goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// To the client.
    All,
    /// To the client; it may bind the connection.
    Authenticate,
    /// It is about this hop only, and says which others are.
    Connection,
    /// It is about this hop only, and says where the body ends.
    Coding,
    /// It is about this hop only (RFC 9110 §7.6.1).
    Hop,
    /// To the client, unless the status must not have it.
    Length,
    /// To the client with the switch that it names.
    Upgrade,
}

impl Scope {
    fn of(name: &HeaderName) -> Self {
        match *name {
            header::CONNECTION => Self::Connection,
            header::CONTENT_LENGTH => Self::Length,
            header::PROXY_AUTHENTICATE | header::WWW_AUTHENTICATE => Self::Authenticate,
            header::TE => Self::Hop,
            header::TRANSFER_ENCODING => Self::Coding,
            header::UPGRADE => Self::Upgrade,
            _ => match name.as_str() {
                "keep-alive" | "proxy-connection" => Self::Hop,
                _ => Self::All,
            },
        }
    }
}

/// Names as backends spell them, and what they are: the same few in every answer, and a look here
/// costs a fifth of what parsing one does.
struct Names {
    slots: [Option<Name>; NAME_SLOTS],
    /// One that is not worth a slot.
    other: Option<Name>,
}

struct Name {
    spelled: Box<[u8]>,
    name: HeaderName,
    scope: Scope,
}

impl Names {
    fn get(&mut self, spelled: &[u8]) -> Result<&Name, Malformed> {
        let (Some(first), Some(last)) = (spelled.first(), spelled.last()) else {
            return Err(BAD_NAME);
        };
        let hash = spelled.len() * 7 + usize::from(*first) * 3 + usize::from(*last);
        let slot = hash % NAME_SLOTS;
        let is_known = matches!(&self.slots[slot], Some(known) if *known.spelled == *spelled);
        if !is_known {
            return self.parse(spelled, slot);
        }
        self.slots[slot].as_ref().ok_or(BAD_NAME)
    }

    #[cold]
    fn parse(&mut self, spelled: &[u8], slot: usize) -> Result<&Name, Malformed> {
        let name = HeaderName::from_bytes(spelled).map_err(|_error| BAD_NAME)?;
        let place = if spelled.len() <= KEEP_NAME {
            &mut self.slots[slot]
        } else {
            &mut self.other
        };
        Ok(place.insert(Name {
            spelled: spelled.into(),
            scope: Scope::of(&name),
            name,
        }))
    }
}

thread_local! {
    static READER: RefCell<Reader> = RefCell::new(Reader {
        names: Names {
            slots: [const { None }; NAME_SLOTS],
            other: None,
        },
        fresh: HeaderMap::new(),
    });
}

const BAD_STATUS: Malformed = Malformed("a bad status line");
const BAD_VALUE: Malformed = Malformed("a bad header field value");
const BAD_NAME: Malformed = Malformed("a bad header field name");
/// Few backends use more names than this.
const NAME_SLOTS: usize = 64;
/// Longer ones are rare, and would be kept for good: 8 KiB a thread at most.
const KEEP_NAME: usize = 64;

/// Splits a list of tokens (RFC 9110 §5.6.1).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&b| b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Returns true for a `Connection` option that names no field that would have to be removed.
pub(crate) fn is_known_option(token: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade", b"te"]
        .iter()
        .any(|known| token.eq_ignore_ascii_case(known))
}

/// Returns true for a field that `Connection` must not be able to remove: the message would mean
/// something else without it (RFC 9110 §7.6.1 asks senders not to name end-to-end fields).
pub(crate) fn is_protected(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::HOST || *name == header::CACHE_CONTROL
}

/// Returns true for a scheme that authenticates the connection: it must not be shared.
pub(crate) fn authenticates_connection(value: &[u8]) -> bool {
    // Several challenges may stand in one field (RFC 9110 §11.6.1).
    tokens(value).any(|challenge| {
        let scheme = challenge.split(|&b| b == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
    })
}

fn length(value: &[u8]) -> Result<u64, Malformed> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed("a bad Content-Length"));
    }
    Ok(value
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

const PREFIX: &[u8] = b"HTTP/1.";
const TOO_LARGE: Result<Option<usize>, Malformed> = Err(Malformed("a head over 32 KiB"));
/// The head may be this long; what servers and proxies commonly allow is 8 to 64 KiB.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
const MAX_FIELDS: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(Head, HeaderMap), Malformed> {
        let mut scanned = 0;
        let end = find_end(text.as_bytes(), &mut scanned)?.ok_or(Malformed("not whole"))?;
        let mut headers = HeaderMap::new();
        let bytes = Bytes::from(text[..end].to_owned());
        let head = parse(&bytes, Asked::default(), &mut headers)?;
        Ok((head, headers))
    }

    #[test]
    fn framing_follows_the_rfc() {
        let table = [
            ("200 OK\r\ncontent-length: 5", Framing::Length(5), true),
            ("200 OK\r\ncontent-length: 0", Framing::None, true),
            (
                "200 OK\r\ntransfer-encoding: Chunked",
                Framing::Chunked,
                true,
            ),
            ("200 OK\r\nserver: x", Framing::Close, false),
            ("204 No Content\r\nserver: x", Framing::None, true),
            ("304 Not Modified\r\ncontent-length: 9", Framing::None, true),
            (
                "200 OK\r\ncontent-length: 5\r\nconnection: Close",
                Framing::Length(5),
                false,
            ),
        ];
        for (text, framing, keep_alive) in table {
            let (head, _) = read(&format!("HTTP/1.1 {text}\r\n\r\n")).unwrap();
            assert_eq!(
                (head.framing, head.keep_alive),
                (framing, keep_alive),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\na: b\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "<html>",
        ] {
            assert!(read(text).is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn what_ends_at_this_hop_is_left_out() {
        let (head, headers) = read(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop, close, content-length\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2\r\nTE: x\r\n\
             Trailer: x-sum\r\nContent-Length: 1\r\nX: 1\r\nX: 2\r\n\r\n",
        )
        .unwrap();
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "trailer", "x"]);
        assert_eq!(headers.get_all("x").iter().count(), 2);
        assert!(!head.keep_alive);
    }

    #[test]
    fn connection_bound_authentication_is_seen() {
        for (value, wanted) in [
            ("NTLM", true),
            ("negotiate abc", true),
            ("Basic", false),
            ("Basic realm=\"x\", NTLM", true),
            ("Digest realm=\"x\",Negotiate", true),
            ("NTLMx", false),
        ] {
            let (head, _) = read(&format!(
                "HTTP/1.1 401 x\r\ncontent-length: 0\r\nwww-authenticate: {value}\r\n\r\n"
            ))
            .unwrap();
            assert_eq!(head.connection_auth, wanted, "{value}");
        }
    }

    #[test]
    fn a_name_that_is_known_is_the_one_that_would_be_parsed() {
        // Twice, so that the second finds the first; many, so that they share slots.
        let names: Vec<_> = (0..300)
            .map(|i| format!("X-{}y", "a".repeat(i % 90)))
            .collect();
        for spelled in names.iter().chain(&names).map(String::as_str).chain([
            "Content-Type",
            "content-type",
            "CONTENT-TYPE",
            "Content-Typf",
            "keep-alive",
            "Upgrade",
        ]) {
            let parsed = HeaderName::from_bytes(spelled.as_bytes()).unwrap();
            READER.with_borrow_mut(|reader| {
                let Name { name, scope, .. } = reader.names.get(spelled.as_bytes()).unwrap();
                assert_eq!((name, *scope), (&parsed, Scope::of(&parsed)), "{spelled}");
            });
        }
    }

    #[test]
    fn a_head_may_come_byte_by_byte() {
        let text = b"HTTP/1.1 200 OK\r\na: b\r\n\r\nrest";
        let mut scanned = 0;
        for n in 0..text.len() {
            let found = find_end(&text[..n], &mut scanned).unwrap();
            assert_eq!(found, (n >= 25).then_some(25).filter(|_| n == 25), "{n}");
            if found.is_some() {
                return;
            }
        }
        unreachable!("the end must be found");
    }

    #[test]
    fn a_head_that_never_ends_is_refused() {
        let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
        while text.len() < MAX_HEAD {
            text.extend_from_slice(b"x: 0123456789\r\n");
        }
        assert!(find_end(&text, &mut 0).is_err());
    }

    /// What a head is made of, sound and not; nothing that this hop acts on.
    fn head_bytes() -> impl Strategy<Value = Vec<u8>> {
        let start = prop_oneof![
            6 => Just(b"HTTP/1.1 200 OK".to_vec()),
            1 => Just(b"HTTP/1.0 404".to_vec()),
            1 => Just(b"HTTP/1.1 599 ".to_vec()),
            1 => "HTTP/1\\.[0-3] [0-9 ]{1,5}[ \t-~\u{7f}-\u{ff}]{0,4}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..4)
                .prop_map(|end| [&b"HTTP/1.1 200 O"[..], &end].concat()),
        ];
        let name = prop_oneof![
            4 => "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,6}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..4),
        ];
        let value = prop_oneof![
            4 => "[ \t]{0,2}[!-~]{0,6}[ \t]{0,2}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..6),
        ];
        let field = (name, value).prop_map(|(name, value)| [&name[..], b":", &value].concat());
        let line = prop_oneof![12 => field, 1 => prop::collection::vec(any::<u8>(), 1..6)];
        (start, prop::collection::vec(line, 0..4)).prop_map(|(start, lines)| {
            let mut head = start;
            for line in lines {
                head.extend_from_slice(b"\r\n");
                head.extend_from_slice(&line);
            }
            head.extend_from_slice(b"\r\n\r\n");
            head
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn a_head_is_read_as_httparse_reads_it(text in head_bytes()) {
            let Ok(Some(end)) = find_end(&text, &mut 0) else { return Ok(()) };
            let head = Bytes::copy_from_slice(&text[..end]);
            let mut ours = HeaderMap::new();
            let read = parse(&head, Asked::default(), &mut ours);
            let mut fields = [httparse::EMPTY_HEADER; 16];
            let mut parsed = httparse::Response::new(&mut fields);
            let done = parsed.parse(&head);
            let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
            let sound = done == Ok(httparse::Status::Complete(end)) && status.is_some();
            prop_assert_eq!(read.is_ok(), sound, "{:?} {:?}", read, done);
            let Ok(read) = read else { return Ok(()) };
            prop_assert_eq!(Some(read.status), status);
            if !read.status.is_informational() {
                let mut theirs = HeaderMap::new();
                for field in parsed.headers.iter() {
                    let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
                    let hop = matches!(Scope::of(&name), Scope::Hop);
                    if !hop {
                        theirs.append(name, HeaderValue::from_bytes(field.value).unwrap());
                    }
                }
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
