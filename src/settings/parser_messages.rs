//! Messages of serde and the TOML parser, rewritten for readers that know neither.
//!
//! Messages of `toml` and serde speak of structs, sequences and `u32`; an operator knows tables, lists
//! and numbers. They are rewritten by pattern, and what no pattern knows is passed on as it is.
//! Secrets are the reason for the special cases: a value that might be a key of `[sticky]` or a token
//! is never repeated, even where the section is misspelt.

use super::{SettingsError, entry, value};

/// Makes an error of one of serde or of the TOML parser.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> SettingsError {
    let Some(span) = error.span().filter(|_| !text.trim().is_empty()) else {
        return SettingsError::new(None, "", rewrite(error.message(), "", ""));
    };
    if let Some(message) = value::refusal(error.message()) {
        return refused_value(text, span.start, message);
    }
    let number = line_of(text, span.start);
    let line = text.lines().nth(number - 1).unwrap_or("").trim();
    let (header, _) = header_above(text, number);
    let header = header.to_owned();
    let message = rewrite(error.message(), &header, line);
    // `[listen]` instead of `[[listen]]`: the brackets are wrong.
    if line.starts_with('[') && !line.starts_with("[[") && error.message().contains("a sequence") {
        let message = format!("one of several: [{header}] is accepted");
        return SettingsError::new(Some(number), header, message);
    }
    let location = match key(line) {
        Some(key) if error.message().starts_with("invalid ") => format!("{header} {key}"),
        _ => header,
    };
    SettingsError::new(Some(number), location, message)
}

/// Makes the error of a value that begins at a position: with the header above it, the key that
/// stands below this header, and the line of the value's own key.
fn refused_value(text: &str, at: usize, message: &str) -> SettingsError {
    let number = line_of(text, at);
    let (header, end) = header_above(text, number);
    let Some((key, name)) = entry::below(text, end, at) else {
        return SettingsError::new(Some(number), header, message);
    };
    // The location names the key already.
    let message = message
        .strip_prefix(&format!("{}: ", key.key))
        .unwrap_or(message);
    let location = match header.is_empty() {
        true => format!("[{}] {}", key.table, key.key),
        false => format!("{header} {}", key.key),
    };
    SettingsError::new(Some(line_of(text, name)), location, message)
}

/// Returns the number of the line that holds a position.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or(text);
    before.matches('\n').count() + 1
}

/// Returns the header of the section that holds a line, and the position behind the header; nothing
/// and 0 above the first header.
fn header_above(text: &str, line: usize) -> (&str, usize) {
    let mut end = 0;
    let mut found = ("", 0);
    for line in text.split_inclusive('\n').take(line) {
        end += line.len();
        if line.trim_start().starts_with('[') {
            found = (line.split('#').next().unwrap_or("").trim(), end);
        }
    }
    found
}

/// Rewrites a message about a section, given as its `header`, and the text of its `line`.
///
/// The given value is not repeated if it may be a secret.
///
/// serde has no structured errors, so the messages are matched as texts; the tests in
/// `tests/it/settings.rs` notice if a new version changes them.
fn rewrite(message: &str, header: &str, line: &str) -> String {
    let message = message.trim().replace('\n', "; ");
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let (name, known) = rest.split_once(", expected ").unwrap_or((rest, ""));
        let known = known.strip_prefix("one of ").unwrap_or(known);
        let kind = match line.starts_with('[') {
            true => "section",
            false => "key",
        };
        return format!("unknown {kind} {name}; accepted: {known}");
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return match name {
            "`listen`" => "the section [[listen]] is missing".into(),
            "`pool`" => "the section [pool] is missing".into(),
            name => format!("the key {name} is missing"),
        };
    }
    let given = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    match given.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((given, wanted)) => {
            let given = match header {
                // A key of `[sticky]`, in whatever form the section and the key stand there.
                _ if given.starts_with("string")
                    && (header.contains("sticky")
                        || line.contains("sticky")
                        || line.contains("keys")) =>
                {
                    "a string"
                }
                _ if line.contains("token") => "this",
                _ => shown_value(given),
            };
            format!("{given}: {} is accepted", accepted(wanted))
        }
        None => message,
    }
}

/// The key that a line sets.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!key.is_empty() && key.chars().all(is_bare)).then_some(key)
}

fn shown_value(given: &str) -> &str {
    match given {
        "map" => "a table",
        "sequence" => "a list",
        given => given
            .strip_prefix("string ")
            .or_else(|| given.strip_prefix("integer "))
            .or_else(|| given.strip_prefix("floating point "))
            .or_else(|| given.strip_prefix("boolean "))
            .unwrap_or(given)
            .trim_matches('`'),
    }
}

fn accepted(wanted: &str) -> &str {
    match wanted {
        "a boolean" => "true or false",
        "a sequence" => "a list in square brackets",
        "a string" | "path string" => "a text in quotes",
        "u8" => "a whole number from 0 to 255",
        "u32" | "usize" => "a whole number from 0 on",
        wanted if wanted.starts_with("struct ") => "a table of keys",
        wanted => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_need_no_knowledge_of_rust() {
        for (message, line, wanted) in [
            (
                "unknown field `a`, expected `b` or `c`",
                "a = 1",
                "unknown key `a`; accepted: `b` or `c`",
            ),
            (
                "unknown field `a`, expected one of `b`, `c`",
                "[a]",
                "unknown section `a`; accepted: `b`, `c`",
            ),
            (
                "missing field `id`",
                "[[pool.backends]]",
                "the key `id` is missing",
            ),
            ("missing field `pool`", "", "the section [pool] is missing"),
            (
                "invalid type: string \"1\", expected usize",
                "threads = \"1\"",
                "\"1\": a whole number from 0 on is accepted",
            ),
            (
                "invalid value: integer `300`, expected u8",
                "tier = 300",
                "300: a whole number from 0 to 255 is accepted",
            ),
            (
                "invalid type: map, expected a sequence",
                "[listen]",
                "a table: a list in square brackets is accepted",
            ),
            ("duplicate key", "a = 1", "duplicate key"),
        ] {
            assert_eq!(rewrite(message, "[x]", line), wanted);
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        let message = "invalid type: string \"5a5a\", expected a sequence";
        let shown = rewrite(message, "[sticky]", "keys = \"5a5a\"");
        assert_eq!(shown, "a string: a list in square brackets is accepted");
        let message = "invalid type: integer `5150515051505150`, expected a string";
        let shown = rewrite(message, "[admin]", "token = 5150515051505150");
        assert_eq!(shown, "this: a text in quotes is accepted");
    }

    #[test]
    fn a_line_names_its_key() {
        assert_eq!(key("threads = 1"), Some("threads"));
        assert_eq!(key("  shutdown.drain=\"5s\" "), Some("shutdown.drain"));
        assert_eq!(key("[server]"), None);
        assert_eq!(key("certificates ["), None);
    }
}
