//! Each metric that the files name is one that the code exposes, with the labels that it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{names, read, table_rows};

/// Metrics of a later version, which the files may name before the code has them.
const PLANNED: [&str; 0] = [];

/// Metrics that a program adds to `/metrics` itself, as the docs of `MetricsService::source` show.
const OF_THE_PROGRAM: [&str; 1] = ["evenkeel_log_lines_total"];

/// The labels that Prometheus adds, and that of a bucket.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

/// The files that name metrics.
const FILES: [&str; 5] = [
    "prometheus/recording.yml",
    "prometheus/alerts.yml",
    "prometheus/tests.yml",
    "grafana/dashboard.json",
    "runbook.md",
];

/// Returns the metrics of the table in the docs of the room, with the rows that describe them.
fn documented() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics");
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let rows = files.flat_map(|file| {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        table_rows(&text)
    });
    let documented: BTreeMap<_, _> = rows
        .filter(|(name, _)| name.starts_with("evenkeel_"))
        .collect();
    assert!(documented.len() > 30, "the table of metrics must be found");
    documented
}

/// Returns the metric that a name in an expression is a series of.
fn metric<'a>(name: &'a str, documented: &BTreeMap<String, String>) -> &'a str {
    let of = |ending| {
        let base = name.strip_suffix(ending)?;
        documented.contains_key(base).then_some(base)
    };
    let histogram = of("_bucket")
        .or_else(|| of("_sum"))
        .or_else(|| of("_count"));
    histogram.unwrap_or(name)
}

/// Returns the names of metrics in a text, and what follows each one. The names of recording rules
/// have colons.
fn uses(text: &str) -> Vec<(&str, &str)> {
    let used = names(text, "evenkeel_").filter(|(at, name)| {
        let before = text[..*at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        before != Some(':') && after != Some(':')
    });
    used.map(|(at, name)| (name, &text[at + name.len()..]))
        .collect()
}

/// Returns the labels of a selector, if a text begins with one.
fn labels(after: &str) -> Vec<&str> {
    let selector = after
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'));
    let Some((selector, _)) = selector else {
        return Vec::new();
    };
    let pairs = selector.split(',').filter_map(|pair| {
        let end = pair.find(['=', '!'])?;
        Some(pair[..end].trim())
    });
    pairs.collect()
}

#[test]
fn every_metric_that_is_used_is_documented() {
    let documented = documented();
    for file in FILES {
        let text = read(file).replace("\\\"", "\"");
        let uses = uses(&text);
        assert!(uses.len() > 10, "{file} must name metrics");
        for (name, after) in uses {
            let name = metric(name, &documented);
            if PLANNED.contains(&name) || OF_THE_PROGRAM.contains(&name) {
                continue;
            }
            let Some(row) = documented.get(name) else {
                panic!("{file} names {name}, which src/metrics does not document");
            };
            for label in labels(after) {
                let known = row.contains(&format!("`{label}`"));
                let added = OF_PROMETHEUS.contains(&label) || label.starts_with('$');
                assert!(known || added, "{file}: {name} has no label {label}: {row}");
            }
        }
    }
}

#[test]
fn planned_metrics_are_still_to_come() {
    let documented = documented();
    for name in PLANNED {
        let message = "is there now: take it out of PLANNED, and the remark out of alerts.yml";
        assert!(!documented.contains_key(name), "{name} {message}");
    }
}

/// A metric without a panel and without an alert is so by decision, not by oversight.
#[test]
fn metrics_without_a_use_are_listed() {
    let documented = documented();
    let mut used = BTreeSet::new();
    for file in [
        "prometheus/recording.yml",
        "prometheus/alerts.yml",
        "grafana/dashboard.json",
    ] {
        let text = read(file);
        let series = uses(&text).into_iter().map(|(name, _)| name);
        used.extend(series.map(|name| metric(name, &documented).to_owned()));
    }
    let unused = documented.keys().filter(|name| !used.contains(*name));
    let unused: BTreeSet<_> = unused.map(String::as_str).collect();
    let readme = read("README.md");
    let (_, section) = readme.split_once("## Metrics without a panel").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let listed: BTreeSet<_> = names(section, "evenkeel_").map(|(_, name)| name).collect();
    assert_eq!(
        listed, unused,
        "the list in README.md must be that of the metrics without a use"
    );
}

#[test]
fn names_and_labels_are_read_from_expressions() {
    let text = r#"a:evenkeel_x:b / evenkeel_y_total{status="5xx", job=~".+"} + evenkeel_z[5m]"#;
    let uses = uses(text);
    let names: Vec<_> = uses.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["evenkeel_y_total", "evenkeel_z"]);
    assert_eq!(labels(uses[0].1), ["status", "job"]);
    assert!(labels(uses[1].1).is_empty());
}
