//! A request body that a second attempt can send again.
//!
//! One body, several readers, of which the newest may read:
//!
//! ```text
//! client's body ──▶ Source { kept: [frame, frame, …], body }
//!                      ▲ attempt 0 (superseded: an error from now on)
//!                      ▲ attempt 1 (sends the kept frames, then reads on, and keeps more)
//! ```
//!
//! A superseded attempt must not read on: it may still run (its time was up, its connection hangs),
//! and each frame that it took would be missing in the next.
//! `a_superseded_attempt_reads_no_more_of_the_body`.
//!
//! Kept frames are handles of `Bytes`, so that keeping costs a reference and no copy; but a small
//! frame may keep a large buffer of the server alive, which `capacity` does not count. The lock is of
//! one request, and is contended only where a task of a connection reads the body while another
//! attempt begins.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::error::BoxError;

pin_project! {
    /// The request body that the inner service gets: the client's body, with a copy of what was read
    /// for another attempt.
    pub struct ReplayBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<B> {
        // The client sent no body.
        Empty,
        // The layer does not retry.
        Passing { #[pin] body: B },
        Shared { reader: AttemptReader<B> },
    }
}

/// One attempt's view of the client's body.
struct AttemptReader<B> {
    source: Arc<Mutex<Source<B>>>,
    number: u32,
    /// How many of the frames that are kept went out.
    sent: usize,
}

/// The client's body, and the part of it that was read.
pub(super) struct Source<B> {
    /// `None` once it ended.
    body: Option<Pin<Box<B>>>,
    /// Handles of the frames that were read, while `is_complete`.
    kept: Vec<Kept>,
    capacity: usize,
    is_untouched: bool,
    /// `kept` holds all that was read.
    is_complete: bool,
    /// There may be another attempt.
    keeps_more: bool,
    /// The attempt that may read.
    attempt: u32,
}

#[derive(Clone)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The layer's handle on the body, to begin another attempt.
pub(super) enum Replay<B> {
    Empty,
    Shared(Arc<Mutex<Source<B>>>),
}

impl<B: Body> ReplayBody<B> {
    pub(super) fn passing(body: B) -> Self {
        Self {
            kind: Kind::Passing { body },
        }
    }

    /// Makes the body of the first attempt, and the handle that makes the next ones. Up to `capacity` bytes are
    /// kept.
    pub(super) fn new(body: B, capacity: usize) -> (Self, Replay<B>) {
        if body.is_end_stream() {
            return (Self { kind: Kind::Empty }, Replay::Empty);
        }
        let source = Arc::new(Mutex::new(Source {
            body: Some(Box::pin(body)),
            kept: Vec::new(),
            capacity,
            is_untouched: true,
            is_complete: true,
            keeps_more: true,
            attempt: 0,
        }));
        (Self::attempt(source.clone(), 0), Replay::Shared(source))
    }

    fn attempt(source: Arc<Mutex<Source<B>>>, number: u32) -> Self {
        let reader = AttemptReader {
            source,
            number,
            sent: 0,
        };
        Self {
            kind: Kind::Shared { reader },
        }
    }
}

impl<B: Body> Replay<B> {
    /// Returns true if nothing of the body was read.
    pub(super) fn is_untouched(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Shared(source) => lock(source).is_untouched,
        }
    }

    /// Returns true if another attempt can send the same bytes.
    pub(super) fn is_possible(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Shared(source) => lock(source).is_complete,
        }
    }

    /// Makes the body of the next attempt. The body of the attempt before reads no more; for the
    /// `last` attempt, nothing more is kept.
    pub(super) fn next_body(&self, last: bool) -> ReplayBody<B> {
        let Self::Shared(shared) = self else {
            return ReplayBody { kind: Kind::Empty };
        };
        let mut source = lock(shared);
        source.attempt += 1;
        source.keeps_more = !last;
        let number = source.attempt;
        drop(source);
        ReplayBody::attempt(shared.clone(), number)
    }
}

impl<B> Replay<B> {
    /// Ends the keeping, as there is no further attempt.
    pub(super) fn give_up(self) {
        if let Self::Shared(source) = self {
            // If the attempt's body is dropped, the last handle drops what was kept.
            if Arc::strong_count(&source) > 1 {
                lock(&source).keeps_more = false;
            }
        }
    }
}

impl<B> AttemptReader<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut source = lock(&self.source);
        if source.attempt != self.number {
            return Poll::Ready(Some(Err("another attempt reads the body now".into())));
        }
        if let Some(kept) = source.kept.get(self.sent) {
            // Cloned and not taken: a third attempt may need it.
            let frame = kept.clone().into_frame();
            self.sent += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        // No attempt follows: what was kept for one is freed with the next read.
        if !source.keeps_more {
            source.kept = Vec::new();
        }
        let Some(body) = &mut source.body else {
            return Poll::Ready(None);
        };
        match ready!(body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => {
                // `sent` counts kept frames only: what is not kept is behind all of them.
                if source.keep(&frame) {
                    self.sent += 1;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                source.stop_keeping();
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                // The client's body is dropped at its end, with the connection's buffer that it may
                // hold.
                source.body = None;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let source = lock(&self.source);
        source.attempt == self.number
            && self.sent >= source.kept.len()
            && source.body.as_ref().is_none_or(|b| b.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let source = lock(&self.source);
        if source.attempt != self.number {
            return SizeHint::default();
        }
        let kept: u64 = source.kept.iter().skip(self.sent).map(Kept::data_len).sum();
        let rest = source
            .body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), |body| body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(kept)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> Source<B> {
    /// Keeps a handle of a frame; returns false if it is not kept.
    fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        self.is_untouched = false;
        if !self.is_complete {
            return false;
        }
        let kept = if let Some(data) = frame.data_ref() {
            Some(Kept::Data(data.clone()))
        } else {
            frame.trailers_ref().cloned().map(Kept::Trailers)
        };
        match kept {
            Some(kept) if self.keeps_more && kept.len() <= self.capacity => {
                self.capacity -= kept.len();
                self.kept.push(kept);
                true
            }
            _ => {
                self.stop_keeping();
                false
            }
        }
    }

    /// Frees what was kept: with a part missing, there can be no other attempt.
    fn stop_keeping(&mut self) {
        self.is_untouched = false;
        self.is_complete = false;
        self.kept = Vec::new();
    }
}

impl Kept {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len())
                .sum(),
        }
    }

    fn data_len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project().kind.project() {
            KindProjection::Empty => Poll::Ready(None),
            KindProjection::Passing { body } => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            KindProjection::Shared { reader } => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Passing { body } => body.is_end_stream(),
            Kind::Shared { reader } => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Passing { body } => body.size_hint(),
            Kind::Shared { reader } => reader.size_hint(),
        }
    }
}

impl<B> Default for ReplayBody<B> {
    fn default() -> Self {
        Self { kind: Kind::Empty }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

fn lock<B>(source: &Mutex<Source<B>>) -> MutexGuard<'_, Source<B>> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}
