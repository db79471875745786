//! How a connection notices a graceful shutdown, and when it may close.

use std::{
    future::{Future, pending},
    pin::Pin,
    task::{Context, Waker},
};

use tokio::time::Instant;

use super::state::State;
use crate::context::ShutdownSignal;

/// Completes when the shutdown begins, and wakes its task at the announcement before that. Without a
/// signal, it never completes.
pub(super) async fn shutdown_begun(signal: Option<ShutdownSignal>) {
    match signal {
        Some(mut signal) => {
            signal.announced().await;
            signal.begun().await;
        }
        None => pending().await,
    }
}

/// Notices the shutdown. It registers its waker once for each task and phase; after that, a poll costs
/// one atomic load.
pub(super) struct ShutdownWatcher<'a> {
    signal: Option<&'a ShutdownSignal>,
    shutdown_begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    registered: Option<Waker>,
    /// The shutdown has begun: there are no more phases.
    finished: bool,
    /// When `may_end` first saw the connection wait for a request.
    idle_since: Option<Instant>,
    ends: bool,
}

impl<'a> ShutdownWatcher<'a> {
    pub(super) fn new(
        signal: Option<&'a ShutdownSignal>,
        shutdown_begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    ) -> Self {
        Self {
            signal,
            shutdown_begun,
            registered: None,
            finished: false,
            idle_since: None,
            ends: false,
        }
    }

    /// Marks `state` as draining once the shutdown is announced, so that the next response says
    /// `connection: close`.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>, state: &State) {
        let Some(signal) = self.signal.filter(|_| !self.finished) else {
            return;
        };
        let newly_announced = signal.is_announced() && !state.is_draining();
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

    /// Returns true once, when the connection may close: not within a head, and not while a request
    /// may be on its way.
    pub(super) fn may_end(&mut self, state: &State) -> bool {
        let Some(signal) = self.signal else {
            return false;
        };
        if self.ends || !state.is_draining() || state.is_in_head() {
            return false;
        }
        // GOAWAY loses no request (RFC 9113 §6.8), but a client that gets it before its first request
        // would reconnect again and again.
        self.ends = match state.is_multiplexed() && !state.is_unused() {
            true => true,
            false => self.has_waited(signal, state),
        };
        self.ends
    }

    /// Returns true when the client has had the grace to send another request. Until then, sets the
    /// deadline of the connection to the end of the grace.
    #[cold]
    fn has_waited(&mut self, signal: &ShutdownSignal, state: &State) -> bool {
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        let Some(until) = signal.idle_until(since) else {
            return false;
        };
        let left = until.saturating_duration_since(now);
        if !left.is_zero() {
            state.limit_idle(left);
        }
        left.is_zero()
    }
}
