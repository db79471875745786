//! A buffer that is written to from the front, line behind line, and the cursor that does it.
//!
//! A vector asks at each piece whether there is room, and keeps count in memory. The cursor holds
//! what is left of the buffer, in two registers; where a piece does not fit, there is no cursor any
//! more, and the line is begun again in a buffer twice as large.

/// Lines, one behind the other.
#[derive(Default)]
pub(in crate::access_log) struct Buffer {
    /// All of it is there to be written to.
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    /// Adds what `write` writes; false where there was no room for it: there is more now, and it
    /// is to be tried again. A loop here would hold what it writes in memory, not in registers.
    #[inline(always)]
    pub(super) fn try_add(
        &mut self,
        write: impl for<'a> FnOnce(Cursor<'a>) -> Option<Cursor<'a>>,
    ) -> bool {
        let free = self.bytes.get_mut(self.used..).unwrap_or_default();
        let before = free.len();
        match write(Cursor(free)) {
            Some(cursor) => self.used += before - cursor.0.len(),
            None => {
                self.grow();
                return false;
            }
        }
        true
    }

    /// Returns what `write` writes, in a buffer of its own.
    pub(super) fn of(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> Self {
        let mut buffer = Self::default();
        while !buffer.try_add(&write) {}
        buffer
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.bytes.resize((2 * self.bytes.len()).max(LEAST), 0);
    }

    pub(in crate::access_log) fn written(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// Forgets what was written, and gives a buffer back that is larger than this.
    pub(in crate::access_log) fn clear(&mut self, keep: usize) {
        self.used = 0;
        if self.bytes.len() > keep {
            self.bytes = Vec::new();
        }
    }
}

/// What is left of a buffer. `None` in its place says that something did not fit.
pub(super) struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    /// Writes bytes whose number the compiler knows.
    #[inline(always)]
    pub(super) fn put<const N: usize>(self, bytes: &[u8; N]) -> Option<Self> {
        let (place, rest) = self.0.split_first_chunk_mut()?;
        *place = *bytes;
        Some(Self(rest))
    }

    /// Writes bytes that were computed, each by itself: as one they would be joined before.
    #[inline(always)]
    pub(super) fn put_each<const N: usize>(self, bytes: [u8; N]) -> Option<Self> {
        let (place, rest) = self.0.split_first_chunk_mut::<N>()?;
        for (place, byte) in place.iter_mut().zip(bytes) {
            *place = byte;
        }
        Some(Self(rest))
    }

    /// Writes bytes as they are.
    #[inline]
    pub(super) fn put_slice(self, bytes: &[u8]) -> Option<Self> {
        let (place, rest) = self.0.split_at_mut_checked(bytes.len())?;
        place.copy_from_slice(bytes);
        Some(Self(rest))
    }

    /// The place of the next `len` bytes, to be written to and then [skipped](Self::skip).
    #[inline]
    pub(super) fn place(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.get_mut(..len)
    }

    #[inline]
    pub(super) fn skip(self, len: usize) -> Option<Self> {
        self.0.get_mut(len..).map(Self)
    }

    /// Writes what is formatted the long way.
    pub(super) fn display(self, value: impl std::fmt::Display) -> Option<Self> {
        let mut free = self.0;
        std::io::Write::write_fmt(&mut free, format_args!("{value}")).ok()?;
        Some(Self(free))
    }
}

/// What nearly every line fits into.
const LEAST: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_written_again_and_whole() {
        let (mut buffer, mut wanted) = (Buffer::default(), Vec::new());
        for len in [0, 1, 1_000, 5_000, 70_000, 3, 1_024] {
            let piece = vec![b'x'; len];
            while !buffer.try_add(|cursor| cursor.put(b"begin ")?.put_slice(&piece)?.put(b" end\n"))
            {
            }
            wanted.extend([b"begin ", &piece[..], b" end\n"].concat());
            assert!(buffer.written() == wanted, "{len}");
        }
        buffer.clear(usize::MAX);
        assert!(buffer.try_add(|cursor| cursor.put(b"ab")?.display(7)));
        assert_eq!(buffer.written(), b"ab7");
        assert!(buffer.bytes.len() > 70_000, "kept");
        buffer.clear(70_000);
        assert_eq!((buffer.written(), buffer.bytes.len()), (&[][..], 0));
    }

    #[test]
    fn a_cursor_never_writes_past_its_buffer() {
        for room in 0..8 {
            let mut bytes = [b'.'; 8];
            let cursor = Cursor(&mut bytes[..room])
                .put(b"abc")
                .and_then(|c| c.put_slice(b"de"));
            assert_eq!(cursor.is_some(), room >= 5, "{room}");
            assert!(bytes[room..].iter().all(|&b| b == b'.'), "{room}");
        }
    }
}
