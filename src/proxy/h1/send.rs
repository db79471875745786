//! The request on its way out: what is left of its head, and its body.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::decode::is_trailer;
use crate::{
    connect::Stream,
    error::{BoxError, Error, ErrorKind},
    proxy::body::Outgoing,
};

/// What is to be written next.
#[derive(Default)]
pub(super) struct Out {
    head: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// Something is left here, or was written that the stream may keep in a buffer (TLS).
    busy: bool,
}

impl Out {
    /// Returns how many bytes are still to be written.
    pub(super) fn left(&self) -> usize {
        self.head.len() - self.written + self.data.len() + self.tail.len()
    }

    /// Returns true if nothing is left here or in the stream's own buffer.
    pub(super) fn is_done(&self) -> bool {
        !self.busy
    }

    /// Keeps what a first write left over.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.head.extend_from_slice(rest);
        self.busy = true;
    }

    pub(super) fn mark_unflushed(&mut self) {
        self.busy = true;
    }

    pub(super) fn poll_write(
        &mut self,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left() > 0 {
            let slices = [
                IoSlice::new(&self.head[self.written..]),
                IoSlice::new(&self.data),
                IoSlice::new(self.tail),
            ];
            let n = ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        if self.busy {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.busy = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut n: usize) {
        let head = n.min(self.head.len() - self.written);
        self.written += head;
        n -= head;
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
        let data = n.min(self.data.len());
        self.data = self.data.split_off(data);
        self.tail = &self.tail[n - data..];
    }
}

/// A request body and how its end is told.
pub(super) struct Sending {
    body: Outgoing,
    /// What is left of the declared length; `None` in chunks.
    left: Option<u64>,
}

/// Why sending stopped.
pub(super) enum SendError {
    Backend(io::Error),
    Client(Error),
}

/// What sending waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Backend,
    Client,
}

impl Sending {
    pub(super) fn new(body: Outgoing, length: Option<u64>) -> Self {
        Self { body, left: length }
    }

    /// Takes the next frame into `out`; true at the end.
    pub(super) fn poll_fill(
        &mut self,
        out: &mut Out,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, SendError>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        out.busy = true;
        Poll::Ready(match frame {
            None => self.end(out).map(|()| true),
            Some(Ok(frame)) => self.frame(frame, out),
            Some(Err(source)) => Err(client(source)),
        })
    }

    fn frame(&mut self, frame: Frame<Bytes>, out: &mut Out) -> Result<bool, SendError> {
        match frame.into_data() {
            Ok(data) => {
                self.data(data, out)?;
                if !self.body.is_end_stream() {
                    return Ok(self.left == Some(0));
                }
                self.end(out)?;
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                match self.left {
                    None => write_trailers(&trailers, out),
                    Some(_) => self.end(out)?,
                }
            }
        }
        Ok(true)
    }

    fn data(&mut self, data: Bytes, out: &mut Out) -> Result<(), SendError> {
        match &mut self.left {
            Some(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => return Err(client("the body is longer than its Content-Length".into())),
            },
            // An empty chunk would end the body.
            None if data.is_empty() => return Ok(()),
            None => {
                // Writing to a Vec cannot fail.
                let _ = write!(out.head, "{:x}\r\n", data.len());
                out.tail = b"\r\n";
            }
        }
        out.data = data;
        Ok(())
    }

    fn end(&self, out: &mut Out) -> Result<(), SendError> {
        match self.left {
            None if out.tail.is_empty() => out.tail = b"0\r\n\r\n",
            None => out.tail = b"\r\n0\r\n\r\n",
            Some(0) => {}
            Some(_) => {
                return Err(client("the body is shorter than its Content-Length".into()));
            }
        }
        Ok(())
    }
}

fn write_trailers(trailers: &HeaderMap, out: &mut Out) {
    out.head.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if is_trailer(name) {
            out.head.extend_from_slice(name.as_str().as_bytes());
            out.head.extend_from_slice(b": ");
            out.head.extend_from_slice(value.as_bytes());
            out.head.extend_from_slice(b"\r\n");
        }
    }
    out.tail = b"\r\n";
}

fn client(source: BoxError) -> SendError {
    SendError::Client(Error::new(ErrorKind::ClientBody).with_source(source))
}
