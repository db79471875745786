//! The runbook: a section for each alert, commands that name what exists, and answers of the health
//! URLs as they are.

use std::{collections::BTreeSet, fs, path::Path};

use evenkeel::{
    Backend, Pool,
    endpoints::{Endpoints, Readiness},
};
use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::{folder, logs::schema, read, read_source, rules::alerts, run};

#[test]
fn each_alert_has_a_section_and_each_section_an_alert() {
    let runbook = read("runbook.md");
    let mut sections = BTreeSet::new();
    for section in runbook.split("\n### ").skip(1) {
        let (title, rest) = section.split_once('\n').unwrap();
        let text = rest.split("\n## ").next().unwrap();
        for part in ["**Means.**", "**Check.**", "**Do.**"] {
            assert!(text.contains(part), "{title} must have the part {part}");
        }
        assert!(sections.insert(title.to_owned()), "{title} is there twice");
    }
    let alerts: BTreeSet<_> = alerts().into_iter().map(|(alert, _)| alert).collect();
    assert_eq!(
        sections, alerts,
        "each alert must have a section, and each section an alert"
    );
}

/// Returns the commands of the runbook that contain a word, continued lines and quotes included.
fn commands(word: &str) -> Vec<String> {
    let runbook = read("runbook.md");
    let blocks = runbook.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let mut commands = Vec::new();
    for block in blocks {
        let mut command = String::new();
        for line in block.lines() {
            command.push_str(line);
            command.push('\n');
            let open = command.matches('\'').count() % 2 == 1;
            if !open && !line.ends_with('\\') {
                commands.push(std::mem::take(&mut command));
            }
        }
        assert!(command.is_empty(), "a command must end: {command}");
    }
    commands.retain(|command| command.contains(word) && command.contains("jq"));
    assert!(commands.len() > 2, "commands with {word} must be found");
    commands
}

/// Returns the names after a dot in the programs of `jq`, which are in single quotes.
fn fields(command: &str) -> Vec<&str> {
    let programs = command.split('\'').skip(1).step_by(2);
    let fields = programs.flat_map(|program| program.split('.').skip(1));
    let name = |rest: &'_ str| rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = fields.map(|rest| &rest[..name(rest).unwrap_or(rest.len())]);
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn commands_over_the_log_name_fields_that_a_line_has() {
    let schema = schema();
    for command in commands("$LOG") {
        for field in fields(&command) {
            assert!(
                schema.contains(field),
                "a line has no field {field}: {command}"
            );
        }
    }
}

#[test]
fn commands_over_the_status_name_fields_that_it_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let source: String = files
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for command in commands("status.json") {
        for field in fields(&command) {
            let known = source.contains(&format!("pub(super) {field}:"));
            assert!(known, "/status.json has no field {field}: {command}");
        }
    }
}

#[test]
fn jq_accepts_the_programs() {
    for command in commands("") {
        let (_, after) = command.split_once("jq ").unwrap();
        let program = after.split('\'').nth(1).unwrap();
        // Without input, so that the program is compiled and not run.
        run("jq", &[program], &folder());
    }
}

/// Settings that the runbook names before the reference has them.
const PLANNED_SETTINGS: [&str; 1] = ["[admin] token"];

#[test]
fn settings_that_the_runbook_names_exist() {
    let reference = read_source("src/settings/reference.md");
    let runbook = read("runbook.md").replace('\n', " ");
    let settings = runbook.split('`').filter(|code| code.starts_with('['));
    let settings: Vec<_> = settings.filter(|code| code.contains("] ")).collect();
    assert!(settings.len() > 10, "settings must be found");
    for setting in settings {
        let setting = setting.split(" = ").next().unwrap();
        if PLANNED_SETTINGS.contains(&setting) {
            continue;
        }
        let (section, key) = setting.split_once("] ").unwrap();
        let of_section = reference.split(&format!("### `{section}]`")).nth(1);
        let of_section = of_section.and_then(|rest| rest.split("\n### ").next());
        let of_section = of_section.unwrap_or_else(|| panic!("there is no section {section}]"));
        let row = [format!("| `{key}` |"), format!("| `{key}.")];
        let known = row.iter().any(|row| of_section.contains(row));
        assert!(known, "there is no setting {setting}");
    }
}

#[test]
fn fields_are_read_from_programs_of_jq() {
    let command = "jq -r 'select(.status >= 500) | [.a, .b[0].c_d] | @tsv' a.b | sort";
    assert_eq!(fields(command), ["status", "a", "b", "c_d"]);
}

/// Returns the status and the body that the table of health URLs promises, in its order.
fn promised(path: &str) -> Vec<(u16, String)> {
    let runbook = read("runbook.md");
    let start = format!("| `GET {path}` | ");
    let rows = runbook.lines().filter_map(|line| line.strip_prefix(&start));
    let promised: Vec<_> = rows
        .map(|row| {
            let answer = row.split(" | ").next().unwrap();
            let (status, body) = answer.split_once(" `").unwrap();
            (
                status.parse().unwrap(),
                body.trim_end_matches('`').to_owned(),
            )
        })
        .collect();
    assert!(!promised.is_empty(), "the table must have {path}");
    promised
}

async fn ask(readiness: &Readiness, path: &str) -> (u16, String) {
    let endpoints = Endpoints::new(readiness.clone());
    let response = endpoints
        .oneshot(Request::get(path).body(()).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (status, body.trim_end().to_owned())
}

#[tokio::test]
async fn the_health_urls_answer_as_the_runbook_says() {
    let backend = |id| Backend::new(id, &format!("http://{id}")).unwrap();
    let pool = Pool::new([backend("a"), backend("b")]).unwrap();
    let readiness = Readiness::new(pool.clone());
    let live = ask(&readiness, "/live").await;
    let mut ready = vec![ask(&readiness, "/ready").await];
    for id in ["a", "b"] {
        pool.start_maintenance(id).unwrap();
    }
    ready.push(ask(&readiness, "/ready").await);
    for id in ["a", "b"] {
        pool.mark_ready(id).unwrap();
    }
    readiness.fail("shutting down");
    ready.push(ask(&readiness, "/ready").await);
    assert_eq!(promised("/live"), [live]);
    assert_eq!(promised("/ready"), ready);
}
