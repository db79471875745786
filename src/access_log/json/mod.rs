//! The JSON encoder: writes a line into a buffer, without a tree of values and without an allocation
//! once the buffer is large enough.
//!
//! A line has two parts. The opening holds what is known when a request arrives, up to the
//! referer; the end holds the rest, from the status on. [`Buffer`] is all that the rest of the
//! module sees: the cursor that writes, and the attributes that keep it in registers, stay in here.
//!
//! Why not serde: its serializer would write through `fmt` or `io::Write` with a check and a branch
//! for each piece, and needs a struct of all fields first. The whole line is about 500 bytes, and its
//! cost is measured by `benches/access_log.rs`.
//!
//! The safety net is in `tests.rs`: a line is compared to the byte, any bytes of a client must make
//! valid JSON in each vocabulary (a property test), and the schema in the docs is compared with the
//! encoder.

mod cursor;
mod end;
mod line;
mod opening;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod vocabulary;

pub(super) use self::{cursor::Buffer, text::hexadecimal, time::since_1970};
use self::{
    cursor::Cursor,
    vocabulary::{Ecs, OpenTelemetry, Own, Vocabulary},
};
use super::{Entry, FieldNames, closing::End, opening::OpeningFacts};
use crate::context::LogFields;

/// Calls a function that is generic over the vocabulary.
macro_rules! in_vocabulary {
    ($names:expr, $($function:ident)::+ ($($argument:expr),*)) => {
        match $names {
            FieldNames::Own => $($function)::+::<Own>($($argument),*),
            FieldNames::Ecs => $($function)::+::<Ecs>($($argument),*),
            FieldNames::OpenTelemetry => $($function)::+::<OpenTelemetry>($($argument),*),
        }
    };
}

/// Returns what follows the time in each line, as JSON: the constant fields, and the name of the
/// balancer.
pub(super) fn header(names: FieldNames, node: Option<&str>) -> Box<[u8]> {
    in_vocabulary!(names, opening::header(node))
}

/// Returns an application's own fields as a JSON object.
pub(super) fn own_fields(fields: &LogFields) -> Box<[u8]> {
    written(|cursor| end::write_own_fields(fields, cursor))
}

impl Buffer {
    /// Adds the opening of a request's line.
    pub(super) fn add_opening(&mut self, facts: &OpeningFacts<'_>) {
        in_vocabulary!(facts.names, Self::add_opening_in(self, facts));
    }

    #[inline(always)]
    fn add_opening_in<V: Vocabulary>(&mut self, facts: &OpeningFacts<'_>) {
        let fingerprint = facts.client_fingerprint;
        let cached = facts.conn;
        let cached = cached.and_then(|conn| opening::cached_conn::<V>(conn, fingerprint));
        while !self.try_add(
            #[inline(always)]
            |cursor| opening::write_opening::<V>(facts, cached, cursor),
        ) {}
    }

    /// Adds a line whose opening is written already; false if the buffer was too small: it is
    /// larger now, and the caller tries again.
    #[inline(always)]
    pub(super) fn try_add_line(&mut self, opening: &[u8], end: &End<'_>) -> bool {
        in_vocabulary!(end.names, Self::try_add_line_in(self, opening, end))
    }

    #[inline(always)]
    fn try_add_line_in<V: Vocabulary>(&mut self, opening: &[u8], end: &End<'_>) -> bool {
        self.try_add(
            #[inline(always)]
            |cursor| end::write_end::<V>(end, cursor.put_slice(opening)?),
        )
    }

    /// Adds a line; false if the buffer was too small: it is larger now, and the caller tries
    /// again.
    pub(super) fn try_add_entry(&mut self, entry: &Entry<'_>) -> bool {
        in_vocabulary!(entry.names, Self::try_add_entry_in(self, entry))
    }

    fn try_add_entry_in<V: Vocabulary>(&mut self, entry: &Entry<'_>) -> bool {
        self.try_add(|cursor| line::write_entry::<V>(entry, cursor))
    }

    /// Returns a line in a buffer of its own.
    #[cfg(test)]
    pub(super) fn of_entry(entry: &Entry<'_>) -> Self {
        let mut buffer = Self::default();
        while !buffer.try_add_entry(entry) {}
        buffer
    }

    /// Adds a line of another format; false if the buffer was too small: it is larger now, and the
    /// caller tries again.
    pub(super) fn try_add_text(&mut self, text: &[u8]) -> bool {
        self.try_add(|cursor| cursor.put_slice(text))
    }
}

/// Returns what `write` writes, to be cached.
fn written(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> Box<[u8]> {
    Buffer::of(write).written().into()
}
