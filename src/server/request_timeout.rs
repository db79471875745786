//! The limit on the time of a request and its response, if there is one.
//!
//! Callers poll the service, and what else the connection can do, before this deadline: a response
//! that is ready at that moment is sent (tower's order; a time-out that is polled first throws a
//! ready response away).
//!
//! The end of the time is a point in time and not a running timer. The timer of the wheel may fire
//! early or belong to an earlier request of the same task, so the clock decides, and the timer only
//! wakes. Without a limit nothing reads the clock.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::timer::wheel::Timer;

/// The deadline of a request and its response.
///
/// It is polled by one task at a time. Dropping it leaves an entry in the wheel that wakes the task
/// once, for nothing.
#[derive(Debug)]
pub(super) struct RequestTimeout {
    until: Option<Instant>,
    timer: Timer,
}

impl RequestTimeout {
    /// Starts the time, if there is a limit.
    ///
    /// The time runs from this call, which is when the request head is complete.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            until: limit.map(|limit| Instant::now() + limit),
            timer: Timer::default(),
        }
    }

    /// Ready once the time is over; until then registers the task to be woken.
    #[inline]
    pub(super) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.until {
            Some(until) => self.poll_until(until, cx),
            None => Poll::Pending,
        }
    }

    /// Out of line: most servers have no limit, and their path is the comparison above.
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
