//! Message bodies: a decoder for every framing (RFC 9112 §6, §7.1), and a writer of chunks.
//!
//! ```text
//!   ChunkSize ─(size > 0)─▶ ChunkData ─(all of it)─▶ ChunkEnd ─(CRLF)─▶ ChunkSize
//!       └─(size 0)─▶ Trailers ─(empty line)─▶ Done        Length, Close ─▶ Done
//! ```
//!
//! One decoder serves every framing, so the code that moves bodies has one case. Data is split off
//! the buffer without a copy. An element that is incomplete (a size line, a trailer section) stays
//! in the buffer until the rest has come; its limits (1 KiB, 8 KiB) bound what waits.
//!
//! Requests are read without any tolerance. A bare LF at the end of a size line, or a blank behind
//! it, is where readers differ, and where requests were smuggled; in responses, blanks behind the
//! size are accepted, as some backends pad it.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::{
    Malformed,
    fields::{self, SectionRules},
    framing::Framing,
    trailers::{self, MAX_TRAILERS},
    write_number,
};

/// Reads one message body piece by piece.
///
/// Cheap to clone: it holds no bytes.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    state: State,
    side: Side,
    /// How many bytes of chunk extensions the decoder still accepts.
    extensions_left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ChunkData(u64),
    ChunkEnd,
    ChunkSize,
    Close,
    Done,
    Length(u64),
    Trailers,
}

/// The kind of message that the body belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Spaces and tabs after a chunk size are accepted: some backends pad the size.
    Response,
    Request,
}

/// What [`Decoder::step`] found.
#[derive(Debug)]
pub(crate) enum Step {
    /// A part of the body, without framing.
    Data(Bytes),
    /// The body has ended; the buffer holds what follows it.
    End,
    /// The buffer holds no whole element: read more bytes, then call `step` again.
    More,
    /// The trailer section, without the fields that may only stand in a head.
    Trailers(HeaderMap),
}

impl Decoder {
    /// Makes a decoder for a body with this framing.
    pub(crate) fn new(framing: Framing, side: Side) -> Self {
        let state = match framing {
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
            Framing::Length(0) | Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
        };
        Self {
            state,
            side,
            extensions_left: MAX_EXTENSIONS,
        }
    }

    /// Makes a decoder for a body that has ended.
    pub(crate) const fn done() -> Self {
        Self {
            state: State::Done,
            side: Side::Response,
            extensions_left: 0,
        }
    }

    /// Takes the next piece of the body from the front of `buf`. Data is split off, not copied.
    ///
    /// # Errors
    ///
    /// When the chunks are malformed, or extensions or trailers exceed their limits. The decoder
    /// must not be used again.
    ///
    /// Loops over elements without content, such as a size line, so one call with a full buffer
    /// always makes progress.
    pub(crate) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match &mut self.state {
                State::Done => return Ok(Step::End),
                State::Close => return Ok(take(buf, u64::MAX).map_or(Step::More, Step::Data)),
                State::Length(left) => {
                    let Some(data) = take(buf, *left) else {
                        return Ok(Step::More);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Step::Data(data));
                }
                State::ChunkSize => {
                    let Some(line) = chunk_line(buf, self.side)? else {
                        return Ok(Step::More);
                    };
                    buf.advance(line.length);
                    self.extensions_left = self
                        .extensions_left
                        .checked_sub(line.extension_length)
                        .ok_or(Malformed::bad("chunk extensions over 16 KiB"))?;
                    self.state = match line.size {
                        0 => State::Trailers,
                        size => State::ChunkData(size),
                    };
                }
                State::ChunkData(left) => {
                    let Some(data) = take(buf, *left) else {
                        return Ok(Step::More);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(Step::Data(data));
                }
                State::ChunkEnd => {
                    let seen = buf.len().min(2);
                    if buf[..seen] != b"\r\n"[..seen] {
                        return Err(Malformed::bad("a chunk longer than its size"));
                    }
                    if seen < 2 {
                        return Ok(Step::More);
                    }
                    buf.advance(2);
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let Some(trailers) = read_trailers(buf, self.side)? else {
                        return Ok(Step::More);
                    };
                    self.state = State::Done;
                    if !trailers.is_empty() {
                        return Ok(Step::Trailers(trailers));
                    }
                }
            }
        }
    }

    /// Records that the peer closed the connection. Returns true if the body is complete: it had
    /// ended, or its framing is [`Framing::Close`].
    ///
    /// Call it at the end of the stream; the decoder is done afterwards, in either case.
    pub(crate) fn close(&mut self) -> bool {
        let whole = matches!(self.state, State::Close | State::Done);
        self.state = State::Done;
        whole
    }

    /// Returns true once the body has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns how many bytes of the body are left; `None` where the framing does not say.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }
}

/// Splits off at most `most` bytes; returns `None` if the buffer is empty.
///
/// The rest of the block stays with `buf`; the part shares its memory.
fn take(buf: &mut BytesMut, most: u64) -> Option<Bytes> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    (most > 0).then(|| buf.split_to(most).freeze())
}

/// The line that precedes the data of a chunk.
struct ChunkLine {
    size: u64,
    /// The length of the line, including CRLF.
    length: usize,
    /// The length of the extensions in the line.
    extension_length: usize,
}

/// Reads the line that precedes the data of a chunk: hexadecimal digits and extensions. A recipient
/// ignores extensions that it does not know (RFC 9112 §7.1.1). Their syntax is checked all the
/// same: bytes that another reader takes for a line end could hide in them.
///
/// `None` while the line is not complete. A line that trickles in is read again with each piece: it
/// has 1 KiB at most.
fn chunk_line(buf: &[u8], side: Side) -> Result<Option<ChunkLine>, Malformed> {
    let digits = buf.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    // 15 hexadecimal digits fit into 60 bits: no overflow below.
    if digits > 15 {
        return Err(Malformed::bad("a chunk size over 15 digits"));
    }
    if digits == 0 && !buf.is_empty() {
        return Err(Malformed::bad("a chunk size without a digit"));
    }
    let end = match &buf[digits..] {
        [b'\r', b'\n', ..] => digits,
        rest => {
            let searched = rest.len().min(MAX_CHUNK_EXTENSION);
            match memchr::memchr(b'\n', &rest[..searched]) {
                Some(at) if at > 0 && rest[at - 1] == b'\r' => digits + at - 1,
                Some(_) => return Err(Malformed::bad("a chunk size line that ends without CR")),
                None if rest.len() > MAX_CHUNK_EXTENSION => {
                    return Err(Malformed::bad("a chunk extension over 1 KiB"));
                }
                None => return Ok(None),
            }
        }
    };
    let extension = &buf[digits..end];
    if !is_extension(extension, side) {
        return Err(Malformed::bad("a chunk size line with more than a size"));
    }
    let size = buf[..digits].iter().fold(0, |size: u64, &digit| {
        let value = (digit as char).to_digit(16).unwrap_or(0);
        size * 16 + u64::from(value)
    });
    Ok(Some(ChunkLine {
        size,
        length: end + 2,
        extension_length: extension.len(),
    }))
}

/// Returns true for `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )`; a response may
/// have spaces and tabs after it.
///
/// Nothing of an extension is kept, and none is forwarded.
fn is_extension(mut rest: &[u8], side: Side) -> bool {
    loop {
        let blank = rest.trim_start_blanks();
        match blank {
            [] => return rest.is_empty() || side == Side::Response,
            [b';', after @ ..] => {
                let after = after.trim_start_blanks();
                let Some(after) = skip_token(after) else {
                    return false;
                };
                rest = match after.trim_start_blanks() {
                    [b'=', value @ ..] => {
                        let value = value.trim_start_blanks();
                        match skip_quoted_string(value).or_else(|| skip_token(value)) {
                            Some(after) => after,
                            None => return false,
                        }
                    }
                    _ => after,
                };
            }
            _ => return false,
        }
    }
}

trait Blank {
    /// Returns the slice without leading spaces and tabs; line ends stay.
    fn trim_start_blanks(&self) -> &Self;
}

impl Blank for [u8] {
    fn trim_start_blanks(&self) -> &Self {
        let blanks = self
            .iter()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        &self[blanks..]
    }
}

/// Returns the bytes after a token (RFC 9110 §5.6.2), or `None` if there is no token.
fn skip_token(rest: &[u8]) -> Option<&[u8]> {
    let is_token = |b: &&u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    let length = rest.iter().take_while(is_token).count();
    (length > 0).then(|| &rest[length..])
}

/// Returns the bytes after a quoted string (RFC 9110 §5.6.4), or `None` if there is none.
fn skip_quoted_string(rest: &[u8]) -> Option<&[u8]> {
    let mut rest = rest.strip_prefix(b"\"")?;
    loop {
        let is_text = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
        rest = match rest {
            [b'"', after @ ..] => return Some(after),
            [b'\\', escaped, after @ ..] if is_text(*escaped) => after,
            [byte, after @ ..] if is_text(*byte) && *byte != b'\\' => after,
            _ => return None,
        };
    }
}

/// Reads the trailer section without the fields that may only stand in a head. Returns `None` while
/// its end is not in the buffer.
///
/// All fields that would frame or route are read for their syntax, and left out.
fn read_trailers(buf: &mut BytesMut, side: Side) -> Result<Option<HeaderMap>, Malformed> {
    // The usual case: no trailers.
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let Some(end) = memchr::memmem::find(buf, b"\r\n\r\n") else {
        return match buf.len() > MAX_TRAILERS {
            true => Err(trailers::TOO_LONG),
            false => Ok(None),
        };
    };
    let section = buf.split_to(end + 4).freeze();
    if section.len() > MAX_TRAILERS {
        return Err(trailers::TOO_LONG);
    }
    let mut headers = HeaderMap::new();
    let rules = SectionRules {
        max_fields: MAX_TRAILER_FIELDS,
        blanks_before_colon: side == Side::Response,
    };
    fields::read(
        &section,
        0,
        rules,
        &mut headers,
        |_, value| match fields::is_value(value) {
            true => Ok(false),
            false => Err(fields::BAD_VALUE),
        },
    )?;
    trailers::retain(&mut headers, &[]);
    Ok(Some(headers))
}

/// Writes the line that precedes the data of a chunk.
///
/// The caller writes the data and a CRLF behind it. A size of 0 would end the body.
pub(crate) fn write_size(size: usize, out: &mut Vec<u8>) {
    write_number(size as u64, 16, out);
    out.extend_from_slice(b"\r\n");
}

/// The last chunk and an empty trailer section.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The longest extension of one chunk. Few peers send any.
const MAX_CHUNK_EXTENSION: usize = 1_024;
/// The extensions of a whole body. Without this bound, a client could send a KiB of extensions with
/// each byte of data.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// The most fields in a trailer section; gRPC sends two or three.
const MAX_TRAILER_FIELDS: usize = 32;

#[cfg(test)]
mod tests;
