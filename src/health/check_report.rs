//! What a check found.
//!
//! | made by | pass | capacity | what the prober does |
//! |---|---|---|---|
//! | `pass` | yes | 1.0 | counts a pass |
//! | `degraded` | yes | the share | counts a pass, lowers the weight |
//! | `drain` | yes | 1.0 | counts a pass; new sessions go elsewhere |
//! | `fail` | no | 1.0 | counts a failure |
//! | `local` | no | 1.0 | counts nothing, logs |

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;

use crate::{
    error::{Error, ErrorKind},
    pool::Reason,
};

/// What a check found: whether the backend serves, and why.
///
/// A [`HealthCheck`](super::HealthCheck) of your own returns one. Methods that begin with `with_` add
/// to a report; the others read it.
///
/// ```
/// use evenkeel::health::CheckReport;
///
/// let report = CheckReport::fail("L7STS", "answered 503").with_dependency("postgres");
/// assert!(!report.is_pass());
/// assert_eq!(report.dependency().map(|name| &**name), Some("postgres"));
///
/// // The backend serves, and gets half of its share of the traffic.
/// let report = CheckReport::degraded(0.5, "L7OK", "the cache is cold");
/// assert!(report.is_pass());
/// assert_eq!(report.capacity(), 0.5);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct CheckReport {
    finding: Finding,
    reason: Reason,
    status: Option<StatusCode>,
    dependency: Option<Arc<str>>,
    retry_after: Option<Duration>,
}

/// A report is never two of these at once.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Finding {
    Drains,
    Fails,
    /// Nothing: the check could not be made.
    NotMade,
    /// At this share of what it does when it is well.
    Serves(f64),
}

impl CheckReport {
    /// The backend serves; `code` is one of HAProxy's vocabulary (`L4OK`, `L6OK`, `L7OK`).
    pub fn pass(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Finding::Serves(1.0), code, detail)
    }

    /// The backend serves, and wants no more than this share of its weight (0.0 to 1.0; at least
    /// a hundredth is kept, as a backend without traffic is what [`drain`](Self::drain) is for).
    /// Counts as a pass.
    pub fn degraded(share: f64, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        // Not a number: nothing that could be acted upon.
        let share = if share.is_nan() { 1.0 } else { share };
        Self::new(Finding::Serves(share.clamp(LEAST_SHARE, 1.0)), code, detail)
    }

    /// The backend asks for no new traffic, and serves the sessions that it has. Counts as a
    /// pass; the next report that does not say so undoes it.
    pub fn drain(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Finding::Drains, code, detail)
    }

    /// The backend does not serve; `code` is one of HAProxy's vocabulary (`L4CON`, `L4TOUT`,
    /// `L6RSP`, `L7STS`, `L7RSP`, `L7TOUT`).
    pub fn fail(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Finding::Fails, code, detail)
    }

    /// The check could not be made, for a cause on this side: it is out of descriptors, say, or its
    /// resolver does not answer. Neither a pass nor a failure: the backend stays what it was, and
    /// is checked again at its time. `code` is HAProxy's `SOCKERR`.
    pub fn local(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Finding::NotMade, code, detail)
    }

    /// Names the dependency whose failure makes the backend fail, for
    /// [`Checks::shared_failure`](super::Checks::shared_failure).
    pub fn with_dependency(mut self, dependency: impl Into<Arc<str>>) -> Self {
        self.dependency = Some(dependency.into());
        self
    }

    /// Says when the backend wants to be asked again. Honoured up to 60 s, for a backend that is
    /// down: one that is up is asked as soon as ever, so that its fall is not put off.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds the status that the backend answered with.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Returns true if the backend serves, be it its sessions alone.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        !matches!(self.finding, Finding::Fails | Finding::NotMade)
    }

    /// Returns true if the check could not be made, which is no pass either.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.finding == Finding::NotMade
    }

    /// Returns true if the backend asks for no new traffic.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.finding == Finding::Drains
    }

    /// Returns the share of its weight that the backend wants; 1.0 unless it is degraded.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        match self.finding {
            Finding::Serves(share) => share,
            Finding::Drains | Finding::Fails | Finding::NotMade => 1.0,
        }
    }

    /// Returns why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Returns the dependency that failed, where it has a name and the report is a failure.
    #[must_use]
    pub fn dependency(&self) -> Option<&Arc<str>> {
        self.dependency.as_ref().filter(|_| !self.is_pass())
    }

    /// Returns the status that the backend answered with.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// Returns when the backend wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What it says when there is no connection.
    ///
    /// The detail is the cause ("connection refused"), since the code says the rest.
    pub(super) fn not_connected(error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Local => "SOCKERR",
            ErrorKind::ConnectTimeout => "L4TOUT",
            ErrorKind::ConnectTls => "L6RSP",
            _ => "L4CON",
        };
        let detail = match std::error::Error::source(error) {
            Some(cause) => cause.to_string(),
            None => error.to_string(),
        };
        match error.is_local() {
            true => Self::local(code, detail),
            false => Self::fail(code, detail),
        }
    }

    /// Puts a name before the detail: which of several checks it was.
    pub(super) fn named(mut self, name: &str) -> Self {
        let detail = match self.reason.detail.is_empty() {
            true => name.to_owned(),
            false => format!("{name}: {}", self.reason.detail),
        };
        self.reason = Reason::new(self.reason.code, detail);
        self
    }

    /// Puts what was asked for before the detail: `GET /health answered 404`.
    pub(super) fn for_request(mut self, question: &str) -> Self {
        let detail = &self.reason.detail;
        // "GET /health answered 503", but "GET /health: connection reset".
        let colon = if detail.starts_with(ANSWERED) {
            ""
        } else {
            ":"
        };
        self.reason = Reason::new(self.reason.code, format!("{question}{colon} {detail}"));
        self
    }

    fn new(finding: Finding, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            finding,
            reason: Reason::new(code, detail),
            status: None,
            dependency: None,
            retry_after: None,
        }
    }
}

/// How the detail of an answer begins; see [`CheckReport::for_request`].
pub(super) const ANSWERED: &str = "answered ";
/// A backend that says 0 still wants to be seen to serve: as little as a weight of 100 can tell.
const LEAST_SHARE: f64 = 0.01;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_brought_within_its_range() {
        for (given, kept) in [
            (0.5, 0.5),
            (0.0, 0.01),
            (-1.0, 0.01),
            (7.0, 1.0),
            (f64::NAN, 1.0),
            (f64::INFINITY, 1.0),
        ] {
            let report = CheckReport::degraded(given, "L7OK", "");
            assert!(report.is_pass());
            assert_eq!(report.capacity(), kept, "{given}");
        }
    }

    #[test]
    fn a_passing_report_has_no_dependency() {
        let report = CheckReport::fail("L7STS", "503").with_dependency("postgres");
        assert_eq!(report.dependency().map(|d| &**d), Some("postgres"));
        assert!(
            CheckReport::pass("L7OK", "")
                .with_dependency("x")
                .dependency()
                .is_none()
        );
        assert!(
            CheckReport::drain("L7OK", "").is_pass()
                && CheckReport::drain("L7OK", "").is_draining()
        );
    }
}
