//! How traffic follows health: the settings that a user gives.

use std::time::Duration;

use super::Locality;
use crate::error::ConfigError;

/// How traffic follows health: overflow between tiers, preference for near localities, panic routing
/// and slow start. [`Pool::update_routing`](super::Pool::update_routing) takes it over.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, Pool, pool::{Locality, Routing}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let near = Backend::new("near", "http://10.0.0.1:80")?.locality(Locality::new("eu/1a")?);
/// let far = Backend::new("far", "http://10.1.0.1:80")?.locality(Locality::new("us/2b")?);
/// let pool = Pool::new([near, far])?;
/// pool.update_routing(
///     Routing::new()
///         .locality(Locality::new("eu/1a")?)
///         .slow_start(Duration::from_secs(10), 0.2)?,
/// );
/// let snapshot = pool.snapshot();
/// assert_eq!(snapshot.groups()[0].backends()[0].id(), "near");
/// assert_eq!(snapshot.shares(), [10_000, 0]);
/// # Ok(())
/// # }
/// ```
///
/// # Tiers
///
/// The *availability* of a tier is its usable weight over its configured weight, times the
/// overprovisioning factor, and at most 100 %. A degraded backend counts with its capacity; an
/// unhealthy, drained or evacuated one counts as not usable. Tier 0 gets its availability's percentage
/// of the traffic, tier 1 gets its own of the rest, and so on; if the availabilities of all tiers add
/// up to less than 100 %, the traffic is split in their proportion. With the default factor, a tier
/// with 72 % of its weight usable takes all traffic, and one with 50 % takes 70 %. Envoy distributes
/// traffic among priority levels in the same way.
///
/// # Localities
///
/// If the balancer has a [`locality`](Self::locality), each tier is split by distance: a backend that
/// shares more leading segments (region, zone, rack) with the balancer is nearer. The same rule then
/// decides within the tier: the nearest backends take all of its traffic as long as they are available
/// in full, and the traffic that they are too few for goes to the next distance.
#[derive(Clone, Debug)]
#[must_use]
pub struct Routing {
    pub(super) locality: Option<Locality>,
    /// In thousandths.
    pub(super) overprovisioning: u32,
    pub(super) panic: PanicRouting,
    pub(super) slow_start: Duration,
    /// The first share, in thousandths.
    pub(super) slow_start_from: u32,
    pub(super) slow_start_when_ready: bool,
}

impl Routing {
    /// Makes the default routing: all localities are equal, an overprovisioning factor of 1.4, fail
    /// fast, and a slow start of 30 s from 10 %.
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

    /// Sets the locality of the balancer itself, so that traffic stays near.
    ///
    /// Default: unknown; all localities are equal.
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = Some(locality);
        self
    }

    /// Sets how much more than its share a group of backends can take. Traffic overflows to the next
    /// tier or distance once the usable share is below the inverse: below 71.4 % with the default. A
    /// factor of 1.0 overflows with the first backend lost, one of 1,000 only when nearly none is left.
    ///
    /// Default: 1.4.
    ///
    /// # Errors
    ///
    /// Returns an error that names `overprovisioning` if the factor is below 1.0 or over 1,000.
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
    /// Returns an error that names `panic` if the share of [`PanicRouting::UseAll`] is not over 0.0 and
    /// at most 1.0.
    pub fn panic(mut self, panic: PanicRouting) -> Result<Self, ConfigError> {
        if let PanicRouting::UseAll { below } = panic
            && !(below > 0.0 && below <= 1.0)
        {
            return Err(ConfigError::new(
                "panic",
                format!("{below}: a share over 0.0 and at most 1.0 is accepted"),
            ));
        }
        self.panic = panic;
        Ok(self)
    }

    /// Sets how long the share of a backend that recovered takes to grow to its whole weight, and the
    /// first share, of 1.0. A time of zero switches slow start off.
    ///
    /// The share grows in twenty equal steps. Slow start begins when an unhealthy backend becomes
    /// healthy or is readmitted, and never at the first pass of a backend that was not checked before:
    /// at process start all backends are cold. It needs calls of
    /// [`Pool::tick`](super::Pool::tick), which the health layer makes. It changes the shares within a
    /// group only; for the overflow of a tier, a backend counts in full from the beginning.
    ///
    /// Default: 30 s from 0.1.
    ///
    /// # Errors
    ///
    /// Returns an error that names `slow_start` if the time is over an hour, or the share is not over
    /// 0.0 and at most 1.0.
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

    /// Applies slow start also when [`Pool::mark_ready`](super::Pool::mark_ready) ends a drain or
    /// maintenance, for backends that are restarted meanwhile.
    ///
    /// Default: off; such a backend gets its whole share at once.
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
    /// Only usable backends get traffic; if there is none, requests fail at once.
    #[default]
    FailFast,
    /// If less than this share of the measured weight is usable, the pool ignores health: every
    /// backend that is neither drained nor evacuated nor in maintenance gets traffic by its weight.
    /// This helps if checks are wrong, or if the few healthy backends would break down under the load
    /// of all. Clients then see the failures of backends that are really down, unless failover tries
    /// another one.
    UseAll {
        /// The share of weight below which health is ignored, over 0.0 and at most 1.0.
        below: f64,
    },
}

/// Converts a share to thousandths, from 1 to 1,000.
pub(super) fn thousandths(share: f64) -> u32 {
    ((share * 1_000.0).round() as u32).clamp(1, 1_000)
}

/// Envoy's factor, in thousandths: a group that lost up to 28 % of its weight carries its load alone.
const OVERPROVISIONING: u32 = 1_400;
/// Long enough for caches and connection pools to fill, short enough for a rolling restart.
const SLOW_START: Duration = Duration::from_secs(30);
/// In thousandths: enough traffic to fill caches, too little to overload a cold backend.
const SLOW_START_FROM: u32 = 100;
const LONGEST_SLOW_START: Duration = Duration::from_secs(3_600);
