//! Moments as text: RFC 3339 for programs, and how long ago for people.
//!
//! The pool keeps moments of the monotonic clock, which a step of the wall clock cannot reorder. They
//! become text here, by one reading of both clocks for a whole report: two rows of one page cannot
//! contradict each other by the time that it took to write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::calendar::date;

/// One reading of both clocks, so that all moments of a report fit together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) now: Instant,
    wall: Duration,
}

impl Clocks {
    pub(super) fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            now: Instant::now(),
            wall: wall.unwrap_or_default(),
        }
    }

    pub(super) fn present(&self) -> Moment {
        self.moment(self.now)
    }

    /// Returns the moment of a time of the system clock; 1970 for one before it.
    pub(super) fn wall_moment(&self, time: SystemTime) -> Moment {
        let wall = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment {
            wall,
            ago: self.wall.saturating_sub(wall),
            ahead: wall.saturating_sub(self.wall),
        }
    }

    /// Converts the moment to a time of the system clock, by the difference between the two clocks now.
    pub(super) fn moment(&self, at: Instant) -> Moment {
        let wall = match at.checked_duration_since(self.now) {
            // A deadline of a drain is ahead; all other moments are past.
            Some(ahead) => self.wall.saturating_add(ahead),
            None => self
                .wall
                .saturating_sub(self.now.saturating_duration_since(at)),
        };
        Moment {
            wall,
            ago: self.now.saturating_duration_since(at),
            ahead: at.saturating_duration_since(self.now),
        }
    }
}

/// A moment, as a distance from the time of the report and as a time of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    wall: Duration,
    pub(super) ago: Duration,
    pub(super) ahead: Duration,
}

impl Moment {
    /// Returns the time in UTC with milliseconds (RFC 3339).
    pub(super) fn rfc3339(&self) -> String {
        let seconds = self.wall.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
        let (second, millis) = (seconds % 60, self.wall.subsec_millis());
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }

    /// Returns the time of day in UTC.
    pub(super) fn time_of_day(&self) -> String {
        let seconds = self.wall.as_secs();
        let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
        format!("{hour:02}:{minute:02}:{:02}", seconds % 60)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ] {
            let moment = Moment {
                wall: Duration::from_millis(millis),
                ago: Duration::ZERO,
                ahead: Duration::ZERO,
            };
            assert_eq!(moment.rfc3339(), text);
            assert_eq!(moment.time_of_day(), text[11..19]);
        }
    }

    #[test]
    fn past_and_future_are_measured_from_the_report() {
        let clocks = Clocks::read();
        let minute = Duration::from_secs(60);
        let (past, future) = (clocks.now - minute, clocks.now + minute);
        let (past, future) = (clocks.moment(past), clocks.moment(future));
        assert_eq!((past.ago, past.ahead), (minute, Duration::ZERO));
        assert_eq!((future.ago, future.ahead), (Duration::ZERO, minute));
        assert_eq!(future.wall - past.wall, 2 * minute);
    }
}
