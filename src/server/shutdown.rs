//! When a connection learns that it should end, and when it may.

use std::{
    future::{Future, pending},
    pin::Pin,
    task::{Context, Waker},
};

use tokio::time::Instant;

use super::state::State;
use crate::context::Drain;

/// Waits until connections should end, and wakes its task at the announcement before; for ever
/// without a drain.
pub(super) async fn shutdown_begun(drain: Option<Drain>) {
    match drain {
        Some(mut drain) => {
            drain.announced().await;
            drain.begun().await;
        }
        None => pending().await,
    }
}

/// Notices that the connection should end; registers once a task and once a phase, then costs one
/// load a poll.
pub(super) struct ShutdownWatcher<'a> {
    drain: Option<&'a Drain>,
    shutdown_begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    registered: Option<Waker>,
    /// There is nothing more to notice.
    finished: bool,
    /// Since when the connection has waited for a request, as far as that matters here.
    idle_since: Option<Instant>,
    ends: bool,
}

impl<'a> ShutdownWatcher<'a> {
    pub(super) fn new(
        drain: Option<&'a Drain>,
        shutdown_begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    ) -> Self {
        Self {
            drain,
            shutdown_begun,
            registered: None,
            finished: false,
            idle_since: None,
            ends: false,
        }
    }

    /// Notes in `state` that the end was announced: the response that comes next says so.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>, state: &State) {
        let Some(drain) = self.drain.filter(|_| !self.finished) else {
            return;
        };
        let newly_announced = drain.is_announced() && !state.is_draining();
        if newly_announced {
            state.start_draining();
        }
        let registered = self.registered.as_ref();
        if newly_announced || !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.registered = Some(cx.waker().clone());
            if self.shutdown_begun.as_mut().poll(cx).is_ready() {
                self.finished = true;
                state.start_draining();
            }
        }
    }

    /// Returns true once, when the connection may end: not in the middle of a head, nor while a
    /// request may be on its way.
    pub(super) fn may_end(&mut self, state: &State) -> bool {
        let Some(drain) = self.drain else {
            return false;
        };
        if self.ends || !state.is_draining() || state.is_in_head() {
            return false;
        }
        // A GOAWAY loses none (RFC 9113 §6.8), but a client that has connected for its first
        // request would connect again and again.
        self.ends = match state.is_multiplexed() && !state.is_unused() {
            true => true,
            false => self.has_waited(drain, state),
        };
        self.ends
    }

    /// Returns true when the client has had the time to send another request; until then, the
    /// deadline of the connection is the end of that time.
    #[cold]
    fn has_waited(&mut self, drain: &Drain, state: &State) -> bool {
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        let Some(until) = drain.idle_until(since) else {
            return false;
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            state.limit_idle(left);
        }
        left.is_zero()
    }
}
