//! What the results of all dependencies amount to.

use std::{sync::Arc, time::Duration};

use super::answer::quote;

/// How one dependency is.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) name: Arc<str>,
    /// As [`Dependency`](super::Dependency) has it.
    pub(super) soft: Option<f64>,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

/// How all of them are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Pass,
    /// What can be borne still, above 0 and up to 1.
    Degraded(f64),
    Fail,
}

impl Verdict {
    /// One hard failure fails it; of the soft ones the worst counts.
    pub(super) fn of(findings: &[Finding]) -> Self {
        let mut verdict = Self::Pass;
        for finding in findings.iter().filter(|f| f.error.is_some()) {
            let Some(share) = finding.soft else {
                return Self::Fail;
            };
            verdict = match verdict {
                Self::Degraded(least) => Self::Degraded(least.min(share)),
                _ => Self::Degraded(share),
            };
        }
        verdict
    }

    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Degraded(_) => "degraded",
            Self::Fail => "fail",
        }
    }
}

/// Returns the names of what failed, hard ones first, as in a header field.
pub(super) fn failed(findings: &[Finding]) -> String {
    let failed = |soft| {
        let all = findings.iter().filter(|f| f.error.is_some());
        all.filter(move |f| f.soft.is_some() == soft)
    };
    let names: Vec<&str> = failed(false)
        .chain(failed(true))
        .map(|f| &*f.name)
        .collect();
    names.join(", ")
}

pub(super) fn json(status: &str, findings: &[Finding], errors: bool) -> String {
    let each: Vec<String> = findings
        .iter()
        .map(|finding| {
            let mut text = format!(
                "{}:{{\"status\":\"{}\",\"ms\":{}",
                quote(&finding.name),
                if finding.error.is_none() {
                    "pass"
                } else {
                    "fail"
                },
                finding.took.as_millis()
            );
            if finding.soft.is_some() {
                text.push_str(",\"critical\":false");
            }
            if let Some(error) = finding.error.as_ref().filter(|_| errors) {
                text.push_str(",\"error\":");
                text.push_str(&quote(error));
            }
            text.push('}');
            text
        })
        .collect();
    format!(
        "{{\"status\":\"{status}\",\"dependencies\":{{{}}}}}\n",
        each.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &str, soft: Option<f64>, error: Option<&str>) -> Finding {
        Finding {
            name: name.into(),
            soft,
            took: Duration::from_millis(3),
            error: error.map(Into::into),
        }
    }

    #[test]
    fn a_hard_failure_fails_it_and_the_worst_soft_one_counts() {
        let db = |error| finding("db", None, error);
        let mail = |error| finding("mail", Some(0.5), error);
        let logo = |error| finding("logo", Some(1.0), error);
        let down = Some("down");
        for (findings, verdict, names) in [
            (vec![], Verdict::Pass, ""),
            (vec![db(None), mail(None)], Verdict::Pass, ""),
            (vec![db(None), mail(down)], Verdict::Degraded(0.5), "mail"),
            (
                vec![logo(down), mail(down), db(None)],
                Verdict::Degraded(0.5),
                "logo, mail",
            ),
            (vec![logo(down)], Verdict::Degraded(1.0), "logo"),
            (vec![mail(down), db(down)], Verdict::Fail, "db, mail"),
        ] {
            assert_eq!(Verdict::of(&findings), verdict, "{findings:?}");
            assert_eq!(failed(&findings), names);
        }
    }

    #[test]
    fn what_it_says_is_json_and_errors_can_be_left_out() {
        let findings = [
            finding("db", None, None),
            finding("mail", Some(0.5), Some("said \"no\"\n")),
        ];
        let text = json("degraded", &findings, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let wanted = serde_json::json!({"status": "degraded", "dependencies": {
            "db": {"status": "pass", "ms": 3},
            "mail": {"status": "fail", "ms": 3, "critical": false, "error": "said \"no\"\n"},
        }});
        assert_eq!(value, wanted);
        assert!(!json("degraded", &findings, false).contains("said"));
    }
}
