//! What is wanted of an answer.
//!
//! The order of the judgement is an order of trust:
//!
//! 1. identity: an answer of another server says nothing about this backend, whatever its status;
//! 2. what the backend says of itself (`x-evenkeel-health`), and the statuses that drain;
//! 3. the status;
//! 4. the predicates on header and body, for healthy answers only.
//!
//! Whether the body is read at all is decided by the head (`use_of_body`): a body that decides
//! nothing must not be able to make a check late.

use std::{fmt, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::failed_dependency;
use crate::{
    health::{CheckReport, check_report::ANSWERED},
    pool::Backend,
    wire::retry_after,
};

/// A whole response, or as much of its body as was read.
#[derive(Debug)]
pub(in crate::health) struct Answer {
    pub(in crate::health) status: StatusCode,
    pub(in crate::health) headers: HeaderMap,
    pub(in crate::health) body: Bytes,
}

/// What is wanted of an answer. Pure: the answer is all that it looks at.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    /// Statuses, 200 to 599; never empty.
    pub(super) healthy: Vec<RangeInclusive<u16>>,
    /// Statuses that count as a drain; they take precedence over `healthy`.
    pub(super) draining: Vec<RangeInclusive<u16>>,
    /// Fields that must be there; without a value, that of the backend's id.
    pub(super) identity: Vec<(HeaderName, Option<HeaderValue>)>,
    pub(super) headers: Vec<Predicate<HeaderMap>>,
    pub(super) body: Vec<Predicate<[u8]>>,
}

impl Expectation {
    /// The identity comes first, then what the backend says of itself, then the predicates.
    pub(super) fn judge(&self, answer: &Answer, backend: &Backend) -> CheckReport {
        let status = answer.status;
        self.verdict(answer, backend).with_status(status)
    }

    fn verdict(&self, answer: &Answer, backend: &Backend) -> CheckReport {
        // First: the answer of another server must neither admit nor drain this backend.
        if let Some(wrong_identity) = self.wrong_identity(answer, backend) {
            return CheckReport::fail("L7RSP", wrong_identity);
        }
        let self_report = SelfReport::of(&answer.headers);
        match self.class(answer.status, self_report) {
            Class::Draining => return CheckReport::drain("L7OK", answered(answer)),
            Class::Failed => return failed(answer),
            Class::Healthy => {}
        }
        if !self.headers.iter().all(|p| p.holds(&answer.headers)) {
            return CheckReport::fail("L7RSP", "the header is not what was wanted");
        }
        if !self.body.iter().all(|p| p.holds(&answer.body)) {
            return CheckReport::fail("L7RSP", "the body is not what was wanted");
        }
        match self_report {
            SelfReport::Degraded(share) => CheckReport::degraded(share, "L7OK", answered(answer)),
            _ => CheckReport::pass("L7OK", answered(answer)),
        }
    }

    /// Returns what the body adds to a response with this head.
    pub(super) fn use_of_body(&self, status: StatusCode, headers: &HeaderMap) -> UseOfBody {
        match self.class(status, SelfReport::of(headers)) {
            // The body can only add the name of a dependency, and is not asked where the head has
            // one.
            Class::Failed if named_dependency(headers).is_none() && is_json(headers) => {
                UseOfBody::Explains
            }
            Class::Healthy if !self.body.is_empty() => UseOfBody::Decides,
            Class::Draining | Class::Failed | Class::Healthy => UseOfBody::None,
        }
    }

    /// A drain takes precedence over a failure: a backend that drains with 503 keeps its sessions.
    fn class(&self, status: StatusCode, self_report: SelfReport) -> Class {
        let is_in =
            |ranges: &[RangeInclusive<u16>]| ranges.iter().any(|r| r.contains(&status.as_u16()));
        if self_report == SelfReport::Drain || is_in(&self.draining) {
            Class::Draining
        } else if self_report == SelfReport::Fail || !is_in(&self.healthy) {
            Class::Failed
        } else {
            Class::Healthy
        }
    }

    /// Says why it is not the backend that answered.
    fn wrong_identity(&self, answer: &Answer, backend: &Backend) -> Option<String> {
        self.identity.iter().find_map(|(name, wanted)| {
            let wanted = match wanted {
                Some(value) => value.as_bytes(),
                None => backend.id().as_bytes(),
            };
            let given = answer.headers.get(name);
            if given.is_some_and(|given| given.as_bytes() == wanted) {
                return None;
            }
            let wanted = String::from_utf8_lossy(wanted);
            Some(match given {
                Some(given) => {
                    format!("another server answered: {name} is {given:?}, not {wanted:?}")
                }
                None => format!("another server answered: {name} is missing, not {wanted:?}"),
            })
        })
    }
}

/// What the body of a response is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UseOfBody {
    /// The verdict depends on it.
    Decides,
    /// The verdict is a failure in any case; the body may name the dependency that caused it.
    Explains,
    /// Nothing.
    None,
}

/// What a status, and what the backend says of itself, come to.
enum Class {
    Draining,
    Failed,
    Healthy,
}

fn answered(answer: &Answer) -> String {
    format!("{ANSWERED}{}", answer.status.as_u16())
}

fn failed(answer: &Answer) -> CheckReport {
    let dependency = dependency(answer);
    let status = answered(answer);
    let mut report = match &dependency {
        Some(name) => CheckReport::fail("L7STS", format!("{status}, because of {name}")),
        None => CheckReport::fail("L7STS", status),
    };
    if let Some(name) = dependency {
        report = report.with_dependency(name);
    }
    if let Some(wait) = retry_after::read(&answer.headers) {
        report = report.with_retry_after(wait);
    }
    report
}

/// What a backend says of itself, apart from its status.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SelfReport {
    Degraded(f64),
    Drain,
    Fail,
    Nothing,
}

impl SelfReport {
    fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(HEALTH).and_then(|value| value.to_str().ok());
        match own.map(str::trim) {
            Some("drain") => return Self::Drain,
            Some("fail") => return Self::Fail,
            Some("degraded") => return Self::Degraded(DEGRADED),
            Some(other) => {
                let share = other.strip_prefix("degraded=").map(str::parse::<f64>);
                if let Some(Ok(share)) = share {
                    return Self::Degraded(share);
                }
            }
            None => {}
        }
        match headers.contains_key(ENVOY_DEGRADED) {
            true => Self::Degraded(DEGRADED),
            false => Self::Nothing,
        }
    }
}

/// Returns the dependency that the backend blames: the first of the header, or of the JSON.
fn dependency(answer: &Answer) -> Option<Arc<str>> {
    let name = match named_dependency(&answer.headers) {
        Some(name) => name.to_owned(),
        None => is_json(&answer.headers).then(|| failed_dependency::find(&answer.body))??,
    };
    // It stands in logs and metrics.
    let fits = name.len() <= LONGEST_NAME && name.chars().all(|c| !c.is_control());
    fits.then(|| name.into())
}

/// The first name of the field `x-evenkeel-failed-dependency`.
fn named_dependency(headers: &HeaderMap) -> Option<&str> {
    let names = headers.get(FAILED_DEPENDENCY)?.to_str().ok()?;
    names
        .split(',')
        .map(str::trim)
        .find(|name| !name.is_empty())
}

/// `application/json` and every `…+json`, such as `application/health+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

/// A closure that says whether something is as it should be.
pub(super) struct Predicate<T: ?Sized>(Arc<dyn Fn(&T) -> bool + Send + Sync>);

impl<T: ?Sized> Predicate<T> {
    pub(super) fn new(holds: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    fn holds(&self, value: &T) -> bool {
        (self.0)(value)
    }
}

impl<T: ?Sized> Clone for Predicate<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> fmt::Debug for Predicate<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predicate").finish_non_exhaustive()
    }
}

/// `degraded=0.5`, `degraded`, `drain`, `fail` or `pass`.
const HEALTH: HeaderName = HeaderName::from_static("x-evenkeel-health");
const FAILED_DEPENDENCY: HeaderName = HeaderName::from_static("x-evenkeel-failed-dependency");
/// There, whatever its value, where Envoy's backends are degraded.
const ENVOY_DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
/// Envoy gives such a backend nothing while others serve; here it gets little.
pub(super) const DEGRADED: f64 = 0.1;
/// Longer than any name that people give to what they depend on.
const LONGEST_NAME: usize = 128;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, fields: &[(&str, &str)], body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: body.to_owned().into(),
        }
    }

    fn expect() -> Expectation {
        Expectation {
            healthy: vec![200..=299],
            draining: vec![404..=404],
            identity: Vec::new(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    fn judge(expect: &Expectation, answer: &Answer) -> CheckReport {
        expect.judge(answer, &Backend::new("a", "http://127.0.0.1:1").unwrap())
    }

    #[test]
    fn the_health_field_of_an_answer_decides() {
        // Status, `x-evenkeel-health`, and whether it passes, drains, and how much it bears.
        for (status, self_report, passes, drains, share) in [
            (200, "pass", true, false, 1.0),
            (200, "", true, false, 1.0),
            (200, "degraded=0.25", true, false, 0.25),
            (200, "degraded", true, false, DEGRADED),
            (200, "degraded=much", true, false, 1.0),
            (200, "drain", true, true, 1.0),
            (503, "drain", true, true, 1.0),
            (404, "", true, true, 1.0),
            (200, "fail", false, false, 1.0),
            (503, "degraded=0.5", false, false, 1.0),
            (503, "pass", false, false, 1.0),
        ] {
            let report = judge(
                &expect(),
                &answer(status, &[("x-evenkeel-health", self_report)], ""),
            );
            let found = (report.is_pass(), report.is_draining(), report.capacity());
            assert_eq!(
                found,
                (passes, drains, share),
                "{status} and {self_report:?}"
            );
            assert_eq!(report.status().unwrap().as_u16(), status);
        }
        let envoys = answer(200, &[("x-envoy-degraded", "")], "");
        assert_eq!(judge(&expect(), &envoys).capacity(), DEGRADED);
    }

    #[test]
    fn the_dependency_that_failed_is_named_by_header_or_json() {
        let json = r#"{"status":"fail","dependencies":{"mail":{"status":"fail","critical":false},"pg":{"status":"fail"}}}"#;
        let kind = |kind| ("content-type", kind);
        let blame = ("x-evenkeel-failed-dependency", "postgres, mail");
        for (fields, body, named) in [
            (vec![blame], "", Some("postgres")),
            (
                vec![blame, kind("application/json")],
                json,
                Some("postgres"),
            ),
            (
                vec![kind("application/json; charset=utf-8")],
                json,
                Some("pg"),
            ),
            (vec![kind("application/health+json")], json, Some("pg")),
            (vec![kind("text/html")], json, None),
            (vec![], json, None),
            (vec![kind("application/json")], "{", None),
            (vec![("x-evenkeel-failed-dependency", " , ")], "", None),
        ] {
            let report = judge(&expect(), &answer(503, &fields, body));
            let dependency = report.dependency().map(|name| name.to_string());
            assert_eq!(dependency.as_deref(), named, "{fields:?} {body}");
        }
        let well = judge(&expect(), &answer(200, &[blame], ""));
        assert!(well.is_pass() && well.dependency().is_none(), "it passes");
    }

    #[test]
    fn another_service_at_the_address_fails_before_any_other_test() {
        let named = Expectation {
            identity: vec![
                (
                    "x-service".parse().unwrap(),
                    Some("orders".parse().unwrap()),
                ),
                ("x-node".parse().unwrap(), None),
            ],
            ..expect()
        };
        let (service, node) = (("x-service", "orders"), ("x-node", "a"));
        assert!(judge(&named, &answer(200, &[service, node], "")).is_pass());
        for (status, fields) in [
            (200, vec![("x-service", "billing"), node]),
            (200, vec![service]),
            (200, vec![service, ("x-node", "b")]),
            (404, vec![node]),
        ] {
            let report = judge(&named, &answer(status, &fields, ""));
            assert!(!report.is_pass(), "{fields:?}");
            assert_eq!(report.reason().code, "L7RSP");
            assert!(
                report
                    .reason()
                    .detail
                    .starts_with("another server answered: ")
            );
        }
    }

    #[test]
    fn predicates_see_header_and_body_of_what_has_a_healthy_status() {
        let wants = Expectation {
            headers: vec![Predicate::new(|h: &HeaderMap| h.contains_key("x-ready"))],
            body: vec![Predicate::new(|b: &[u8]| b.starts_with(b"ok"))],
            ..expect()
        };
        let ready = [("x-ready", "1")];
        assert!(judge(&wants, &answer(200, &ready, "ok!")).is_pass());
        for (status, fields, body, code) in [
            (200, &ready[..], "no", "L7RSP"),
            (200, &[][..], "ok", "L7RSP"),
            (500, &ready[..], "ok", "L7STS"),
        ] {
            let report = judge(&wants, &answer(status, fields, body));
            assert_eq!((report.is_pass(), report.reason().code), (false, code));
        }
    }

    #[test]
    fn a_wait_is_read_in_seconds_of_what_fails() {
        let wait = |status, value| {
            judge(&expect(), &answer(status, &[("retry-after", value)], "")).retry_after()
        };
        assert_eq!(wait(503, "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait(503, "Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(wait(503, "-1"), None);
        assert_eq!(wait(200, "7"), None);
    }

    #[test]
    fn a_body_is_needed_where_it_decides() {
        use UseOfBody::{Decides, Explains, None};

        let plain = expect();
        let judging = Expectation {
            body: vec![Predicate::new(|b: &[u8]| b.starts_with(b"ok"))],
            ..expect()
        };
        let json = ("content-type", "application/json");
        let blame = ("x-evenkeel-failed-dependency", "pg");
        for (expect, status, fields, wanted) in [
            (&plain, 200, &[json][..], None),
            (&plain, 503, &[], None),
            (&plain, 503, &[json], Explains),
            (&plain, 503, &[json, blame], None),
            (&plain, 404, &[json], None),
            (&judging, 200, &[], Decides),
            (&judging, 404, &[], None),
            (&judging, 503, &[json], Explains),
            (&judging, 200, &[("x-evenkeel-health", "fail")], None),
        ] {
            let answer = answer(status, fields, "");
            let found = expect.use_of_body(answer.status, &answer.headers);
            assert_eq!(found, wanted, "{status} {fields:?}");
        }
    }
}
