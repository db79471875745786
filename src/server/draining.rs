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
pub(super) async fn begun(drain: Option<Drain>) {
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
pub(super) struct Draining<'a> {
    drain: Option<&'a Drain>,
    begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    registered: Option<Waker>,
    /// There is nothing more to notice.
    over: bool,
    /// Since when the connection has waited for a request, as far as that matters here.
    waits: Option<Instant>,
    ends: bool,
}

impl<'a> Draining<'a> {
    pub(super) fn new(
        drain: Option<&'a Drain>,
        begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    ) -> Self {
        Self {
            drain,
            begun,
            registered: None,
            over: false,
            waits: None,
            ends: false,
        }
    }

    /// Notes in `state` that the end was announced: the response that comes next says so.
    pub(super) fn notice(&mut self, cx: &mut Context<'_>, state: &State) {
        let Some(drain) = self.drain.filter(|_| !self.over) else {
            return;
        };
        let is_news = drain.is_announced() && !state.is_draining();
        if is_news {
            state.drain();
        }
        let registered = self.registered.as_ref();
        if is_news || !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.registered = Some(cx.waker().clone());
            if self.begun.as_mut().poll(cx).is_ready() {
                self.over = true;
                state.drain();
            }
        }
    }

    /// Returns true once, when the connection may end: not in the middle of a head, nor while a
    /// request may be on its way.
    pub(super) fn ends(&mut self, state: &State) -> bool {
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
        let since = *self.waits.get_or_insert(now);
        let Some(until) = drain.idle_until(since) else {
            return false;
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            state.hurry(left);
        }
        left.is_zero()
    }
}
