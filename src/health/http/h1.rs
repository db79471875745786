//! One exchange in HTTP/1.1.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::expect::Answer;
use crate::connect::Stream;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Something came, or could have, and it was no answer.
    Broken(String),
    TimedOut,
    /// The connection ended before a byte of the answer: one that was idle may have been closed
    /// just then, which says nothing about the backend.
    Unanswered(String),
}

/// Sends a request and reads the answer; returns the connection with it, where it can carry
/// another.
pub(super) async fn ask(
    mut stream: Stream,
    head: &[u8],
    is_head: bool,
    limit: usize,
) -> Result<(Answer, Option<Stream>), Failed> {
    // A backend may answer and close before it read everything.
    let mut written = stream.write_all(head).await.err();
    if written.is_none() {
        written = stream.flush().await.err();
    }
    let mut reader = Reader {
        stream,
        buffer: BytesMut::with_capacity(READ),
    };
    let head = match reader.head().await {
        Ok(head) => head,
        Err(failed) => {
            return Err(match (failed, written) {
                (Failed::Unanswered(_), Some(error)) => Failed::Unanswered(error.to_string()),
                (failed, _) => failed,
            });
        }
    };
    let bodiless = is_head
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let (body, whole) = match bodiless {
        true => (Bytes::new(), true),
        false => reader.body(head.length, limit).await?,
    };
    let persists = head.persists && whole && reader.buffer.is_empty();
    let answer = Answer {
        status: head.status,
        headers: head.headers,
        body,
    };
    Ok((answer, persists.then_some(reader.stream)))
}

/// A connection that reads one response.
struct Reader {
    stream: Stream,
    buffer: BytesMut,
}

#[derive(Debug)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    length: Length,
    persists: bool,
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Chunked,
    Exact(u64),
    UntilClose,
}

impl Reader {
    /// Reads on; false at the end of the stream.
    async fn more(&mut self) -> Result<bool, String> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(read) => Ok(read > 0),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn head(&mut self) -> Result<Head, Failed> {
        let mut answered = false;
        loop {
            let seen = &self.buffer[..self.buffer.len().min(HEAD_LIMIT)];
            if let Some((head, size)) = parse_head(seen).map_err(Failed::Broken)? {
                self.buffer.advance(size);
                answered = true;
                // An interim response is followed by the final one (RFC 9110 §15.2).
                if !head.status.is_informational() {
                    return Ok(head);
                }
                continue;
            }
            if self.buffer.len() >= HEAD_LIMIT {
                return Err(broken("the response head is longer than 32 KiB"));
            }
            let unanswered = !answered && self.buffer.is_empty();
            match self.more().await {
                Ok(true) => {}
                Ok(false) if unanswered => {
                    return Err(Failed::Unanswered(
                        "the connection was closed without a response".into(),
                    ));
                }
                Ok(false) => {
                    return Err(broken("the connection was closed within the response head"));
                }
                Err(why) if unanswered => return Err(Failed::Unanswered(why)),
                Err(why) => return Err(Failed::Broken(why)),
            }
        }
    }

    /// Reads the body to its end, or to the limit: what is longer says nothing more. Returns
    /// whether it is whole.
    async fn body(&mut self, length: Length, limit: usize) -> Result<(Bytes, bool), Failed> {
        let mut body = BytesMut::new();
        let mut chunks = Chunks::Size;
        loop {
            let ended = match length {
                Length::Exact(exact) => {
                    let left = exact.saturating_sub(body.len() as u64);
                    let here = (self.buffer.len() as u64).min(left) as usize;
                    body.extend_from_slice(&self.buffer[..here]);
                    self.buffer.advance(here);
                    body.len() as u64 == exact
                }
                Length::Chunked => {
                    chunks = chunks
                        .advance(&mut self.buffer, &mut body)
                        .map_err(Failed::Broken)?;
                    chunks == Chunks::End
                }
                Length::UntilClose => {
                    body.extend_from_slice(&self.buffer);
                    self.buffer.clear();
                    false
                }
            };
            if ended {
                return Ok((cut(body, limit), true));
            }
            if body.len() >= limit || self.buffer.len() > HEAD_LIMIT {
                return Ok((cut(body, limit), false));
            }
            if !self.more().await.map_err(Failed::Broken)? {
                return match length {
                    Length::UntilClose => Ok((cut(body, limit), false)),
                    _ => Err(broken("the connection was closed within the body")),
                };
            }
        }
    }
}

fn broken(why: &str) -> Failed {
    Failed::Broken(why.into())
}

fn cut(mut body: BytesMut, limit: usize) -> Bytes {
    body.truncate(limit);
    body.freeze()
}

fn parse_head(buffer: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut response = httparse::Response::new(&mut fields);
    let size = match response.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the response head is malformed: {error}")),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("the status is not within 100 to 999")?;
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let length = length(&headers)?;
    let closes = headers.get_all(header::CONNECTION).iter().any(|value| {
        let value = value.to_str().unwrap_or_default();
        value
            .split(',')
            .any(|word| word.trim().eq_ignore_ascii_case("close"))
    });
    let persists = response.version == Some(1) && !closes && length != Length::UntilClose;
    let head = Head {
        status,
        headers,
        length,
        persists,
    };
    Ok(Some((head, size)))
}

fn length(headers: &HeaderMap) -> Result<Length, String> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Ok(Length::Chunked);
    }
    let mut length = Length::UntilClose;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let exact = value
            .to_str()
            .ok()
            .and_then(|value| value.trim().parse().ok());
        let exact = Length::Exact(exact.ok_or("Content-Length is not a number")?);
        if length != Length::UntilClose && length != exact {
            return Err("there are two values of Content-Length".into());
        }
        length = exact;
    }
    Ok(length)
}

/// Where in a chunked body the reader is (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// This much of a chunk, with the line end after it, is still to come.
    Data(u64),
    End,
    Size,
    Trailers,
}

impl Chunks {
    fn advance(mut self, buffer: &mut BytesMut, body: &mut BytesMut) -> Result<Self, String> {
        loop {
            match self {
                Self::Data(0) => self = Self::Size,
                Self::Data(left) => {
                    let here = (buffer.len() as u64).min(left) as usize;
                    if here == 0 {
                        return Ok(self);
                    }
                    let data = (here as u64).min(left.saturating_sub(2)) as usize;
                    body.extend_from_slice(&buffer[..data]);
                    buffer.advance(here);
                    self = Self::Data(left - here as u64);
                }
                Self::End => return Ok(self),
                Self::Size => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((read, size))) => {
                        buffer.advance(read);
                        self = match size {
                            0 => Self::Trailers,
                            size => Self::Data(size.saturating_add(2)),
                        };
                    }
                    Ok(httparse::Status::Partial) => return Ok(self),
                    Err(_) => return Err("the size of a chunk is malformed".into()),
                },
                Self::Trailers => {
                    let Some(end) = buffer.windows(2).position(|two| two == b"\r\n") else {
                        return Ok(self);
                    };
                    buffer.advance(end + 2);
                    if end == 0 {
                        self = Self::End;
                    }
                }
            }
        }
    }
}

/// As much as the proxy accepts.
const HEAD_LIMIT: usize = 32 * 1024;
const READ: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together_however_it_is_cut() {
        let wire = b"2\r\nok\r\n4;x=y\r\n and\r\n1\r\n!\r\n0\r\nt: u\r\n\r\n";
        for step in 1..wire.len() {
            let (mut buffer, mut body) = (BytesMut::new(), BytesMut::new());
            let mut chunks = Chunks::Size;
            for piece in wire.chunks(step) {
                buffer.extend_from_slice(piece);
                chunks = chunks.advance(&mut buffer, &mut body).unwrap();
            }
            assert_eq!(chunks, Chunks::End, "in pieces of {step}");
            assert_eq!(&body[..], b"ok and!", "in pieces of {step}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_connection_persists_where_both_know_the_end() {
        for (head, persists) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", false),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n",
                false,
            ),
        ] {
            let (parsed, size) = parse_head(head.as_bytes()).unwrap().unwrap();
            assert_eq!((parsed.persists, size), (persists, head.len()), "{head}");
        }
    }
}
