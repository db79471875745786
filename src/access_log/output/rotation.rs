//! [`Rotation`]: when a file is full. Pure: the caller passes the time.
//!
//! Logrotate's scheme needs as many renames as there are files, from the oldest on, so that no name is
//! written over before it has moved. Names with times would need one rename, and a scan of the folder
//! to find the oldest, among files that may be another program's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use memchr::memrchr;

use crate::error::ConfigError;

/// When a log file is moved away and a new one begun, and how many are kept; for
/// [`Output::rotated_file`](super::Output::rotated_file).
///
/// The files are numbered as logrotate numbers them: `access.log` becomes `access.log.1`, what was
/// `.1` becomes `.2`, and the oldest beyond [`keep`](Self::keep) is replaced. A rotation happens
/// between two lines, on the thread of the log, and loses none. If it fails, an error is logged, the
/// lines go to the old file, and the next try is 10 s later.
///
/// One process writes to a rotated file. Another program may move the file, too, as logrotate does:
/// [`Lines::reopen`](crate::access_log::Lines::reopen) then begins a new one, and a file that is
/// not the one being written to is never moved.
///
/// # Example
///
/// A new file each day, or when the file has 100 MiB, and the last 14 beside it:
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::access_log::{Format, Lines, Output, Rotation};
///
/// # fn main() -> Result<(), evenkeel::BoxError> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("access.jsonl");
/// let rotation = Rotation::new()
///     .size(100 * 1024 * 1024)?
///     .every(Duration::from_secs(24 * 60 * 60))?
///     .keep(14)?;
/// let lines = Lines::new(Format::Json, Output::rotated_file(path, rotation))?;
/// # drop(lines);
/// # Ok(())
/// # }
/// ```
///
/// # Defaults
///
/// | what | default |
/// |---|---|
/// | size | no limit |
/// | every | no limit |
/// | keep | 7 files beside the current one |
#[derive(Clone, Debug)]
#[must_use]
pub struct Rotation {
    size: Option<u64>,
    every: Option<Duration>,
    keep: u32,
}

impl Rotation {
    /// Makes a rotation without a limit, which never happens.
    pub fn new() -> Self {
        Self {
            size: None,
            every: None,
            keep: KEEP,
        }
    }

    /// Begins a new file before a line would make the current one larger than this, in bytes. A file
    /// exceeds it only if a single line does.
    ///
    /// Default: no limit.
    ///
    /// # Errors
    ///
    /// Below 1,024 bytes.
    pub fn size(mut self, bytes: u64) -> Result<Self, ConfigError> {
        if bytes < MIN_SIZE {
            let message = format!("{bytes} is less than {MIN_SIZE} bytes");
            return Err(ConfigError::new("size", message));
        }
        self.size = Some(bytes);
        Ok(self)
    }

    /// Begins a new file with the first line after each multiple of this since 1970 in UTC: 24 hours
    /// are from midnight to midnight. A file that an earlier run of the program left counts by the
    /// time of its last change.
    ///
    /// Default: no limit.
    ///
    /// # Errors
    ///
    /// Below a second, and unless it is whole seconds.
    pub fn every(mut self, interval: Duration) -> Result<Self, ConfigError> {
        if interval.as_secs() == 0 || interval.subsec_nanos() > 0 {
            let message = format!("{interval:?} is not whole seconds, 1 or more");
            return Err(ConfigError::new("every", message));
        }
        self.every = Some(interval);
        Ok(self)
    }

    /// Keeps this many files beside the current one.
    ///
    /// Default: 7.
    ///
    /// # Errors
    ///
    /// Unless it is from 1 to 999: each rotation renames as many files.
    pub fn keep(mut self, files: u32) -> Result<Self, ConfigError> {
        if !(1..=MAX_KEEP).contains(&files) {
            let message = format!("{files} is not from 1 to {MAX_KEEP}");
            return Err(ConfigError::new("keep", message));
        }
        self.keep = files;
        Ok(self)
    }

    /// Returns how many bytes of `lines` still go to a file of `size` bytes that was begun, or last
    /// written to, at `begun`, at `now` (both since 1970); 0 if the file is to be rotated first. An
    /// empty file takes one line at least.
    pub(super) fn room(&self, size: u64, begun: Duration, now: Duration, lines: &[u8]) -> usize {
        // Both times are divided and the numbers compared, so that a clock that is set back makes no
        // file old.
        let is_old = self.every.is_some_and(|every| {
            let period = |time: Duration| time.as_secs() / every.as_secs().max(1);
            period(begun) < period(now)
        });
        // An empty file of yesterday is as good as a new one.
        if is_old && size > 0 {
            return 0;
        }
        let room = self
            .size
            .map_or(u64::MAX, |limit| limit.saturating_sub(size));
        // All lines fit, or there is no limit: the end of the last one is the end.
        let Some(fitting) = usize::try_from(room)
            .ok()
            .and_then(|room| lines.get(..room))
        else {
            return lines.len();
        };
        match memrchr(b'\n', fitting) {
            Some(end) => end + 1,
            None if size > 0 => 0,
            // A line longer than the limit gets a file of its own: it cannot wait for a larger one.
            None => memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1),
        }
    }

    /// Returns the renames of a rotation, in their order.
    pub(super) fn renames(&self, path: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        let numbered = move |number: u32| {
            let mut name = OsString::from(path);
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        // The first rename replaces the oldest file: `rename` removes its target.
        let numbers = (0..self.keep).rev();
        numbers.map(move |number| (numbered(number), numbered(number + 1)))
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self::new()
    }
}

/// A week of days, the most common choice.
const KEEP: u32 = 7;
/// More files are a matter for a collector.
const MAX_KEEP: u32 = 999;
/// A smaller file would hold fewer than two lines.
const MIN_SIZE: u64 = 1_024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_file_is_full_by_size_at_the_end_of_a_line() {
        let rotation = Rotation::new().size(1_024).unwrap();
        let now = DAY;
        for (size, lines, room) in [
            (0, &b"one\ntwo\n"[..], 8),
            (1_016, b"one\ntwo\n", 8),
            (1_017, b"one\ntwo\n", 4),
            (1_021, b"one\ntwo\n", 0),
            (5_000, b"one\n", 0),
        ] {
            assert_eq!(rotation.room(size, now, now, lines), room, "{size}");
        }
        let long = [&[b'x'; 2_000][..], b"\ntwo\n"].concat();
        assert_eq!(rotation.room(0, now, now, &long), 2_001);
        assert_eq!(rotation.room(1, now, now, &long), 0);
    }

    #[test]
    fn a_file_is_full_by_time_at_midnight() {
        let rotation = Rotation::new().every(DAY).unwrap();
        let second = Duration::from_secs(1);
        for (size, begun, now, room) in [
            (1, DAY, 2 * DAY - second, 2),
            (1, 2 * DAY - second, 2 * DAY, 0),
            (0, 2 * DAY - second, 2 * DAY, 2),
            // The clock was set back.
            (1, 2 * DAY, DAY, 2),
        ] {
            assert_eq!(
                rotation.room(size, begun, now, b"x\n"),
                room,
                "{begun:?} {now:?}"
            );
        }
    }

    #[test]
    fn files_move_on_from_the_oldest() {
        let rotation = Rotation::new().keep(3).unwrap();
        let moved: Vec<_> = rotation
            .renames(Path::new("/log/a.log"))
            .map(|(from, to)| format!("{} {}", from.display(), to.display()))
            .collect();
        assert_eq!(
            moved,
            [
                "/log/a.log.2 /log/a.log.3",
                "/log/a.log.1 /log/a.log.2",
                "/log/a.log /log/a.log.1"
            ]
        );
    }

    #[test]
    fn the_documented_defaults_and_ranges_are_those_of_the_code() {
        let rotation = Rotation::default();
        assert!(rotation.size.is_none() && rotation.every.is_none() && rotation.keep == 7);
        let new = Rotation::new;
        assert!(new().size(1_023).is_err() && new().size(1_024).is_ok());
        assert!(new().keep(0).is_err() && new().keep(1_000).is_err() && new().keep(999).is_ok());
        assert!(new().every(Duration::from_millis(1_500)).is_err());
        assert!(new().every(Duration::ZERO).is_err() && new().every(DAY).is_ok());
    }

    proptest! {
        #[test]
        fn whole_lines_fit_and_an_empty_file_takes_one(
            size in 0_u64..2_048,
            lens in prop::collection::vec(0_usize..1_500, 1..8),
        ) {
            let lines: Vec<u8> = lens.iter().flat_map(|&len| [vec![b'x'; len], vec![b'\n']].concat()).collect();
            let rotation = Rotation::new().size(1_024).unwrap();
            let room = rotation.room(size, DAY, DAY, &lines);
            prop_assert!(room == 0 || lines[room - 1] == b'\n');
            prop_assert!(size > 0 || room > 0);
            let first = lens[0] + 1;
            prop_assert!(size + room as u64 <= 1_024 || room == 0 || (size == 0 && room == first));
        }
    }
}
