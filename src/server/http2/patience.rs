//! How long a client of HTTP/2 may do nothing or too little, and what comes of it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use crate::server::{gather::Gathered, pace::Pace, state::State};

/// How long a client may do nothing, or too little.
pub(super) struct Patience {
    /// A byte came: the client speaks HTTP/2.
    met: bool,
    active: bool,
    /// The client was told to go.
    pub(super) going: bool,
    /// Runs while the connection as a whole waits for the client; a stream that does has its own.
    pace: Pace,
    /// Requests so far, when it began to run.
    begun: u32,
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
    pub(super) fn new(state: &State) -> Self {
        Self {
            met: false,
            active: false,
            going: false,
            pace: Pace::new(state.timeouts()),
            begun: 0,
        }
    }

    /// Judges a connection that has begun so many requests.
    pub(super) fn judge(
        &mut self,
        cx: &mut Context<'_>,
        gathered: Gathered,
        begun: u32,
        state: &State,
    ) -> Verdict {
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
        if active && !gathered.blocked {
            if self.pace.is_waiting() || !self.active {
                state.disarm();
            }
            self.active = true;
            self.pace = Pace::new(state.timeouts());
            return Verdict::Fine;
        }
        // A client that asks and takes nothing is still the client that takes nothing.
        let asked = self.begun != begun && !gathered.blocked;
        if !self.pace.is_waiting() || self.active != active || asked {
            (self.active, self.begun) = (active, begun);
            self.pace = Pace::new(state.timeouts());
            self.wait(gathered.blocked, state);
        } else if gathered.taken > 0 {
            self.pace
                .moved(state.now(), gathered.taken, state.timeouts());
            self.wait(gathered.blocked, state);
        }
        match state.poll_expired(cx) {
            Poll::Pending => Verdict::Fine,
            Poll::Ready(()) if active || self.going || gathered.blocked => Verdict::Over,
            Poll::Ready(()) => Verdict::Idle,
        }
    }

    fn wait(&mut self, blocked: bool, state: &State) {
        let left = self.pace.wait(state.now());
        if self.going && !self.active && !blocked {
            state.linger(GOODBYE.min(left));
        } else {
            state.wait(left);
        }
    }

    pub(super) fn goes(&mut self, state: &State) {
        self.going = true;
        if !state.is_active() {
            self.active = false;
            self.pace = Pace::new(state.timeouts());
            self.wait(false, state);
        }
    }
}

/// Long enough for a client to answer that it was told; the connection ends then anyway.
const GOODBYE: Duration = Duration::from_secs(5);
