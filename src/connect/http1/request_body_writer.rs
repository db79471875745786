//! Framing of a request body: by length or in chunks (RFC 9112 §6 and §7.1).
//!
//! A body of another length than declared is the client's error, found before its last byte is
//! sent: a backend would take the rest for the next request, or wait for it for ever. Data that
//! fits goes into the [`WriteQueue`] without a copy.
//!
//! | body | framing | end |
//! |---|---|---|
//! | declared length | none but the head's | with its last byte; trailers are dropped |
//! | unknown length | a size line before each frame, CRLF behind it | the last chunk, with trailers if there are some |

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::Frame;

use super::{ErasedBody, request_writer::WriteError, write_queue::WriteQueue};
use crate::{
    error::{BoxError, Error, ErrorKind},
    wire::{chunked, trailers},
};

/// A request body and its framing.
pub(super) struct RequestBodyWriter {
    body: ErasedBody,
    /// The part of the declared length that is left; `None` in chunks.
    left: Option<u64>,
    /// Fields that do not pass as trailers.
    nominated: Vec<HeaderName>,
}

impl RequestBodyWriter {
    pub(super) fn new(body: ErasedBody, length: Option<u64>, nominated: Vec<HeaderName>) -> Self {
        Self {
            body,
            left: length,
            nominated,
        }
    }

    /// Call it at the end of the body; after an error the box is dropped.
    pub(super) fn recycle(self) {
        self.body.recycle();
    }

    /// Takes the next frame into `out`. Returns true at the end of the body.
    ///
    /// The queue must be empty: a second frame would overwrite the first.
    pub(super) fn poll_read(
        &mut self,
        out: &mut WriteQueue,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, WriteError>> {
        let frame = ready!(self.body.as_mut().poll_frame(cx));
        out.busy = true;
        Poll::Ready(match frame {
            None => self.end(out).map(|()| true),
            Some(Ok(frame)) => self.frame(frame, out),
            Some(Err(source)) => Err(client(source)),
        })
    }

    fn frame(&mut self, frame: Frame<Bytes>, out: &mut WriteQueue) -> Result<bool, WriteError> {
        match frame.into_data() {
            Ok(data) => {
                self.data(data, out)?;
                // With a length, the last byte is the end, whether the body says so or not.
                if !self.body.is_end_stream() {
                    return Ok(self.left == Some(0));
                }
                self.end(out)?;
            }
            Err(frame) => match self.left {
                None => {
                    let mut trailers = frame.into_trailers().unwrap_or_default();
                    for name in &self.nominated {
                        trailers.remove(name);
                    }
                    trailers::write(&trailers, &mut out.head);
                }
                Some(_) => self.end(out)?,
            },
        }
        Ok(true)
    }

    fn data(&mut self, data: Bytes, out: &mut WriteQueue) -> Result<(), WriteError> {
        match &mut self.left {
            Some(left) => match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    return Err(client("the body is longer than its Content-Length".into()));
                }
            },
            // An empty chunk would end the body.
            None if data.is_empty() => return Ok(()),
            None => {
                chunked::write_size(data.len(), &mut out.head);
                out.tail = b"\r\n";
            }
        }
        out.data = data;
        Ok(())
    }

    /// # Errors
    ///
    /// If bytes of the announced length are missing.
    fn end(&self, out: &mut WriteQueue) -> Result<(), WriteError> {
        match self.left {
            // Behind a frame, its line end and the last chunk go out together.
            None if out.tail.is_empty() => out.tail = chunked::LAST_CHUNK,
            None => out.tail = b"\r\n0\r\n\r\n",
            Some(0) => {}
            Some(_) => {
                return Err(client("the body is shorter than its Content-Length".into()));
            }
        }
        Ok(())
    }
}

fn client(source: BoxError) -> WriteError {
    WriteError::Client(Error::new(ErrorKind::ClientBody).with_source(source))
}
