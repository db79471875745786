//! When a connection learns that it should end, and when it may.

use std::{
    future::{Future, pending},
    pin::Pin,
    task::{Context, Waker},
};

use super::state::State;
use crate::context::Drain;

/// Waits until connections should end; for ever without a drain.
pub(super) async fn begun(drain: Option<Drain>) {
    match drain {
        Some(mut drain) => drain.begun().await,
        None => pending().await,
    }
}

/// Notices that the connection should end; registers once a task, then costs one load a poll.
pub(super) struct Draining<'a> {
    drain: Option<&'a Drain>,
    begun: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    registered: Option<Waker>,
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
            ends: false,
        }
    }

    /// Notes in `state` that the end has begun.
    pub(super) fn notice(&mut self, cx: &mut Context<'_>, state: &State) {
        let Some(drain) = self.drain else {
            return;
        };
        if state.is_draining() {
            return;
        }
        let registered = self.registered.as_ref();
        if !registered.is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.registered = Some(cx.waker().clone());
            if self.begun.as_mut().poll(cx).is_ready() {
                state.drain();
                return;
            }
        }
        if drain.has_begun() {
            state.drain();
        }
    }

    /// Returns true once, when the connection may end: not in the middle of a head, nor
    /// while the first one may be on its way.
    pub(super) fn ends(&mut self, state: &State) -> bool {
        if self.ends || !state.is_draining() {
            return false;
        }
        if state.is_in_head() || (state.is_unused() && state.hurry()) {
            return false;
        }
        self.ends = true;
        true
    }
}
