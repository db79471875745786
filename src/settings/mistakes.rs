//! The search for all mistakes of a settings file.
//!
//! The search replaces a wrong entry by blanks and reads the text again, until nothing is wrong. So
//! each module still decides itself what it accepts, and a mistake hides no other. A mistake that
//! only follows from the blanks is not reported.

use std::{fs, io, ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::{Settings, SettingsError, check, duration, error::Location, model::Text};

impl Settings {
    /// Returns every mistake of a text and of the files that it names, in the order of its lines;
    /// nothing if [`from_toml`](Self::from_toml) accepts the text and the files can be used:
    /// certificates and keys can be read and belong together, the access log and the state file
    /// can be written. If the text is not TOML, only that is reported.
    ///
    /// Blocks on the file system, and leaves no file behind. Reads the text once for each mistake, up
    /// to 100 times.
    #[must_use]
    pub fn mistakes(text: &str) -> Vec<SettingsError> {
        let (_, errors) = DeTable::parse_recoverable(text);
        let mut found: Vec<_> = match errors.is_empty() {
            true => MistakeFinder::new(text).run(),
            false => errors.iter().map(|e| check::syntax(text, e)).collect(),
        };
        found.sort_by_key(SettingsError::line);
        // A syntax error often causes others in its line.
        found.dedup_by(|next, first| {
            next == first || !errors.is_empty() && next.line() == first.line()
        });
        found
    }

    /// Returns the mistakes of the files that these settings name.
    fn file_mistakes(&self) -> Vec<SettingsError> {
        let mut found = Vec::new();
        for nth in 0..self.listen.len() {
            found.extend(self.tls_mistakes(nth));
        }
        let mut check = |location: Location<'_>, path: &Path| {
            if let Err(error) = can_write(path) {
                let message = format!("{path:?}: {error}");
                found.push(location.wrong(&self.text, message));
            }
        };
        if let Some(log) = self.access_log.as_ref().filter(|log| log.file != "stdout") {
            check(Location::new("[access_log]", "file"), Path::new(&log.file));
        }
        let state_file = self.health.as_ref().and_then(|h| h.state_file.as_deref());
        if let Some(path) = state_file {
            check(Location::new("[health]", "state_file"), path);
        }
        found
    }

    #[cfg(feature = "__tls")]
    fn tls_mistakes(&self, nth: usize) -> Vec<SettingsError> {
        let Some(tls) = self.listen.get(nth).and_then(|l| l.tls.as_ref()) else {
            return Vec::new();
        };
        let alone = tls.certificates.iter().filter_map(|certificate| {
            let mut settings = self.clone();
            let tls = settings.listen.get_mut(nth)?.tls.as_mut()?;
            tls.certificates = vec![certificate.clone()];
            settings.tls(nth).err()
        });
        let found: Vec<_> = alone.collect();
        match found.is_empty() {
            true => self.tls(nth).err().into_iter().collect(),
            false => found,
        }
    }

    #[cfg(not(feature = "__tls"))]
    fn tls_mistakes(&self, _: usize) -> Vec<SettingsError> {
        Vec::new()
    }
}

/// Checks whether a file can be appended to or created, without creating it: a process that opened
/// it meanwhile would go on with a file that is deleted.
fn can_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => fs::OpenOptions::new().append(true).open(path).map(drop),
        // Opening a pipe would wait for its reader.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let probe = format!(".{name}.{}.check", std::process::id());
            let probe = path.with_file_name(probe);
            fs::File::create_new(&probe)?;
            fs::remove_file(probe)
        }
        Err(error) => Err(error),
    }
}

/// The search for all mistakes of one text.
struct MistakeFinder {
    /// The text, with blanks for wrong entries: every line keeps its number.
    text: String,
    found: Vec<SettingsError>,
    /// The table and the key of each entry that was blanked.
    blanked: Vec<(String, String)>,
}

/// A key with its value, or a table with its header.
struct Entry {
    /// The keys that lead to the table that holds it, and a number for one of a list.
    table: String,
    key: String,
    name: Range<usize>,
    value: Range<usize>,
}

impl MistakeFinder {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            found: Vec::new(),
            blanked: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<SettingsError> {
        for _ in 0..MAX_MISTAKES {
            let can_continue = match toml::from_str::<Settings>(&self.text) {
                Ok(mut settings) => {
                    settings.text = Text(self.text.clone());
                    match settings.check() {
                        Ok(()) => {
                            self.found.extend(settings.file_mistakes());
                            break;
                        }
                        Err(error) => self.record_refusal(error),
                    }
                }
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
        let said = check::syntax(&self.text, error);
        let missing = error.message().strip_prefix("missing field `");
        let missing = missing.and_then(|rest| rest.strip_suffix('`'));
        if let Some(section @ ("listen" | "pool")) = missing {
            if !self.has_blanked_in(section) {
                self.found.push(said);
            }
            return self.add_placeholder(section);
        }
        let at = error.span().map(|span| span.start);
        let entries = self.entries();
        let entry = at.and_then(|at| {
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
        if error.message().ends_with("1 or more is needed") {
            let section = error.location().trim_matches(['[', ']']).to_owned();
            if !self.has_blanked_in(required_list(&section)) {
                self.found.push(error);
            }
            return self.add_placeholder(&section);
        }
        let entries = self.entries();
        let line = error.line();
        let begins_there = |e: &&Entry| Some(self.line_of(e.name.start)) == line;
        let entry = entries.iter().find(begins_there);
        self.found.push(error);
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
        let entries = self.entries();
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

    /// Returns all entries, each before those that it holds.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let Ok(root) = DeTable::parse(&self.text) {
            self.collect(root.get_ref(), "", &mut entries);
        }
        entries
    }

    fn collect(&self, table: &DeTable<'_>, path: &str, out: &mut Vec<Entry>) {
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
            let is_list = tables
                .peek()
                .is_some_and(|(_, e)| self.is_header(&e.span()));
            if !is_list {
                out.push(entry(key_text, key.span(), value.span()));
            }
            if let DeValue::Table(table) = value.get_ref() {
                self.collect(table, &below, out);
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
                    self.collect(table, &path_of(&below, &nth.to_string()), out);
                }
            }
        }
    }

    /// Returns true if a table begins with a header of its own.
    fn is_header(&self, span: &Range<usize>) -> bool {
        let text = self.text.get(span.start..).unwrap_or_default();
        text.starts_with('[')
    }

    /// Blanks an entry and those that are checked together with it. Returns false if nothing changed.
    fn blank(&mut self, entry: &Entry, entries: &[Entry]) -> bool {
        let before = self.text.clone();
        self.blank_one(entry);
        let section = entry.table.rsplit('.').next().unwrap_or_default();
        for other in checked_together(section, &entry.key) {
            let candidate = |e: &&Entry| e.table == entry.table && e.key == *other;
            let Some(other) = entries.iter().find(candidate) else {
                continue;
            };
            // A duration that cannot be parsed is a separate mistake.
            let value = before.get(other.value.clone()).unwrap_or_default();
            let is_time = ["interval", "timeout"]
                .iter()
                .any(|end| other.key.ends_with(end));
            if !is_time || duration::parse(value.trim_matches('"')).is_ok() {
                self.blank_one(other);
            }
        }
        self.text != before
    }

    fn blank_one(&mut self, entry: &Entry) {
        let range = match self.is_header(&entry.value) && entry.value.start <= entry.name.start {
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

/// Returns the list that a section needs an entry of.
fn required_list(section: &str) -> &'static str {
    match section {
        "pool" => "pool.backends",
        _ => "listen",
    }
}

/// Returns the path of a key in a table.
fn path_of(table: &str, key: &str) -> String {
    match table.is_empty() {
        true => key.to_owned(),
        false => format!("{table}.{key}"),
    }
}

/// Returns the keys whose check depends on this one.
fn checked_together(section: &str, key: &str) -> &'static [&'static str] {
    match (section, key) {
        ("pool", "strategy" | "hash") => &["strategy", "hash"],
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
        ("outliers", "ejection" | "max_ejection") => &["ejection", "max_ejection"],
        ("proxy", "trusted") => &["client_field"],
        ("sticky", "cookie" | "secure") => &["cookie", "secure"],
        _ => &[],
    }
}

/// Each further mistake costs a reading of the whole text.
const MAX_MISTAKES: usize = 100;
