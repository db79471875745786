//! The overall health of an application, from the results of its dependencies.

use std::{sync::Arc, time::Duration};

use super::json_response::quote;

/// The result of one check.
#[derive(Clone, Debug)]
pub(super) struct DependencyResult {
    pub(super) name: Arc<str>,
    /// The share of a soft dependency; `None` if it is hard.
    pub(super) soft_share: Option<f64>,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

/// The overall health.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Overall {
    Pass,
    /// The share of the full load that can still be served, above 0.0 and up to 1.0.
    Degraded(f64),
    Fail,
}

impl Overall {
    /// Combines the results: a failed hard dependency fails the application; of failed soft ones,
    /// the smallest share counts.
    pub(super) fn of(results: &[DependencyResult]) -> Self {
        let mut overall = Self::Pass;
        for result in results.iter().filter(|f| f.error.is_some()) {
            let Some(share) = result.soft_share else {
                return Self::Fail;
            };
            overall = match overall {
                Self::Degraded(least) => Self::Degraded(least.min(share)),
                _ => Self::Degraded(share),
            };
        }
        overall
    }

    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Degraded(_) => "degraded",
            Self::Fail => "fail",
        }
    }
}

/// Returns the names of the failed dependencies, hard ones first, separated by commas.
pub(super) fn failed_names(results: &[DependencyResult]) -> String {
    let failed = |soft| {
        let all = results.iter().filter(|f| f.error.is_some());
        all.filter(move |f| f.soft_share.is_some() == soft)
    };
    let names: Vec<&str> = failed(false)
        .chain(failed(true))
        .map(|f| &*f.name)
        .collect();
    names.join(", ")
}

/// Returns the body of the response; `with_errors` includes the texts of errors.
pub(super) fn json(status: &str, results: &[DependencyResult], with_errors: bool) -> String {
    let each: Vec<String> = results
        .iter()
        .map(|result| {
            let mut text = format!(
                "{}:{{\"status\":\"{}\",\"ms\":{}",
                quote(&result.name),
                if result.error.is_none() {
                    "pass"
                } else {
                    "fail"
                },
                result.took.as_millis()
            );
            if result.soft_share.is_some() {
                text.push_str(",\"critical\":false");
            }
            if let Some(error) = result.error.as_ref().filter(|_| with_errors) {
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

    fn result(name: &str, soft: Option<f64>, error: Option<&str>) -> DependencyResult {
        DependencyResult {
            name: name.into(),
            soft_share: soft,
            took: Duration::from_millis(3),
            error: error.map(Into::into),
        }
    }

    #[test]
    fn a_hard_failure_fails_the_whole_and_the_smallest_soft_share_counts() {
        let db = |error| result("db", None, error);
        let mail = |error| result("mail", Some(0.5), error);
        let logo = |error| result("logo", Some(1.0), error);
        let down = Some("down");
        for (results, overall, names) in [
            (vec![], Overall::Pass, ""),
            (vec![db(None), mail(None)], Overall::Pass, ""),
            (vec![db(None), mail(down)], Overall::Degraded(0.5), "mail"),
            (
                vec![logo(down), mail(down), db(None)],
                Overall::Degraded(0.5),
                "logo, mail",
            ),
            (vec![logo(down)], Overall::Degraded(1.0), "logo"),
            (vec![mail(down), db(down)], Overall::Fail, "db, mail"),
        ] {
            assert_eq!(Overall::of(&results), overall, "{results:?}");
            assert_eq!(failed_names(&results), names);
        }
    }

    #[test]
    fn the_body_is_json_and_errors_can_be_left_out() {
        let results = [
            result("db", None, None),
            result("mail", Some(0.5), Some("said \"no\"\n")),
        ];
        let text = json("degraded", &results, true);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let wanted = serde_json::json!({"status": "degraded", "dependencies": {
            "db": {"status": "pass", "ms": 3},
            "mail": {"status": "fail", "ms": 3, "critical": false, "error": "said \"no\"\n"},
        }});
        assert_eq!(value, wanted);
        assert!(!json("degraded", &results, false).contains("said"));
    }
}
