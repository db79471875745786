//! When a connection that failed is made again. Pure: the caller passes the time.
//!
//! Waits double from 100 ms to 5 s, each multiplied by a random share from a half to one: a collector
//! that restarts would otherwise get the connections of all its senders in the same moment. A
//! connection that lasted for 10 s ends the series, so that a collector that closes connections now
//! and then is connected again at once, and one that accepts and closes at once is not.

use std::time::Duration;

use tokio::time::Instant;

/// The wait before the next connection.
///
/// It has no timer: the log's thread asks with each round, every 10 ms, whether it may connect.
#[derive(Debug, Default)]
pub(super) struct Retry {
    wait: Duration,
    /// No connection before this.
    not_before: Option<Instant>,
    connected: Option<Instant>,
}

impl Retry {
    /// Returns true if a connection may be made now.
    pub(super) fn may_connect(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    pub(super) fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// Records that the connection failed, or could not be made. `share`, from 0 to 1, spreads the
    /// waits of many instances, which lose one collector together.
    pub(super) fn failed(&mut self, now: Instant, share: f64) {
        let connected = self.connected.take();
        if connected.is_some_and(|at| now.saturating_duration_since(at) >= LASTING) {
            // It worked for a while: the peer was restarted, perhaps.
            *self = Self::default();
            return;
        }
        self.wait = (2 * self.wait).clamp(FIRST_WAIT, LAST_WAIT);
        self.not_before = Some(now + self.wait.mul_f64(0.5 + share / 2.0));
    }
}

/// A restart of a collector takes no less.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest time that a collector which is back waits for lines.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lasted for this was one to a collector that works.
const LASTING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_a_connection_that_lasted_ends_them() {
        let begin = Instant::now();
        let mut retry = Retry::default();
        assert!(retry.may_connect(begin));
        let mut now = begin;
        for wait in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            // The peer accepts and closes at once.
            retry.connected(now);
            retry.failed(now, 1.0);
            let wait = Duration::from_millis(wait);
            assert!(
                !retry.may_connect(now + wait - Duration::from_millis(1)),
                "{wait:?}"
            );
            now += wait;
            assert!(retry.may_connect(now), "{wait:?}");
        }
        retry.connected(now);
        now += LASTING;
        retry.failed(now, 1.0);
        assert!(retry.may_connect(now));
        retry.failed(now, 0.0);
        assert!(retry.may_connect(now + FIRST_WAIT / 2));
    }
}
