//! The documents of `examples/deploy` name what exists.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use crate::examples::process::binary;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the words that begin like this, without what is no part of a name.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let all = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    all.filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .collect()
}

#[test]
fn the_runbook_has_every_experiment_and_no_other() {
    let output = Command::new(binary("fleet"))
        .arg("--list")
        .output()
        .unwrap();
    assert!(output.status.success());
    let listed = String::from_utf8(output.stdout).unwrap();
    let listed: BTreeSet<&str> = listed.lines().filter_map(|l| l.split(' ').next()).collect();
    let runbook = read("examples/deploy/runbook.md");
    let (_, tables) = runbook
        .split_once("## Experiments in a low-traffic hour")
        .unwrap();
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| "));
    let named: BTreeSet<&str> = rows
        .filter_map(|row| {
            row.split(" | ")
                .nth(1)?
                .strip_prefix('`')?
                .strip_suffix('`')
        })
        .collect();
    assert_eq!(named, listed);
}

#[test]
fn the_runbook_names_alerts_and_metrics_that_exist() {
    let runbook = read("examples/deploy/runbook.md");
    let alerts = read("examples/observability/prometheus/alerts.yml");
    let mut seen = 0;
    for alert in words(&runbook, "Evenkeel") {
        assert!(
            alerts.contains(&format!("alert: {alert}\n")),
            "there is no alert {alert}"
        );
        seen += 1;
    }
    let metrics = read("src/metrics/mod.rs");
    for metric in words(&runbook, "evenkeel_") {
        let name = metric.trim_end_matches("_bucket");
        assert!(
            metrics.contains(&format!("| `{name}` |")),
            "there is no metric {metric}"
        );
        seen += 1;
    }
    assert!(seen > 4, "names must be found");
}
