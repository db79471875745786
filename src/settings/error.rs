//! Errors of settings, and the search for the line of a key.
//!
//! An error has a line only if the text has one. A value that serde refuses has a span; a value that a
//! module refuses has a section and a key, for which [`Location`] searches the text line by line. That
//! search is simple, and may be: it runs over texts that TOML has accepted, and a line that it misses
//! costs the error its line and nothing else.

use std::{error, fmt};

use crate::error::ConfigError;

/// A mistake in settings: its line, its section and key, and what is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    line: Option<usize>,
    location: String,
    message: String,
}

impl SettingsError {
    pub(super) fn new(
        line: Option<usize>,
        location: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            line,
            location: location.into(),
            message: message.into(),
        }
    }

    /// Returns the line, counted from 1; `None` for a section that is missing.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// Returns the section and key, such as `[health] interval`; empty if the text is not
    /// TOML.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.location
    }

    /// Returns what was wrong and what is accepted.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.location.is_empty() {
            write!(f, "{}: ", self.location)?;
        }
        f.write_str(&self.message)
    }
}

impl error::Error for SettingsError {}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        Self::new(None, error.field(), error.message())
    }
}

/// The location of a value in the text: the `nth` header like this, counted from 0, and a key below
/// it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Location<'a> {
    pub(super) header: &'a str,
    pub(super) nth: usize,
    pub(super) key: &'a str,
}

impl<'a> Location<'a> {
    /// A key below the only header like this.
    pub(super) fn new(header: &'a str, key: &'a str) -> Self {
        Self {
            header,
            nth: 0,
            key,
        }
    }

    /// Makes the error, with the line of the key, or else of its header.
    pub(super) fn wrong(self, text: &str, message: impl Into<String>) -> SettingsError {
        let location = if self.key.is_empty() {
            self.header.to_owned()
        } else {
            format!("{} {}", self.header, self.key)
        };
        SettingsError::new(self.line(text), location, message)
    }

    fn line(self, text: &str) -> Option<usize> {
        let mut seen = 0;
        let mut inside = false;
        let mut header = None;
        // The `[listen.tls]` after the nth `[[listen]]` is the one that belongs to it.
        let parent = match self.header {
            "[listen.tls]" | "[listen.tls.acme]" => Some("[[listen]]"),
            _ => None,
        };
        for (number, line) in text.lines().enumerate() {
            // A `#` within a string cuts the value here, which is not read; names have none.
            let line = line.split('#').next().unwrap_or("").trim();
            if line.starts_with('[') {
                let line = line.replace([' ', '\t'], "");
                let counts = parent.unwrap_or(self.header);
                let past = seen;
                seen += usize::from(line == counts);
                inside = line == self.header
                    && if parent.is_some() {
                        seen == self.nth + 1
                    } else {
                        past == self.nth
                    };
                if inside {
                    header = Some(number + 1);
                }
            } else if inside {
                let key = line.split(['=', '.']).next().unwrap_or("").trim();
                if key == self.key && !key.is_empty() {
                    return Some(number + 1);
                }
            }
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_below_its_own_header() {
        let text = "[[listen]]\naddress = 1\n[[listen]]\naddress = 2\n[listen.tls]\nalpn = 3\n\
                    [pool]\n[[pool.backends]]\nid = 4 # x\n[[pool.backends]]\n# id\nid = 5\n";
        let line = |header, nth, key| Location { header, nth, key }.line(text);
        assert_eq!(line("[[listen]]", 0, "address"), Some(2));
        assert_eq!(line("[[listen]]", 1, "address"), Some(4));
        assert_eq!(line("[listen.tls]", 1, "alpn"), Some(6));
        assert_eq!(line("[[pool.backends]]", 1, "id"), Some(12));
        assert_eq!(
            line("[[pool.backends]]", 1, "url"),
            Some(10),
            "the header, without the key"
        );
        assert_eq!(line("[nowhere]", 0, "x"), None);
    }
}
