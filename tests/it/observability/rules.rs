//! The rules of Prometheus and the dashboard of Grafana.

use std::{collections::BTreeSet, fmt::Write, fs};

use serde_json::Value;
use yaml_rust2::Yaml;

use super::{folder, json, read, run, text, yaml};

/// Returns the alerts, each with its rule.
pub(super) fn alerts() -> Vec<(String, Yaml)> {
    let rules = yaml("prometheus/alerts.yml");
    let groups = rules["groups"].as_vec().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_vec().unwrap());
    rules
        .map(|rule| (text(rule, "alert").to_owned(), rule.clone()))
        .collect()
}

#[test]
fn each_alert_has_a_severity_texts_and_a_link_to_its_section() {
    for (alert, rule) in alerts() {
        let severity = text(&rule["labels"], "severity");
        assert!(
            ["critical", "warning"].contains(&severity),
            "{alert}: {severity}"
        );
        let annotations = &rule["annotations"];
        let [summary, description] = ["summary", "description"].map(|key| text(annotations, key));
        assert!(
            !summary.contains("{{"),
            "{alert}: the summary groups alerts, so it has no value"
        );
        assert!(
            summary.len() > 10 && description.len() > 20,
            "{alert} must have texts"
        );
        let link = text(annotations, "runbook_url");
        let anchor = link.rsplit_once('#').unwrap().1;
        assert_eq!(
            anchor,
            alert.to_lowercase(),
            "{alert}: the link must lead to its section"
        );
    }
}

#[test]
fn each_alert_is_tested_both_ways() {
    let tests = yaml("prometheus/tests.yml");
    let cases = tests["tests"].as_vec().unwrap();
    let expectations = cases.iter().flat_map(|case| {
        let tests = case["promql_expr_test"].as_vec();
        tests.into_iter().flatten()
    });
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for expectation in expectations {
        let expression = text(expectation, "expr");
        let alert = expression.split('"').nth(1).unwrap().to_owned();
        match expectation["exp_samples"].as_vec().unwrap().is_empty() {
            true => quiet.insert(alert),
            false => fires.insert(alert),
        };
    }
    let alerts: BTreeSet<_> = alerts().into_iter().map(|(alert, _)| alert).collect();
    assert_eq!(fires, alerts, "a test must see each alert fire");
    assert_eq!(quiet, alerts, "a test must see each alert quiet");
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let folder = folder().join("prometheus");
    run("promtool", &["check", "config", "prometheus.yml"], &folder);
    run(
        "promtool",
        &["check", "rules", "recording.yml", "alerts.yml"],
        &folder,
    );
    run("promtool", &["test", "rules", "tests.yml"], &folder);
}

/// Returns the panels, those in rows included.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        all.push(panel);
        let nested = panel["panels"].as_array();
        all.extend(nested.into_iter().flatten());
    }
    all
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard).into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array();
        targets.into_iter().flatten()
    });
    targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect()
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard = json("grafana/dashboard.json");
    assert!(
        dashboard["schemaVersion"].as_u64().unwrap() >= 39,
        "Grafana 10.4 or later"
    );
    assert!(
        dashboard["id"].is_null(),
        "an id belongs to one installation"
    );
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables
        .iter()
        .map(|v| v["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names[0], "datasource",
        "the data source is chosen by the user"
    );
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: the id is taken"
        );
        let place = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| place[key].as_u64().unwrap());
        assert!(x + w <= 24, "{title} is wider than the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} overlaps another panel");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            !panel["targets"].as_array().unwrap().is_empty(),
            "{title} is empty"
        );
        assert!(
            panel["description"].is_string(),
            "{title} must say what it shows"
        );
        for source in panel["targets"].as_array().unwrap().iter().chain([panel]) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    for expression in expressions(&dashboard) {
        let words = expression.split('$').skip(1);
        for word in words.map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
        }) {
            let word = word.unwrap();
            let known = word.starts_with("__") || names.contains(&word);
            assert!(known, "{expression}: there is no variable {word}");
        }
    }
}

/// promtool reads expressions only in rules, so each one becomes a rule.
#[test]
fn promtool_accepts_the_expressions_of_the_dashboard() {
    let dashboard = json("grafana/dashboard.json");
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (i, expression) in expressions(&dashboard).into_iter().enumerate() {
        let expression = expression
            .replace("$__rate_interval", "5m")
            .replace("$__interval", "5m")
            .replace("$__range", "1h");
        let quoted = serde_json::to_string(&expression).unwrap();
        writeln!(rules, "      - {{ record: \"r{i}\", expr: {quoted} }}").unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("dashboard.yml"), rules).unwrap();
    run(
        "promtool",
        &["check", "rules", "dashboard.yml"],
        folder.path(),
    );
}

/// A rule of recording.yml that the files use exists.
#[test]
fn every_recorded_series_that_is_used_is_recorded() {
    let recording = yaml("prometheus/recording.yml");
    let groups = recording["groups"].as_vec().unwrap();
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_vec().unwrap());
    let recorded: BTreeSet<_> = rules.map(|rule| text(rule, "record")).collect();
    let files = [
        "prometheus/recording.yml",
        "prometheus/alerts.yml",
        "grafana/dashboard.json",
        "runbook.md",
    ];
    let mut used = BTreeSet::new();
    for text in files.map(read) {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        let series = words.filter(|word| word.contains(":evenkeel_"));
        used.extend(series.map(str::to_owned));
    }
    let used: BTreeSet<_> = used.iter().map(String::as_str).collect();
    assert_eq!(
        used, recorded,
        "series used and series recorded must be the same"
    );
}
