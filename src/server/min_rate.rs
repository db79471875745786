//! The least rate of a client: how long the server waits for it, and how the transfer of bytes
//! extends that time.
//!
//! # Why a rate and not an idle time-out alone
//!
//! An idle time-out that each byte restarts lets a client hold a response, and the backend's place
//! that it occupies, for as long as it reads a byte a minute (Slowloris, slow read). A rate on each
//! second would cut clients behind a radio that is silent for ten seconds. So the client has a
//! credit:
//!
//! ```text
//!   credit (s)
//!   60 ┤─────╮                        ╭── a large piece fills it, never above 60
//!      │      ╲      ╭─╮  14,400 B    │
//!   30 ┤       ╲    ╱  ╰─ = 60 s      │
//!      │        ╲__╱                  │
//!    0 ┤─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴─ 0: too slow
//!       waits        waits
//! ```
//!
//! The credit falls with the clock while the server waits for the client and rises with the bytes
//! that move; it stands still while the server waits for the service. IIS and Kestrel have the same
//! default of 240 bytes a second. The unit tests list which rates last and which run out when.
//!
//! | use | budget | deadline |
//! |---|---|---|
//! | HTTP/1.1, response | [`RateBudget`] in `Stream` | that of the connection |
//! | HTTP/1.1, request body, but for the time of the response | [`RateTimer`] in `BodyRate` | a timer of the task that reads the body |
//! | HTTP/2, response of a stream | [`RateTimer`] in `stream` | a timer of the stream's task |
//! | HTTP/2, socket blocked | [`RateBudget`] in `IdlePolicy` | that of the connection |
//! | HTTP/2, request body | [`RateTimer`] in `RequestBody` | a timer of the task that reads the body |
//!
//! Times are those of the connection's coarse clock, which lags by up to 100 ms: a reading costs
//! one atomic load.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::state::{State, Timeouts};
use crate::{
    error::{Error, ErrorKind},
    timer::wheel::Timer,
};

/// The time that a client has left. It runs only while the server waits for the client. Each
/// [`Timeouts::min_rate`] bytes that are transferred add a second, up to the idle time-out.
///
/// 16 bytes of state and no deadline of its own: the caller arms one with what [`wait`](Self::wait)
/// returns.
#[derive(Clone, Copy, Debug)]
pub(super) struct RateBudget {
    /// Milliseconds.
    left: u32,
    /// When the wait began, in milliseconds; `NOT_WAITING` while the server does not wait.
    since: u64,
}

impl RateBudget {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            left: idle(timeouts),
            since: NOT_WAITING,
        }
    }

    /// False while the server does something else, such as waiting for the service.
    pub(super) fn is_waiting(&self) -> bool {
        self.since != NOT_WAITING
    }

    /// Begins or continues a wait for the client; returns the time that the client has left.
    ///
    /// Zero means that the client is too slow. Calls in the middle of a wait do not restart it.
    pub(super) fn wait(&mut self, now: u64) -> Duration {
        if !self.is_waiting() {
            self.since = now;
        }
        let waited = now.saturating_sub(self.since);
        Duration::from_millis(u64::from(self.left).saturating_sub(waited))
    }

    /// Ends the wait and adds the time for `bytes` transferred bytes.
    ///
    /// With a rate of 0, any number of bytes restores the whole credit. Earned time is cut to whole
    /// milliseconds: at 240 bytes a second one byte earns 4 ms, and a piece under a 1,000th of the
    /// rate earns nothing.
    ///
    /// A piece may come after the end of the credit and before the timer finds that. Up to a step of the
    /// clock is then a debt: otherwise a byte each 100 ms, which earns 4 ms, would be found in time for
    /// ever. More is none, as it would make a late, large piece worthless.
    pub(super) fn moved(&mut self, now: u64, bytes: usize, timeouts: Timeouts) {
        let since = if self.is_waiting() { self.since } else { now };
        let waited = now.saturating_sub(since);
        self.since = NOT_WAITING;
        let credit = u64::from(self.left);
        let left = credit.saturating_sub(waited);
        let debt = waited.saturating_sub(credit).min(MAX_DEBT_MS);
        let idle = idle(timeouts);
        let earned = match timeouts.min_rate {
            0 => u64::from(idle),
            rate => (bytes as u64).saturating_mul(1_000) / u64::from(rate),
        };
        let left = left.saturating_add(earned).saturating_sub(debt);
        self.left = u32::try_from(left).unwrap_or(idle).min(idle);
    }
}

/// Returns the idle time-out in milliseconds; it is at most an hour, see
/// [`Http::idle_timeout`](super::Http::idle_timeout).
fn idle(timeouts: Timeouts) -> u32 {
    u32::try_from(timeouts.idle.as_millis()).unwrap_or(u32::MAX)
}

/// The budget of one request or response, with the timer of the task that waits.
///
/// The timer is that of the task which polls; [`Timer`] registers again by itself if a body moves
/// to another task.
#[derive(Debug)]
pub(super) struct RateTimer {
    budget: RateBudget,
    timer: Timer,
}

impl RateTimer {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            budget: RateBudget::new(timeouts),
            timer: Timer::default(),
        }
    }

    /// Waits for the client. Ready when the client has used up its time.
    #[inline(never)]
    pub(super) fn poll(&mut self, cx: &Context<'_>, state: &State) -> Poll<()> {
        loop {
            let left = self.budget.wait(state.now());
            if left.is_zero() {
                return Poll::Ready(());
            }
            if !self.timer.is_armed() {
                // A shorter timer would fire before the coarse clock has moved, and be armed again
                // at once.
                self.timer.arm(left.max(CLOCK_STEP), cx);
            }
            // A timer may fire early.
            if self.timer.poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Returns the error of a client that has used up its time.
    ///
    /// Called once for each request at most; the text names both limits, since either can be the
    /// cause.
    #[cold]
    pub(super) fn too_slow(&self, state: &State) -> Error {
        let Timeouts { min_rate, idle, .. } = state.timeouts();
        let limits = format!("the limits are {min_rate} bytes a second and {idle:?} of silence");
        Error::new(ErrorKind::ClientBodyTimeout).with_source(limits)
    }

    /// Ends the wait and adds the time for `bytes` transferred bytes.
    ///
    /// A piece that came without a wait changes nothing.
    pub(super) fn moved(&mut self, bytes: usize, state: &State) {
        // A piece that did not have to be waited for earns nothing: the credit did not fall for it
        // either.
        if self.budget.is_waiting() {
            self.budget.moved(state.now(), bytes, state.timeouts());
        }
    }
}

const NOT_WAITING: u64 = u64::MAX;
/// The resolution of the clock that connections read.
const CLOCK_STEP: Duration = Duration::from_millis(100);
/// A step of the clock.
const MAX_DEBT_MS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        min_rate: 240,
        request: None,
    };

    /// Moves so many bytes each so many seconds; returns when the time is over, an hour at most.
    fn over(bytes: usize, every: u64, timeouts: Timeouts) -> Option<u64> {
        let mut budget = RateBudget::new(timeouts);
        for now in 0..3_600 {
            let time = 1_000 * now;
            if budget.wait(time).is_zero() {
                return Some(now);
            }
            if now > 0 && now % every == 0 {
                budget.moved(time, bytes, timeouts);
                budget.wait(time);
            }
        }
        None
    }

    #[test]
    fn a_client_below_the_rate_runs_out_of_time() {
        for (bytes, every, end) in [
            (0, 1, Some(60)),
            (1, 15, Some(61)),
            (120, 1, Some(119)),
            (239, 1, None),
            (240, 1, None),
            (14_400, 59, None),
            // A large piece pays for no more than the idle time-out.
            (1 << 30, 59, None),
            (1 << 30, 61, Some(60)),
        ] {
            let over = over(bytes, every, TIMEOUTS);
            assert_eq!(over, end, "{bytes} bytes each {every} s");
        }
    }

    #[test]
    fn a_byte_at_each_step_of_the_clock_is_too_little() {
        // 10, 200, 230, 240 and 250 bytes a second.
        for (bytes, ends) in [(1, true), (20, true), (23, true), (24, false), (25, false)] {
            let mut budget = RateBudget::new(TIMEOUTS);
            let steps = 0..36_000;
            // Each piece comes right before the timer would look.
            let ended = steps.map(|step| 100 * step).find(|now| {
                let is_over = budget.wait(*now).is_zero();
                budget.moved(now + 100, bytes, TIMEOUTS);
                is_over
            });
            assert_eq!(ended.is_some(), ends, "{bytes} bytes: {ended:?}");
        }
        // A large piece that comes after the end of the credit pays for itself.
        let mut budget = RateBudget::new(TIMEOUTS);
        budget.wait(0);
        budget.moved(60_150, 14_400, TIMEOUTS);
        assert_eq!(budget.wait(60_150), Duration::from_millis(59_900));
    }

    #[test]
    fn without_a_rate_each_byte_begins_the_time_anew() {
        let timeouts = Timeouts {
            min_rate: 0,
            ..TIMEOUTS
        };
        assert_eq!(over(1, 59, timeouts), None);
        assert_eq!(over(1, 61, timeouts), Some(60));
    }

    #[test]
    fn time_that_is_not_the_clients_does_not_count() {
        let mut budget = RateBudget::new(TIMEOUTS);
        let minute = 60_000;
        for nth in 0..60 {
            let now = nth * minute;
            assert!(budget.wait(now) > Duration::ZERO, "in minute {nth}");
            budget.moved(now + 1_000, 240, TIMEOUTS);
        }
    }
}
