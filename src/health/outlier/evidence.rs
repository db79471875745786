//! What the end of one request shows about the backend.
//!
//! | what ended the attempt | charged to the backend |
//! |---|---|
//! | no connection, TLS failed, no or a malformed response head | yes |
//! | a response head that is late | yes |
//! | 502, 503, 504 (or the statuses that were set) | yes |
//! | 500 and others | no: one bad request makes each backend answer 500 |
//! | a fault of the client, of this process, of the queue | no (invariant E) |
//! | an error of a service that names no side | no |
//!
//! The match over `ErrorKind` has no wildcard, so a kind that is added has to be decided here.
//!
//! That errors of this side count against no backend is what envoy#25487 asks for.

use http::{HeaderMap, HeaderName, StatusCode};

use super::Outliers;
use crate::{
    error::{Error, ErrorKind},
    pool::Reason,
};

/// What the end of one request shows about the backend.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::health) enum Evidence {
    Failure(Reason),
    /// The failure is not the backend's, or its side is unknown.
    Nothing,
    Success,
}

/// Judges a response: what gateways say of what is behind them counts, an application's own
/// errors do only where that was asked for.
pub(in crate::health) fn judge_status(rules: &Outliers, status: StatusCode) -> Evidence {
    let code = status.as_u16();
    // Nearly all are below, and no range is.
    if code < 300 || !rules.statuses.iter().any(|range| range.contains(&code)) {
        return Evidence::Success;
    }
    Evidence::Failure(match code {
        502 => Reason::new("L7STS", "answered 502"),
        503 => Reason::new("L7STS", "answered 503"),
        504 => Reason::new("L7STS", "answered 504"),
        _ => Reason::new("L7STS", format!("answered {code}")),
    })
}

/// Judges an error; those of the client and of this side are not charged to the backend (invariant
/// E).
pub(in crate::health) fn judge_error(error: &Error) -> Evidence {
    let code = match error.kind() {
        // The codes are those of checks, so that one vocabulary stands in logs.
        ErrorKind::Connect => "L4CON",
        ErrorKind::ConnectTimeout => "L4TOUT",
        ErrorKind::ConnectTls => "L6RSP",
        ErrorKind::RequestWrite | ErrorKind::ResponseClosed | ErrorKind::ResponseHead => "L7RSP",
        ErrorKind::RequestWriteTimeout | ErrorKind::ResponseHeadTimeout => "L7TOUT",
        ErrorKind::BadRequest
        | ErrorKind::BodyTooLarge
        | ErrorKind::ClientBody
        | ErrorKind::ClientBodyTimeout
        | ErrorKind::LoadShed
        | ErrorKind::Local
        | ErrorKind::MethodRefused
        | ErrorKind::NoBackend
        | ErrorKind::NotRouted
        | ErrorKind::Overloaded
        | ErrorKind::QueueTimeout
        | ErrorKind::ResponseBody
        | ErrorKind::ResponseBodyTimeout
        | ErrorKind::Service
        | ErrorKind::Timeout
        | ErrorKind::Upgrade => return Evidence::Nothing,
    };
    Evidence::Failure(Reason::new(code, error.kind().as_str()))
}

/// What a hedge that was begun later and won says about this one.
pub(in crate::health) fn lost_to_hedge() -> Reason {
    Reason::new("L7TOUT", "a hedge won against it")
}

/// What a backend's own wish to be taken out says.
pub(in crate::health) fn ejection_requested() -> Reason {
    Reason::new("L7RSP", "asked to be taken out")
}

/// Whether a response asks that its backend be taken out at once.
pub(in crate::health) fn asks_for_ejection(headers: &HeaderMap) -> bool {
    // Neither is there, nearly always: a pass over the names costs less than two looks, for which
    // the names would be hashed.
    headers.keys().any(|name| {
        let says = *name == HEALTH && headers.get(&HEALTH).is_some_and(|word| word == "fail");
        says || *name == ENVOY
    })
}

/// Takes away what is between the backend and the balancer.
pub(in crate::health) fn remove_ejection_fields(headers: &mut HeaderMap) {
    headers.remove(&HEALTH);
    headers.remove(&ENVOY);
}

static HEALTH: HeaderName = HeaderName::from_static("x-evenkeel-health");
static ENVOY: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_backends_own_failures_count() {
        for (status, by_default, server_errors) in [
            (200, false, false),
            (404, false, false),
            (500, false, true),
            (501, false, true),
            (502, true, true),
            (503, true, true),
            (504, true, true),
            (599, false, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let counts =
                |rules: &Outliers| matches!(judge_status(rules, status), Evidence::Failure(_));
            assert_eq!(counts(&Outliers::new()), by_default, "{status}");
            let rules = Outliers::new().server_errors(true);
            assert_eq!(counts(&rules), server_errors, "{status}");
        }
        let rules = Outliers::new().statuses([429..=429]);
        let reason = Reason::new("L7STS", "answered 429");
        let verdict = judge_status(&rules, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(verdict, Evidence::Failure(reason));
        assert_eq!(
            judge_status(&rules, StatusCode::BAD_GATEWAY),
            Evidence::Success
        );
    }

    #[test]
    fn errors_are_charged_to_the_side_that_they_name() {
        let table = [
            (ErrorKind::Connect, Some("L4CON")),
            (ErrorKind::ConnectTimeout, Some("L4TOUT")),
            (ErrorKind::ConnectTls, Some("L6RSP")),
            (ErrorKind::ResponseClosed, Some("L7RSP")),
            (ErrorKind::ResponseHeadTimeout, Some("L7TOUT")),
            (ErrorKind::ClientBody, None),
            (ErrorKind::ClientBodyTimeout, None),
            (ErrorKind::BadRequest, None),
            (ErrorKind::Local, None),
            (ErrorKind::Service, None),
        ];
        for (kind, code) in table {
            let counted = match judge_error(&Error::new(kind)) {
                Evidence::Failure(reason) => Some(reason.code),
                Evidence::Nothing => None,
                Evidence::Success => Some("success"),
            };
            assert_eq!(counted, code, "{kind}");
        }
    }

    #[test]
    fn a_response_may_ask_for_its_backend_to_be_taken_out() {
        for (name, value, asks) in [
            ("x-evenkeel-health", "fail", true),
            ("x-evenkeel-health", "drain", false),
            ("x-envoy-immediate-health-check-fail", "", true),
            ("x-envoy-degraded", "", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(asks_for_ejection(&headers), asks, "{name}: {value}");
            if asks {
                remove_ejection_fields(&mut headers);
                assert!(headers.is_empty());
            }
        }
    }
}
