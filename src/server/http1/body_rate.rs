//! The least rate of a client that sends a body over HTTP/1.1.
//!
//! ```text
//!   head ── the service reads ──▶ response begins ── pause ──▶ response complete ── a reader reads on ──▶
//!           the rate applies                                   the rate applies, with a full credit
//! ```
//!
//! The pause is for conversations: the client may send the next part when it has read some of the
//! response. Behind the response it has nothing to wait for.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    error::Error,
    server::{min_rate::RateTimer, state::State},
};

pub(super) struct BodyRate {
    timer: RateTimer,
    state: Arc<State>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    BeforeResponse,
    Paused,
    AfterResponse,
}

impl BodyRate {
    pub(super) fn new(state: &Arc<State>) -> Self {
        Self {
            timer: RateTimer::new(state.timeouts()),
            state: state.clone(),
            phase: Phase::BeforeResponse,
        }
    }

    /// Waits for the client. Ready with the error of a client that has used up its time.
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<Error> {
        let Self {
            timer,
            state,
            phase,
        } = self;
        match phase {
            Phase::Paused => Poll::Pending,
            Phase::BeforeResponse | Phase::AfterResponse => {
                timer.poll(cx, state).map(|()| timer.too_slow(state))
            }
        }
    }

    /// Ends the wait and adds the time for `bytes` transferred bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.timer.moved(bytes, &self.state);
    }

    /// Call it when the response begins.
    pub(super) fn pause(&mut self) {
        self.phase = Phase::Paused;
    }

    /// Call it when the response is complete. Returns true at the first call: whatever reads the body then
    /// has to poll it once more, which sets the timer.
    pub(super) fn resume(&mut self) -> bool {
        if self.is_after_response() {
            return false;
        }
        self.phase = Phase::AfterResponse;
        self.timer = RateTimer::new(self.state.timeouts());
        true
    }

    pub(super) fn is_after_response(&self) -> bool {
        self.phase == Phase::AfterResponse
    }
}
