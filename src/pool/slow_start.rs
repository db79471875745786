//! Slow start: how the share of a backend that recovered grows back to its whole weight.
//!
//! A backend that comes back cold, with empty caches and no connections, would fail again under its
//! whole share at once. The share therefore grows in twenty equal steps, each of which is a snapshot
//! of the pool: the request path reads weights only, and knows nothing of slow start.

use std::time::Duration;

use tokio::time::Instant;

use super::{Backend, HealthStatus, control::Control, state::FULL};

/// The slow start of one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlowStart {
    began: Instant,
    time: Duration,
    /// The first share, in thousandths.
    from: u32,
}

impl SlowStart {
    pub(super) fn new(began: Instant, time: Duration, from: u32) -> Self {
        Self { began, time, from }
    }

    /// Returns the share at this moment, in thousandths, and when the next step is due; `None` once
    /// the share is whole.
    pub(super) fn at(&self, now: Instant) -> (u32, Option<Instant>) {
        let step = self.time / STEPS;
        let gone = now.saturating_duration_since(self.began).as_nanos();
        let done = gone.checked_div(step.as_nanos()).map_or(STEPS, |steps| {
            u32::try_from(steps).unwrap_or(STEPS).min(STEPS)
        });
        // Also for a time of zero, whose step divides by nothing.
        if done == STEPS {
            return (FULL, None);
        }
        let share = self.from + (FULL - self.from) * done / STEPS;
        (share, self.began.checked_add(step * (done + 1)))
    }
}

impl Control {
    /// Makes the steps that are due; returns true if a share changed.
    pub(super) fn advance_slow_starts(&mut self, now: Instant) -> bool {
        if self.slow_starts.is_empty() {
            self.next_slow_start_step = None;
        }
        if self.next_slow_start_step.is_none_or(|next| now < next) {
            return false;
        }
        let (mut next, mut changed) = (None, false);
        self.slow_starts.retain(|(backend, slow_start)| {
            let (share, due) = slow_start.at(now);
            if backend.state().slow_start_share() != share {
                backend.state().set_slow_start_share(share);
                changed = true;
            }
            next = [next, due].into_iter().flatten().min();
            due.is_some()
        });
        // A zone of 1,000 backends that comes back within a second would otherwise publish 20,000
        // snapshots of 1,000 members each: `many_slow_starts_cost_few_snapshots`. Shares depend on the
        // time, so that fewer steps are larger and the end is the same.
        let pause = STEP_PAUSE * u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        self.next_slow_start_step = next.map(|next: Instant| next.max(now + pause));
        changed
    }

    /// Begins a slow start if the member was unhealthy and is not any more; ends one if it is
    /// unhealthy.
    pub(super) fn update_slow_start(&mut self, member: &Backend, from: HealthStatus, now: Instant) {
        let to = member.health();
        if to == HealthStatus::Unhealthy {
            self.end_slow_start(member);
        } else if from == HealthStatus::Unhealthy {
            self.begin_slow_start(member, now);
        }
    }

    /// Begins again from the first share if one is under way: the backend failed in between.
    pub(super) fn begin_slow_start(&mut self, member: &Backend, now: Instant) {
        self.end_slow_start(member);
        // Without ticks it would never end.
        if !self.has_ticker {
            return;
        }
        let (time, from) = (self.routing.slow_start, self.routing.slow_start_from);
        let slow_start = SlowStart::new(now, time, from);
        if let (share, Some(due)) = slow_start.at(now) {
            member.state().set_slow_start_share(share);
            self.next_slow_start_step =
                Some(self.next_slow_start_step.map_or(due, |next| next.min(due)));
            self.slow_starts.push((member.clone(), slow_start));
        }
    }

    /// Ends all slow starts, because no caller ticks any more; returns true if there was one.
    pub(super) fn end_slow_starts(&mut self) -> bool {
        self.has_ticker = false;
        self.next_slow_start_step = None;
        let slow_starts = std::mem::take(&mut self.slow_starts);
        slow_starts
            .iter()
            .for_each(|(backend, _)| backend.state().set_slow_start_share(FULL));
        !slow_starts.is_empty()
    }

    fn end_slow_start(&mut self, member: &Backend) {
        self.slow_starts
            .retain(|(backend, _)| !backend.is_same(member));
        member.state().set_slow_start_share(FULL);
    }
}

/// The least time between two steps, for each member: a snapshot costs up to half a microsecond a
/// member, so that steps cost a twentieth of a core at most, however many slow starts overlap.
const STEP_PAUSE: Duration = Duration::from_micros(10);
/// Coarse enough that a slow start of 30 s changes the pool every 1.5 s, fine enough that no step is
/// more than 5 % of a whole share.
const STEPS: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_start_of_thirty_seconds_climbs_from_a_tenth_in_twenty_steps() {
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
