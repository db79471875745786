//! How long a client of HTTP/2 may do nothing, and what comes of it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use crate::server::{gather::Gathered, state::State};

/// How long a client may do nothing.
#[derive(Default)]
pub(super) struct Patience {
    /// A byte came: the client speaks HTTP/2.
    met: bool,
    /// Time runs.
    waits: bool,
    active: bool,
    /// The client was told to go.
    pub(super) going: bool,
    moves: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing to object to.
    Fine,
    /// No streams for too long.
    Idle,
    /// Not worth a word.
    Over,
}

impl Patience {
    pub(super) fn judge(
        &mut self,
        cx: &mut Context<'_>,
        gathered: Gathered,
        state: &State,
    ) -> Verdict {
        if gathered.moved {
            state.has_moved();
        }
        if !self.met {
            // Until then, the deadline of the first head.
            if !gathered.received {
                return match state.poll_expired(cx) {
                    Poll::Ready(()) => Verdict::Over,
                    Poll::Pending => Verdict::Fine,
                };
            }
            self.met = true;
            self.active = !state.is_active();
        }
        let active = state.is_active();
        if active && !gathered.blocked && !state.is_offering() {
            if self.waits || !self.active {
                state.disarm();
            }
            (self.waits, self.active) = (false, true);
            return Verdict::Fine;
        }
        let moves = state.moves();
        if !self.waits || self.active != active || self.moves != moves {
            (self.waits, self.active, self.moves) = (true, active, moves);
            self.wait(gathered.blocked, state);
        }
        match state.poll_expired(cx) {
            Poll::Pending => Verdict::Fine,
            Poll::Ready(()) if active || self.going || gathered.blocked => Verdict::Over,
            Poll::Ready(()) => Verdict::Idle,
        }
    }

    fn wait(&self, blocked: bool, state: &State) {
        if self.going && !self.active && !blocked {
            state.linger(GOODBYE);
        } else {
            state.wait_idle();
        }
    }

    pub(super) fn goes(&mut self, state: &State) {
        self.going = true;
        if !state.is_active() {
            self.waits = true;
            self.active = false;
            self.wait(false, state);
        }
    }
}

/// Long enough for a client to answer that it was told; the connection ends then anyway.
const GOODBYE: Duration = Duration::from_secs(5);
