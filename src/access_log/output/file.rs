//! Lines to a file that is reopened and rotated.
//!
//! The file is opened for appending, so that each write goes to its end even if another program
//! truncates it (`copytruncate` of logrotate). `size` and `begun` are what this process knows, without
//! a system call for each batch; when they say that the file is full, they are read from the file
//! again, since another program may have emptied it.
//!
//! `torn` is true while the file ends within a line: after a crash of the process before, or a write
//! that a full disk cut. The next write then begins with a newline, so that one line is spoilt and not
//! two.
//!
//! The path may lead to a named pipe, which is opened otherwise ([`open_pipe`]).

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileExt, FileTypeExt, MetadataExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Done, Rotation, Target, stream::write_lines};
use crate::log_limit::LogLimit;

pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// The file ends within a line.
    torn: bool,
    rotation: Option<Rotation>,
    /// The size, and the time of the begin or of the last change, as far as this process knows.
    size: u64,
    begun: Duration,
    /// No rotation before this, because one failed.
    not_before: Option<Instant>,
    failures: LogLimit,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = open(&path)?;
        let mut log = Self {
            torn: is_torn(&path),
            path,
            file,
            rotation,
            size: 0,
            begun: Duration::ZERO,
            not_before: None,
            failures: LogLimit::new(),
        };
        log.measure();
        Ok(log)
    }

    /// Reads the size and the age of the file.
    fn measure(&mut self) {
        let metadata = self.file.metadata().ok();
        self.size = metadata.as_ref().map_or(0, Metadata::len);
        let changed = metadata.and_then(|metadata| metadata.modified().ok());
        self.begun = match (self.size, changed) {
            (1.., Some(changed)) => since_1970(changed),
            _ => since_1970(SystemTime::now()),
        };
    }

    fn replace(&mut self, file: File) {
        self.file = file;
        self.measure();
        // A new file is whole; the same one again is as it was.
        self.torn = (self.torn && self.size > 0) || is_torn(&self.path);
    }

    /// Returns how many bytes of `lines` go to the file as it is, after a rotation if it was due.
    fn make_room(&mut self, lines: &[u8]) -> usize {
        let now = since_1970(SystemTime::now());
        let Some(room) = self.room(now, lines) else {
            return lines.len();
        };
        // As many whole lines as fit; the next turn of the loop in `write` finds 0, and rotates.
        if room > 0 {
            return room;
        }
        // Another program may have truncated the file meanwhile.
        let begun = self.begun;
        self.measure();
        // The time of the last change is no time of its begin: keep what is known.
        self.begun = if self.size > 0 { begun } else { now };
        match self.room(now, lines) {
            Some(0) => {}
            room => return room.unwrap_or(lines.len()),
        }
        if let Err(error) = self.rotate() {
            // Each batch would otherwise try again, and rename what it can.
            self.not_before = Some(Instant::now() + ROTATE_AGAIN);
            if let Some(left_out) = self.failures.pass() {
                tracing::error!(
                    target: "evenkeel::access_log",
                    %error, left_out, path = %self.path.display(),
                    "the log cannot be rotated; lines go to the old file"
                );
            }
            return lines.len();
        }
        match self.room(now, lines) {
            // Another process put a full file there; the next batch looks again.
            None | Some(0) => lines.len(),
            Some(room) => room,
        }
    }

    /// As [`Rotation::room`]; `None` if there is no rotation, or it is too early for one.
    fn room(&self, now: Duration, lines: &[u8]) -> Option<usize> {
        let rotation = self.rotation.as_ref()?;
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return None;
        }
        Some(rotation.room(self.size, self.begun, now, lines))
    }

    /// Moves the file away, and begins a new one. Until that is open, the old one stays in use
    /// under its new name.
    fn rotate(&mut self) -> io::Result<()> {
        if let Some(rotation) = self.rotation.as_ref().filter(|_| self.is_in_place()) {
            for (from, to) in rotation.renames(&self.path) {
                match fs::rename(from, to) {
                    // A number that does not exist yet, or that an operator removed.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        // If this fails, the renamed file is still open and takes lines: nothing is lost, and the next
        // try is in 10 s.
        self.replace(open(&self.path)?);
        Ok(())
    }

    /// Returns true if the path leads to the file that is being written to, and not to one that
    /// another program put there.
    ///
    /// By device and inode. Without it, a rotation after logrotate has moved the file would rename the
    /// new, empty file over a numbered one.
    fn is_in_place(&self) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let [path, file] = [fs::metadata(&self.path), self.file.metadata()];
        match (path, file) {
            (Ok(path), Ok(file)) => identity(path) == identity(file),
            _ => false,
        }
    }
}

impl Target for LogFile {
    fn write(&mut self, lines: &[u8]) -> Done {
        let mut sum = Done::default();
        while let Some(rest) = lines.get(sum.bytes..).filter(|rest| !rest.is_empty()) {
            let room = self.make_room(rest);
            let part = rest.get(..room).unwrap_or(rest);
            let done = write_lines(&self.file, &mut self.torn, part);
            self.size += done.bytes as u64;
            sum.bytes += done.bytes;
            sum.lost += done.lost;
            sum.error = done.error.or(sum.error);
            if done.bytes < part.len() {
                break;
            }
        }
        sum
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        self.replace(file);
        Ok(())
    }

    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }
}

fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_fifo() => open_pipe(path),
        _ => fs::OpenOptions::new().create(true).append(true).open(path),
    }
}

/// Opens a named pipe so that neither this call nor a write waits for its reader.
///
/// A pipe that is open for reading, too, always has a reader. So it can be opened before the program that
/// reads it has started, and keeps its lines while that is restarted: a write without a reader would fail.
/// The lines that a full pipe does not take wait in the queue, as those for a socket do.
fn open_pipe(path: &Path) -> io::Result<File> {
    let pipe = fs::OpenOptions::new().read(true).write(true).open(path)?;
    // The standard library sets the flag of sockets only; the system call is the same for a pipe.
    let pipe = UnixStream::from(OwnedFd::from(pipe));
    pipe.set_nonblocking(true)?;
    Ok(File::from(OwnedFd::from(pipe)))
}

/// Returns true if the file can be read and ends within a line, as after a crash.
fn is_torn(path: &Path) -> bool {
    last_byte(path).is_ok_and(|last| last != b'\n')
}

fn last_byte(path: &Path) -> io::Result<u8> {
    // Opening a pipe might block, and reading from it take lines away.
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let file = File::open(path)?;
    let Some(end) = file.metadata()?.len().checked_sub(1) else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let mut last = [0];
    file.read_exact_at(&mut last, end)?;
    Ok(last[0])
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A directory that does not allow a rename seldom does so a moment later.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);
