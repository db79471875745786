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
    server::{min_rate::RateTimer, state::State},
    wire::chunked::{Decoder, Step},
};

/// What a body and its connection share. The lock is contended only where they run on different
/// tasks.
#[derive(Default)]
struct Channel {
    frames: VecDeque<Frame<Bytes>>,
    ended: bool,
    failed: Option<BoxError>,
    /// The body was polled.
    polled: bool,
    /// It waits for a frame.
    body_waits: bool,
    /// It was dropped: what is left of it has no reader.
    dropped: bool,
    body: Option<Waker>,
    connection: Option<Waker>,
    /// Runs until the response begins.
    rate_timer: Option<(RateTimer, Arc<State>)>,
}

/// The body's end.
pub(in crate::server) struct StreamedBody {
    channel: Arc<Mutex<Channel>>,
    /// As announced, less what came.
    left: Option<u64>,
    ended: bool,
}

impl StreamedBody {
    /// Holds the client to a pace until the response begins.
    pub(in crate::server) fn limit_rate(&self, state: &Arc<State>) {
        let rate_timer = RateTimer::new(state.timeouts());
        lock(&self.channel).rate_timer = Some((rate_timer, state.clone()));
    }

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
            let came = frame.data_ref().map_or(0, Bytes::len);
            if let Some((rate_timer, state)) = &mut channel.rate_timer {
                rate_timer.moved(came, state);
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
        if let Some((rate_timer, state)) = &mut channel.rate_timer {
            if rate_timer.poll(cx, state).is_ready() {
                self.ended = true;
                let late = Error::new(ErrorKind::ClientBodyTimeout);
                return Poll::Ready(Some(Err(late)));
            }
        }
        channel.body_waits = true;
        register(&mut channel.body, cx);
        // On the connection's own task, it looks once the service has been polled.
        let other_task = channel
            .connection
            .take_if(|waker| !waker.will_wake(cx.waker()));
        drop(channel);
        if let Some(connection) = other_task {
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

impl Drop for StreamedBody {
    fn drop(&mut self) {
        let mut channel = lock(&self.channel);
        channel.dropped = true;
        channel.frames.clear();
        let connection = channel.connection.take();
        drop(channel);
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

/// The connection's end.
pub(super) struct BodySender {
    channel: Arc<Mutex<Channel>>,
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
pub(super) enum Demand {
    /// 100 (Continue) first, then bytes.
    Continue,
    /// Bytes, which go nowhere: the body has no reader.
    Discard,
    Frames,
    Nothing,
}

impl BodySender {
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
    pub(super) fn awaits_continue(&self) -> bool {
        self.expects_continue
    }

    pub(super) fn is_dropped(&self) -> bool {
        lock(&self.channel).dropped
    }

    /// Asks what the body needs; registers the connection to be woken when that changes.
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

    /// The response begins: from here on, no 100 goes out. Returns true if the body waits for one,
    /// which is to go out before.
    pub(super) fn end_continue(&mut self) -> bool {
        lock(&self.channel).rate_timer = None;
        let body_waits = self.expects_continue && !self.is_dropped();
        self.expects_continue &= !body_waits;
        body_waits
    }

    /// Takes what came for the body off `read`.
    pub(super) fn deliver(&mut self, read: &mut BytesMut, cx: &mut Context<'_>) -> Delivery {
        // Bytes that came unasked need no 100.
        self.expects_continue = false;
        let mut channel = lock(&self.channel);
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
        channel.ended |= self.decoder.is_done() && !self.broken;
        wake(channel, cx)
    }

    /// Notes that the client closed the connection, or that it broke.
    #[cold]
    pub(super) fn fail(&mut self, error: BoxError, cx: &mut Context<'_>) -> Delivery {
        self.broken = true;
        let mut channel = lock(&self.channel);
        channel.failed = Some(error);
        wake(channel, cx)
    }

    /// More was read for no reader than a connection is worth.
    pub(super) fn has_discarded_enough(&self) -> bool {
        self.discarded > MAX_DISCARDED
    }
}

/// A body whose connection is gone, which may outlive it.
impl Drop for BodySender {
    fn drop(&mut self) {
        let mut channel = lock(&self.channel);
        if !channel.ended && channel.failed.is_none() {
            channel.failed = Some("the connection ended within the request body".into());
        }
        channel.connection = None;
        let body = channel.body.take();
        drop(channel);
        if let Some(body) = body {
            body.wake();
        }
    }
}

/// What came for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Something that another task takes, or this one once it polls the body by itself.
    OtherTask,
    /// Less than a frame.
    Nothing,
    /// Something that the body waits for on this task.
    SameTask,
}

/// Wakes the body where it waits and something came.
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

fn register(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn lock(channel: &Mutex<Channel>) -> MutexGuard<'_, Channel> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Small chunks of one read are handed over together, up to a bound.
const MAX_QUEUED_FRAMES: usize = 16;
/// A connection costs its client less than this.
pub(super) const MAX_DISCARDED: usize = 64 * 1024;
