//! The docs of each public module have the same sections, and their defaults are compared with the
//! code.

use std::{collections::BTreeSet, fs, path::Path};

use crate::architecture::{files, source};

/// The sections that a reader looks for, in this order; a module may have others between them.
const SECTIONS: [&str; 5] = [
    "Example",
    "Where it goes",
    "Defaults",
    "When it fails",
    "Cost",
];

/// A public module without these sections, and why.
const EXEMPT: [(&str, &str); 1] = [("error", "its types are made and read, not configured")];

/// The names of the public modules that `lib.rs` declares.
fn public_modules() -> Vec<String> {
    let root = fs::read_to_string(source().join("lib.rs")).unwrap();
    let declared = root.lines().filter_map(|line| {
        let name = line.strip_prefix("pub mod ")?.strip_suffix(';')?;
        Some(name.to_owned())
    });
    let is_exempt = |name: &String| EXEMPT.iter().any(|(exempt, _)| exempt == name);
    declared.filter(|name| !is_exempt(name)).collect()
}

fn docs(module: &str) -> String {
    let text = fs::read_to_string(source().join(module).join("mod.rs")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("//!"));
    lines.flat_map(|line| [line.trim(), "\n"]).collect()
}

/// Returns the sections of a text, and whether each has content. Hidden lines of examples begin as
/// headings do; they have brackets.
fn sections(docs: &str) -> Vec<(&str, bool)> {
    let is_word = |c: char| c.is_alphanumeric() || " ,'`-".contains(c);
    let mut found: Vec<(&str, bool)> = Vec::new();
    for line in docs.lines() {
        match line.strip_prefix("# ") {
            Some(heading) if heading.chars().all(is_word) => found.push((heading, false)),
            _ => {
                if let Some((_, has_content)) = found.last_mut() {
                    *has_content |= !line.is_empty();
                }
            }
        }
    }
    found
}

/// Returns what is wrong with the sections of a text.
fn refusal(docs: &str) -> Option<String> {
    let sections = sections(docs);
    if let Some((heading, _)) = sections.iter().find(|(_, has_content)| !has_content) {
        return Some(format!("`# {heading}` is empty"));
    }
    let headings: Vec<&str> = sections.into_iter().map(|(heading, _)| heading).collect();
    let mut last = 0;
    for wanted in SECTIONS {
        match headings.iter().filter(|h| **h == wanted).count() {
            0 => return Some(format!("`# {wanted}` is missing")),
            1 => {}
            _ => return Some(format!("`# {wanted}` stands there twice")),
        }
        let at = headings.iter().position(|h| *h == wanted).unwrap_or(0);
        if at < last {
            return Some(format!("`# {wanted}` stands too early"));
        }
        last = at;
    }
    None
}

#[test]
fn every_public_module_has_the_same_sections() {
    let modules = public_modules();
    assert!(
        modules.len() >= 17,
        "the modules must be found: {modules:?}"
    );
    for module in modules {
        let refusal = refusal(&docs(&module));
        assert!(refusal.is_none(), "{module}: {}", refusal.unwrap());
    }
}

#[test]
fn a_missing_an_early_and_an_empty_section_are_refused() {
    let all = "Summary.\n# Example\n```\n# hidden();\n```\n# Why\nx\n# Where it goes\nx\n\
               # Defaults\nx\n# When it fails\nx\n# Cost\nx\n";
    assert_eq!(refusal(all), None);
    for (from, to, wrong) in [
        ("# Cost\n", "# Price\n", "`# Cost` is missing"),
        ("# Cost\nx\n", "# Cost\n\n", "`# Cost` is empty"),
        ("# Why\nx\n", "# Cost\nx\n", "`# Cost` stands there twice"),
        (
            "# Why\nx\n",
            "# Example\nx\n",
            "`# Example` stands there twice",
        ),
    ] {
        assert_eq!(refusal(&all.replace(from, to)).as_deref(), Some(wrong));
    }
    let swapped = all
        .replace("# Defaults", "# X")
        .replace("# Cost", "# Defaults");
    let swapped = swapped.replace("# X", "# Cost");
    assert_eq!(
        refusal(&swapped).as_deref(),
        Some("`# When it fails` stands too early")
    );
}

/// The test that a module with a table of defaults must have: it hands the docs to
/// `default_table::compare`, which refuses a row that is not compared.
const COMPARISON: &str = "fn the_documented_defaults_are_those_of_the_code()";

/// Returns true if the text has the test of the defaults, and it compares them.
fn compares_defaults(text: &str) -> bool {
    text.split(COMPARISON).skip(1).any(|rest| {
        let end = rest.find("#[test]").unwrap_or(rest.len());
        rest[..end].contains("default_table::compare(include_str!(")
    })
}

/// A module whose defaults are compared elsewhere, and where.
const COMPARED_ELSEWHERE: [(&str, &str); 1] = [("settings", "tests/it/settings/reference.rs")];

#[test]
fn every_table_of_defaults_is_compared_with_the_code() {
    let mut compared = BTreeSet::new();
    for module in public_modules() {
        let docs = docs(&module);
        let (_, defaults) = docs.split_once("# Defaults\n").unwrap();
        let defaults = defaults.split("\n# ").next().unwrap();
        let elsewhere = COMPARED_ELSEWHERE.iter().find(|(m, _)| *m == module);
        if let Some((_, file)) = elsewhere {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists());
            continue;
        }
        if !defaults.contains("|---") {
            assert_eq!(defaults.trim(), "None.", "{module}: a table, or `None.`");
            continue;
        }
        let mut paths = Vec::new();
        files(&source().join(&module), &mut paths);
        let mut texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
        assert!(
            texts.any(|text| compares_defaults(&text)),
            "{module} has a table of defaults, and no {COMPARISON} that compares it"
        );
        compared.insert(module);
    }
    assert!(
        compared.len() >= 14,
        "the tables must be found: {compared:?}"
    );
}

#[test]
fn a_test_that_compares_nothing_does_not_count() {
    let test = format!("#[test]\n{COMPARISON} {{\n    BODY\n}}\n#[test]\nfn other() {{}}");
    let compares = "default_table::compare(include_str!(\"mod.rs\"), &compared);";
    assert!(compares_defaults(&test.replace("BODY", compares)));
    assert!(!compares_defaults(&test.replace("BODY", "assert!(true);")));
    let other = test.replace("{}", &format!("{{ {compares} }}"));
    assert!(!compares_defaults(&other), "another test does");
}
