//! [`Truncated`]: the fields of a line that were cut.
//!
//! One bit a field: the value is copied into each line, and is 0 in nearly all of them.

/// The fields of a line that are not whole, because they were longer than the limits of
/// [`FieldLimits`](super::FieldLimits).
///
/// `names` has them in the order of the line. Fields of an application's own count as one, `fields`,
/// if any of them was left out; see [`LogFields`](crate::context::LogFields).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truncated {
    fields: u8,
}

/// A field that may be cut.
///
/// The order is that of the bits and has no meaning; [`NAMES`] has the order of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ClientSubject,
    Fields,
    Host,
    Path,
    Query,
    Referer,
    UserAgent,
}

impl Truncated {
    pub(super) fn add(&mut self, field: Field) {
        self.fields |= 1 << field as u8;
    }

    /// Returns true if every field is whole.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.fields == 0
    }

    /// Returns the names of the cut fields, as the line has them under `truncated`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let is_in = move |&(field, _): &(Field, _)| self.fields & (1 << field as u8) != 0;
        NAMES.into_iter().filter(is_in).map(|(_, name)| name)
    }
}

const NAMES: [(Field, &str); 7] = [
    (Field::ClientSubject, "tls_client_subject"),
    (Field::Host, "host"),
    (Field::Path, "path"),
    (Field::Query, "query"),
    (Field::UserAgent, "user_agent"),
    (Field::Referer, "referer"),
    (Field::Fields, "fields"),
];
