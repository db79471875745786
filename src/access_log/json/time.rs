//! The time of a request: the wall clock's time of a moment of the monotonic clock, as RFC 3339.
//!
//! Formatting a date takes several divisions, and reading the wall clock a system call's worth of
//! time. Both happen once a second and thread: an [`Anchor`] holds the text of the current second, and
//! a request adds its milliseconds.
//!
//! The arrival of a request is a moment of the monotonic clock, which durations need. Its wall time is
//! the anchor's plus the difference, so that a line's time and its durations agree, and a step of the
//! wall clock cannot make a request end before it began.
//!
//! A moment may be older than the anchor: a request that waited began before the second that another
//! request of the thread has anchored. Such a time is computed with both clocks, which is rarer.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{cursor::Cursor, text::three_digits};
use crate::calendar;

/// A second of the wall clock as text, and a moment in that second. If the wall clock is set, lines
/// show it a second later at most.
///
/// One for each thread, so that no lock and no shared cache line is involved; two threads may differ
/// by what the wall clock was set in between.
#[derive(Clone, Copy)]
struct Anchor {
    at: Option<Instant>,
    /// The time at that moment, since 1970.
    second: u64,
    nanos: u32,
    text: Text,
}

/// A time up to the second.
type Text = [u8; 19];

impl Anchor {
    /// Returns the nanoseconds of a moment within the second; `None` if the moment is in another
    /// second.
    #[inline]
    fn nanos_at(&self, moment: Instant) -> Option<u32> {
        let since = moment.checked_duration_since(self.at?)?;
        let nanos = self.nanos + since.subsec_nanos();
        (since.as_secs() == 0 && nanos < NANOS).then_some(nanos)
    }
}

/// Returns the wall clock's time of a moment, since 1970.
pub(in crate::access_log) fn since_1970(moment: Instant) -> Duration {
    let anchor = ANCHOR.get();
    match anchor.nanos_at(moment) {
        Some(nanos) => Duration::new(anchor.second, nanos),
        None => read_clocks(moment),
    }
}

/// Sets the anchor to now, and returns the wall clock's time of a moment.
#[cold]
#[inline(never)]
fn read_clocks(moment: Instant) -> Duration {
    let now = Instant::now();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall = wall.unwrap_or_default();
    ANCHOR.set(Anchor {
        at: Some(now),
        second: wall.as_secs(),
        nanos: wall.subsec_nanos(),
        // Of the second of `now`: `moment` may be in an earlier one, which `time` then formats.
        text: format_second(wall.as_secs()),
    });
    wall.saturating_sub(now.saturating_duration_since(moment))
}

impl Cursor<'_> {
    /// Writes a moment: RFC 3339 in UTC with milliseconds.
    #[inline(always)]
    pub(super) fn moment(self, moment: Instant) -> Option<Self> {
        let anchor = ANCHOR.get();
        match anchor.nanos_at(moment) {
            Some(nanos) => self.date_and_time(&anchor.text, nanos),
            None => self.time(read_clocks(moment)),
        }
    }

    /// Writes a time since 1970.
    #[inline(never)]
    pub(super) fn time(self, since: Duration) -> Option<Self> {
        let (anchor, second) = (ANCHOR.get(), since.as_secs());
        let text = match anchor.second == second {
            true => anchor.text,
            false => format_second(second),
        };
        self.date_and_time(&text, since.subsec_nanos())
    }

    #[inline(always)]
    fn date_and_time(self, text: &Text, nanos: u32) -> Option<Self> {
        let [a, b, c] = three_digits(nanos / 1_000_000);
        self.put(text)?.put_each([b'.', a, b, c, b'Z'])
    }
}

fn format_second(second: u64) -> Text {
    let (days, rest) = (second / 86_400, second % 86_400);
    let (year, month, day) = calendar::date(days);
    let mut text = NO_SECOND;
    let mut put = |at: usize, width: usize, mut value: u64| {
        for i in (at..at + width).rev() {
            // The remainder is below ten.
            text[i] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, rest / 3_600);
    put(14, 2, rest / 60 % 60);
    put(17, 2, rest % 60);
    text
}

thread_local! {
    static ANCHOR: Cell<Anchor> = const {
        Cell::new(Anchor { at: None, second: u64::MAX, nanos: 0, text: NO_SECOND })
    };
}

const NO_SECOND: Text = *b"0000-00-00T00:00:00";
/// Nanoseconds in a second.
const NANOS: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::json::Buffer;

    fn written(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> String {
        String::from_utf8(Buffer::of(write).written().to_vec()).unwrap()
    }

    #[test]
    fn times_are_rfc_3339() {
        for (second, wanted) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_164_799, "2024-02-28T23:59:59"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let since = Duration::new(second, 7_999_999);
            let wanted = format!("{wanted}.007Z");
            assert_eq!(written(|cursor| cursor.time(since)), wanted);
        }
    }

    #[test]
    fn an_anchor_holds_for_the_rest_of_its_second() {
        let at = Instant::now() + Duration::from_secs(1);
        let anchor = Anchor {
            at: Some(at),
            second: 5,
            nanos: NANOS - 1_000,
            text: format_second(5),
        };
        for (later, nanos) in [
            (0, Some(NANOS - 1_000)),
            (999, Some(NANOS - 1)),
            (1_000, None),
            (1_000_000_000, None),
            (1_000_000_001, None),
        ] {
            let moment = at + Duration::from_nanos(later);
            assert_eq!(anchor.nanos_at(moment), nanos, "{later}");
        }
        assert_eq!(anchor.nanos_at(at - Duration::from_nanos(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_written_as_its_time() {
        for millis in [0, 1, 400, 999, 1, 3_000, 1_000, 600, 600] {
            tokio::time::advance(Duration::from_millis(millis)).await;
            let moment = Instant::now();
            let since = since_1970(moment);
            let wanted = written(|cursor| cursor.time(since));
            assert_eq!(written(|cursor| cursor.moment(moment)), wanted, "{millis}");
        }
    }
}
