//! What one connection is at, and which deadline that has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use crate::{context::ConnInfo, deadline::Watch};

/// The deadlines of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) head: Duration,
    pub(super) idle: Duration,
}

/// Shared by a connection's stream, its service and its responses; all on one task, so that
/// every step is a plain store.
#[derive(Debug)]
pub(super) struct State {
    phase: AtomicU8,
    active: AtomicUsize,
    /// How much came since the last whole head, roughly: reads are not cut at heads.
    head_bytes: AtomicUsize,
    watch: Watch,
    timeouts: Timeouts,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request is being answered.
    Busy = 0,
    /// Some of a request head came (or the connection is new), and not yet all.
    Head = 1,
    /// The next request.
    Idle = 2,
}

impl State {
    /// Begins with the deadline of the first head, which counts from accept.
    pub(super) fn new(info: &ConnInfo, timeouts: Timeouts) -> Arc<Self> {
        let state = Self {
            phase: AtomicU8::new(Phase::Head as u8),
            active: AtomicUsize::new(0),
            head_bytes: AtomicUsize::new(0),
            watch: Watch::new(),
            timeouts,
        };
        let left = timeouts.head.saturating_sub(info.accepted().elapsed());
        state.watch.arm(left);
        Arc::new(state)
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            1 => Phase::Head,
            2 => Phase::Idle,
            _ => Phase::Busy,
        }
    }

    /// Bytes came in.
    pub(super) fn received(&self, bytes: usize) {
        match self.phase() {
            Phase::Busy => return,
            Phase::Head => {}
            Phase::Idle => {
                self.phase.store(Phase::Head as u8, Relaxed);
                self.head_bytes.store(0, Relaxed);
                self.watch.arm(self.timeouts.head);
            }
        }
        self.head_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes.load(Relaxed)
    }

    /// A whole request head is there.
    pub(super) fn begin(self: &Arc<Self>) -> Exchanging {
        self.active.fetch_add(1, Relaxed);
        self.phase.store(Phase::Busy as u8, Relaxed);
        self.watch.disarm();
        Exchanging {
            state: self.clone(),
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Relaxed) > 0
    }

    /// The client takes no more of what is written.
    pub(super) fn write_blocked(&self) {
        self.watch.arm(self.timeouts.idle);
    }

    /// The client takes it again.
    pub(super) fn write_unblocked(&self) {
        match self.phase() {
            Phase::Busy => self.watch.disarm(),
            Phase::Head | Phase::Idle => self.watch.arm(self.timeouts.idle),
        }
    }

    /// The end has begun: this long, and no longer.
    pub(super) fn linger(&self, limit: Duration) {
        self.watch.arm(limit);
    }

    pub(super) fn poll_expired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll_expired(cx)
    }

    pub(super) fn is_expired(&self) -> bool {
        self.watch.is_expired()
    }
}

/// One request being answered; its drop is the end.
#[derive(Debug)]
pub(super) struct Exchanging {
    state: Arc<State>,
}

impl Drop for Exchanging {
    fn drop(&mut self) {
        let state = &self.state;
        if state.active.fetch_sub(1, Relaxed) == 1 {
            state.phase.store(Phase::Idle as u8, Relaxed);
            state.watch.arm(state.timeouts.idle);
        }
    }
}
