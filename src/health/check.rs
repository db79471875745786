//! The `HealthCheck` trait, and `Checks`: when checks are made.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{CheckReport, HttpCheck, transition::Rules};
use crate::{error::ConfigError, pool::Backend};

/// A check that finds out whether a backend serves.
///
/// [`HttpCheck`] and [`TcpCheck`](super::TcpCheck) are here; a check of your own asks whatever
/// proves that requests would be answered. Not on the request path: the future may be boxed.
///
/// ```
/// use evenkeel::health::{CheckFuture, HealthCheck, CheckReport, Target};
///
/// #[derive(Debug)]
/// struct HasRoom;
///
/// impl HealthCheck for HasRoom {
///     fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
///         Box::pin(async move {
///             match target.backend().in_flight() {
///                 0..1_000 => CheckReport::pass("L7OK", "has room"),
///                 _ => CheckReport::fail("L7RSP", "is full"),
///             }
///         })
///     }
/// }
/// ```
pub trait HealthCheck: fmt::Debug + Send + Sync {
    /// Checks a backend once.
    ///
    /// The future is dropped at the [`deadline`](Target::deadline), which counts as a failure,
    /// and when the backend leaves the pool, which counts as nothing.
    fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a>;
}

/// One check under way.
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = CheckReport> + Send + 'a>>;

/// What to check, and until when.
#[derive(Clone, Debug)]
pub struct Target {
    backend: Backend,
    deadline: Instant,
}

impl Target {
    /// Names a backend and when the check has to be over.
    #[must_use]
    pub fn new(backend: Backend, deadline: Instant) -> Self {
        Self { backend, deadline }
    }

    /// Returns the backend.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Returns when the check has to be over.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Which check is made, how often, and how many results make a state.
///
/// The setters take any value. [`HealthLayer::checks`](super::HealthLayer::checks) and
/// [`Prober::start`](super::Prober::start) check all of them together, and refuse one that is out of
/// its range or does not go with another.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::{Backend, Pool, health::{Checks, HealthLayer, TcpCheck}};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let checks = Checks::new()
///     .with_check(TcpCheck::new())
///     .interval(Duration::from_secs(2))
///     .timeout(Duration::from_secs(1))
///     .fall(3);
/// assert!(HealthLayer::new(pool.clone()).checks(checks.clone()).is_ok());
///
/// // A check must be over before the next one begins.
/// let wrong = HealthLayer::new(pool).checks(checks.timeout(Duration::from_secs(2)));
/// assert_eq!(wrong.unwrap_err().field(), "health.timeout");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Checks {
    pub(super) check: Arc<dyn HealthCheck>,
    pub(super) timeout: Duration,
    pub(super) jitter: f64,
    pub(super) concurrency: usize,
    rise: u32,
    fall: u32,
    interval: Duration,
    changing: Duration,
    /// As the interval where absent.
    down: Option<Duration>,
    pub(super) shared_failure: Option<f64>,
}

impl Checks {
    /// Makes the default: `GET /health` every 5 s.
    pub fn new() -> Self {
        Self {
            check: Arc::new(HttpCheck::new()),
            timeout: TIMEOUT,
            jitter: JITTER,
            concurrency: CONCURRENCY,
            rise: RISE,
            fall: FALL,
            interval: INTERVAL,
            changing: CHANGING,
            down: None,
            shared_failure: Some(SHARED_FAILURE),
        }
    }

    /// Sets what is asked of a backend.
    ///
    /// Default: [`HttpCheck::new`].
    pub fn with_check(mut self, check: impl HealthCheck + 'static) -> Self {
        self.check = Arc::new(check);
        self
    }

    /// Sets the time from one check of a backend to the next, while its state is settled. A
    /// check costs the backend a connection and a request.
    ///
    /// Default: 5 s. Accepted: 10 ms to a day.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the time between checks while the last results disagree with the state, where it is
    /// shorter than the [`interval`](Self::interval).
    ///
    /// Default: 1 s.
    pub fn changing_interval(mut self, interval: Duration) -> Self {
        self.changing = interval;
        self
    }

    /// Sets the time from one check to the next of a backend that is down. A longer one spares
    /// machines that are gone for good; traffic comes back later by as much.
    ///
    /// Default: the [`interval`](Self::interval).
    pub fn down_interval(mut self, interval: Duration) -> Self {
        self.down = Some(interval);
        self
    }

    /// Sets the share of the backends that answer, which must fail for the same named dependency
    /// to be kept in service: what all have in common, taking them all out does not mend. A
    /// backend that does not answer, or fails for a reason of its own, is taken out as ever.
    ///
    /// The dependency is what [`CheckReport::with_dependency`] names. A failure that names one is judged
    /// once up to 32 of the others were checked again: later by a time-out at most.
    ///
    /// Default: 1.0, which is all. Accepted: above 0.5, up to 1.0.
    pub fn shared_failure(mut self, share: f64) -> Self {
        self.shared_failure = Some(share);
        self
    }

    /// Takes every backend out that fails, even when that is all of them for the same reason.
    pub fn no_shared_failure(mut self) -> Self {
        self.shared_failure = None;
        self
    }

    /// Sets how long a check may take, the connection included. Must be below the
    /// [`interval`](Self::interval).
    ///
    /// Default: 2 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how many passes in a row bring a backend back that was down. The first pass admits
    /// one that was never checked.
    ///
    /// Default: 2. Accepted: 1 to 100.
    pub fn rise(mut self, passes: u32) -> Self {
        self.rise = passes;
        self
    }

    /// Sets how many failures in a row take a backend out.
    ///
    /// Default: 2. Accepted: 1 to 100.
    pub fn fall(mut self, failures: u32) -> Self {
        self.fall = failures;
        self
    }

    /// Sets how far each interval strays, as a share of it, so that many balancers do not check
    /// at the same moment.
    ///
    /// Default: 0.1. Accepted: 0.0 to 1.0.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = share;
        self
    }

    /// Sets how many checks may run at once. Fewer than there are backends that hang delays the
    /// checks of others.
    ///
    /// Default: 256.
    pub fn concurrency(mut self, checks: usize) -> Self {
        self.concurrency = checks;
        self
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            rise: self.rise,
            fall: self.fall,
            interval: self.interval,
            changing: self.changing.min(self.interval),
            down: self.down.unwrap_or(self.interval),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.validate_times()?;
        self.validate_counts()?;
        let is_share = |share: f64| share > 0.5 && share <= 1.0;
        match self.shared_failure.filter(|share| !is_share(*share)) {
            Some(share) => refuse(
                "shared_failure",
                format!("{share:?}: above 0.5, up to 1.0 is accepted"),
            ),
            None => Ok(()),
        }
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        let intervals = [
            ("interval", Some(self.interval)),
            ("down_interval", self.down),
        ];
        for (field, interval) in intervals {
            if let Some(time) = interval.filter(|time| !(SHORTEST..=LONGEST).contains(time)) {
                return refuse(field, format!("{time:?}: 10 ms to 1 day is accepted"));
            }
        }
        if self.changing < SHORTEST {
            let message = format!("{:?}: 10 ms or more is accepted", self.changing);
            return refuse("changing_interval", message);
        }
        // Otherwise checks of one backend would overlap.
        if self.timeout.is_zero() || self.timeout >= self.interval {
            let message = format!(
                "{:?}: more than 0 and less than the interval of {:?} is accepted",
                self.timeout, self.interval
            );
            return refuse("timeout", message);
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), ConfigError> {
        for (field, count) in [("rise", self.rise), ("fall", self.fall)] {
            if !(1..=100).contains(&count) {
                return refuse(field, format!("{count}: 1 to 100 is accepted"));
            }
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let message = format!("{}: 0.0 to 1.0 is accepted", self.jitter);
            return refuse("jitter", message);
        }
        if self.concurrency == 0 {
            return refuse("concurrency", "0: 1 or more is accepted".into());
        }
        Ok(())
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

fn refuse(field: &str, message: String) -> Result<(), ConfigError> {
    Err(ConfigError::new(format!("health.{field}"), message))
}

fn _obj_safe(_: Box<dyn HealthCheck>) {}

/// What people call soon, at a load that no backend feels.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// A doubt is settled soon.
pub(super) const CHANGING: Duration = Duration::from_secs(1);
/// A backend that takes longer for its health endpoint takes too long for requests.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
/// One failure may be chance.
pub(super) const FALL: u32 = 2;
/// One pass may be, too.
pub(super) const RISE: u32 = 2;
/// Enough to drift apart within some intervals.
pub(super) const JITTER: f64 = 0.1;
/// One backend that passes shows that it is not what all have in common.
pub(super) const SHARED_FAILURE: f64 = 1.0;
/// More hung backends than this at once would delay the others' checks; each costs a socket.
const CONCURRENCY: usize = 256;
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_refused_with_the_field_name() {
        let second = Duration::from_secs(1);
        let bad = [
            (Checks::new().interval(Duration::ZERO), "health.interval"),
            (Checks::new().interval(second), "health.timeout"),
            (Checks::new().timeout(Duration::ZERO), "health.timeout"),
            (Checks::new().timeout(INTERVAL), "health.timeout"),
            (
                Checks::new().changing_interval(Duration::ZERO),
                "health.changing_interval",
            ),
            (
                Checks::new().down_interval(Duration::ZERO),
                "health.down_interval",
            ),
            (Checks::new().shared_failure(0.5), "health.shared_failure"),
            (
                Checks::new().shared_failure(f64::NAN),
                "health.shared_failure",
            ),
            (Checks::new().rise(0), "health.rise"),
            (Checks::new().fall(101), "health.fall"),
            (Checks::new().jitter(f64::NAN), "health.jitter"),
            (Checks::new().concurrency(0), "health.concurrency"),
        ];
        for (checks, field) in bad {
            assert_eq!(checks.validate().unwrap_err().field(), field);
        }
        let fine = Checks::new().interval(second).timeout(second / 2);
        assert_eq!(fine.validate(), Ok(()));
    }
}
