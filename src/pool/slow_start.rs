//! Slow start: how a backend that recovered comes back to its whole share.

use std::time::Duration;

use tokio::time::Instant;

use super::state::FULL;

/// One backend's way back.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    began: Instant,
    time: Duration,
    /// In thousandths.
    from: u32,
}

impl SlowStart {
    pub(super) fn new(began: Instant, time: Duration, from: u32) -> Self {
        Self { began, time, from }
    }

    /// Returns the share at this moment, in thousandths, and when the next step is due; `None`
    /// once it is whole.
    pub(super) fn at(&self, now: Instant) -> (u32, Option<Instant>) {
        let step = self.time / STEPS;
        let gone = now.saturating_duration_since(self.began).as_nanos();
        let done = gone.checked_div(step.as_nanos()).map_or(STEPS, |steps| {
            u32::try_from(steps).unwrap_or(STEPS).min(STEPS)
        });
        if done == STEPS {
            return (FULL, None);
        }
        let share = self.from + (FULL - self.from) * done / STEPS;
        (share, self.began.checked_add(step * (done + 1)))
    }
}

/// Coarse enough that a slow_start of 30 s changes the pool every 1.5 s, fine enough that no step is
/// more than 5 % of a whole share.
const STEPS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_ramp_of_thirty_seconds_climbs_from_a_tenth_in_twenty_steps() {
        let began = Instant::now();
        let slow_start = SlowStart::new(began, Duration::from_secs(30), 100);
        let at = |ms| slow_start.at(began + Duration::from_millis(ms));
        for (ms, share, next) in [
            (0, 100, Some(1_500)),
            (1_499, 100, Some(1_500)),
            (1_500, 145, Some(3_000)),
            (15_000, 550, Some(16_500)),
            (29_999, 955, Some(30_000)),
            (30_000, 1_000, None),
            (3_000_000, 1_000, None),
        ] {
            let next = next.map(|ms| began + Duration::from_millis(ms));
            assert_eq!(at(ms), (share, next), "after {ms} ms");
        }
        let none = SlowStart::new(began, Duration::ZERO, 100);
        assert_eq!(none.at(began), (1_000, None), "no time, no slow_start");
    }
}
