//! The state of a connection, and the deadline that belongs to it.
//!
//! # Phases of an HTTP/1.1 connection
//!
//! ```text
//!               part of a head                    head complete
//!   accept ─▶ New ───────────▶ Head ────────────────────────────▶ Busy ──▶ Tunnel
//!              │                 ▲                                 ▲ │
//!              │                 │ part of a head                  │ │ response and request
//!              │                 └──────────────────── Idle ◀──────┼─┘ body have ended
//!              │                                         └─────────┤
//!              └── a whole head in one read ───────────────────────┘
//! ```
//!
//! | phase | deadline | what its end does |
//! |---|---|---|
//! | `New` | the head time-out, counted from accept (TLS and PROXY header included) | closes without a byte |
//! | `Head` | the head time-out, from the first byte of the head; that of `New` for the first head | 408, then close |
//! | `Busy` | none; while a write is blocked, the budget of `min_rate` | closes the connection |
//! | `Idle` | the idle time-out | closes without a byte |
//! | `Tunnel` | none: the owner of the tunnel sets its own | only `expire` ends it |
//!
//! Two more deadlines replace that of the phase for a while: `limit_idle`, which a shutdown sets in
//! `New` and `Idle`, and `limit_body_rest`, which runs while the server discards a body without a
//! reader. `begin` clears the latter's flag, so that the next request has a rest of its own.
//!
//! HTTP/2 uses two of the phases only: `New` until the first request, `Idle` afterwards. The number
//! of active exchanges says whether the connection is in use, and `IdlePolicy` sets the deadline.
//!
//! # Orderings
//!
//! Every atomic is `Relaxed`. Under HTTP/1.1 one task reads and writes all of them. Under HTTP/2 a
//! stream on another task changes only the counters and, with the last exchange, the deadline; no
//! other memory is published through them, and the driver reads them again in each of its rounds.
//! So a round can act on a value that is one round old, and on nothing older.

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
    /// The time for a request head, 10 ms to 1 h.
    pub(super) head: Duration,
    /// The idle time-out, and the credit of the least rate; 10 ms to 1 h.
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
    /// The [`Phase`] as a number.
    phase: AtomicU8,
    /// Exchanges in progress: 0 or 1 under HTTP/1.1. Under HTTP/2 a request counts as one until its
    /// response has ended, and its body as another until the body has ended.
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
    /// When the connection was accepted: the first head's time and the shutdown's grace count from
    /// it.
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
    ///
    /// Registers a deadline with the sweep of the current thread, so it has to run inside a tokio
    /// runtime. If the TLS handshake has used up the time for a head, the deadline is due at once.
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

    /// A number that is none of the phases cannot be stored; it would read as `Busy`.
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
            // A shutdown shortened the wait for the first byte; now that the head has begun, the
            // client has the whole time for it.
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

    /// Under HTTP/2 also true while only request bodies are open, whose responses have ended.
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
    ///
    /// Called when a write returns `Pending`, in any phase but `Tunnel`. It replaces the phase's
    /// deadline, which `write_unblocked` restores.
    pub(super) fn write_blocked(&self, left: Duration) {
        self.deadline.arm(left);
    }

    /// Restores the deadline of the phase: the client has read what was written.
    pub(super) fn write_unblocked(&self) {
        match self.phase() {
            Phase::Busy | Phase::Tunnel => self.deadline.disarm(),
            // What is written here is a refusal, behind which the connection closes: the idle
            // time-out is enough.
            Phase::Head | Phase::Idle | Phase::New => self.deadline.arm(self.timeouts.idle),
        }
    }

    /// Sets the deadline of a connection that is closing.
    ///
    /// The time is never above the idle time-out, which a user may have set below it.
    pub(super) fn linger(&self, limit: Duration) {
        self.deadline.arm(limit.min(self.timeouts.idle));
    }

    /// Sets the deadline for the rest of a body without a reader, unless it is set.
    ///
    /// The flag makes the limit one for the whole rest: armed again with each read, it would be a
    /// limit on silence, and a client could send for ever.
    pub(super) fn limit_body_rest(&self) {
        if !self.body_rest_armed.swap(true, Relaxed) {
            self.linger(BODY_REST_TIMEOUT);
        }
    }

    /// Registers the task with the deadline: poll it only from the task that owns the connection,
    /// or the last one to poll takes the wakes.
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

    /// True from the announcement on: each response then says that the connection closes.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Gives a connection that is to close `left` for a request that is on its way. Only the first call
    /// has an effect.
    ///
    /// The deadline is never later than the idle time-out. The flag keeps a connection that is
    /// polled often from getting the whole grace again and again; `resume_head_timeout` clears it
    /// when a request begins after all.
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
    ///
    /// Called when the task of a tunnel's connection is dropped: reads of the stream, which another
    /// task owns by then, fail with `ConnectionAborted`.
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
    ///
    /// `ResetLimit` reads the number. A stream that ends before its request reached the service
    /// counts, too: the codec has done its work for it.
    #[cold]
    pub(super) fn count_reset(&self) {
        self.resets.fetch_add(1, Relaxed);
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Relaxed)
    }

    /// Returns how many of the streams that have begun were answered. A stream whose request body is
    /// still read counts when that has ended, too.
    pub(super) fn streams_answered(&self, begun: u32, reset: u32) -> u32 {
        let open = self.active.load(Relaxed) as u32;
        begun.wrapping_sub(open).wrapping_sub(reset)
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
        // Another exchange of the connection goes on: its guard will set the phase and the
        // deadline.
        if state.active.fetch_sub(1, Relaxed) != 1 {
            return;
        }
        if self.opens_tunnel {
            state.phase.store(Phase::Tunnel as u8, Relaxed);
            state.deadline.disarm();
            return;
        }
        // The exchange is over, and the next head has not begun.
        if !state.is_multiplexed() {
            state.phase.store(Phase::Idle as u8, Relaxed);
        }
        // Under HTTP/2, too: the driver may have run its last round before this drop on another
        // task.
        state.deadline.arm(state.timeouts.idle);
    }
}

/// How long the client has to send the rest of a body that has no reader.
pub(super) const BODY_REST_TIMEOUT: Duration = Duration::from_secs(2);
