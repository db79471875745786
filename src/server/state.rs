//! What one connection is at, and which deadline that has.

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
    /// Bytes a second; see [`Pace`](super::pace::Pace).
    pub(super) min_rate: u32,
    /// A request and its response in all.
    pub(super) request: Option<Duration>,
}

/// Shared by a connection's stream, its service and its bodies. Under HTTP/1.1 every step is
/// seen at once by the task that polls the connection; under HTTP/2 streams may run on tasks of their
/// own, so they only count, and the driver draws the conclusions.
#[derive(Debug)]
pub(super) struct State {
    phase: AtomicU8,
    active: AtomicUsize,
    /// HTTP/2.
    multiplexed: AtomicBool,
    /// Streams that the client ended before their response had.
    #[cfg(feature = "http2")]
    resets: AtomicU32,
    draining: AtomicBool,
    /// The deadline is the one that a drain left, in place of the connection's own.
    shutdown_deadline: AtomicBool,
    /// What is left of a body that has no reader has a deadline.
    body_rest_armed: AtomicBool,
    accepted: Instant,
    /// The stream was dropped, by the connection or by the tunnel's owner.
    pub(super) closed: Notify,
    deadline: Deadline,
    timeouts: Timeouts,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is being answered.
    Busy = 0,
    /// Some of a request head came, and not yet all.
    Head = 1,
    /// The next request.
    Idle = 2,
    /// The first request: no byte of it came yet.
    New = 3,
    /// The bytes are no longer HTTP's.
    Tunnel = 4,
}

impl State {
    /// Begins with the deadline of the first head, which counts from accept.
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

    /// Some of a head came, and not yet all: the client has the time for a head from now on, and
    /// for the first one from accept on.
    pub(super) fn start_head(&self) {
        match self.phase() {
            Phase::New if self.shutdown_deadline.load(Relaxed) => self.resume_head_timeout(),
            Phase::Idle => self.deadline.arm(self.timeouts.head),
            Phase::New => {}
            Phase::Busy | Phase::Head | Phase::Tunnel => return,
        }
        self.phase.store(Phase::Head as u8, Relaxed);
    }

    /// Some of a head came, and not yet all.
    pub(super) fn is_in_head(&self) -> bool {
        self.phase() == Phase::Head
    }

    /// No byte came yet, or none that is known of: HTTP/2's are not counted, its requests are.
    pub(super) fn is_unused(&self) -> bool {
        self.phase() == Phase::New && !self.is_active()
    }

    /// A whole request head is there.
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

    /// Returns the time in milliseconds, late by up to a tenth of a second.
    pub(super) fn now(&self) -> u64 {
        self.deadline.now()
    }

    /// The client takes no more of what is written, and has this long.
    pub(super) fn write_blocked(&self, left: Duration) {
        self.deadline.arm(left);
    }

    /// The client has taken all that was written.
    pub(super) fn write_unblocked(&self) {
        match self.phase() {
            Phase::Busy | Phase::Tunnel => self.deadline.disarm(),
            Phase::Head | Phase::Idle | Phase::New => self.deadline.arm(self.timeouts.idle),
        }
    }

    /// The end has begun: this long, and no longer.
    pub(super) fn linger(&self, limit: Duration) {
        self.deadline.arm(limit.min(self.timeouts.idle));
    }

    /// As [`linger`](Self::linger), unless a deadline runs.
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

    /// The connection should end after the exchange that it is at, or after the next.
    pub(super) fn start_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Leaves a connection that is to end this much time for a request that is on its way. Only
    /// the first call counts.
    pub(super) fn limit_idle(&self, left: Duration) {
        if !self.shutdown_deadline.swap(true, Relaxed) {
            self.deadline.arm(left.min(self.timeouts.idle));
        }
    }

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// The request that was on its way is coming.
    pub(super) fn resume_head_timeout(&self) {
        self.shutdown_deadline.store(false, Relaxed);
        self.deadline.arm(self.timeouts.head);
    }

    /// Ends a tunnel whose connection may last no longer.
    pub(super) fn expire(&self) {
        self.deadline.arm(Duration::ZERO);
    }
}

/// What the driver of HTTP/2 asks and orders.
#[cfg(feature = "http2")]
impl State {
    /// Says that many requests share the connection.
    pub(super) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
    }

    /// The client ended a stream before its response had ended.
    #[cold]
    pub(super) fn count_reset(&self) {
        self.resets.fetch_add(1, Relaxed);
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Relaxed)
    }

    /// Gives the client this long.
    pub(super) fn wait(&self, left: Duration) {
        self.deadline.arm(left);
    }

    pub(super) fn disarm(&self) {
        self.deadline.disarm();
    }
}

/// A request being answered, or its body being read; the drop is the end.
#[derive(Debug)]
pub(super) struct ExchangeGuard {
    state: Arc<State>,
    opens_tunnel: bool,
}

impl ExchangeGuard {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The bytes after this response are no longer HTTP's.
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

/// What is left of a body that has no reader comes within this.
const BODY_REST_TIMEOUT: Duration = Duration::from_secs(2);
