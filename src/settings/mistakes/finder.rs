//! The loop of the search: read, record a mistake, blank its entry.
//!
//! Each round must change the text, or the next one would find the same mistake: `blank` and
//! `add_placeholder` return whether it did, and the loop ends otherwise.
//!
//! What follows from a blank is not a mistake of the author: a required key that was wrong is missing
//! in the next round, a list whose only entry was wrong is empty. `blanked` remembers them, and such
//! an error is passed over. The tests in `tests/it/settings.rs` count the mistakes of whole files.

#[cfg(feature = "__acme")]
use crate::settings::acme::NO_CLEARTEXT;
use crate::settings::{
    SettingsError,
    draft::Draft,
    entry::{Entry, entries, is_header, path_of},
    parser_messages,
};

/// The search for all mistakes of one text.
pub(super) struct MistakeFinder {
    /// The text, with blanks for wrong entries: every line keeps its number.
    pub(super) text: String,
    found: Vec<SettingsError>,
    /// The table and the key of each entry that was blanked.
    pub(super) blanked: Vec<(String, String)>,
}

impl MistakeFinder {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            found: Vec::new(),
            blanked: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Vec<SettingsError> {
        for _ in 0..MAX_MISTAKES {
            let can_continue = match Draft::parse(&self.text) {
                Ok(draft) => match draft.parts() {
                    Ok(_) => {
                        self.found.extend(draft.file_mistakes());
                        break;
                    }
                    Err(error) => self.record_refusal(error),
                },
                Err(error) => self.record_parse_error(&error),
            };
            if !can_continue {
                break;
            }
        }
        self.found
    }

    /// Records a key that is unknown, missing, or of another type. Returns false to end the search.
    fn record_parse_error(&mut self, error: &toml::de::Error) -> bool {
        let said = parser_messages::syntax(&self.text, error);
        let missing = error.message().strip_prefix("missing field `");
        let missing = missing.and_then(|rest| rest.strip_suffix('`'));
        if let Some(section @ ("listen" | "pool")) = missing {
            if !self.has_blanked_in(section) {
                self.found.push(said);
            }
            return self.add_placeholder(section);
        }
        let at = error.span().map(|span| span.start);
        let entries = entries(&self.text);
        let entry = at.and_then(|at| {
            // The innermost: `entries` has each before those that it holds.
            let here = |e: &&Entry| e.name.contains(&at) || e.value.contains(&at);
            entries.iter().rev().find(here)
        });
        // The key is missing because it was wrong, and blanked.
        let was_blanked = |entry: &Entry| {
            let table = path_of(&entry.table, &entry.key);
            missing.is_some_and(|key| self.is_blanked(&table, key))
        };
        if !entry.is_some_and(was_blanked) {
            self.found.push(said);
        }
        entry.is_some_and(|entry| self.blank(entry, &entries))
    }

    /// Records a value that a module refused. Returns false to end the search.
    fn record_refusal(&mut self, error: SettingsError) -> bool {
        // A list that is missing has no entry that could be blanked. The text of the error names this
        // mistake, since no position in the file does.
        if error.message().ends_with("1 or more is needed") {
            let section = error.location().trim_matches(['[', ']']).to_owned();
            if !self.has_blanked_in(required_list(&section)) {
                self.found.push(error);
            }
            return self.add_placeholder(&section);
        }
        let entries = entries(&self.text);
        let line = error.line();
        let begins_there = |e: &&Entry| Some(self.line_of(e.name.start)) == line;
        // A header names the tables around its own, too.
        let is_own = |e: &&Entry| {
            begins_there(e) && is_header(&self.text, &e.value) && e.value.start <= e.name.start
        };
        let own = entries.iter().find(is_own);
        let entry = own.or_else(|| entries.iter().find(begins_there));
        // A part is missing because it was wrong, and blanked.
        let is_part = error.message().contains(" is missing")
            && entry.is_some_and(|e| self.has_blanked_in(&path_of(&e.table, &e.key)));
        #[cfg(feature = "__acme")]
        let is_listener = error.message().contains(NO_CLEARTEXT)
            && self.blanked.iter().any(|(table, _)| table == "listen");
        #[cfg(not(feature = "__acme"))]
        let is_listener = false;
        if !is_part && !is_listener {
            self.found.push(error);
        }
        entry.is_some_and(|entry| self.blank(entry, &entries))
    }

    /// Returns true if an entry of the list was blanked.
    fn has_blanked_in(&self, list: &str) -> bool {
        let is_in = |(table, key): &(String, String)| {
            let rest = path_of(table, key);
            rest.strip_prefix(list)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.blanked.iter().any(is_in)
    }

    fn is_blanked(&self, table: &str, key: &str) -> bool {
        self.blanked.iter().any(|(t, k)| t == table && k == key)
    }

    /// Adds a listener or a backend if there is none, so that the rest can be read.
    fn add_placeholder(&mut self, section: &str) -> bool {
        let entries = entries(&self.text);
        let has_table = entries
            .iter()
            .any(|e| e.table.is_empty() && e.key == "pool");
        // An empty list in brackets is in the way.
        let list = required_list(section);
        let empty = |e: &&Entry| path_of(&e.table, &e.key) == list;
        if let Some(entry) = entries.iter().find(empty) {
            self.blank(entry, &entries);
        }
        self.text.push_str(match (section, has_table) {
            ("listen", _) => "\n[[listen]]\naddress = \"127.0.0.1:0\"\n",
            (_, true) => "\n[[pool.backends]]\nid = \"-\"\nurl = \"http://localhost\"\n",
            (_, false) => "\n[pool]\n[[pool.backends]]\nid = \"-\"\nurl = \"http://localhost\"\n",
        });
        true
    }

    fn line_of(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.matches('\n').count() + 1
    }
}

/// Returns the list that a section needs an entry of.
fn required_list(section: &str) -> &'static str {
    match section {
        "pool" => "pool.backends",
        _ => "listen",
    }
}

/// Each further mistake costs a reading of the whole text.
const MAX_MISTAKES: usize = 100;
