//! A request's body that is not whole: the connection reads it as fast as the service takes it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::{
    error::{BoxError, Error, ErrorKind},
    server::{pace::Wait, state::State},
    wire::chunked::{Decoder, Step},
};

/// What a body and its connection share. The lock is contended only where they run on different
/// tasks.
#[derive(Default)]
struct Shared {
    frames: VecDeque<Frame<Bytes>>,
    ended: bool,
    failed: Option<BoxError>,
    /// The body was polled.
    begun: bool,
    /// It waits for a frame.
    waits: bool,
    /// It was dropped: what is left of it has no reader.
    dropped: bool,
    body: Option<Waker>,
    connection: Option<Waker>,
    /// Runs until the response begins.
    wait: Option<(Wait, Arc<State>)>,
}

/// The body's end.
pub(in crate::server) struct Upload {
    shared: Arc<Mutex<Shared>>,
    /// As announced, less what came.
    left: Option<u64>,
    ended: bool,
}

impl Upload {
    /// Holds the client to a pace until the response begins.
    pub(in crate::server) fn expect(&self, state: &Arc<State>) {
        let wait = Wait::new(state.timeouts());
        lock(&self.shared).wait = Some((wait, state.clone()));
    }

    pub(in crate::server) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut shared = lock(&self.shared);
        shared.begun = true;
        if let Some(frame) = shared.frames.pop_front() {
            self.ended = shared.ended && shared.frames.is_empty();
            let came = frame.data_ref().map_or(0, Bytes::len);
            if let Some((wait, state)) = &mut shared.wait {
                wait.moved(came, state);
            }
            self.left = self.left.map(|left| left.saturating_sub(came as u64));
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = shared.failed.take() {
            self.ended = true;
            let error = Error::new(ErrorKind::ClientBody).with_source(error);
            return Poll::Ready(Some(Err(error)));
        }
        if shared.ended {
            self.ended = true;
            return Poll::Ready(None);
        }
        if let Some((wait, state)) = &mut shared.wait {
            if wait.poll(cx, state).is_ready() {
                self.ended = true;
                let late = Error::new(ErrorKind::ClientBodyTimeout);
                return Poll::Ready(Some(Err(late)));
            }
        }
        shared.waits = true;
        register(&mut shared.body, cx);
        // On the connection's own task, it looks once the service has been polled.
        let elsewhere = shared
            .connection
            .take_if(|waker| !waker.will_wake(cx.waker()));
        drop(shared);
        if let Some(connection) = elsewhere {
            connection.wake();
        }
        Poll::Pending
    }

    pub(in crate::server) fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub(in crate::server) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.dropped = true;
        shared.frames.clear();
        let connection = shared.connection.take();
        drop(shared);
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

/// The connection's end.
pub(super) struct Receiver {
    shared: Arc<Mutex<Shared>>,
    decoder: Decoder,
    /// The client waits for 100 (Continue), which is sent when the body is polled for the first
    /// time.
    expects_continue: bool,
    /// What was read of it for no reader.
    discarded: usize,
    broken: bool,
}

/// What the body needs from its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// 100 (Continue) first, then bytes.
    Continue,
    /// Bytes, which go nowhere: the body has no reader.
    Discard,
    Frames,
    Nothing,
}

impl Receiver {
    pub(super) fn new(decoder: Decoder, expects_continue: bool) -> (Self, Upload) {
        let shared = Arc::<Mutex<Shared>>::default();
        let upload = Upload {
            shared: shared.clone(),
            left: decoder.left(),
            ended: false,
        };
        let receiver = Self {
            shared,
            decoder,
            expects_continue,
            discarded: 0,
            broken: false,
        };
        (receiver, upload)
    }

    /// The whole body came, or no more of it will.
    pub(super) fn is_done(&self) -> bool {
        self.broken || self.decoder.is_done()
    }

    /// The end of the body cannot be found any more.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Returns how much is left, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// The body is over before it was polled, and the client was not asked for it: whether it sends
    /// it all the same, only the client knows (RFC 9110 §10.1.1).
    pub(super) fn is_unasked(&self) -> bool {
        self.expects_continue
    }

    pub(super) fn is_dropped(&self) -> bool {
        lock(&self.shared).dropped
    }

    /// Asks what the body needs; registers the connection to be woken when that changes.
    pub(super) fn needs(&mut self, cx: &mut Context<'_>) -> Needs {
        let mut shared = lock(&self.shared);
        register(&mut shared.connection, cx);
        if shared.dropped {
            return Needs::Discard;
        }
        if self.expects_continue && shared.begun {
            self.expects_continue = false;
            return Needs::Continue;
        }
        match shared.waits {
            true => Needs::Frames,
            false => Needs::Nothing,
        }
    }

    /// The response begins: from here on, no 100 goes out. Returns true if the body waits for one,
    /// which is to go out before.
    pub(super) fn ends_waiting(&mut self) -> bool {
        lock(&self.shared).wait = None;
        let waits = self.expects_continue && !self.is_dropped();
        self.expects_continue &= !waits;
        waits
    }

    /// Takes what came for the body off `read`.
    pub(super) fn receive(&mut self, read: &mut BytesMut, cx: &mut Context<'_>) -> Received {
        // Bytes that came unasked need no 100.
        self.expects_continue = false;
        let mut shared = lock(&self.shared);
        while !self.broken && shared.frames.len() < MOST_FRAMES {
            let frame = match self.decoder.step(read) {
                Ok(Step::Data(data)) => Frame::data(data),
                Ok(Step::Trailers(trailers)) => Frame::trailers(trailers),
                Ok(Step::More) => break,
                Ok(Step::End) => {
                    shared.ended = true;
                    break;
                }
                Err(error) => {
                    shared.failed = Some(error.into());
                    self.broken = true;
                    break;
                }
            };
            if shared.dropped {
                self.discarded += frame.data_ref().map_or(0, Bytes::len);
            } else {
                shared.frames.push_back(frame);
            }
        }
        shared.ended |= self.decoder.is_done() && !self.broken;
        wake(shared, cx)
    }

    /// Notes that the client closed the connection, or that it broke.
    #[cold]
    pub(super) fn fail(&mut self, error: BoxError, cx: &mut Context<'_>) -> Received {
        self.broken = true;
        let mut shared = lock(&self.shared);
        shared.failed = Some(error);
        wake(shared, cx)
    }

    /// More was read for no reader than a connection is worth.
    pub(super) fn has_discarded_enough(&self) -> bool {
        self.discarded > DISCARDED
    }
}

/// A body whose connection is gone, which may outlive it.
impl Drop for Receiver {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if !shared.ended && shared.failed.is_none() {
            shared.failed = Some("the connection ended within the request body".into());
        }
        shared.connection = None;
        let body = shared.body.take();
        drop(shared);
        if let Some(body) = body {
            body.wake();
        }
    }
}

/// What came for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Something that another task takes, or this one once it polls the body by itself.
    Elsewhere,
    /// Less than a frame.
    Nothing,
    /// Something that the body waits for on this task.
    Waited,
}

/// Wakes the body where it waits and something came.
fn wake(mut shared: MutexGuard<'_, Shared>, cx: &mut Context<'_>) -> Received {
    if shared.frames.is_empty() && !shared.ended && shared.failed.is_none() {
        return Received::Nothing;
    }
    if !shared.waits {
        return Received::Elsewhere;
    }
    shared.waits = false;
    let elsewhere = shared.body.take_if(|waker| !waker.will_wake(cx.waker()));
    drop(shared);
    match elsewhere {
        Some(body) => {
            body.wake();
            Received::Elsewhere
        }
        None => Received::Waited,
    }
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small chunks of one read are handed over together, up to a bound.
const MOST_FRAMES: usize = 16;
/// A connection costs its client less than this.
pub(super) const DISCARDED: usize = 64 * 1024;
