//! How traffic follows health: what a pool is told.

use std::time::Duration;

use super::Locality;
use crate::error::ConfigError;

/// How traffic follows health: whether it stays near, when it overflows, what happens when too
/// few backends are left, and how a backend that recovered is warmed up. Given to
/// [`Pool::update_routing`](super::Pool::update_routing).
///
/// # Tiers
///
/// Each tier's *availability* is its usable weight over its configured weight, times the
/// overprovisioning factor, 100 % at the most. A backend that is degraded counts by what it
/// offers; one that is down, drained or evacuated by nothing. The preferred tier gets as much of
/// the traffic as it is available, the next as much of the rest as it is, and so on; where all
/// of them together are not available in full, each gets its part. With the default factor a
/// tier of which 72 % are usable takes all, and one of which 50 % are takes 70 %.
///
/// # Localities
///
/// With a [`locality`](Self::locality) of its own, a balancer splits each tier by distance: the
/// more leading segments (region, zone, rack) a backend shares with the balancer, the nearer. The
/// same rule then decides within the tier: the nearest backends take all of its traffic as long
/// as they are available in full, and what they are too few for goes to the next distance.
#[derive(Clone, Debug)]
#[must_use]
pub struct Routing {
    pub(super) locality: Option<Locality>,
    /// In thousandths.
    pub(super) overprovisioning: u32,
    pub(super) panic: PanicRouting,
    pub(super) slow_start: Duration,
    /// In thousandths.
    pub(super) slow_start_from: u32,
    pub(super) slow_start_when_ready: bool,
}

impl Routing {
    /// Makes the default: all localities alike, a factor of 1.4, fail fast, 30 s of slow start.
    pub fn new() -> Self {
        Self {
            locality: None,
            overprovisioning: OVERPROVISIONING,
            panic: PanicRouting::FailFast,
            slow_start: SLOW_START,
            slow_start_from: SLOW_START_FROM,
            slow_start_when_ready: false,
        }
    }

    /// Sets where the balancer itself stands, so that traffic stays near.
    ///
    /// Default: unknown, and all localities alike.
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = Some(locality);
        self
    }

    /// Sets how much more than its share a group of backends can take: traffic overflows to the
    /// next tier or distance when the usable share is below the inverse. 1.0 overflows with the
    /// first backend lost; 1,000 only when (nearly) none is left.
    ///
    /// Default: 1.4.
    ///
    /// # Errors
    ///
    /// Below 1.0 or over 1,000.
    pub fn overprovisioning(mut self, factor: f64) -> Result<Self, ConfigError> {
        if !(1.0..=1_000.0).contains(&factor) {
            return Err(ConfigError::new(
                "overprovisioning",
                format!("{factor}: 1.0 to 1000 is accepted"),
            ));
        }
        self.overprovisioning = (factor * 1_000.0).round() as u32;
        Ok(self)
    }

    /// Sets what happens when too few backends are usable.
    ///
    /// Default: [`PanicRouting::FailFast`].
    ///
    /// # Errors
    ///
    /// When the share of [`PanicRouting::UseAll`] is not over 0.0 and at most 1.0.
    pub fn panic(mut self, panic: PanicRouting) -> Result<Self, ConfigError> {
        if let PanicRouting::UseAll { below } = panic {
            if !(below > 0.0 && below <= 1.0) {
                return Err(ConfigError::new(
                    "panic",
                    format!("{below}: a share over 0.0 and at most 1.0 is accepted"),
                ));
            }
        }
        self.panic = panic;
        Ok(self)
    }

    /// Sets how long a backend that recovered is warmed up, and from which share of its weight.
    /// Zero: not at all.
    ///
    /// The share grows in twenty equal steps. It begins when a backend that was unhealthy is
    /// healthy again, or is readmitted; never at the first pass of one that was not measured
    /// before. It needs somebody who calls [`Pool::tick`](super::Pool::tick), as the health
    /// layer does. Only the shares within a group change: a cold backend counts in full for the
    /// overflow of its tier.
    ///
    /// Default: 30 s from 0.1.
    ///
    /// # Errors
    ///
    /// When the time is over an hour, or the share not over 0.0 and at most 1.0.
    pub fn slow_start(mut self, time: Duration, from: f64) -> Result<Self, ConfigError> {
        if time > LONGEST_SLOW_START {
            return Err(ConfigError::new(
                "slow_start",
                format!("{time:?}: at most an hour is accepted"),
            ));
        }
        if !(from > 0.0 && from <= 1.0) {
            return Err(ConfigError::new(
                "slow_start",
                format!("from {from}: a share over 0.0 and at most 1.0 is accepted"),
            ));
        }
        self.slow_start = time;
        self.slow_start_from = thousandths(from);
        Ok(self)
    }

    /// Warms up a backend, too, whose drain or maintenance an operator undoes with
    /// [`Pool::mark_ready`](super::Pool::mark_ready): for those that were restarted meanwhile.
    ///
    /// Default: they get their whole share at once.
    pub fn slow_start_when_ready(mut self) -> Self {
        self.slow_start_when_ready = true;
        self
    }
}

impl Default for Routing {
    fn default() -> Self {
        Self::new()
    }
}

/// What happens when too few backends are usable.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum PanicRouting {
    /// Only usable backends get traffic; without any, requests fail at once.
    #[default]
    FailFast,
    /// When less than this share of the measured weight is usable, health is not believed: every
    /// backend that no operator drained, evacuated or put into maintenance gets traffic by its
    /// weight, as one that is wrongly said to be down serves better than none. What a backend
    /// that is down answers, clients see, unless failover tries another.
    UseAll {
        /// The share, over 0.0 and at most 1.0.
        below: f64,
    },
}

/// In thousandths of the whole, one at the least.
pub(super) fn thousandths(share: f64) -> u32 {
    ((share * 1_000.0).round() as u32).clamp(1, 1_000)
}

/// As Envoy's: a group that lost up to 28 % of its weight carries its load alone.
const OVERPROVISIONING: u32 = 1_400;
/// Long enough for caches and connection pools to fill, short enough for a rolling restart.
const SLOW_START: Duration = Duration::from_secs(30);
/// Enough traffic to warm up with, too little to be run over.
const SLOW_START_FROM: u32 = 100;
const LONGEST_SLOW_START: Duration = Duration::from_secs(3_600);
