//! The state of a connection, and the deadline that belongs to it.

#[cfg(feature = "http2")]
use std::sync::atomic::AtomicU32;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{context::ConnInfo, timer::sweep::Deadline};

/// The deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    /// Bytes a second; see [`RateBudget`](super::min_rate::RateBudget).
    pub(super) min_rate: u32,
    /// The limit for a request and its response in all.
    pub(super) request: Option<Duration>,
}

/// The state that the stream, the service and the bodies of a connection share. Under HTTP/1.1 the task
/// of the connection takes every step itself. Under HTTP/2 streams may run on other tasks, so they
/// only count, and the driver of the connection sets the deadlines.
#[derive(Debug)]
pub(super) struct State {
    phase: AtomicU8,
    active: AtomicUsize,
    /// The connection speaks HTTP/2.
    multiplexed: AtomicBool,
    /// Streams that the client reset before their response was complete.
    #[cfg(feature = "http2")]
    resets: AtomicU32,
    draining: AtomicBool,
    /// The deadline is that of a shutdown, in place of the connection's own.
    shutdown_deadline: AtomicBool,
    /// The rest of a body without a reader has a deadline.
    body_rest_armed: AtomicBool,
    accepted: Instant,
    /// Notified when the connection or the owner of the tunnel drops the stream.
    pub(super) closed: Notify,
    deadline: Deadline,
    timeouts: Timeouts,
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is being answered.
    Busy = 0,
    /// A part of a request head was received.
    Head = 1,
    /// The connection waits for the next request.
    Idle = 2,
    /// The connection waits for the first byte of the first request.
    New = 3,
    /// An upgrade or CONNECT has turned the connection into a tunnel.
    Tunnel = 4,
}

impl State {
    /// Makes the state of a new connection, with the deadline of its first head from accept on.
    pub(super) fn new(info: &ConnInfo, timeouts: Timeouts) -> Arc<Self> {
        let state = Self {
            phase: AtomicU8::new(Phase::New as u8),
            active: AtomicUsize::new(0),
            multiplexed: AtomicBool::new(false),
            #[cfg(feature = "http2")]
            resets: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            shutdown_deadline: AtomicBool::new(false),
            body_rest_armed: AtomicBool::new(false),
            accepted: info.accepted(),
            closed: Notify::new(),
            deadline: Deadline::new(),
            timeouts,
        };
        let left = timeouts.head.saturating_sub(info.accepted().elapsed());
        state.deadline.arm(left);
        Arc::new(state)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            1 => Phase::Head,
            2 => Phase::Idle,
            3 => Phase::New,
            4 => Phase::Tunnel,
            _ => Phase::Busy,
        }
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    /// Enters the phase `Head`. The client has the time for a head from now on, and for the first one
    /// from accept on.
    pub(super) fn start_head(&self) {
        match self.phase() {
            Phase::New if self.shutdown_deadline.load(Relaxed) => self.resume_head_timeout(),
            Phase::Idle => self.deadline.arm(self.timeouts.head),
            Phase::New => {}
            Phase::Busy | Phase::Head | Phase::Tunnel => return,
        }
        self.phase.store(Phase::Head as u8, Relaxed);
    }

    /// Returns true while a part of a head was received.
    pub(super) fn is_in_head(&self) -> bool {
        self.phase() == Phase::Head
    }

    /// Returns true until the first byte under HTTP/1.1, and until the first request under HTTP/2.
    pub(super) fn is_unused(&self) -> bool {
        self.phase() == Phase::New && !self.is_active()
    }

    /// Begins an exchange: a request head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> ExchangeGuard {
        self.active.fetch_add(1, Relaxed);
        if !self.is_multiplexed() {
            self.body_rest_armed.store(false, Relaxed);
            self.phase.store(Phase::Busy as u8, Relaxed);
            self.deadline.disarm();
        } else if self.phase() == Phase::New {
            self.phase.store(Phase::Idle as u8, Relaxed);
        }
        ExchangeGuard {
            state: self.clone(),
            opens_tunnel: false,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns the time in milliseconds; it lags by up to 100 ms.
    pub(super) fn now(&self) -> u64 {
        self.deadline.now()
    }

    /// Sets the deadline of a client that does not read: `left` from now.
    pub(super) fn write_blocked(&self, left: Duration) {
        self.deadline.arm(left);
    }

    /// Restores the deadline of the phase: the client has read what was written.
    pub(super) fn write_unblocked(&self) {
        match self.phase() {
            Phase::Busy | Phase::Tunnel => self.deadline.disarm(),
            Phase::Head | Phase::Idle | Phase::New => self.deadline.arm(self.timeouts.idle),
        }
    }

    /// Sets the deadline of a connection that is closing.
    pub(super) fn linger(&self, limit: Duration) {
        self.deadline.arm(limit.min(self.timeouts.idle));
    }

    /// Sets the deadline for the rest of a body without a reader, unless it is set.
    pub(super) fn limit_body_rest(&self) {
        if !self.body_rest_armed.swap(true, Relaxed) {
            self.linger(BODY_REST_TIMEOUT);
        }
    }

    pub(super) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll_expired(cx)
    }

    pub(super) fn is_expired(&self) -> bool {
        self.deadline.is_expired()
    }

    /// Makes the connection close after its current exchange, or after the next one.
    pub(super) fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Gives a connection that is to close `left` for a request that is on its way. Only the first call
    /// has an effect.
    pub(super) fn limit_idle(&self, left: Duration) {
        if !self.shutdown_deadline.swap(true, Relaxed) {
            self.deadline.arm(left.min(self.timeouts.idle));
        }
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Restores the deadline for a head, since the request that was on its way has begun.
    pub(super) fn resume_head_timeout(&self) {
        self.shutdown_deadline.store(false, Relaxed);
        self.deadline.arm(self.timeouts.head);
    }

    /// Ends a tunnel: its deadline is now.
    pub(super) fn expire(&self) {
        self.deadline.arm(Duration::ZERO);
    }
}

/// The state as the driver of HTTP/2 uses it.
#[cfg(feature = "http2")]
impl State {
    /// Marks the connection as HTTP/2.
    pub(super) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    /// Counts a stream that the client reset before its response was complete.
    #[cold]
    pub(super) fn count_reset(&self) {
        self.resets.fetch_add(1, Relaxed);
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Relaxed)
    }

    /// Sets the deadline: `left` from now.
    pub(super) fn wait(&self, left: Duration) {
        self.deadline.arm(left);
    }

    pub(super) fn disarm(&self) {
        self.deadline.disarm();
    }
}

/// An exchange in progress: a request that is answered, or a body that is read. Dropping the guard ends
/// it.
#[derive(Debug)]
pub(super) struct ExchangeGuard {
    state: Arc<State>,
    opens_tunnel: bool,
}

impl ExchangeGuard {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Makes the connection a tunnel when the guard is dropped.
    pub(super) fn opens_tunnel(&mut self) {
        self.opens_tunnel = true;
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        let state = &self.state;
        if state.active.fetch_sub(1, Relaxed) != 1 {
            return;
        }
        if self.opens_tunnel {
            state.phase.store(Phase::Tunnel as u8, Relaxed);
            state.deadline.disarm();
            return;
        }
        if !state.is_multiplexed() {
            state.phase.store(Phase::Idle as u8, Relaxed);
        }
        state.deadline.arm(state.timeouts.idle);
    }
}

/// How long the client has to send the rest of a body that has no reader.
pub(super) const BODY_REST_TIMEOUT: Duration = Duration::from_secs(2);
