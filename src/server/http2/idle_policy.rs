//! The deadlines of an HTTP/2 connection: how long its client may be idle or read too slowly, and what
//! the driver does then.
//!
//! | state of the connection | time | at its end |
//! |---|---|---|
//! | no byte yet | that of the first head, from accept | close |
//! | streams open, socket takes writes | none; each stream has its own | |
//! | streams open, socket blocked | the budget of the least rate | close |
//! | no stream open | the idle time-out | GOAWAY, then at most 5 s |
//! | GOAWAY sent, no stream open | 5 s | close |
//!
//! [`check`](IdlePolicy::check) runs after each round of the driver and re-arms the deadline only
//! when the row changes. A row that stays keeps its deadline, whatever frames arrive, unless bytes
//! of a response have moved: PING and SETTINGS hold no idle connection.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::write_coalescer::SocketStatus;
use crate::server::{min_rate::RateBudget, state::State};

/// The time that an HTTP/2 client has left.
pub(super) struct IdlePolicy {
    /// The client has sent a byte.
    spoke: bool,
    /// Whether streams were open at the last check: a change begins another row of the table.
    was_active: bool,
    /// GOAWAY was sent.
    pub(super) goodbye_sent: bool,
    /// Runs while the connection waits for the client. A stream that waits has a budget of its own.
    budget: RateBudget,
    /// The number of requests when the budget began to run.
    streams_begun: u32,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdleAction {
    /// The connection goes on.
    Continue,
    /// The connection was idle for too long: send GOAWAY.
    GoAway,
    /// Close without GOAWAY.
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

    /// Checks the connection after a round of the driver. `streams_begun` is the number of its requests
    /// so far.
    ///
    /// Call it once after each round of the driver, with what the flush of that round returned.
    pub(super) fn check(
        &mut self,
        cx: &mut Context<'_>,
        socket: SocketStatus,
        streams_begun: u32,
        state: &State,
    ) -> IdleAction {
        if !self.spoke {
            // Before the first byte, the deadline of the first head applies.
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
        // Streams limit themselves; the connection's own budget starts afresh for the next wait.
        if active && !socket.blocked {
            if self.budget.is_waiting() || !self.was_active {
                state.disarm();
                // The last stream may end on another thread, after the last round of the driver, and arm
                // the deadline: the deadline has to know the task by then.
                let _ = state.poll_expired(cx);
            }
            self.was_active = true;
            self.budget = RateBudget::new(state.timeouts());
            return IdleAction::Continue;
        }
        // A new request gives no time to a client that does not read.
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

    /// Arms the deadline of the connection with what is left of the budget.
    fn wait(&mut self, blocked: bool, state: &State) {
        let left = self.budget.wait(state.now());
        if self.goodbye_sent && !self.was_active && !blocked {
            state.linger(GOAWAY_TIMEOUT.min(left));
        } else {
            state.wait(left);
        }
    }

    /// Call it once, when GOAWAY is sent. With streams open, the 5 s begin when the last one ends.
    pub(super) fn start_goodbye(&mut self, state: &State) {
        self.goodbye_sent = true;
        if !state.is_active() {
            self.was_active = false;
            self.budget = RateBudget::new(state.timeouts());
            self.wait(false, state);
        }
    }
}

/// How long a client has to answer GOAWAY before the connection is closed.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use super::*;
    use crate::{
        context::{ConnInfo, Peer},
        server::state::Timeouts,
    };

    #[tokio::test(start_paused = true)]
    async fn a_last_stream_that_ends_between_two_rounds_leaves_an_idle_connection() {
        let address = Peer::Tcp(([127, 0, 0, 1], 1).into());
        let timeouts = Timeouts {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            min_rate: 240,
            request: None,
        };
        let state = State::new(&ConnInfo::new(address, address), timeouts);
        state.multiplex();
        let mut policy = IdlePolicy::new(&state);
        let socket = SocketStatus {
            received: true,
            blocked: false,
            response_bytes: 0,
            broken: false,
        };
        let mut stream = Some(state.begin());
        let rounds = Arc::new(AtomicUsize::new(0));
        let (counted, driven) = (rounds.clone(), state.clone());
        // A task of its own, as the driver: a round at the first poll, and then one at each wake.
        let driver = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Relaxed);
            match policy.check(cx, socket, 1, &driven) {
                IdleAction::Continue => Poll::Pending,
                action => Poll::Ready(action),
            }
        }));
        while rounds.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        stream.take();
        // The round that the deadline wakes begins the idle time: twice 60 s.
        let ended = tokio::time::timeout(Duration::from_secs(150), driver).await;
        assert_eq!(ended.unwrap().unwrap(), IdleAction::GoAway);
    }
}
