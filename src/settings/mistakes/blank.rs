//! Blanks in place of a wrong entry.
//!
//! Which bytes an entry takes depends on how it is written:
//!
//! | written as | blanked |
//! |---|---|
//! | `key = value` | both |
//! | `a.b = value` | the whole dotted key with its value |
//! | in `{ … }` | with the comma behind it, or before it if it is the last |
//! | a table with a header | the header, its keys, and all tables below it |
//! | a table of dotted keys | each of its keys |
//!
//! Newlines stay, and a character of several bytes becomes as many blanks: offsets and lines are kept.

use std::ops::Range;

use super::finder::MistakeFinder;
use crate::settings::{
    entry::{Entry, is_header, path_of},
    value,
};

impl MistakeFinder {
    /// Blanks an entry and those that are checked together with it. Returns false if nothing changed.
    pub(super) fn blank(&mut self, entry: &Entry, entries: &[Entry]) -> bool {
        let before = self.text.clone();
        // The parts of a table that is written with dotted keys stand apart.
        if self.is_dotted(entry) {
            let path = path_of(&entry.table, &entry.key);
            let parts = entries.iter().filter(|other| other.table == path);
            parts.for_each(|part| self.blank_one(part));
        }
        self.blank_one(entry);
        let section = entry.table.rsplit('.').next().unwrap_or_default();
        for other in checked_together(section, &entry.key) {
            let candidate = |e: &&Entry| e.table == entry.table && e.key == *other;
            let Some(other) = entries.iter().find(candidate) else {
                continue;
            };
            // A duration that cannot be parsed is a separate mistake.
            // In the text as it was: the first of them may be blank by now.
            let given = before.get(other.value.clone()).unwrap_or_default();
            let is_time = ["interval", "timeout"]
                .iter()
                .any(|end| other.key.ends_with(end));
            if !is_time || value::is_duration(given.trim_matches('"')) {
                self.blank_one(other);
            }
        }
        self.text != before
    }

    /// Returns true if a key is the first part of dotted keys.
    fn is_dotted(&self, entry: &Entry) -> bool {
        let tail = self.text.get(entry.value.end..).unwrap_or_default();
        entry.name == entry.value && tail.trim_start().starts_with('.')
    }

    fn blank_one(&mut self, entry: &Entry) {
        let range =
            match is_header(&self.text, &entry.value) && entry.value.start <= entry.name.start {
                true => self.with_tables_below(entry.value.start),
                false => self.with_comma(entry),
            };
        self.blanked.push((entry.table.clone(), entry.key.clone()));
        let Some(text) = self.text.get(range.clone()) else {
            return;
        };
        let blank = |c: char| {
            if c == '\n' {
                "\n".to_owned()
            } else {
                " ".repeat(c.len_utf8())
            }
        };
        let blanks: String = text.chars().map(blank).collect();
        self.text.replace_range(range, &blanks);
    }

    /// Returns the range of a table, from its header, and of the tables below it.
    fn with_tables_below(&self, start: usize) -> Range<usize> {
        let rest = self.text.get(start..).unwrap_or_default();
        let name = rest.trim_start_matches('[').split(']').next();
        let below = format!("{}.", name.unwrap_or_default().trim());
        let mut end = start;
        for (nth, line) in rest.split_inclusive('\n').enumerate() {
            let begins = line.trim_start();
            let header = begins.trim_start_matches('[').trim_start();
            if nth > 0 && begins.starts_with('[') && !header.starts_with(&below) {
                break;
            }
            end += line.len();
        }
        start..end
    }

    /// Returns the range of a key with its value; in an inline table, with its comma.
    fn with_comma(&self, entry: &Entry) -> Range<usize> {
        let (head, tail) = (
            self.text.get(..entry.name.start).unwrap_or_default(),
            self.text.get(entry.value.end..).unwrap_or_default(),
        );
        // The first parts of a dotted key belong to the entry.
        let dotted = head.trim_end_matches(|c: char| c.is_alphanumeric() || "_-.\"'".contains(c));
        let (mut start, mut end) = (dotted.len(), entry.value.end);
        let spaces = tail.len() - tail.trim_start().len();
        if tail.trim_start().starts_with(',') {
            end += spaces + 1;
        } else if tail.trim_start().starts_with('}') && dotted.trim_end().ends_with(',') {
            start = dotted.trim_end().len() - 1;
        }
        start..end
    }
}

/// Returns the keys whose check depends on this one.
///
/// Without it, a pair that is wrong together (`interval` shorter than `timeout`) would be blanked by
/// half, and the other half would be compared with a default next: a second report of one mistake.
fn checked_together(section: &str, key: &str) -> &'static [&'static str] {
    match (section, key) {
        ("pool", "strategy" | "hash") => &["strategy", "hash"],
        ("backends", "protocol" | "send_proxy_protocol") => &["protocol", "send_proxy_protocol"],
        ("health", "type") => &[
            "path",
            "method",
            "headers",
            "statuses",
            "draining_statuses",
            "body_contains",
            "identity",
            "host",
            "pooled",
            "service",
            "send",
            "expect",
        ],
        ("health", "interval" | "changing_interval" | "down_interval" | "timeout") => {
            &["interval", "changing_interval", "down_interval", "timeout"]
        }
        ("health", "tls" | "server_name") => &["tls", "server_name"],
        ("certificate_expiry", "warn" | "error") => &["warn", "error"],
        ("outliers", "ejection" | "max_ejection") => &["ejection", "max_ejection"],
        ("proxy", "trusted") => &["client_field"],
        ("tls", "client_ca" | "client_auth" | "client_crl") => {
            &["client_ca", "client_auth", "client_crl"]
        }
        ("tls", "ca" | "danger_no_verification") => &["ca", "danger_no_verification"],
        ("sticky", "cookie" | "secure") => &["cookie", "secure"],
        ("access_log", "file") => &["format", "rotate", "sample"],
        ("fleet", "redis" | "redis_file") => &[
            "redis",
            "redis_file",
            "redis_ca",
            "name",
            "instance",
            "ticket_rotation",
        ],
        ("fleet", "handover") => &["start_timeout"],
        ("admin", "status") => &["token", "token_file"],
        _ => &[],
    }
}
