//! The documents of `examples/deploy` name what exists.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

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

/// Returns the value of a key of the unit for systemd.
fn of_unit<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values
        .next()
        .unwrap_or_else(|| panic!("the unit has no {key}"));
    assert!(values.next().is_none(), "{key} is there once");
    value
}

#[test]
fn the_user_and_the_folders_of_the_unit_are_those_of_the_other_files() {
    let unit = read("examples/deploy/systemd/edge.service");
    let manual = read("examples/deploy/systemd/README.md");
    // With a group of its name, systemd refuses a dynamic user.
    assert!(!unit.lines().any(|line| line.starts_with("DynamicUser=")));
    let user = of_unit(&unit, "User");
    let made = manual
        .lines()
        .find(|line| line.starts_with("sudo useradd "));
    assert!(made.unwrap().ends_with(&format!(" {user}")), "{made:?}");
    assert_eq!(of_unit(&unit, "Group"), user);
    assert!(manual.contains(&format!("-m 0640 -g {user} edge.toml")));
    let state = format!("/var/lib/{}", of_unit(&unit, "StateDirectory"));
    assert_eq!(of_unit(&unit, "WorkingDirectory"), state);
    assert!(manual.contains(&format!("relative to `{state}`")));

    let log = format!("/var/log/{}/access.jsonl", of_unit(&unit, "LogsDirectory"));
    let socket = format!(
        "\"/run/{}/upgrade.sock\"",
        of_unit(&unit, "RuntimeDirectory")
    );
    let shippers = [
        "config.alloy",
        "fluent-bit.yaml",
        "logstash.conf",
        "rsyslog.conf",
        "vector.yaml",
    ];
    let shippers = shippers.map(|name| format!("examples/observability/logs/{name}"));
    let others = [
        "examples/observability/runbook.md",
        "examples/deploy/keepalived/edge.toml",
    ];
    for path in shippers.iter().map(String::as_str).chain(others) {
        assert!(read(path).contains(&log), "{path} must name {log}");
    }
    for path in ["systemd/README.md", "keepalived/edge.toml"] {
        let text = read(&format!("examples/deploy/{path}"));
        assert!(text.contains(&format!("handover = {socket}")), "{path}");
    }
    for path in [
        "examples/deploy/runbook.md",
        "examples/observability/runbook.md",
    ] {
        let text = read(path);
        for (nth, line) in text.lines().enumerate() {
            let units = line
                .split("journalctl -u ")
                .skip(1)
                .chain(line.split("systemctl status ").skip(1));
            for rest in units {
                let named = rest.split(|c: char| !c.is_ascii_alphanumeric()).next();
                let is_there = named == Some(user) || named == Some("keepalived");
                assert!(is_there, "{path}:{}: there is no unit {named:?}", nth + 1);
            }
        }
    }
}

#[test]
fn systemd_accepts_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let program = binary("edge").display().to_string();
    for name in ["edge.service", "edge.socket"] {
        let text = read(&format!("examples/deploy/systemd/{name}"));
        let text = text.replace("/usr/local/bin/edge", &program);
        let text = text.replace("\n#Requires=", "\nRequires=");
        fs::write(folder.path().join(name), text).unwrap();
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "./edge.service", "./edge.socket"])
        .current_dir(folder.path())
        .output();
    match verified {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let _ = writeln!(
                std::io::stderr(),
                "NOT RUN: systemd-analyze is not installed"
            );
        }
        verified => {
            let said = verified.unwrap();
            let text = String::from_utf8_lossy(&said.stderr);
            // It warns of keys that it does not know, and succeeds.
            let own = text.lines().find(|line| line.contains("edge."));
            assert!(said.status.success() && own.is_none(), "{text}");
        }
    }
}

/// A command with a mistake in it costs time when time is short.
#[test]
fn a_shell_can_read_the_commands_of_the_documents() {
    let mut seen = 0;
    for path in [
        "deploy/README.md",
        "deploy/runbook.md",
        "deploy/dns/README.md",
        "deploy/keepalived/README.md",
        "deploy/kubernetes/README.md",
        "deploy/systemd/README.md",
        "observability/README.md",
        "observability/runbook.md",
    ] {
        let text = read(&format!("examples/{path}"));
        for block in text.split("```sh\n").skip(1) {
            let commands = block.split("```").next().unwrap();
            let mut shell = Command::new("sh")
                .arg("-n")
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = shell.stdin.take().unwrap();
            input.write_all(commands.as_bytes()).unwrap();
            drop(input);
            let said = shell.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&said.stderr);
            assert!(said.status.success(), "{path}: {errors}\n{commands}");
            seen += 1;
        }
    }
    assert!(seen > 40, "the commands must be found");
}
