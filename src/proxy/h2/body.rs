//! The bodies of one stream, and how far they are.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    deadline::Watch,
    error::{BoxError, Error, ErrorKind},
    proxy::body::Outgoing,
};

/// What becomes of the request body, seen from outside of hyper.
pub(super) struct Progress {
    began: Instant,
    /// When it last moved on, in milliseconds since it began.
    moved: AtomicU64,
    waits_for: AtomicU8,
    pub(super) client_failed: AtomicBool,
}

impl Progress {
    pub(super) fn new(whole: bool) -> Self {
        Self {
            began: Instant::now(),
            moved: AtomicU64::new(0),
            waits_for: AtomicU8::new(if whole { NOBODY } else { BACKEND }),
            client_failed: AtomicBool::new(false),
        }
    }

    pub(super) fn touch(&self) {
        let since = self.began.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.moved.store(since, Relaxed);
    }

    pub(super) fn moved(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Relaxed))
    }

    pub(super) fn waits_for(&self) -> u8 {
        self.waits_for.load(Relaxed)
    }
}

pub(super) struct RequestBody {
    pub(super) body: Option<Outgoing>,
    pub(super) progress: Arc<Progress>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let progress = &this.progress;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let Poll::Ready(frame) = body.as_mut().poll_frame(cx) else {
            if progress.waits_for.swap(CLIENT, Relaxed) != CLIENT {
                progress.touch();
            }
            return Poll::Pending;
        };
        progress.touch();
        let ended = !matches!(frame, Some(Ok(_))) || body.is_end_stream();
        let waits_for = if ended { NOBODY } else { BACKEND };
        progress.waits_for.store(waits_for, Relaxed);
        if let Some(Err(_)) = frame {
            this.progress.client_failed.store(true, Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

/// The response body of one stream.
pub(in crate::proxy) struct StreamBody {
    pub(super) incoming: Incoming,
    pub(super) watch: Watch,
    /// What the request body's progress was when the wait began.
    pub(super) waiting: Option<Instant>,
    pub(super) progress: Arc<Progress>,
    pub(super) idle_timeout: Duration,
}

impl HttpBody for StreamBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
            this.waiting = None;
            let broken = |error: hyper::Error| {
                Error::new(ErrorKind::ResponseBody)
                    .with_source(error)
                    .after_sending()
            };
            return Poll::Ready(frame.map(|frame| frame.map_err(broken)));
        }
        loop {
            let moved = this.progress.moved();
            if this.waiting.is_none() {
                this.waiting = Some(moved);
                this.watch.arm(this.idle_timeout);
            }
            ready!(this.watch.poll_expired(cx));
            if this.waiting == Some(moved) {
                break;
            }
            // The other direction was not silent.
            this.waiting = None;
        }
        let kind = match this.progress.waits_for() {
            CLIENT => ErrorKind::ClientBodyTimeout,
            _ => ErrorKind::ResponseBodyTimeout,
        };
        Poll::Ready(Some(Err(kind.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Whom a request body waits for.
pub(super) const NOBODY: u8 = 0;
pub(super) const BACKEND: u8 = 1;
pub(super) const CLIENT: u8 = 2;
