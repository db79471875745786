//! Rates and sparklines, from counters that are read now and then.
//!
//! Pure: the caller reads the counters and the clock.
//!
//! Counters only grow; a rate is the difference of two readings over the time between them. Readings
//! are kept by incarnation, so that a backend which was removed and added again, and counts from zero,
//! has no negative rate.
//!
//! ```text
//! readings   t−11 s … t−10 s … t−1 s, t      at most 12, 0.9 s apart or more
//! window     from the oldest within 10 s to t
//! line       one point for each pair of readings, 60 at most; a gap of more than 5 s is `None`
//! ```
//!
//! A reading is made with each report (each second while there is a viewer, else for a page or its
//! JSON), and once when the service is made. A page that is opened later has a window of the whole
//! time since the reading before, and says so in `window_seconds`.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::stats::HistogramSnapshot;

/// What was counted of one backend until a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// `None` if no [`Stats`](crate::stats::Stats) is given.
    pub(super) traffic: Option<Traffic>,
    /// How long the last active check took.
    pub(super) check: Option<Duration>,
}

/// What only `Stats` counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) errors: u64,
    pub(super) duration: HistogramSnapshot,
}

/// What was counted of one backend, or of all, within the window.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) window: Duration,
    pub(super) requests: u64,
    pub(super) traffic: Option<Traffic>,
}

impl Rates {
    /// Returns the requests a second.
    pub(super) fn per_second(&self) -> f64 {
        match self.window.is_zero() {
            true => 0.0,
            false => self.requests as f64 / self.window.as_secs_f64(),
        }
    }

    /// Returns the share of errors; `None` if it is not known or nothing ended.
    pub(super) fn error_share(&self) -> Option<f64> {
        let traffic = self.traffic.as_ref()?;
        // Requests count at their beginning, errors at their end.
        let ended = traffic.duration.count().max(traffic.errors);
        (ended > 0).then(|| traffic.errors as f64 / ended as f64)
    }

    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        self.traffic.as_ref()?.duration.quantile(share)
    }

    /// Adds what was counted of another backend within the same window.
    pub(super) fn add(&mut self, other: &Self) {
        self.window = self.window.max(other.window);
        self.requests += other.requests;
        if let Some(more) = &other.traffic {
            let traffic = self.traffic.get_or_insert_default();
            traffic.errors += more.errors;
            traffic.duration.merge(&more.duration);
        }
    }
}

/// The latest readings of the counters.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The oldest first.
    readings: VecDeque<Reading>,
    /// A point for each interval between readings, by incarnation: milliseconds.
    lines: HashMap<u64, VecDeque<Option<f32>>>,
}

#[derive(Debug)]
struct Reading {
    at: Instant,
    /// By incarnation.
    counts: HashMap<u64, Counts>,
}

impl Samples {
    /// Returns true if enough time has passed for another reading.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let last = self.readings.back();
        last.is_none_or(|last| now.saturating_duration_since(last.at) >= LEAST_INTERVAL)
    }

    /// Adds a reading, and forgets what is no longer needed.
    pub(super) fn add(&mut self, now: Instant, counts: HashMap<u64, Counts>) {
        self.lines
            // A backend that left takes its line along.
            .retain(|incarnation, _| counts.contains_key(incarnation));
        let last = self.readings.back();
        let gap = last.is_some_and(|last| now.saturating_duration_since(last.at) > GAP);
        for (incarnation, counts) in &counts {
            let before = last.and_then(|last| last.counts.get(incarnation));
            let line = self.lines.entry(*incarnation).or_default();
            if gap {
                // Nothing is known of the time between: the line is interrupted.
                push(line, None);
            }
            push(line, point(before, counts));
        }
        self.readings.push_back(Reading { at: now, counts });
        while self.readings.len() > MOST_READINGS {
            self.readings.pop_front();
        }
    }

    /// Returns what was counted of a backend within the window: the last ten seconds, or the time since
    /// the reading before if that is longer ago.
    pub(super) fn rates(&self, incarnation: u64) -> Rates {
        let Some(last) = self.readings.back() else {
            return Rates::default();
        };
        let age = |reading: &&Reading| last.at.saturating_duration_since(reading.at);
        let earlier = self.readings.iter().rev().skip(1);
        let within = earlier.clone().take_while(|reading| age(reading) <= WINDOW);
        let Some(first) = within.last().or_else(|| earlier.clone().next()) else {
            return Rates::default();
        };
        // A backend that joined within the window has counted from zero.
        let before = first.counts.get(&incarnation).cloned().unwrap_or_default();
        let Some(now) = last.counts.get(&incarnation) else {
            return Rates::default();
        };
        Rates {
            window: age(&first),
            requests: now.requests.saturating_sub(before.requests),
            traffic: now.traffic.as_ref().map(|now| {
                let before = before.traffic.unwrap_or_default();
                Traffic {
                    errors: now.errors.saturating_sub(before.errors),
                    // Bucket by bucket: a histogram only grows.
                    duration: now.duration.since(&before.duration),
                }
            }),
        }
    }

    /// Returns the points of a backend's line in milliseconds, the oldest first.
    pub(super) fn line(&self, incarnation: u64) -> Vec<Option<f32>> {
        let line = self.lines.get(&incarnation);
        line.map(|line| line.iter().copied().collect())
            .unwrap_or_default()
    }
}

/// Returns the mean latency of the requests in between, or that of the last check if requests are not
/// measured.
fn point(before: Option<&Counts>, now: &Counts) -> Option<f32> {
    let Some(traffic) = &now.traffic else {
        return now.check.map(millis);
    };
    // The first reading of a backend has no mean: it would be that of its whole life.
    let before = before?.traffic.as_ref()?;
    let between = traffic.duration.since(&before.duration);
    let count = u32::try_from(between.count())
        .ok()
        .filter(|count| *count > 0)?;
    Some(millis(between.sum() / count))
}

fn push(line: &mut VecDeque<Option<f32>>, point: Option<f32>) {
    line.push_back(point);
    while line.len() > POINTS {
        line.pop_front();
    }
}

/// To a hundredth: less is noise.
fn millis(duration: Duration) -> f32 {
    (duration.as_secs_f32() * 100_000.0).round() / 100.0
}

/// Updates after a change come between the ticks, and are too close for a rate.
const LEAST_INTERVAL: Duration = Duration::from_millis(900);
/// Readings stop while there is no viewer.
const GAP: Duration = Duration::from_secs(5);
/// Smooths a few requests a second, and shows a change soon.
const WINDOW: Duration = Duration::from_secs(10);
/// Those of the window, and one before.
const MOST_READINGS: usize = 12;
/// A minute.
pub(super) const POINTS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(requests: u64) -> Counts {
        Counts {
            requests,
            ..Counts::default()
        }
    }

    fn fill(samples: &mut Samples, from: Instant, counts: impl IntoIterator<Item = (u64, Counts)>) {
        for (second, counts) in counts {
            let at = from + Duration::from_secs(second);
            assert!(samples.is_due(at));
            samples.add(at, HashMap::from([(1, counts)]));
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_ten_seconds() {
        let (mut samples, now) = (Samples::default(), Instant::now());
        assert_eq!(samples.rates(1).per_second(), 0.0);
        fill(&mut samples, now, [(0, requests(0))]);
        assert_eq!(samples.rates(1).per_second(), 0.0, "one reading is no rate");
        fill(&mut samples, now, [(1, requests(50))]);
        assert_eq!(samples.rates(1).per_second(), 50.0);
        fill(
            &mut samples,
            now,
            (2..40).map(|s| (s, requests(50 + (s - 1) * 10))),
        );
        assert_eq!(samples.rates(1).window, WINDOW);
        assert_eq!(samples.rates(1).per_second(), 10.0);
        assert!(samples.readings.len() <= MOST_READINGS);
        assert!(!samples.is_due(now + Duration::from_millis(39_500)));
    }

    #[test]
    fn after_a_pause_the_window_is_the_pause_and_the_line_is_interrupted() {
        let (mut samples, now) = (Samples::default(), Instant::now());
        let check = |millis| Counts {
            check: Some(Duration::from_millis(millis)),
            ..requests(millis * 60)
        };
        fill(&mut samples, now, [(0, check(1)), (60, check(2))]);
        assert_eq!(samples.rates(1).per_second(), 1.0);
        assert_eq!(samples.line(1), [Some(1.0), None, Some(2.0)]);
    }

    #[test]
    fn a_backend_that_joins_counts_from_zero_and_one_that_left_is_forgotten() {
        let (mut samples, now) = (Samples::default(), Instant::now());
        fill(&mut samples, now, [(0, requests(7))]);
        let both = HashMap::from([(1, requests(7)), (2, requests(4))]);
        samples.add(now + Duration::from_secs(1), both);
        assert_eq!(samples.rates(2).per_second(), 4.0);
        let other = HashMap::from([(2, requests(4))]);
        samples.add(now + Duration::from_secs(2), other);
        assert_eq!(samples.rates(1).requests, 0);
        assert!(samples.line(1).is_empty());
        assert!(!samples.lines.contains_key(&1));
    }
}
