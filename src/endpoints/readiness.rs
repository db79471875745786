//! [`Readiness`]: whether this instance should get traffic.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use super::json_response::quote;
use crate::{pool::Pool, stats::CertificateRegistry};

/// A handle that says whether this instance should get traffic. Clones share their reasons.
///
/// ```
/// use evenkeel::{Backend, Pool, endpoints::Readiness};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
/// let readiness = Readiness::new(pool);
/// readiness.fail("cache is cold");
/// assert_eq!(readiness.check().reasons, ["cache is cold"]);
/// readiness.restore("cache is cold");
/// assert!(readiness.check().is_ready());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Readiness {
    pool: Pool,
    reasons: Arc<Mutex<Vec<String>>>,
    certificates: Option<CertificateRegistry>,
}

impl Readiness {
    /// Makes a handle that is ready while `pool` has a usable backend.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            reasons: Arc::default(),
            certificates: None,
        }
    }

    /// Is not ready while a certificate of this registry has expired, in this handle and its later
    /// clones. A renewed certificate counts at once. Those that were looked up on demand do not count. A
    /// check costs a lock for each store: the certificates are read after a change, and when one expires
    /// ([`CertificateRegistry::expired`]).
    ///
    /// **Deployment caveat.** Instances that share a certificate get unready together when it expires. Use
    /// this where another balancer in front has somewhere else to send clients.
    ///
    /// Default: certificates do not count.
    #[must_use]
    pub fn certificates(mut self, certificates: CertificateRegistry) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Adds a reason not to be ready; a reason that is there already is not added again. A shutdown
    /// calls this first, so that the load balancer in front sends its traffic elsewhere before
    /// connections end.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let mut reasons = self.reasons();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    /// Removes a reason that [`fail`](Self::fail) added.
    pub fn restore(&self, reason: &str) {
        self.reasons().retain(|r| r != reason);
    }

    /// Returns the current state.
    #[must_use]
    pub fn check(&self) -> ReadinessReport {
        let snapshot = self.pool.snapshot();
        let mut reasons = self.reasons().clone();
        if snapshot.usable() == 0 {
            reasons.push(match snapshot.held() {
                0 => "no usable backend".into(),
                _ => "no backend has passed its first check".into(),
            });
        }
        let certificates = self.certificates.as_ref();
        match certificates.map_or(0, |all| all.expired(SystemTime::now())) {
            0 => {}
            1 => reasons.push("a certificate has expired".into()),
            expired => reasons.push(format!("{expired} certificates have expired")),
        }
        ReadinessReport {
            usable: snapshot.usable(),
            backends: snapshot.backends().len(),
            reasons,
        }
    }

    fn reasons(&self) -> MutexGuard<'_, Vec<String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("report", &self.check())
            .field("certificates", &self.certificates.is_some())
            .finish()
    }
}

/// The state of a [`Readiness`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadinessReport {
    /// How many backends can take new traffic.
    pub usable: usize,
    /// How many backends the pool has.
    pub backends: usize,
    /// Why this instance is not ready; empty if it is.
    pub reasons: Vec<String>,
}

impl ReadinessReport {
    /// Returns true if there are no reasons.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    pub(super) fn json(&self) -> String {
        let reasons: Vec<String> = self.reasons.iter().map(|r| quote(r)).collect();
        format!(
            "{{\"ready\":{},\"usable\":{},\"backends\":{},\"reasons\":[{}]}}\n",
            self.is_ready(),
            self.usable,
            self.backends,
            reasons.join(",")
        )
    }
}
