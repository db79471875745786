//! What live traffic shows about a backend.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    error::{ConfigError, Error, ErrorKind},
    pool::Reason,
};

/// When live traffic takes a backend out, and for how long.
#[derive(Clone, Debug)]
#[must_use]
pub struct Outliers {
    pub(super) consecutive: u32,
    pub(super) ejection: Duration,
    pub(super) max_ejection: Duration,
    pub(super) max_share: f64,
}

impl Outliers {
    /// Makes the default rules.
    pub fn new() -> Self {
        Self {
            consecutive: CONSECUTIVE,
            ejection: EJECTION,
            max_ejection: MAX_EJECTION,
            max_share: MAX_SHARE,
        }
    }

    /// Sets how many failures in a row take a backend out. A low number also ejects for what is
    /// mere chance.
    ///
    /// Default: 5.
    pub fn consecutive(mut self, failures: u32) -> Self {
        self.consecutive = failures;
        self
    }

    /// Sets how long the first ejection lasts; the nth in short order lasts n times as long, up
    /// to `most`.
    ///
    /// Default: 30 s, and 300 s at most.
    pub fn ejection(mut self, first: Duration, most: Duration) -> Self {
        self.ejection = first;
        self.max_ejection = most;
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
        if self.ejection.is_zero() || self.ejection > self.max_ejection {
            return bad(
                "outliers.ejection",
                format!(
                    "{:?} to {:?}: more than 0, and no more than the longest, is accepted",
                    self.ejection, self.max_ejection
                ),
            );
        }
        if !(0.0..=1.0).contains(&self.max_share) {
            return bad(
                "outliers.max_share",
                format!("{}: 0.0 to 1.0 is accepted", self.max_share),
            );
        }
        Ok(())
    }
}

impl Default for Outliers {
    fn default() -> Self {
        Self::new()
    }
}

/// What one end of a request says about the backend.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Failure(Reason),
    /// It is not the backend's doing, or nobody knows whose.
    Nothing,
    Success,
}

/// Judges a response: what gateways say of what is behind them counts, an application's own
/// errors do not.
pub(super) fn judge_status(status: StatusCode) -> Verdict {
    match status {
        StatusCode::BAD_GATEWAY => Verdict::Failure(Reason::new("L7STS", "502")),
        StatusCode::SERVICE_UNAVAILABLE => Verdict::Failure(Reason::new("L7STS", "503")),
        StatusCode::GATEWAY_TIMEOUT => Verdict::Failure(Reason::new("L7STS", "504")),
        _ => Verdict::Success,
    }
}

/// Judges an error; the client's own are nobody's (invariant E).
pub(super) fn judge_error(error: &Error) -> Verdict {
    let code = match error.kind() {
        ErrorKind::Connect => "L4CON",
        ErrorKind::ConnectTimeout => "L4TOUT",
        ErrorKind::ConnectTls => "L6RSP",
        ErrorKind::RequestWrite | ErrorKind::ResponseClosed | ErrorKind::ResponseHead => "L7RSP",
        ErrorKind::RequestWriteTimeout | ErrorKind::ResponseHeadTimeout => "L7TOUT",
        ErrorKind::BadRequest
        | ErrorKind::ClientBody
        | ErrorKind::ClientBodyTimeout
        | ErrorKind::MethodRefused
        | ErrorKind::NoBackend
        | ErrorKind::NotRouted
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout
        | ErrorKind::ResponseBody
        | ErrorKind::ResponseBodyTimeout
        | ErrorKind::Service
        | ErrorKind::Upgrade => return Verdict::Nothing,
    };
    Verdict::Failure(Reason::new(code, error.kind().as_str()))
}

/// Failures in a row. A success reads one word, and writes only where there was a failure.
#[derive(Debug, Default)]
pub(super) struct Streak {
    failures: AtomicU32,
}

impl Streak {
    pub(super) fn success(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Returns the failures in a row, this one included.
    pub(super) fn failure(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed).saturating_add(1)
    }
}

/// The ejections of one backend so far.
#[derive(Debug, Default)]
pub(super) struct History {
    ejections: u32,
    readmitted: Option<Instant>,
}

impl History {
    /// Counts an ejection; returns how long it lasts. Each time in service as long as the first
    /// ejection makes up for one.
    pub(super) fn eject(&mut self, rules: &Outliers, now: Instant) -> Duration {
        let served = self
            .readmitted
            .map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let forgiven = (served.as_secs_f64() / rules.ejection.as_secs_f64()) as u32;
        self.ejections = self.ejections.saturating_sub(forgiven).saturating_add(1);
        rules
            .ejection
            .saturating_mul(self.ejections)
            .min(rules.max_ejection)
    }

    pub(super) fn readmit(&mut self, now: Instant) {
        self.readmitted = Some(now);
    }
}

/// Chance alone hardly ever fails five times in a row: at 10 %, once in 100,000 requests.
pub(super) const CONSECUTIVE: u32 = 5;
/// Long enough for a restart.
pub(super) const EJECTION: Duration = Duration::from_secs(30);
/// A backend that got well is not forgotten.
pub(super) const MAX_EJECTION: Duration = Duration::from_secs(300);
/// Beyond that, what fails is likelier to be what all have in common.
pub(super) const MAX_SHARE: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_backends_own_failures_count() {
        for (status, counts) in [
            (200, false),
            (404, false),
            (500, false),
            (502, true),
            (503, true),
            (504, true),
            (501, false),
        ] {
            let verdict = judge_status(StatusCode::from_u16(status).unwrap());
            assert_eq!(matches!(verdict, Verdict::Failure(_)), counts, "{status}");
        }
        let table = [
            (ErrorKind::Connect, Some("L4CON")),
            (ErrorKind::ConnectTimeout, Some("L4TOUT")),
            (ErrorKind::ConnectTls, Some("L6RSP")),
            (ErrorKind::ResponseClosed, Some("L7RSP")),
            (ErrorKind::ResponseHeadTimeout, Some("L7TOUT")),
            (ErrorKind::ClientBody, None),
            (ErrorKind::ClientBodyTimeout, None),
            (ErrorKind::BadRequest, None),
            (ErrorKind::Service, None),
        ];
        for (kind, code) in table {
            let counted = match judge_error(&Error::new(kind)) {
                Verdict::Failure(reason) => Some(reason.code),
                Verdict::Nothing => None,
                Verdict::Success => Some("success"),
            };
            assert_eq!(counted, code, "{kind}");
        }
    }

    #[test]
    fn a_success_ends_a_streak() {
        let streak = Streak::default();
        assert_eq!([streak.failure(), streak.failure()], [1, 2]);
        streak.success();
        assert_eq!(streak.failure(), 1);
    }

    #[test]
    fn ejections_grow_and_are_forgiven() {
        let rules = Outliers::new();
        let mut now = Instant::now();
        let mut history = History::default();
        let mut lasts = Vec::new();
        for _ in 0..12 {
            let last = history.eject(&rules, now);
            lasts.push(last.as_secs());
            now += last;
            history.readmit(now);
        }
        assert_eq!(
            lasts,
            [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
        );
        now += EJECTION * 100;
        assert_eq!(history.eject(&rules, now), EJECTION);
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let bad = [
            (Outliers::new().consecutive(0), "outliers.consecutive"),
            (
                Outliers::new().ejection(Duration::ZERO, EJECTION),
                "outliers.ejection",
            ),
            (
                Outliers::new().ejection(MAX_EJECTION, EJECTION),
                "outliers.ejection",
            ),
            (Outliers::new().max_share(1.1), "outliers.max_share"),
        ];
        for (rules, field) in bad {
            assert_eq!(rules.validate().unwrap_err().field(), field);
        }
        assert_eq!(Outliers::new().validate(), Ok(()));
    }
}
