//! The files of `examples/observability`: what they name exists, and the tools accept them.

mod logs;
mod metrics;
mod rules;
mod runbook;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use yaml_rust2::{Yaml, YamlLoader};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/observability")
}

fn read(path: &str) -> String {
    let path = folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Reads a file of this crate.
fn read_source(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml(path: &str) -> Yaml {
    let mut documents =
        YamlLoader::load_from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(documents.len(), 1, "{path} must have one document");
    documents.remove(0)
}

fn json(path: &str) -> serde_json::Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn text<'a>(yaml: &'a Yaml, key: &str) -> &'a str {
    yaml[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {yaml:?}"))
}

/// Runs a tool in a folder. Returns without a result, and says so, where the tool is not installed.
fn run(tool: &str, arguments: &[&str], folder: &Path) {
    let output = match Command::new(tool)
        .args(arguments)
        .current_dir(folder)
        .output()
    {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let arguments = arguments.join(" ");
            crate::support::not_run(&format!("{tool} {arguments}: {tool} is not installed"));
            return;
        }
        output => output.unwrap(),
    };
    assert!(
        output.status.success(),
        "{tool} {}:\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Returns the names that begin with a prefix and go on with letters, digits and underscores.
fn names<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(prefix).map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        (at, &rest[..end.unwrap_or(rest.len())])
    })
}

/// Returns the first words in backticks of the rows of the tables in a text, and the rows. Comment
/// marks of Rust docs are left out.
fn table_rows(text: &str) -> Vec<(String, String)> {
    let row = |line: &str| {
        let line = line.trim_start().trim_start_matches("//!").trim_start();
        let first = line.strip_prefix("| `")?;
        let name = &first[..first.find('`')?];
        Some((name.to_owned(), line.to_owned()))
    };
    text.lines().filter_map(row).collect()
}
