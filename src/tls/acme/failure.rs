//! [`OrderError`]: what an order failed of, and what that means for the next one.

use std::{fmt, time::Duration};

use instant_acme::{Error, Problem};

use super::backoff::Failure;
use crate::error::BoxError;

/// An order that failed.
#[derive(Debug)]
pub(super) struct OrderError {
    pub(super) failure: Failure,
    pub(super) retry_after: Option<Duration>,
    message: String,
    /// The last part of the problem's type (RFC 8555 §6.7), such as `badCSR`.
    kind: Option<String>,
}

impl OrderError {
    pub(super) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            retry_after: None,
            message: message.into(),
            kind: None,
        }
    }

    /// The store could not be read or written: without it, no order is safe.
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(super) fn store(error: BoxError) -> Self {
        Self::new(Failure::Unreachable, error.to_string())
    }

    pub(super) fn of(error: &Error, retry_after: Option<Duration>) -> Self {
        let problem = match error {
            Error::Api(problem) => Some(problem),
            _ => None,
        };
        let kind = problem.and_then(kind);
        Self {
            failure: classify(error, kind),
            retry_after,
            message: error.to_string(),
            kind: kind.map(str::to_owned),
        }
    }

    /// Returns true if the authority reports a problem of this type (RFC 8555 §6.7).
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Returns the last part of the problem's type.
pub(super) fn kind(problem: &Problem) -> Option<&str> {
    let kind = problem.r#type.as_deref()?;
    kind.strip_prefix("urn:ietf:params:acme:error:")
}

/// Returns true if the authority refused only the nonce (RFC 8555 §6.5). instant-acme repeats a request
/// twice with another one.
pub(super) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if kind(problem) == Some("badNonce"))
}

/// Awaits a call again, some times more, while the authority refuses its nonce.
macro_rules! with_good_nonce {
    ($call:expr) => {{
        let mut left = $crate::tls::acme::failure::MAX_NONCES;
        loop {
            match $call.await {
                Err(error) if left > 0 && $crate::tls::acme::failure::is_bad_nonce(&error) => {
                    left -= 1;
                }
                other => break other,
            }
        }
    }};
}
pub(super) use with_good_nonce;

pub(super) const MAX_NONCES: u32 = 10;

fn classify(error: &Error, kind: Option<&str>) -> Failure {
    let status = match error {
        Error::Api(problem) => problem.status,
        Error::Timeout(_) | Error::Http(_) | Error::Json(_) | Error::Other(_) => None,
        Error::Unsupported(_) | Error::InvalidUri(_) => return Failure::Refused,
        _ => None,
    };
    match (kind, status) {
        (Some("rateLimited"), _) | (_, Some(429)) => Failure::RateLimited,
        (
            Some(
                "caa" | "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized"
                | "compound" | "orderNotReady",
            ),
            _,
        ) => Failure::Validation,
        (
            Some(
                "serverInternal"
                | "badNonce"
                | "accountDoesNotExist"
                | "alreadyReplaced"
                | "malformed",
            ),
            _,
        )
        | (None, _) => Failure::Unreachable,
        // badCSR, rejectedIdentifier, invalidProfile, externalAccountRequired, userActionRequired …
        (Some(_), _) => Failure::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: Option<&str>, status: Option<u16>) -> Error {
        let kind = kind.map(|kind| format!("urn:ietf:params:acme:error:{kind}"));
        Error::Api(Problem {
            r#type: kind,
            detail: Some("why".into()),
            status,
            subproblems: Vec::new(),
        })
    }

    #[test]
    fn problems_decide_about_the_next_order() {
        for (kind, status, wanted) in [
            (Some("rateLimited"), None, Failure::RateLimited),
            (None, Some(429), Failure::RateLimited),
            (Some("unauthorized"), Some(403), Failure::Validation),
            (Some("dns"), Some(400), Failure::Validation),
            (Some("connection"), Some(400), Failure::Validation),
            (Some("rejectedIdentifier"), Some(400), Failure::Refused),
            (Some("externalAccountRequired"), Some(401), Failure::Refused),
            (Some("somethingNew"), Some(400), Failure::Refused),
            (Some("serverInternal"), Some(500), Failure::Unreachable),
            (None, Some(503), Failure::Unreachable),
            (None, None, Failure::Unreachable),
        ] {
            let error = OrderError::of(&problem(kind, status), None);
            assert_eq!(error.failure, wanted, "{kind:?} {status:?}");
            assert!(error.to_string().contains("why"));
        }
        let error = OrderError::of(&problem(Some("alreadyReplaced"), None), None);
        assert!(error.is("alreadyReplaced") && !error.is("malformed"));
        let timeout = OrderError::of(&Error::Timeout(None), Some(Duration::from_secs(9)));
        assert_eq!(timeout.failure, Failure::Unreachable);
        assert_eq!(timeout.retry_after, Some(Duration::from_secs(9)));
        assert!(is_bad_nonce(&problem(Some("badNonce"), Some(400))));
        assert!(!is_bad_nonce(&problem(Some("dns"), Some(400))));
        let unsupported = OrderError::of(&Error::Unsupported("x"), None);
        assert_eq!(unsupported.failure, Failure::Refused);
    }
}
