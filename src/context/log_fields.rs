//! `LogFields`: fields of an application's own in a log line.
//!
//! Bounds stand here and not in the encoder, so that what is left out is known where it happens, and
//! an application that logs a request's body by mistake fills neither memory nor disk.

use std::borrow::Cow;

/// Fields of an application's own in the line of a request: an extension for the access log, which shows
/// them under `fields` with their types.
///
/// A layer above the log inserts it into the request's extensions, any other into the response's.
/// A layer or a handler below the log that has no response yet calls
/// [`Exchange::add_log_field`](super::Exchange::add_log_field). Fields of all three are in the line; of
/// two with one name, the later counts.
///
/// A request has at most 16 fields, which take at most 2 KiB with their names. A name has 1 to 64 of
/// the characters `A–Z a–z 0–9 _ - .`. A field beyond that is left out, and the line says so:
/// `"truncated":["fields"]`.
///
/// ```
/// use evenkeel::context::{LogFields, LogValue};
///
/// let fields = LogFields::new().field("tenant", "acme").field("items", 3);
/// let mut response = http::Response::new("hello");
/// response.extensions_mut().insert(fields);
///
/// let fields = response.extensions().get::<LogFields>().unwrap();
/// assert_eq!(fields.get("items"), Some(&LogValue::Integer(3)));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogFields {
    fields: Vec<(Cow<'static, str>, LogValue)>,
    /// Of names and values.
    bytes: usize,
    left_out: bool,
}

/// The value of a field in [`LogFields`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LogValue {
    /// True or false.
    Bool(bool),
    /// A number with a fraction. In JSON, one that is not finite becomes `null`.
    Float(f64),
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(Cow<'static, str>),
    /// A whole number that is not negative.
    Unsigned(u64),
}

impl LogFields {
    /// Makes an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a field; see [`add`](Self::add).
    #[must_use]
    pub fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<LogValue>) -> Self {
        self.add(name, value);
        self
    }

    /// Adds a field, or replaces the value of one with the same name. Returns false if the field is
    /// left out, for the reasons that the type names.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<LogValue>) -> bool {
        self.add_field(name.into(), value.into())
    }

    fn add_field(&mut self, name: Cow<'static, str>, value: LogValue) -> bool {
        let replaced = self.fields.iter().position(|(known, _)| *known == name);
        let freed = replaced.map_or(0, |at| size(&self.fields[at].0, &self.fields[at].1));
        // A field that replaces another needs room for the difference alone.
        let bytes = self.bytes - freed + size(&name, &value);
        let has_room = replaced.is_some() || self.fields.len() < MAX_FIELDS;
        if !has_room || bytes > MAX_BYTES || !is_name(&name) {
            self.left_out = true;
            return false;
        }
        self.bytes = bytes;
        match replaced {
            Some(at) => self.fields[at].1 = value,
            None => self.fields.push((name, value)),
        }
        true
    }

    /// Adds the fields of another note.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (name, value) in &other.fields {
            self.add_field(name.clone(), value.clone());
        }
        self.left_out |= other.left_out;
    }

    /// Returns the fields in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &LogValue)> {
        self.fields.iter().map(|(name, value)| (&**name, value))
    }

    /// Returns the value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&LogValue> {
        let mut fields = self.iter();
        fields
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// Returns true if there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Returns true if a field was left out.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.left_out
    }
}

fn size(name: &str, value: &LogValue) -> usize {
    name.len()
        + match value {
            LogValue::Text(text) => text.len(),
            LogValue::Bool(_)
            | LogValue::Float(_)
            | LogValue::Integer(_)
            | LogValue::Unsigned(_) => 8,
        }
}

fn is_name(name: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_part)
}

impl From<bool> for LogValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<f64> for LogValue {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl From<i32> for LogValue {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<i64> for LogValue {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for LogValue {
    fn from(value: u32) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<u64> for LogValue {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<usize> for LogValue {
    fn from(value: usize) -> Self {
        Self::Unsigned(value as u64)
    }
}

impl From<&'static str> for LogValue {
    fn from(value: &'static str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for LogValue {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

/// More would hide the fields of the schema from a reader of the line.
const MAX_FIELDS: usize = 16;
/// Twice a usual line: whatever an application copies from a request, the line stays a line.
const MAX_BYTES: usize = 2 * 1_024;
/// In bytes. Collectors accept longer names; people do not read them.
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_bounds_is_left_out_and_said() {
        let long = "x".repeat(MAX_BYTES);
        for (name, value) in [
            ("", LogValue::from(1)),
            ("a b", 1.into()),
            ("a\"b", 1.into()),
            ("é", 1.into()),
            ("long", long.into()),
        ] {
            let mut fields = LogFields::new();
            assert!(!fields.add(name, value), "{name}");
            assert!(fields.is_empty() && fields.is_truncated(), "{name}");
        }
        let mut fields = LogFields::new();
        for number in 0..MAX_FIELDS {
            assert!(fields.add(format!("f{number}"), number));
        }
        assert!(!fields.is_truncated());
        assert!(fields.add("f0", "a name that is there needs no room"));
        assert!(!fields.add("one-more", true) && fields.is_truncated());
        assert_eq!(fields.iter().count(), MAX_FIELDS);
    }

    #[test]
    fn the_later_of_two_with_one_name_counts_and_frees_the_room() {
        let mut fields = LogFields::new().field("a", "x".repeat(MAX_BYTES - 1));
        assert!(fields.add("a", 7) && fields.add("b", "y".repeat(1_000)));
        assert_eq!(fields.get("a"), Some(&LogValue::Integer(7)));
        let mut all = LogFields::new().field("a", false).field("c", 0.5);
        all.extend(&fields);
        let names: Vec<_> = all.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "c", "b"]);
        assert_eq!(all.get("a"), Some(&LogValue::Integer(7)));
    }
}
