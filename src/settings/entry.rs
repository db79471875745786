//! The entries of a text, and where they stand in it.
//!
//! serde reports where a value stands, and a module reports which key it refused; neither has both.
//! The entries connect the two: a flat list of all keys with the bytes of name and value, in the order
//! of the text, each table before what it holds. It is made again for each error, which is rare.
//!
//! Paths number the elements of lists (`pool.backends.0.url`), so that two backends have different
//! ones.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A key with its value, or a table with its header.
pub(super) struct Entry {
    /// The keys that lead to the table that holds it, and a number for one of a list.
    pub(super) table: String,
    pub(super) key: String,
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// Returns all entries, each before those that it holds.
pub(super) fn entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    if let Ok(root) = DeTable::parse(text) {
        collect(text, root.get_ref(), "", &mut entries);
    }
    entries
}

/// Returns the outermost entry that holds a position and whose name stands at or after `begin`; at
/// the root of the text, the outermost in a table. Returns the position of the innermost name, too:
/// the parts of a dotted key may stand in several lines.
pub(super) fn below(text: &str, begin: usize, at: usize) -> Option<(Entry, usize)> {
    let entries = entries(text);
    let holder = entries.iter().rev().find(|e| e.value.contains(&at))?;
    let path = path_of(&holder.table, &holder.key);
    let name = holder.name.start;
    let outermost = entries.into_iter().find(|entry| {
        let rest = path.strip_prefix(&path_of(&entry.table, &entry.key));
        let holds = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        holds && entry.name.start >= begin && (begin > 0 || !entry.table.is_empty())
    });
    Some((outermost?, name))
}

fn collect(text: &str, table: &DeTable<'_>, path: &str, out: &mut Vec<Entry>) {
    for (key, value) in table {
        let entry = |key: String, name: Range<usize>, value: Range<usize>| Entry {
            table: path.to_owned(),
            key,
            name,
            value,
        };
        let key_text = key.get_ref().to_string();
        let below = path_of(path, &key_text);
        let tables = value.get_ref().as_array().into_iter().flatten();
        let mut tables = tables
            .filter(|e| e.get_ref().is_table())
            .enumerate()
            .peekable();
        // `[[listen]]` has a header for each element, a list in brackets (`listen = [{…}]`) has one
        // name for all.
        let is_list = tables
            .peek()
            .is_some_and(|(_, e)| is_header(text, &e.span()));
        if !is_list {
            out.push(entry(key_text, key.span(), value.span()));
        }
        if let DeValue::Table(table) = value.get_ref() {
            collect(text, table, &below, out);
        }
        for (nth, element) in tables {
            if is_list {
                out.push(Entry {
                    table: below.clone(),
                    key: nth.to_string(),
                    name: element.span(),
                    value: element.span(),
                });
            }
            if let DeValue::Table(table) = element.get_ref() {
                collect(text, table, &path_of(&below, &nth.to_string()), out);
            }
        }
    }
}

/// Returns true if a table begins with a header of its own.
pub(super) fn is_header(text: &str, span: &Range<usize>) -> bool {
    let text = text.get(span.start..).unwrap_or_default();
    text.starts_with('[')
}

/// Returns the path of a key in a table.
pub(super) fn path_of(table: &str, key: &str) -> String {
    match table.is_empty() {
        true => key.to_owned(),
        false => format!("{table}.{key}"),
    }
}
