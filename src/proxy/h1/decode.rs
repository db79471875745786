//! The body of a response, cut out of what was read (RFC 9112 §6 and §7).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::head::{Framing, Malformed};

/// Where in the body the reader is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    ChunkData(u64),
    ChunkEnd,
    ChunkSize,
    Close,
    Done,
    Length(u64),
    Trailers,
}

/// What the next bytes are.
#[derive(Debug)]
pub(crate) enum Step {
    Data(Bytes),
    End,
    More,
    Trailers(HeaderMap),
}

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Chunked => Self::ChunkSize,
            Framing::Close => Self::Close,
            Framing::Length(length) => Self::Length(length),
            Framing::None => Self::Done,
        }
    }

    /// Takes the next piece from the front of `buf`.
    pub(crate) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self {
                Self::Done => return Ok(Step::End),
                Self::Close => return Ok(take(buf, u64::MAX).map_or(Step::More, Step::Data)),
                Self::Length(left) => {
                    let Some(data) = take(buf, *left) else {
                        return Ok(Step::More);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Self::Done;
                    }
                    return Ok(Step::Data(data));
                }
                Self::ChunkSize => match chunk_size(buf)? {
                    None => return Ok(Step::More),
                    Some((0, used)) => {
                        buf.advance(used);
                        *self = Self::Trailers;
                    }
                    Some((size, used)) => {
                        buf.advance(used);
                        *self = Self::ChunkData(size);
                    }
                },
                Self::ChunkData(left) => {
                    let Some(data) = take(buf, *left) else {
                        return Ok(Step::More);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        *self = Self::ChunkEnd;
                    }
                    return Ok(Step::Data(data));
                }
                Self::ChunkEnd => {
                    if buf.len() < 2 {
                        return check(b"\r\n".starts_with(buf), "a chunk longer than its size");
                    }
                    if &buf[..2] != b"\r\n" {
                        return Err(Malformed("a chunk longer than its size"));
                    }
                    buf.advance(2);
                    *self = Self::ChunkSize;
                }
                Self::Trailers => {
                    let Some(trailers) = trailers(buf)? else {
                        return Ok(Step::More);
                    };
                    *self = Self::Done;
                    if !trailers.is_empty() {
                        return Ok(Step::Trailers(trailers));
                    }
                }
            }
        }
    }

    /// Takes note that the connection was closed; true if that is where the body ends.
    pub(crate) fn close(&mut self) -> bool {
        let whole = matches!(self, Self::Close | Self::Done);
        *self = Self::Done;
        whole
    }

    pub(crate) fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Returns how much is left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match self {
            Self::Length(left) => Some(*left),
            Self::Done => Some(0),
            _ => None,
        }
    }
}

fn take(buf: &mut BytesMut, most: u64) -> Option<Bytes> {
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    (most > 0).then(|| buf.split_to(most).freeze())
}

fn check(fine: bool, else_: &'static str) -> Result<Step, Malformed> {
    if fine {
        Ok(Step::More)
    } else {
        Err(Malformed(else_))
    }
}

/// Reads the line before a chunk: hexadecimal digits, and extensions that nobody knows (RFC 9112
/// §7.1.1), refused when they could hide a line.
fn chunk_size(buf: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut size: u64 = 0;
    let digits = buf.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > 15 {
        return Err(Malformed("a chunk size over 15 digits"));
    }
    for &digit in &buf[..digits] {
        let value = (digit as char).to_digit(16).unwrap_or(0);
        size = size * 16 + u64::from(value);
    }
    let rest = &buf[digits..];
    if digits == 0 && !rest.is_empty() {
        return Err(Malformed("a chunk size without a digit"));
    }
    match rest {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some((size, digits + 2))),
        [b';', extension @ ..] => {
            let Some(end) = extension.iter().position(|&b| b == b'\r' || b == b'\n') else {
                return if extension.len() > MAX_EXTENSION {
                    Err(Malformed("a chunk extension over 1 KiB"))
                } else {
                    Ok(None)
                };
            };
            match &extension[end..] {
                [b'\r'] => Ok(None),
                [b'\r', b'\n', ..] => Ok(Some((size, digits + 1 + end + 2))),
                _ => Err(Malformed("a chunk extension with a bare CR or LF")),
            }
        }
        _ => Err(Malformed("a bad chunk size")),
    }
}

/// Reads the trailer section, without the fields that mean something in a head only.
fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let Some(end) = memchr::memmem::find(buf, b"\r\n\r\n") else {
        return if buf.len() > MAX_TRAILERS {
            Err(Malformed("trailers over 8 KiB"))
        } else {
            Ok(None)
        };
    };
    let section = buf.split_to(end + 4).freeze();
    let mut bare = memchr::memchr_iter(b'\n', &section);
    if bare.any(|at| at == 0 || section[at - 1] != b'\r') {
        return Err(Malformed("a trailer ends without CR"));
    }
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let parsed = httparse::parse_headers(&section, &mut fields);
    let Ok(httparse::Status::Complete((_, fields))) = parsed else {
        return Err(Malformed("bad trailers"));
    };
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Malformed("bad trailers"));
        };
        if is_trailer(&name) {
            map.append(name, value);
        }
    }
    Ok(Some(map))
}

/// Returns true for a field that may stand in a trailer section (RFC 9110 §6.5.1).
pub(crate) fn is_trailer(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 15] = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::HOST,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::WWW_AUTHENTICATE,
    ];
    !NEVER.contains(name)
}

/// Nobody uses extensions; this is room for whoever does.
const MAX_EXTENSION: usize = 1_024;
/// A digest, a signature, a status: far less.
const MAX_TRAILERS: usize = 8 * 1_024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `wire` in slices; returns the body, the trailers, and what was left over.
    fn run(
        framing: Framing,
        wire: &[u8],
        cuts: &[usize],
    ) -> Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed> {
        let mut decoder = Decoder::new(framing);
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        let mut buf = BytesMut::new();
        let mut rest = wire;
        let mut cuts = cuts.iter().cycle();
        loop {
            match decoder.step(&mut buf)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::Trailers(map) => trailers = map,
                Step::End => {
                    buf.extend_from_slice(rest);
                    return Ok((body, trailers, buf.to_vec()));
                }
                Step::More if rest.is_empty() => {
                    return if decoder.close() {
                        Ok((body, trailers, Vec::new()))
                    } else {
                        Err(Malformed("cut off"))
                    };
                }
                Step::More => {
                    let n = (*cuts.next().unwrap_or(&1)).clamp(1, rest.len());
                    buf.extend_from_slice(&rest[..n]);
                    rest = &rest[n..];
                }
            }
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for wire in [
            "x\r\n",
            "\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "5\r\nhell\r\n0\r\n\r\n",
            "1000000000000000\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "0\r\nbad\r\n\r\n",
            "0\r\na: b\nc: d\r\n\r\n",
            "5\r\nhello\r\n0\r\n",
            "5\r\nhel",
        ] {
            assert!(
                run(Framing::Chunked, wire.as_bytes(), &[1]).is_err(),
                "{wire:?}"
            );
        }
    }

    #[test]
    fn trailers_lose_what_belongs_into_a_head() {
        let wire = b"3;ext=1\r\nabc\r\n0\r\nx-sum: 1\r\ncontent-length: 7\r\n\r\nnext";
        let (body, trailers, rest) = run(Framing::Chunked, wire, &[wire.len()]).unwrap();
        assert_eq!(
            (body.as_slice(), rest.as_slice()),
            (&b"abc"[..], &b"next"[..])
        );
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-sum"], "1");
    }

    #[test]
    fn a_length_is_kept_exactly() {
        let (body, _, rest) = run(Framing::Length(3), b"abcdef", &[2]).unwrap();
        assert_eq!(
            (body.as_slice(), rest.as_slice()),
            (&b"abc"[..], &b"def"[..])
        );
        assert!(run(Framing::Length(3), b"ab", &[1]).is_err(), "cut off");
        let (body, ..) = run(Framing::Close, b"ab", &[1]).unwrap();
        assert_eq!(body, b"ab");
    }

    proptest! {
        #[test]
        fn chunks_come_back_whole(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8),
            cuts in prop::collection::vec(1_usize..9, 1..5),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\nHTTP");
            let (body, _, rest) = run(Framing::Chunked, &wire, &cuts).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(rest, b"HTTP");
        }

        #[test]
        fn how_it_is_sliced_does_not_matter(
            wire in prop::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b'a'), Just(b':'), any::<u8>(),
            ], 0..60),
            cuts in prop::collection::vec(1_usize..9, 1..5),
        ) {
            for framing in [Framing::Chunked, Framing::Length(7), Framing::Close, Framing::None] {
                let whole = run(framing, &wire, &[wire.len().max(1)]);
                let sliced = run(framing, &wire, &cuts);
                prop_assert_eq!(whole.is_ok(), sliced.is_ok());
                if let (Ok(whole), Ok(sliced)) = (whole, sliced) {
                    prop_assert_eq!(whole, sliced);
                }
            }
        }
    }
}
