//! `StreamBody`: the response body of one stream.
//!
//! The window of the stream opens by what the caller takes, so a client that does not read stops the
//! backend at 256 KiB (a window). The other streams go on: the window of the connection is as large as
//! HTTP/2 allows.
//!
//! A silence ends the body only if both directions are silent: a backend that waits for the rest of
//! an upload is not at fault, and the error then names the client.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{fields, upload::Background};
use crate::{
    connect::http2::OpenStream,
    error::{Error, ErrorKind},
    timer::sweep::Deadline,
};

/// The response body of one stream. Dropped before its end, it resets the stream.
pub(in crate::proxy) struct StreamBody {
    pub(super) incoming: RecvStream,
    /// The part of the declared length that has not arrived.
    pub(super) left: Option<u64>,
    /// Trailers follow, if any.
    pub(super) data_ended: bool,
    /// The rest of the request, if the response began before its end.
    pub(super) upload: Option<Background>,
    /// That of the request: registered once for both.
    pub(super) deadline: Deadline,
    /// Set while the body waits for data: the progress of the upload when the wait began.
    pub(super) waiting: Option<u64>,
    pub(super) idle_timeout: Duration,
    /// Dropped with the body: the keep-alive counts the stream until then.
    pub(super) _stream: OpenStream,
}

impl StreamBody {
    /// Data first; trailers are polled only behind the last of it, as `h2` requires.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, h2::Error>> {
        if !self.data_ended {
            match ready!(self.incoming.poll_data(cx)).transpose()? {
                Some(data) => {
                    // The window opens again by what was taken. It cannot fail for data that was received.
                    let _ = self.incoming.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut self.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                None => self.data_ended = true,
            }
        }
        let mut trailers = ready!(self.incoming.poll_trailers(cx))?;
        if let Some(fields) = &mut trailers {
            fields::keep_trailers(fields, &[]);
        }
        let trailers = trailers.filter(|fields: &HeaderMap| !fields.is_empty());
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }

    /// The upload beside this response broke off by the client's fault: the reset that follows is
    /// its consequence.
    fn client_failed(&self) -> bool {
        let upload = self.upload.as_ref();
        upload.is_some_and(|upload| upload.progress.client_failed())
    }

    #[cold]
    fn broken(&self, error: h2::Error) -> Error {
        let kind = match self.client_failed() {
            true => ErrorKind::ClientBody,
            false => ErrorKind::ResponseBody,
        };
        Error::new(kind).with_source(error).after_sending()
    }

    /// Is ready once both directions have been silent for the idle time-out.
    ///
    /// The upload runs on another task, so its progress is compared at the end of each wait and
    /// wakes nothing.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            let progress = self.upload.as_ref().map(|upload| &*upload.progress);
            let moves = progress.map_or(0, |progress| progress.moves());
            if self.waiting.is_none() {
                self.waiting = Some(moves);
                self.deadline.arm(self.idle_timeout);
            }
            ready!(self.deadline.poll_expired(cx));
            if self.waiting == Some(moves) {
                let kind = match progress {
                    _ if self.client_failed() => ErrorKind::ClientBody,
                    // The backend has all data that came, and may be waiting for the rest.
                    Some(progress) if progress.waits_for_client() => ErrorKind::ClientBodyTimeout,
                    _ => ErrorKind::ResponseBodyTimeout,
                };
                return Poll::Ready(Error::timed_out(kind, self.idle_timeout));
            }
            // The upload made progress: the wait begins again.
            // The deadline is armed once for a wait, not with each poll.
            self.waiting = None;
        }
    }
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(next) = this.poll_next(cx) {
            this.waiting = None;
            return Poll::Ready(next.map_err(|error| this.broken(error)).transpose());
        }
        let error = ready!(this.poll_silence(cx));
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
