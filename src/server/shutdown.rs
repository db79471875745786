//! How a connection notices a graceful shutdown, and when it may close.
//!
//! A [`ShutdownSignal`] has two phases, `announced` (the lame duck) and `begun`; see
//! [`context`](crate::context). What a connection does in them:
//!
//! | the connection | announced | begun |
//! |---|---|---|
//! | answers a request | the response says `connection: close`, and is the last | the same |
//! | has read a part of a head | waits for the rest, within the time for a head | the same |
//! | waits for a request, HTTP/1.1 | waits, with the grace from `ShutdownSignal::idle_until` | closes once the grace is over |
//! | HTTP/2, had a request | GOAWAY; its streams end | the same |
//! | HTTP/2, without a request so far | waits for the first, then GOAWAY | GOAWAY once the grace is over |
//!
//! A connection that closed at once would lose the request that is on its way: the client has sent
//! it and gets a reset (RFC 9112 §9.5). The tests `no_request_of_a_busy_client_is_lost_over_http1`
//! and `…_http2` send requests without a pause while a server ends.
//!
//! The watcher is polled with each head and each request, so a poll must cost next to nothing: it
//! loads one atomic and compares a waker. The signal's own future, which takes a lock of the
//! channel, is polled only when the task or the phase has changed.

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
///
/// Make one for each connection and poll it in place: it is the one place where a connection
/// registers for both phases.
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
///
/// It lives in the future of the connection and belongs to one task at a time; it can be dropped at
/// any point.
pub(super) struct ShutdownWatcher<'a> {
    signal: Option<&'a ShutdownSignal>,
    shutdown_begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    /// The waker that `shutdown_begun` holds. A task that moved (`LocalSet`, a combinator with
    /// wakers of its own) registers again.
    registered: Option<Waker>,
    /// The shutdown has begun: there are no more phases.
    finished: bool,
    /// When `may_end` first saw the connection wait for a request.
    idle_since: Option<Instant>,
    /// `may_end` has returned true. The caller acts on it once; a second true would send a second
    /// GOAWAY.
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
    ///
    /// Call it before each wait of the connection. It wakes nothing, and closes nothing.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>, state: &State) {
        let Some(signal) = self.signal.filter(|_| !self.finished) else {
            return;
        };
        let newly_announced = signal.is_announced() && !state.is_draining();
        if newly_announced {
            state.start_draining();
        }
        let registered = self.registered.as_ref();
        // The future has two waits, one for each phase. It has to be polled behind the first, or
        // the second would never have a waker.
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
        // Not called within a head: that request is answered first, and its response says
        // `connection: close`.
        self.ends = match state.is_multiplexed() && !state.is_unused() {
            true => true,
            false => self.has_waited(signal, state),
        };
        self.ends
    }

    /// Returns true when the client has had the grace to send another request. Until then, sets the
    /// deadline of the connection to the end of the grace.
    ///
    /// Cold: it runs only while the server shuts down.
    #[cold]
    fn has_waited(&mut self, signal: &ShutdownSignal, state: &State) -> bool {
        let now = Instant::now();
        let since = *self.idle_since.get_or_insert(now);
        // `None` as long as the grace has no end: the shutdown is announced and has not begun.
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
