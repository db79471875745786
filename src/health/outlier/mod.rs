//! Outlier detection: what a user configures.
//!
//! ```text
//!   end of an attempt ─▶ evidence ─▶ record (one for each backend and layer)
//!                                     ├ history:        failures in a row ≥ 5          ─┐
//!                                     ├ failure_window: share of failures, 10 s         ├─▶ Pool::eject
//!                                     ├ (response field): asks for it                   │   (refused: last
//!                                     └ latency_window: median, compared by the prober ─┘    usable, share)
//! ```
//!
//! Everything here is written by requests on any thread, so the counters are atomics, and a lock is
//! taken only when a backend may be ejected.
//!
//! One backend may always be ejected, whatever the share: with Envoy's 10 %, a pool of fewer than
//! ten never ejects one (envoyproxy/gateway#8140).

mod evidence;
mod failure_window;
mod history;
mod latency_window;
mod record;

use std::{ops::RangeInclusive, time::Duration};

pub(super) use self::{
    evidence::{
        Evidence, asks_for_ejection, ejection_requested, judge_error, judge_status, lost_to_hedge,
        remove_ejection_fields,
    },
    latency_window::{MeasuredLatency, slow_backends},
    record::OutlierRecord,
};
use self::{
    failure_window::{BUCKETS, FailureWindow},
    history::{EjectionHistory, Streak},
    latency_window::LatencyWindow,
};
use crate::error::ConfigError;

/// Settings of outlier detection: when live traffic takes a backend out, and for how long.
///
/// A backend is ejected for failures in a row; for a share of failures within a window; if
/// [`slower_than`](Self::slower_than) is set, for being far slower than the others; and for a response
/// with `x-evenkeel-health: fail` or `x-envoy-immediate-health-check-fail`.
///
/// The setters take any value. [`HealthLayer::outliers`](super::HealthLayer::outliers) checks them,
/// and refuses one that is out of its range.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, Pool, health::{HealthLayer, Outliers}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// // Slow to judge, and quick to try again.
/// let outliers = Outliers::new()
///     .consecutive(10)
///     .failure_rate(0.8)
///     .ejection(Duration::from_secs(10), Duration::from_secs(60));
/// assert!(HealthLayer::new(pool.clone()).outliers(outliers.clone()).is_ok());
///
/// let wrong = HealthLayer::new(pool).outliers(outliers.failure_rate(0.0));
/// assert_eq!(wrong.unwrap_err().field(), "outliers.failure_rate");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Outliers {
    pub(super) consecutive: u32,
    /// Of the requests within the window.
    pub(super) rate: Option<f64>,
    /// Times the pool's median.
    pub(super) slow: Option<f64>,
    pub(super) window: Duration,
    pub(super) volume: u32,
    pub(super) statuses: Vec<RangeInclusive<u16>>,
    pub(super) immediate: bool,
    pub(super) ejection: Duration,
    pub(super) max_ejection: Duration,
    pub(super) jitter: f64,
    pub(super) max_share: f64,
}

impl Outliers {
    /// Makes the default rules.
    pub fn new() -> Self {
        Self {
            consecutive: CONSECUTIVE,
            rate: Some(RATE),
            slow: None,
            window: WINDOW,
            volume: VOLUME,
            statuses: vec![502..=504],
            immediate: true,
            ejection: EJECTION,
            max_ejection: MAX_EJECTION,
            jitter: JITTER,
            max_share: MAX_SHARE,
        }
    }

    /// Sets how many failures in a row take a backend out. A low number also ejects backends
    /// by chance.
    ///
    /// Default: 5.
    pub fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// Takes a backend out that fails this share of its requests within the
    /// [`window`](Self::window), from its first failure there on, and had a
    /// [`volume`](Self::volume) of them. A response body that breaks off counts here, too.
    ///
    /// Default: 0.5. Accepted: above 0.0, up to 1.0.
    pub fn failure_rate(mut self, share: f64) -> Self {
        self.rate = Some(share);
        self
    }

    /// Leaves the share of failures unjudged: failures in a row alone count.
    pub fn no_failure_rate(mut self) -> Self {
        self.rate = None;
        self
    }

    /// Sets the time that shares and latencies are counted over.
    ///
    /// Default: 10 s. Accepted: 1 s to 1 h.
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// Sets how many requests there must be within the [`window`](Self::window) for a share or a
    /// median to count.
    ///
    /// Default: 20. Accepted: 1 or more.
    pub fn volume(mut self, requests: u32) -> Self {
        self.volume = requests;
        self
    }

    /// Takes a backend out whose median time to the response head, over a
    /// [`window`](Self::window) with a [`volume`](Self::volume) of requests, is more than this many
    /// times the median of such backends, and 5 ms above it. It needs three of them. Judged once a window.
    ///
    /// Off by default: where requests differ in kind, such as under consistent hashing or sticky
    /// sessions, a slow one may be of the request, not of the backend. Costs two readings of the
    /// clock a request.
    ///
    /// Default: off. Accepted: 1.5 to 1,000.
    pub fn slower_than(mut self, factor: f64) -> Self {
        self.slow = Some(factor);
        self
    }

    /// Sets which statuses are failures of the backend, in place of those before. 500 may be what
    /// one bad request brings about on any backend.
    ///
    /// Default: 502 to 504, which gateways say of what is behind them.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// Sets whether each status from 500 to 599 is a failure of the backend, or 502 to 504 alone;
    /// in place of [`statuses`](Self::statuses) before.
    ///
    /// Default: 502 to 504 alone.
    pub fn server_errors(self, count: bool) -> Self {
        self.statuses([if count { 500..=599 } else { 502..=504 }])
    }

    /// Sets whether a response may take its backend out at once: with the field
    /// `x-evenkeel-health: fail` or `x-envoy-immediate-health-check-fail`. The field is not passed
    /// on. [`max_share`](Self::max_share) does not matter then; the last usable backend stays.
    ///
    /// Default: true.
    pub fn immediate_fail(mut self, honoured: bool) -> Self {
        self.immediate = honoured;
        self
    }

    /// Sets how long the first ejection lasts; the nth in short order lasts n times as long, up
    /// to `most`. After it the backend is tried by one request at a time, for as long as the
    /// first: a success readmits it, a failure is the next ejection; where no request fit for it
    /// comes by, time does.
    ///
    /// Default: 30 s, and 300 s at most.
    pub fn ejection(mut self, first: Duration, most: Duration) -> Self {
        self.ejection = first;
        self.max_ejection = most;
        self
    }

    /// Sets how much longer than that an ejection lasts, at most, as a share of it: so that many
    /// balancers do not try a backend at the same moment.
    ///
    /// Default: 0.1. Accepted: 0.0 to 1.0.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Sets the share of the pool that may be out so at a time (0.0 to 1.0). One backend always
    /// may, and the last usable one never is.
    ///
    /// Default: 0.5.
    pub fn max_share(mut self, share: f64) -> Self {
        self.max_share = share;
        self
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let bad = |field, message: String| Err(ConfigError::new(field, message));
        if self.consecutive == 0 {
            return bad("outliers.consecutive", "0: 1 or more is accepted".into());
        }
        let fits = |share: &f64| *share > 0.0 && *share <= 1.0;
        if let Some(share) = self.rate.filter(|share| !fits(share)) {
            return bad(
                "outliers.failure_rate",
                format!("{share}: above 0.0, up to 1.0 is accepted"),
            );
        }
        if self.volume == 0 {
            return bad("outliers.volume", "0: 1 or more is accepted".into());
        }
        if !(SHORTEST_WINDOW..=LONGEST_WINDOW).contains(&self.window) {
            return bad(
                "outliers.window",
                format!("{:?}: 1 s to 1 h is accepted", self.window),
            );
        }
        // Below 1.5, the buckets of the histogram would decide.
        let factors = 1.5..=1_000.0;
        if let Some(factor) = self.slow.filter(|factor| !factors.contains(factor)) {
            return bad(
                "outliers.slower_than",
                format!("{factor}: 1.5 to 1000 is accepted"),
            );
        }
        // Below 300 there are no failures; judge_status relies on it.
        let fits = |r: &RangeInclusive<u16>| !r.is_empty() && *r.start() >= 300 && *r.end() <= 599;
        if !self.statuses.iter().all(fits) {
            return bad(
                "outliers.statuses",
                format!("{:?}: ranges within 300 to 599 are accepted", self.statuses),
            );
        }
        self.validate_ejection()
    }

    fn validate_ejection(&self) -> Result<(), ConfigError> {
        let bad = |field, message: String| Err(ConfigError::new(field, message));
        if self.ejection.is_zero() || self.ejection > self.max_ejection {
            return bad(
                "outliers.ejection",
                format!(
                    "{:?} to {:?}: more than 0, and no more than the longest, is accepted",
                    self.ejection, self.max_ejection
                ),
            );
        }
        for (field, share) in [
            ("outliers.jitter", self.jitter),
            ("outliers.max_share", self.max_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return bad(field, format!("{share}: 0.0 to 1.0 is accepted"));
            }
        }
        Ok(())
    }
}

impl Default for Outliers {
    fn default() -> Self {
        Self::new()
    }
}

/// Chance alone hardly ever fails five times in a row: at 10 %, once in 100,000 requests.
pub(super) const CONSECUTIVE: u32 = 5;
/// A backend that fails every other request is of no use …
pub(super) const RATE: f64 = 0.5;
/// … and of 20, that many do not fail by chance: at 10 %, once in 100,000 times.
pub(super) const VOLUME: u32 = 20;
/// Envoy's interval: long enough for a volume, short enough to forget.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Long enough for a restart.
pub(crate) const EJECTION: Duration = Duration::from_secs(30);
/// A backend that got well is not forgotten.
pub(crate) const MAX_EJECTION: Duration = Duration::from_secs(300);
/// Enough to drift apart.
pub(super) const JITTER: f64 = 0.1;
/// Beyond that, what fails is likelier to be what all have in common.
pub(super) const MAX_SHARE: f64 = 0.5;
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_refused_with_the_field_name() {
        let new = Outliers::new;
        let bad = [
            (new().consecutive(0), "outliers.consecutive"),
            (new().failure_rate(0.0), "outliers.failure_rate"),
            (new().failure_rate(1.1), "outliers.failure_rate"),
            (new().failure_rate(f64::NAN), "outliers.failure_rate"),
            (new().volume(0), "outliers.volume"),
            (new().window(Duration::ZERO), "outliers.window"),
            (new().slower_than(1.0), "outliers.slower_than"),
            (new().slower_than(f64::NAN), "outliers.slower_than"),
            (new().statuses([200..=200]), "outliers.statuses"),
            (new().statuses([500..=600]), "outliers.statuses"),
            (
                new().ejection(Duration::ZERO, EJECTION),
                "outliers.ejection",
            ),
            (new().ejection(MAX_EJECTION, EJECTION), "outliers.ejection"),
            (new().jitter(-0.1), "outliers.jitter"),
            (new().max_share(1.5), "outliers.max_share"),
            (new().max_share(f64::NAN), "outliers.max_share"),
        ];
        for (outliers, field) in bad {
            assert_eq!(outliers.validate().unwrap_err().field(), field);
        }
        assert_eq!(new().validate(), Ok(()));
        let strict = new().server_errors(true).slower_than(3.0);
        assert_eq!(strict.validate(), Ok(()));
    }
}
