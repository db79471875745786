//! [`Buffer`]: lines one after another; [`Cursor`]: a write position in it.
//!
//! A `Vec` checks its capacity and stores its length in memory with each piece. A cursor is the free
//! rest of the buffer: a pointer and a length, which stay in two registers while a line is written.
//! If a piece does not fit, the cursor is gone (`None`), and the caller writes the line again into a
//! buffer twice as large. That happens once for each doubling, as buffers are reused.

/// Lines, one after another.
#[derive(Default)]
pub(in crate::access_log) struct Buffer {
    /// Initialised to its whole length, so that a cursor can be a slice of it.
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    /// Adds what `write` writes; false if it did not fit: the buffer is larger now, and the caller
    /// tries again. A loop in here would keep the values of a line in memory instead of registers.
    #[inline(always)]
    pub(super) fn try_add(
        &mut self,
        write: impl for<'a> FnOnce(Cursor<'a>) -> Option<Cursor<'a>>,
    ) -> bool {
        let free = self.bytes.get_mut(self.used..).unwrap_or_default();
        let before = free.len();
        match write(Cursor(free)) {
            Some(cursor) => self.used += before - cursor.0.len(),
            // What was written of the line is behind `used`, and is written over.
            None => {
                self.grow();
                return false;
            }
        }
        true
    }

    /// Returns a new buffer with what `write` writes.
    pub(super) fn of(write: impl for<'a> Fn(Cursor<'a>) -> Option<Cursor<'a>>) -> Self {
        let mut buffer = Self::default();
        while !buffer.try_add(&write) {}
        buffer
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        self.bytes.resize((2 * self.bytes.len()).max(MIN_BUFFER), 0);
    }

    pub(in crate::access_log) fn written(&self) -> &[u8] {
        self.bytes.get(..self.used).unwrap_or_default()
    }

    /// Removes the lines; frees the memory if it is more than `keep` bytes.
    pub(in crate::access_log) fn clear(&mut self, keep: usize) {
        self.used = 0;
        if self.bytes.len() > keep {
            self.bytes = Vec::new();
        }
    }
}

/// The free rest of a buffer. Methods that write return the cursor behind what they wrote, or `None`
/// if it did not fit.
pub(super) struct Cursor<'a>(&'a mut [u8]);

impl<'a> Cursor<'a> {
    /// Writes bytes whose number is known to the compiler: one or two stores, without a call of
    /// `memcpy`.
    #[inline(always)]
    pub(super) fn put<const N: usize>(self, bytes: &[u8; N]) -> Option<Self> {
        let (target, rest) = self.0.split_first_chunk_mut()?;
        *target = *bytes;
        Some(Self(rest))
    }

    /// Writes computed bytes with a store for each. The compiler would otherwise combine them in a
    /// register first, which takes more instructions.
    #[inline(always)]
    pub(super) fn put_each<const N: usize>(self, bytes: [u8; N]) -> Option<Self> {
        let (target, rest) = self.0.split_first_chunk_mut::<N>()?;
        for (target, byte) in target.iter_mut().zip(bytes) {
            *target = byte;
        }
        Some(Self(rest))
    }

    /// Writes bytes as they are.
    #[inline]
    pub(super) fn put_slice(self, bytes: &[u8]) -> Option<Self> {
        let (target, rest) = self.0.split_at_mut_checked(bytes.len())?;
        target.copy_from_slice(bytes);
        Some(Self(rest))
    }

    /// Returns the next `len` bytes, for the caller to write to and then to [skip](Self::skip).
    #[inline]
    pub(super) fn free(&mut self, len: usize) -> Option<&mut [u8]> {
        self.0.get_mut(..len)
    }

    #[inline]
    pub(super) fn skip(self, len: usize) -> Option<Self> {
        self.0.get_mut(len..).map(Self)
    }

    /// Writes bytes that are constant where this is inlined: as [`put`](Self::put), for a constant of a
    /// vocabulary.
    #[inline(always)]
    pub(super) fn key(self, bytes: &'static [u8]) -> Option<Self> {
        let (target, rest) = self.0.split_at_mut_checked(bytes.len())?;
        target.copy_from_slice(bytes);
        Some(Self(rest))
    }

    /// Writes a value through `core::fmt`, which is slow.
    pub(super) fn display(self, value: impl std::fmt::Display) -> Option<Self> {
        let mut free = self.0;
        std::io::Write::write_fmt(&mut free, format_args!("{value}")).ok()?;
        Some(Self(free))
    }
}

/// The first size of a buffer, in bytes: nearly every line fits.
const MIN_BUFFER: usize = 1_024;

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
