//! [`ConfigError`]: a setting that was refused.

use std::{error, fmt};

/// A setting outside its range: the name of the field, and a message with the given value and the
/// accepted ones.
///
/// ```
/// use evenkeel::Backend;
///
/// let error = Backend::new("a", "http://127.0.0.1:9001").and_then(|b| b.weight(70_000)).unwrap_err();
/// assert_eq!(error.field(), "weight");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: String,
    message: String,
}

impl ConfigError {
    /// Makes an error about this field. `message` says what was given and what is accepted.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }

    /// Returns the name of the field.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// Returns the message: what was given and what is accepted.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl error::Error for ConfigError {}
