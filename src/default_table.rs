//! The tables of defaults in the docs, compared with the code. In tests only.

/// Asserts that the tables under `# Defaults` say what the code does. Each entry is the beginning of
/// a row's first cell, and a value that stands in its second cell as whole words. A row may have
/// several entries; a row without one is refused, so that no default is documented unchecked.
///
/// Tables of more than two columns are not about defaults, and are left out.
pub(crate) fn compare(docs: &str, entries: &[(&str, String)]) {
    if let Err(difference) = differences(docs, entries) {
        panic!("{difference}");
    }
}

fn differences(docs: &str, entries: &[(&str, String)]) -> Result<(), String> {
    let rows = rows(docs);
    if rows.is_empty() {
        return Err("the docs have no table of defaults".to_owned());
    }
    let mut compared = vec![false; rows.len()];
    for (label, value) in entries {
        let mut candidates: Vec<usize> = (0..rows.len())
            .filter(|at| rows[*at].0.starts_with(label))
            .collect();
        if candidates.iter().any(|at| rows[*at].0 == *label) {
            candidates.retain(|at| rows[*at].0 == *label);
        }
        let Some(first) = candidates.first() else {
            return Err(format!("no row begins with {label:?}"));
        };
        let found = candidates.iter().find(|at| has_words(rows[**at].1, value));
        let Some(&at) = found else {
            return Err(format!("{label:?} is {value:?}, not {:?}", rows[*first].1));
        };
        compared[at] = true;
    }
    match compared.iter().position(|is_compared| !is_compared) {
        Some(at) => Err(format!("{:?} is not compared with the code", rows[at].0)),
        None => Ok(()),
    }
}

/// Returns the two cells of each row below `# Defaults`.
fn rows(docs: &str) -> Vec<(&str, &str)> {
    let lines = docs.lines().filter_map(|line| line.strip_prefix("//!"));
    let lines = lines.map(str::trim);
    let section = lines
        .skip_while(|line| *line != "# Defaults")
        .skip(1)
        .take_while(|line| !line.starts_with("# "));
    let mut rows = Vec::new();
    // A table begins below the rule that separates its head from its rows.
    let mut is_table = false;
    for line in section {
        is_table = line == "|---|---|" || is_table && line.starts_with("| ");
        let Some(cells) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
            continue;
        };
        match cells.split_once(" | ") {
            Some(cells) if is_table => rows.push(cells),
            _ => {}
        }
    }
    rows
}

/// Returns true if `text` has `words`, and no letter or digit right before or behind them.
fn has_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + words.len()..].chars().next();
        let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !joins(before) && !joins(behind)
    })
}

#[test]
fn a_table_that_differs_from_the_code_is_refused() {
    const DOCS: &str = "//! | not | this |\n//! # Defaults\n//!\n//! | what | default |\n//! |---|---|\n\
        //! | wait | 5 s |\n//! | wait for more | 15 s, or 2 of them |\n//!\n\
        //! | a | b | c |\n//! |---|---|---|\n//! | 1 | 2 | 3 |\n//! # Cost\n//! | nor | this |";
    let compare = |entries: &[(&str, &str)]| {
        let entries = entries
            .iter()
            .map(|(label, value)| (*label, (*value).to_owned()));
        differences(DOCS, &entries.collect::<Vec<_>>())
    };
    assert_eq!(rows(DOCS).len(), 2);
    assert_eq!(
        compare(&[("wait", "5 s"), ("wait for", "15 s"), ("wait for", "2")]),
        Ok(())
    );
    for (entries, refusal) in [
        (&[("wait", "5 s")][..], "\"wait for more\" is not compared"),
        (&[("pause", "5 s")], "no row begins"),
        (&[("wait", "15 s")], "not \"5 s\""),
        (&[("wait for", "5 s")], "not \"15 s"),
        (&[], "is not compared"),
    ] {
        let error = compare(entries).unwrap_err();
        assert!(error.contains(refusal), "{error}");
    }
}
