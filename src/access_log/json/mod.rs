//! The JSON encoder: writes a line into a buffer, without a tree of values and without an allocation
//! once the buffer is large enough.
//!
//! A line has two parts. The opening holds what is known when a request arrives, up to the
//! referer; the end holds the rest, from the status on. [`Buffer`] is all that the rest of the
//! module sees: the cursor that writes, and the attributes that keep it in registers, stay in here.

mod cursor;
mod line;
mod text;
mod time;

pub(super) use self::{cursor::Buffer, line::node, text::hexadecimal, time::since_1970};
use self::{cursor::Cursor, line::cached_conn};
use super::{Entry, closing::End, opening::OpeningFacts};

impl Buffer {
    /// Adds the opening of a request's line.
    pub(super) fn add_opening(&mut self, facts: &OpeningFacts<'_>) {
        let cached = facts.conn.and_then(cached_conn);
        while !self.try_add(
            #[inline(always)]
            |cursor| line::write_opening(facts, cached, cursor),
        ) {}
    }

    /// Adds a line whose opening is written already; false if the buffer was too small: it is
    /// larger now, and the caller tries again.
    #[inline(always)]
    pub(super) fn try_add_line(&mut self, opening: &[u8], end: &End<'_>) -> bool {
        self.try_add(
            #[inline(always)]
            |cursor| line::write_end(end, cursor.put_slice(opening)?),
        )
    }

    /// Adds a line; false if the buffer was too small: it is larger now, and the caller tries
    /// again.
    pub(super) fn try_add_entry(&mut self, entry: &Entry<'_>) -> bool {
        self.try_add(|cursor| line::write_entry(entry, cursor))
    }

    /// Returns a line whose opening is written already, in a buffer of its own.
    pub(super) fn of_line(opening: &[u8], end: &End<'_>) -> Self {
        Self::of(|cursor| line::write_end(end, cursor.put_slice(opening)?))
    }

    /// Returns a line in a buffer of its own.
    pub(super) fn of_entry(entry: &Entry<'_>) -> Self {
        Self::of(|cursor| line::write_entry(entry, cursor))
    }
}
