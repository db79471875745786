//! One reading of the clock for what happens in one go.
//!
//! A reading costs about 28 ns, and a request's end is noted at several places within a
//! microsecond or two: the attempt's, the first byte's, the log's. Where an attempt begins and ends
//! is read anew, as deadlines and latencies count from it.

use std::cell::Cell;

use tokio::time::Instant;

/// Returns the time: within [`once`], of the last reading.
pub(crate) fn now() -> Instant {
    match READING.get() {
        Reading::At(now) => now,
        Reading::Each | Reading::Once => read(),
    }
}

/// Returns the time of a reading of its own: for what has to have an order.
pub(crate) fn read() -> Instant {
    let now = Instant::now();
    if !matches!(READING.get(), Reading::Each) {
        READING.set(Reading::At(now));
    }
    now
}

/// Lets [`now`] use a reading again on this thread, until the guard is dropped: for what runs
/// without a pause, as a poll does. One inside another changes nothing.
#[cfg(feature = "access-log")]
pub(crate) fn once() -> Once {
    let outer = matches!(READING.get(), Reading::Each);
    if outer {
        READING.set(Reading::Once);
    }
    Once { outer }
}

/// See [`once`].
#[cfg(feature = "access-log")]
pub(crate) struct Once {
    outer: bool,
}

#[cfg(feature = "access-log")]
impl Drop for Once {
    fn drop(&mut self) {
        if self.outer {
            READING.set(Reading::Each);
        }
    }
}

#[derive(Clone, Copy)]
enum Reading {
    At(Instant),
    Each,
    #[cfg_attr(
        not(feature = "access-log"),
        expect(dead_code, reason = "only the log groups what happens in one go")
    )]
    Once,
}

thread_local! {
    static READING: Cell<Reading> = const { Cell::new(Reading::Each) };
}

#[cfg(all(test, feature = "access-log"))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn within_one_go_the_clock_is_read_once_and_after_it_anew() {
        const STEP: Duration = Duration::from_secs(1);
        let before = now();
        tokio::time::advance(STEP).await;
        assert_eq!(now(), before + STEP, "outside, each reading is its own");
        let outer = once();
        tokio::time::advance(STEP).await;
        let first = now();
        assert_eq!(first, before + 2 * STEP, "the first reading is a fresh one");
        tokio::time::advance(STEP).await;
        drop(once());
        assert_eq!(now(), first, "one inside another ends nothing");
        assert_eq!(read(), before + 3 * STEP, "asked for, a reading is made");
        tokio::time::advance(STEP).await;
        assert_eq!(now(), before + 3 * STEP, "and used again");
        drop(outer);
        assert_eq!(now(), before + 4 * STEP);
    }
}
