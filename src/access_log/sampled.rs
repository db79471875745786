//! [`Sampled`]: a share of the lines, with all failures and slow requests among them.
//!
//! The choice falls at the end, not at the beginning: a failure and a slow request must be kept, and
//! both are known only then. The price is that the opening is written for lines that are thrown away.
//! A choice by a hash of the trace would keep the same requests on all hops; `sample_rate` in the line
//! makes sums right either way.

use std::time::Duration;

use super::{Closing, Entry, Opening, Sink};
use crate::error::ConfigError;

/// Passes a random share of the lines on to a sink, and each line of a request that failed or was
/// slow.
///
/// A line is always kept
///
/// * if its outcome is not `ok`,
/// * if its status is 500 or more, or, [by choice](Self::client_errors), 400 or more,
/// * if the request took as long as [`slow`](Self::slow) says, or longer.
///
/// Of the others a share is kept at random: the [`ratio`](Self::ratio). Such a line carries the
/// ratio in `sample_rate`; a line without the field was certain to be kept. So the sum of
/// `1 / sample_rate` over the lines, with 1 for a line without it, estimates the number of requests.
///
/// A line that is not kept costs what the inner sink needs when a request arrives: for
/// [`Lines`](super::Lines), about half of a line.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::access_log::{AccessLogLayer, Lines, Sampled};
///
/// # fn main() -> Result<(), evenkeel::BoxError> {
/// let sampled = Sampled::new(Lines::stdout()?)
///     .ratio(0.01)?
///     .slow(Duration::from_millis(500));
/// let layer = AccessLogLayer::new(sampled);
/// # drop(layer);
/// # Ok(())
/// # }
/// ```
///
/// # Defaults
///
/// | what | default |
/// |---|---|
/// | ratio | 1: all lines |
/// | slow | 1 s |
/// | client errors | sampled as others are |
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Sampled<S> {
    inner: S,
    rule: Rule,
}

impl<S: Sink> Sampled<S> {
    /// Passes lines on to this sink.
    pub fn new(sink: S) -> Self {
        Self {
            inner: sink,
            rule: Rule {
                ratio: 1.0,
                slow: SLOW,
                client_errors: false,
            },
        }
    }

    /// Sets the share of the lines of usual requests that is kept.
    ///
    /// Default: 1.
    ///
    /// # Errors
    ///
    /// Unless it is from 0 to 1.
    pub fn ratio(mut self, ratio: f64) -> Result<Self, ConfigError> {
        if !(0.0..=1.0).contains(&ratio) {
            let message = format!("{ratio} is not from 0 to 1");
            return Err(ConfigError::new("ratio", message));
        }
        self.rule.ratio = ratio;
        Ok(self)
    }

    /// Keeps the line of each request that took this long or longer.
    ///
    /// Default: 1 s.
    pub fn slow(mut self, slow: Duration) -> Self {
        self.rule.slow = slow;
        self
    }

    /// Passes the lines of the same choice on to another sink.
    pub fn with_sink<T: Sink>(self, sink: T) -> Sampled<T> {
        Sampled {
            inner: sink,
            rule: self.rule,
        }
    }

    /// Keeps the line of each request with a status of 400 to 499, too. Clients decide how many
    /// these are.
    ///
    /// Default: off.
    pub fn client_errors(mut self, on: bool) -> Self {
        self.rule.client_errors = on;
        self
    }
}

impl<S: Sink> Sink for Sampled<S> {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn open(&self, opening: &mut Opening<'_>) {
        // At every request: whether its line is kept is not known yet.
        self.inner.open(opening);
    }

    fn close(&self, closing: &Closing<'_>) {
        let end = &closing.end;
        match self
            .rule
            .decide(end.outcome, end.status, end.duration, fastrand::f64)
        {
            // Without a rate: the reader counts this line once.
            Kept::Certainly => self.inner.close(closing),
            Kept::ByChance => self.inner.close(&closing.with_sample_rate(self.rule.ratio)),
            Kept::Not => {}
        }
    }

    fn record(&self, entry: &Entry<'_>) {
        let (outcome, status) = (entry.outcome, entry.status);
        match self
            .rule
            .decide(outcome, status, entry.duration, fastrand::f64)
        {
            Kept::Certainly => self.inner.record(entry),
            Kept::ByChance => self.inner.record(&Entry {
                sample_rate: Some(self.rule.ratio),
                ..entry.clone()
            }),
            Kept::Not => {}
        }
    }
}

/// Which lines are kept. Pure, but for what `draw` returns.
#[derive(Clone, Copy, Debug)]
struct Rule {
    ratio: f64,
    slow: Duration,
    client_errors: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Certainly,
    ByChance,
    Not,
}

impl Rule {
    /// `draw` returns a number from 0 to 1, without 1.
    ///
    /// The order of the tests does not matter for the result; `draw` comes last, so that a log with a
    /// ratio of 1 draws nothing.
    fn decide(
        &self,
        outcome: &str,
        status: Option<u16>,
        duration: Duration,
        draw: impl FnOnce() -> f64,
    ) -> Kept {
        let failed = match status {
            Some(500..) => true,
            Some(400..) => self.client_errors,
            _ => false,
        };
        if failed || outcome != "ok" || duration >= self.slow || self.ratio >= 1.0 {
            return Kept::Certainly;
        }
        match draw() < self.ratio {
            true => Kept::ByChance,
            false => Kept::Not,
        }
    }
}

/// Longer than nearly every request that works as it should.
const SLOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(ratio: f64) -> Rule {
        let sampled = Sampled::new(crate::access_log::TracingSink::new());
        sampled.ratio(ratio).unwrap().rule
    }

    #[test]
    fn the_documented_defaults_and_ranges_are_those_of_the_code() {
        let sampled = Sampled::new(crate::access_log::TracingSink::new());
        let Rule {
            ratio,
            slow,
            client_errors,
        } = sampled.rule;
        assert_eq!((ratio, slow.as_secs(), client_errors), (1.0, 1, false));
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(sampled.ratio(ratio).is_err(), "{ratio}");
        }
        assert!(sampled.ratio(0.0).is_ok() && sampled.ratio(1.0).is_ok());
    }

    proptest! {
        #[test]
        fn failures_and_slow_requests_are_kept_and_others_by_the_draw(
            ratio in 0.0..=1.0,
            outcome in prop::sample::select(vec!["ok", "connect", "client_abort", "timeout"]),
            status in prop::option::of(100_u16..600),
            millis in 0_u64..2_000,
            client_errors: bool,
            draw in 0.0..1.0,
        ) {
            let rule = Rule { client_errors, ..rule(ratio) };
            let duration = Duration::from_millis(millis);
            let kept = rule.decide(outcome, status, duration, || draw);
            let is_error = status.is_some_and(|s| s >= if client_errors { 400 } else { 500 });
            let wanted = match outcome != "ok" || is_error || millis >= 1_000 || ratio == 1.0 {
                true => Kept::Certainly,
                false if draw < ratio => Kept::ByChance,
                false => Kept::Not,
            };
            prop_assert_eq!(kept, wanted);
        }

        #[test]
        fn the_rates_of_the_kept_lines_restore_the_count(ratio in 0.05_f64..1.0, seed: u64) {
            let rule = rule(ratio);
            let mut random = fastrand::Rng::with_seed(seed);
            let count = 20_000;
            let mut estimate = 0.0;
            for number in 0..count {
                let status = if number % 10 == 0 { 503 } else { 200 };
                match rule.decide("ok", Some(status), Duration::ZERO, || random.f64()) {
                    Kept::Certainly => estimate += 1.0,
                    Kept::ByChance => estimate += 1.0 / ratio,
                    Kept::Not => {}
                }
            }
            // Six standard deviations.
            let deviation = (0.9 * f64::from(count) * (1.0 - ratio) / ratio).sqrt();
            prop_assert!((estimate - f64::from(count)).abs() <= 6.0 * deviation + 1e-6);
        }
    }
}
