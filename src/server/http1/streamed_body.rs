//! A request body that the connection reads as fast as the service polls it: a channel with backpressure
//! between the connection ([`BodySender`]) and the body ([`StreamedBody`]).
//!
//! ```text
//!    connection's task                  Channel (one mutex)                     reader's task
//!    BodySender::demand ────◀── body_waits, polled, dropped ◀──── StreamedBody::poll_frame
//!    BodySender::deliver ───▶── frames, ended, failed ──────────▶ StreamedBody::poll_frame
//! ```
//!
//! Nearly always both ends are on one task: the service polls the body while the connection polls
//! the service. Then neither wakes the other. `poll_frame` sets `body_waits`, the service's future
//! returns `Pending`, the connection reads, and [`Delivery::SameTask`] says that the service should
//! be polled again now. A waker is called only if it belongs to another task (`Waker::will_wake`).
//! Wakers are called after the lock is released, since a wake can run code that takes it.
//!
//! | end of the body | what its reader gets | the connection |
//! |---|---|---|
//! | complete | the last frame, then `None` | goes on |
//! | malformed chunk | the frames so far, then `ClientBody` | answers, then closes |
//! | end of the stream, read error | the frames so far, then `ClientBody` | cancels the request with its next read |
//! | below the least rate | `ClientBodyTimeout` | goes on while the service answers |
//! | below the least rate, after the response | `ClientBodyTimeout` | discards the rest like that of a body which is dropped |
//! | the connection's task is dropped | the frames so far, then `ClientBody` | is gone |

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use super::body_rate::BodyRate;
use crate::{
    error::{BoxError, Error, ErrorKind},
    server::state::State,
    wire::chunked::{Decoder, Step},
};

/// The state that a body and its connection share. The lock is contended only if they run on different
/// tasks.
#[derive(Default)]
struct Channel {
    frames: VecDeque<Frame<Bytes>>,
    ended: bool,
    failed: Option<BoxError>,
    /// The body was polled at least once.
    polled: bool,
    /// The body waits for a frame.
    body_waits: bool,
    /// The body was dropped: its rest has no reader.
    dropped: bool,
    body: Option<Waker>,
    connection: Option<Waker>,
    /// The least rate of the client; `None` for a body without one.
    ///
    /// It is in the channel and not in the body, because the connection decides when it applies.
    rate: Option<BodyRate>,
}

impl Channel {
    /// Ends the reading: what follows is discarded. Returns the waker of the connection, to be called
    /// without the lock.
    fn end_reading(&mut self) -> Option<Waker> {
        self.dropped = true;
        // Their memory is a part of a block that other connections read into.
        self.frames.clear();
        self.connection.take()
    }
}

/// The receiving end: the body of the request.
pub(in crate::server) struct StreamedBody {
    channel: Arc<Mutex<Channel>>,
    /// The announced length, less what was returned.
    left: Option<u64>,
    ended: bool,
}

impl StreamedBody {
    /// Applies the least rate until the response begins, and again once it is complete.
    pub(in crate::server) fn limit_rate(&self, state: &Arc<State>) {
        lock(&self.channel).rate = Some(BodyRate::new(state));
    }

    /// Can be called from another task each time; the last one to call is woken. Frames that
    /// arrived before a failure are returned first.
    pub(in crate::server) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut channel = lock(&self.channel);
        channel.polled = true;
        if let Some(frame) = channel.frames.pop_front() {
            self.ended = channel.ended && channel.frames.is_empty();
            // Counted as they are taken and not as they arrive: the wait for which the client pays
            // ends here.
            let came = frame.data_ref().map_or(0, Bytes::len);
            if let Some(rate) = &mut channel.rate {
                rate.moved(came);
            }
            self.left = self.left.map(|left| left.saturating_sub(came as u64));
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = channel.failed.take() {
            self.ended = true;
            let error = Error::new(ErrorKind::ClientBody).with_source(error);
            return Poll::Ready(Some(Err(error)));
        }
        if channel.ended {
            self.ended = true;
            return Poll::Ready(None);
        }
        if let Some(rate) = &mut channel.rate
            && let Poll::Ready(late) = rate.poll(cx)
        {
            self.ended = true;
            // Behind the response, the connection waits for nothing else, and the reader may hold the
            // body for longer.
            if rate.is_after_response() {
                let connection = channel.end_reading();
                drop(channel);
                wake_outside(connection);
            }
            return Poll::Ready(Some(Err(late)));
        }
        // Before the waker of the connection is looked at: it reads the flag when it is woken.
        channel.body_waits = true;
        register(&mut channel.body, cx);
        // If the connection is polled by the same task, it continues after this poll without a wake.
        let other_task = channel
            .connection
            .take_if(|waker| !waker.will_wake(cx.waker()));
        drop(channel);
        wake_outside(other_task);
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

impl Drop for StreamedBody {
    fn drop(&mut self) {
        let connection = lock(&self.channel).end_reading();
        wake_outside(connection);
    }
}

/// The sending end: the connection.
pub(super) struct BodySender {
    channel: Arc<Mutex<Channel>>,
    decoder: Decoder,
    /// The client waits for 100 (Continue), which the connection sends at the first poll of the body.
    expects_continue: bool,
    /// How many bytes were discarded, since the body was dropped.
    discarded: usize,
    broken: bool,
}

/// What the body demands of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// To send 100 (Continue), and then to read.
    Continue,
    /// To read and discard: the body was dropped.
    Discard,
    Frames,
    Nothing,
}

impl BodySender {
    /// Allocates the channel: two handles, one lock.
    pub(super) fn new(decoder: Decoder, expects_continue: bool) -> (Self, StreamedBody) {
        let channel = Arc::<Mutex<Channel>>::default();
        let body = StreamedBody {
            channel: channel.clone(),
            left: decoder.left(),
            ended: false,
        };
        let sender = Self {
            channel,
            decoder,
            expects_continue,
            discarded: 0,
            broken: false,
        };
        (sender, body)
    }

    /// Returns true if the body is complete or has failed.
    pub(super) fn is_done(&self) -> bool {
        self.broken || self.decoder.is_done()
    }

    /// Returns true if the end of the body cannot be found: its framing is broken.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Returns how many bytes are left, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Returns true while the client waits for 100 (Continue). If the exchange ends first, the server
    /// cannot know whether the client sends the body nevertheless (RFC 9110 §10.1.1).
    pub(super) fn awaits_continue(&self) -> bool {
        self.expects_continue
    }

    /// The service no longer reads: what follows is discarded.
    pub(super) fn is_dropped(&self) -> bool {
        lock(&self.channel).dropped
    }

    /// Returns the demand of the body; registers the connection to be woken when it changes.
    ///
    /// The waker is registered before the state is read, under one lock, so no change is missed.
    pub(super) fn demand(&mut self, cx: &mut Context<'_>) -> Demand {
        let mut channel = lock(&self.channel);
        register(&mut channel.connection, cx);
        if channel.dropped {
            return Demand::Discard;
        }
        if self.expects_continue && channel.polled {
            self.expects_continue = false;
            return Demand::Continue;
        }
        match channel.body_waits {
            true => Demand::Frames,
            false => Demand::Nothing,
        }
    }

    /// Ends the time for 100 (Continue), since the response begins. Returns true if the client still
    /// waits and the body still has a reader: the caller then sends 100 first.
    pub(super) fn end_continue(&mut self) -> bool {
        if let Some(rate) = &mut lock(&self.channel).rate {
            rate.pause();
        }
        let body_waits = self.expects_continue && !self.is_dropped();
        self.expects_continue &= !body_waits;
        body_waits
    }

    /// Applies the least rate again, since the response is complete: the client has nothing to wait for.
    /// Its credit is full again. The reader is woken once, so that it sets a timer.
    pub(super) fn resume_rate(&mut self) {
        let mut channel = lock(&self.channel);
        if channel.rate.as_mut().is_some_and(BodyRate::resume) {
            let reader = channel.body.take();
            drop(channel);
            wake_outside(reader);
        }
    }

    /// Decodes the bytes of `read` that belong to the body, and delivers them.
    pub(super) fn deliver(&mut self, read: &mut BytesMut, cx: &mut Context<'_>) -> Delivery {
        // A client that sends the body does not wait for 100.
        self.expects_continue = false;
        let mut channel = lock(&self.channel);
        // A client that sends chunks of one byte makes a frame of each: without the limit, one read
        // of 64 KiB would queue 10,000 frames.
        while !self.broken && channel.frames.len() < MAX_QUEUED_FRAMES {
            let frame = match self.decoder.step(read) {
                Ok(Step::Data(data)) => Frame::data(data),
                Ok(Step::Trailers(trailers)) => Frame::trailers(trailers),
                Ok(Step::More) => break,
                Ok(Step::End) => {
                    channel.ended = true;
                    break;
                }
                Err(error) => {
                    channel.failed = Some(error.into());
                    self.broken = true;
                    break;
                }
            };
            if channel.dropped {
                self.discarded += frame.data_ref().map_or(0, Bytes::len);
            } else {
                channel.frames.push_back(frame);
            }
        }
        // The decoder knows the end of a counted body with its last byte: the reader then gets
        // `is_end_stream` with the last frame.
        channel.ended |= self.decoder.is_done() && !self.broken;
        wake(channel, cx)
    }

    /// Fails the body: the client closed the connection, or a read failed.
    #[cold]
    pub(super) fn fail(&mut self, error: BoxError, cx: &mut Context<'_>) -> Delivery {
        self.broken = true;
        let mut channel = lock(&self.channel);
        channel.failed = Some(error);
        wake(channel, cx)
    }

    /// Returns true if closing the connection is cheaper than to discard more.
    pub(super) fn has_discarded_enough(&self) -> bool {
        self.discarded > MAX_DISCARDED
    }
}

/// Fails a body that outlives its connection.
impl Drop for BodySender {
    fn drop(&mut self) {
        let mut channel = lock(&self.channel);
        if !channel.ended && channel.failed.is_none() {
            channel.failed = Some("the connection ended within the request body".into());
        }
        channel.connection = None;
        // Only a body that waits on another task is affected: one on this task is dropped with it.
        let body = channel.body.take();
        drop(channel);
        wake_outside(body);
    }
}

/// The result of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Another task was woken, or the body is not waiting.
    OtherTask,
    /// There is no complete frame yet.
    Nothing,
    /// The body waits on this task, which should poll it now.
    SameTask,
}

/// Wakes the body if it waits and there is a frame, an end or an error.
fn wake(mut channel: MutexGuard<'_, Channel>, cx: &mut Context<'_>) -> Delivery {
    if channel.frames.is_empty() && !channel.ended && channel.failed.is_none() {
        return Delivery::Nothing;
    }
    if !channel.body_waits {
        return Delivery::OtherTask;
    }
    channel.body_waits = false;
    let other_task = channel.body.take_if(|waker| !waker.will_wake(cx.waker()));
    drop(channel);
    match other_task {
        Some(body) => {
            body.wake();
            Delivery::OtherTask
        }
        None => Delivery::SameTask,
    }
}

/// Wakes a task; the caller has released the lock.
fn wake_outside(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// `clone_from` keeps a waker of the same task, without an atomic.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn lock(channel: &Mutex<Channel>) -> MutexGuard<'_, Channel> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many small chunks of one read are queued at most.
const MAX_QUEUED_FRAMES: usize = 16;
/// How many bytes are discarded at most to keep a connection: a new one costs the client less than
/// more of them.
pub(in crate::server) const MAX_DISCARDED: usize = 64 * 1024;
