//! The end of a request's whole time, where there is one.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::timer::wheel::Timer;

/// How long a request and its response may take in all.
#[derive(Debug)]
pub(super) struct RequestTimeout {
    until: Option<Instant>,
    timer: Timer,
}

impl RequestTimeout {
    /// Begins the time, if there is a limit.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            until: limit.map(|limit| Instant::now() + limit),
            timer: Timer::default(),
        }
    }

    /// Is ready once the time is over; registers the task to be woken then.
    #[inline]
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.until {
            Some(until) => self.poll_until(until, cx),
            None => Poll::Pending,
        }
    }

    #[inline(never)]
    fn poll_until(&mut self, until: Instant, cx: &Context<'_>) -> Poll<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            if !self.timer.is_armed() {
                self.timer.arm(left, cx);
            }
            // A timer may fire early.
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
