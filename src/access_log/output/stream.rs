//! Lines to a stream of bytes.

use std::io::{self, Write};

use memchr::memchr_iter;

use super::{Done, Target};

/// The standard output, or a writer of the program.
pub(super) struct Stream {
    name: &'static str,
    writer: Box<dyn Write + Send>,
    torn: bool,
}

impl Stream {
    pub(super) fn new(name: &'static str, writer: Box<dyn Write + Send>) -> Self {
        Self {
            name,
            writer,
            torn: false,
        }
    }
}

impl Target for Stream {
    fn write(&mut self, lines: &[u8]) -> Done {
        let done = write_lines(&mut self.writer, &mut self.torn, lines);
        if done.error.is_some() {
            return done;
        }
        match self.writer.flush() {
            // The writer took the bytes and could not pass them on: which of them arrived is not
            // known, so that all count as lost.
            Err(error) if !is_busy(&error) => Done {
                bytes: lines.len(),
                lost: count(lines),
                error: Some(error),
            },
            _ => done,
        }
    }

    fn name(&self) -> String {
        self.name.into()
    }
}

/// Writes lines. If a write fails, the rest is lost. A line that was cut by the failure gets an end
/// before the next line, so that it does not spoil that one, too; `torn` says that there is one.
///
/// | the writer | the lines |
/// |---|---|
/// | takes a part | the rest follows with the next write |
/// | is busy | the rest is passed again by the caller, from the same byte |
/// | fails, or takes nothing | the rest of the batch is lost, and counted |
///
/// A stream that fails has no way to say which bytes arrived, so that a second try could write lines
/// twice.
pub(super) fn write_lines(mut writer: impl Write, torn: &mut bool, lines: &[u8]) -> Done {
    let mut at = 0;
    while let Some(rest) = lines.get(at..).filter(|rest| !rest.is_empty()) {
        // One write for all lines that wait: a write for each would be a system call for each.
        let text = if *torn { b"\n" } else { rest };
        match writer.write(text) {
            Ok(0) => return lost(lines, at, torn, io::ErrorKind::WriteZero.into()),
            Ok(_) if *torn => *torn = false,
            Ok(written) => at += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_busy(&error) => return Done::part(at),
            Err(error) => return lost(lines, at, torn, error),
        }
    }
    Done::part(at)
}

#[cold]
fn lost(lines: &[u8], at: usize, torn: &mut bool, error: io::Error) -> Done {
    let (before, rest) = lines.split_at_checked(at).unwrap_or((lines, &[]));
    *torn |= before.last().is_some_and(|&b| b != b'\n');
    Done {
        bytes: lines.len(),
        lost: count(rest),
        error: Some(error),
    }
}

/// Returns true if the output only takes no bytes now.
///
/// `TimedOut` as well: a socket with a write time-out reports it or `WouldBlock`, by the platform.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn count(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the bytes that each step allows, or fails.
    struct Steps<'a>(Vec<Result<usize, io::ErrorKind>>, &'a mut Vec<u8>);

    impl Write for Steps<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = self.0.remove(0)?.min(bytes.len());
            self.1.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cut_does_not_spoil_the_next() {
        let (mut out, mut torn) = (Vec::new(), false);
        let full = Err(io::ErrorKind::StorageFull);
        let steps = Steps(vec![Ok(3), Ok(4), full], &mut out);
        let done = write_lines(steps, &mut torn, b"one\ntwo\nthree\n");
        // Of the line that was cut, too, nothing counts.
        assert_eq!((done.bytes, done.lost, torn), (14, 2, true));
        let done = write_lines(Steps(vec![full], &mut out), &mut torn, b"four\n");
        assert_eq!((done.bytes, done.lost, torn), (5, 1, true));
        let steps = Steps(vec![Ok(9), Ok(9)], &mut out);
        let done = write_lines(steps, &mut torn, b"five\n");
        assert_eq!((done.bytes, done.lost, torn), (5, 0, false));
        assert_eq!(out, b"one\ntwo\nfive\n");
    }

    #[test]
    fn what_a_busy_output_does_not_take_is_kept() {
        let (mut out, mut torn) = (Vec::new(), false);
        let steps = vec![
            Err(io::ErrorKind::Interrupted),
            Ok(5),
            Err(io::ErrorKind::WouldBlock),
        ];
        let done = write_lines(Steps(steps, &mut out), &mut torn, b"one\ntwo\n");
        assert_eq!((done.bytes, done.lost, torn), (5, 0, false));
        assert!(done.error.is_none());
    }
}
