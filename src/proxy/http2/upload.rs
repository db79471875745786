//! The request body of one stream.
//!
//! ```text
//!   Upload, polled with the response head ──(head comes first)──▶ Background: a task of its own
//!      │                                                             │ Progress: moves, waits_for_client
//!      └─ ends before the head: no task                              └─ read by the response body's time-out
//! ```
//!
//! The task is needed only then: a client that reads its response slowly would otherwise hold back
//! its own upload, which the backend may need to go on (a deadlock of two full windows).
//!
//! Flow control: data is offered in pieces of 64 KiB at most. A reservation counts against the
//! window that all streams of the connection share, so an upload reserves only for data that is at
//! hand and gives back what it does not use.
//!
//! Interest in the body ends with the stream: a backend that answers 413 and resets the stream with
//! NO_ERROR stops the upload, and its response stands (RFC 9113 §8.1).

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderName;
use http_body::Frame;

use super::fields;
use crate::{
    error::{BoxError, Error, ErrorKind},
    proxy::body::ErasedBody,
};

/// A request body and the stream that it is sent on. If it is dropped before its end, the stream stays
/// open until the response is dropped as well, and is reset then.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: ErasedBody,
    /// Data that the window of the stream has no room for yet.
    ///
    /// At most one frame of the client's body.
    held: Bytes,
    /// The body ends with `held`.
    last: bool,
    /// The part of the declared length that has not been sent.
    left: Option<u64>,
    /// All data that the client sent was passed on.
    drained: bool,
    untouched: bool,
    /// Fields that end at this hop: they do not pass as trailers either.
    nominated: Vec<HeaderName>,
    /// The progress that the response body reads while the upload runs beside it.
    progress: Option<Arc<Progress>>,
    /// Data was sent on the stream.
    begun: bool,
    /// Counts the steps of progress.
    moves: u64,
}

/// Why an upload stopped.
///
/// The side decides which error the request gets.
pub(super) enum UploadStopped {
    /// The stream has ended; the response says how.
    Backend,
    Client(Error),
}

impl Upload {
    /// `length` is what the head declared; `None` for a body of unknown length.
    pub(super) fn new(stream: SendStream<Bytes>, body: ErasedBody, length: Option<u64>) -> Self {
        Self {
            stream,
            body,
            held: Bytes::new(),
            last: false,
            left: length,
            drained: false,
            untouched: true,
            nominated: Vec::new(),
            progress: None,
            begun: false,
            moves: 0,
        }
    }

    /// Leaves these fields out of the trailers.
    pub(super) fn without(self, nominated: Vec<HeaderName>) -> Self {
        Self { nominated, ..self }
    }

    /// Returns true if the upload waits for the client, false if it waits for the backend's window.
    pub(super) fn waits_for_client(&self) -> bool {
        self.drained
    }

    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// Returns the body if no byte was taken from it.
    ///
    /// After that the body can be sent on another stream as if nothing had happened.
    pub(super) fn into_untouched(self) -> Option<ErasedBody> {
        self.untouched.then_some(self.body)
    }

    /// Passes frames of the body on, as far as the backend's window allows.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadStopped>> {
        loop {
            if !self.held.is_empty() {
                ready!(self.poll_held(cx))?;
                if self.last {
                    return Poll::Ready(Ok(()));
                }
            }
            self.untouched = false;
            // Set while the body is polled: if it has no frame, the client is the one that is
            // waited for.
            self.drained = true;
            let frame = ready!(self.body.as_mut().poll_frame(cx));
            self.drained = false;
            self.moves += 1;
            match frame {
                Some(Ok(frame)) => {
                    if self.take(frame)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some(Err(source)) => return Poll::Ready(Err(self.fail(source))),
                None => {
                    self.check_end()?;
                    return Poll::Ready(self.send(Bytes::new(), true));
                }
            }
        }
    }

    /// Takes a frame of the body. Returns true at the end.
    ///
    /// # Errors
    ///
    /// `Client`, if the body is longer or shorter than its announced length: the stream is reset.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<bool, UploadStopped> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                self.check_end()?;
                let mut trailers = frame.into_trailers().unwrap_or_default();
                fields::keep_trailers(&mut trailers, &self.nominated);
                if trailers.is_empty() {
                    return self.send(Bytes::new(), true).map(|()| true);
                }
                // A reservation that is not used goes back to the other streams.
                self.stream.reserve_capacity(0);
                let sent = self.stream.send_trailers(trailers);
                return sent
                    .map(|()| true)
                    .map_err(|_closed| UploadStopped::Backend);
            }
        };
        if let Some(left) = self.left {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => self.left = Some(rest),
                None => return Err(self.fail("the body is longer than its Content-Length".into())),
            }
        }
        self.last = self.body.is_end_stream();
        if self.last {
            self.check_end()?;
        }
        if data.is_empty() {
            return match self.last {
                true => self.send(data, true).map(|()| true),
                false => Ok(false),
            };
        }
        self.held = data;
        Ok(false)
    }

    /// Sends as much of `held` as the window allows.
    ///
    /// Ready when all of `held` is with the codec, which then holds up to 256 KiB of it.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadStopped>> {
        if !std::mem::replace(&mut self.begun, true) && self.held.len() <= FIRST {
            // A new stream has no window before the driver has sent its head. Data that is queued now leaves
            // in the same write as the head.
            self.moves += 1;
            let data = std::mem::take(&mut self.held);
            return Poll::Ready(self.send(data, self.last));
        }
        while !self.held.is_empty() {
            // Only for data that is at hand: a reservation takes from the window of all streams.
            self.stream.reserve_capacity(self.held.len().min(PIECE));
            let mut room = self.stream.capacity();
            while room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(more)) => room = more,
                    Some(Err(_)) | None => return Poll::Ready(Err(UploadStopped::Backend)),
                }
            }
            let piece = self.held.split_to(room.min(self.held.len()));
            let last = self.last && self.held.is_empty();
            self.moves += 1;
            if let Err(stopped) = self.send(piece, last) {
                return Poll::Ready(Err(stopped));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// # Errors
    ///
    /// `Backend`, if the stream has ended: reset by the backend, or with its connection.
    fn send(&mut self, data: Bytes, last: bool) -> Result<(), UploadStopped> {
        let sent = self.stream.send_data(data, last);
        sent.map_err(|_closed| UploadStopped::Backend)
    }

    /// A body that ends early is the client's fault, and must not look complete to the backend.
    fn check_end(&mut self) -> Result<(), UploadStopped> {
        match self.left {
            None | Some(0) => Ok(()),
            Some(_) => Err(self.fail("the body is shorter than its Content-Length".into())),
        }
    }

    /// Resets the stream: a regular end would make the backend take a part of the body for the whole.
    #[cold]
    fn fail(&mut self, source: BoxError) -> UploadStopped {
        // Stored first, as the reset makes the response fail.
        if let Some(progress) = &self.progress {
            progress.client_failed.store(true, Release);
        }
        self.stream.send_reset(Reason::CANCEL);
        UploadStopped::Client(Error::new(ErrorKind::ClientBody).with_source(source))
    }
}

/// The progress of an upload that runs beside its response.
///
/// Relaxed counters: a reading that is one step old prolongs a wait by one turn. `client_failed` is
/// Release and Acquire, as the reset that follows it makes the response fail on another task.
#[derive(Default)]
pub(super) struct Progress {
    /// Counts the steps of progress.
    moves: AtomicU64,
    waits_for_client: AtomicBool,
    client_failed: AtomicBool,
}

impl Progress {
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    pub(super) fn waits_for_client(&self) -> bool {
        self.waits_for_client.load(Relaxed)
    }

    pub(super) fn client_failed(&self) -> bool {
        self.client_failed.load(Acquire)
    }
}

/// An upload in a task of its own, so that a client that reads the response slowly does not stop it.
/// The task ends when this is dropped.
///
/// Its drop aborts the task: the response has ended or was dropped, and with it the exchange.
pub(super) struct Background {
    pub(super) progress: Arc<Progress>,
    task: tokio::task::AbortHandle,
}

impl Background {
    /// The task is aborted with the response body, since the exchange is over then.
    pub(super) fn spawn(mut upload: Upload) -> Self {
        let progress = Arc::<Progress>::default();
        let reported = progress.clone();
        upload.progress = Some(progress.clone());
        let task = tokio::spawn(std::future::poll_fn(move |cx| {
            // A backend that does not need the rest resets the stream.
            let polled = match upload.stream.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(Ok(())),
                Poll::Pending => upload.poll(cx),
            };
            let waits_for_client = polled.is_pending() && upload.waits_for_client();
            reported.waits_for_client.store(waits_for_client, Relaxed);
            reported.moves.store(upload.moves(), Relaxed);
            polled.map(drop)
        }));
        Self {
            progress,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The default largest size of an HTTP/2 frame.
const FIRST: usize = 16 * 1024;
/// Four frames of that size: enough to keep a stream busy until its window opens again.
const PIECE: usize = 64 * 1024;
