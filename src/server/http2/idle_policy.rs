//! How long a client of HTTP/2 may do nothing or too little, and what comes of it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::write_coalescer::SocketStatus;
use crate::server::{min_rate::RateBudget, state::State};

/// How long a client may do nothing, or too little.
pub(super) struct IdlePolicy {
    /// A byte came: the client speaks HTTP/2.
    spoke: bool,
    was_active: bool,
    /// The client was told to go.
    pub(super) goodbye_sent: bool,
    /// Runs while the connection as a whole waits for the client; a stream that does has its own.
    budget: RateBudget,
    /// Requests so far, when it began to run.
    streams_begun: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleAction {
    /// Nothing to object to.
    Continue,
    /// No streams for too long.
    GoAway,
    /// Not worth a word.
    Close,
}

impl IdlePolicy {
    pub(super) fn new(state: &State) -> Self {
        Self {
            spoke: false,
            was_active: false,
            goodbye_sent: false,
            budget: RateBudget::new(state.timeouts()),
            streams_begun: 0,
        }
    }

    /// Judges a connection that has begun so many requests.
    pub(super) fn check(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketStatus,
        streams_begun: u32,
        state: &State,
    ) -> IdleAction {
        if !self.spoke {
            // Until then, the deadline of the first head.
            if !socket.received {
                return match state.poll_expired(cx) {
                    Poll::Ready(()) => IdleAction::Close,
                    Poll::Pending => IdleAction::Continue,
                };
            }
            self.spoke = true;
            self.was_active = !state.is_active();
        }
        let active = state.is_active();
        if active && !socket.blocked {
            if self.budget.is_waiting() || !self.was_active {
                state.disarm();
            }
            self.was_active = true;
            self.budget = RateBudget::new(state.timeouts());
            return IdleAction::Continue;
        }
        // A client that asks and takes nothing is still the client that takes nothing.
        let has_new_requests = self.streams_begun != streams_begun && !socket.blocked;
        if !self.budget.is_waiting() || self.was_active != active || has_new_requests {
            (self.was_active, self.streams_begun) = (active, streams_begun);
            self.budget = RateBudget::new(state.timeouts());
            self.wait(socket.blocked, state);
        } else if socket.response_bytes > 0 {
            self.budget
                .moved(state.now(), socket.response_bytes, state.timeouts());
            self.wait(socket.blocked, state);
        }
        match state.poll_expired(cx) {
            Poll::Pending => IdleAction::Continue,
            Poll::Ready(()) if active || self.goodbye_sent || socket.blocked => IdleAction::Close,
            Poll::Ready(()) => IdleAction::GoAway,
        }
    }

    fn wait(&mut self, blocked: bool, state: &State) {
        let left = self.budget.wait(state.now());
        if self.goodbye_sent && !self.was_active && !blocked {
            state.linger(GOAWAY_TIMEOUT.min(left));
        } else {
            state.wait(left);
        }
    }

    pub(super) fn start_goodbye(&mut self, state: &State) {
        self.goodbye_sent = true;
        if !state.is_active() {
            self.was_active = false;
            self.budget = RateBudget::new(state.timeouts());
            self.wait(false, state);
        }
    }
}

/// Long enough for a client to answer that it was told; the connection ends then anyway.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);
