//! The folder of a `FileStore`: every method blocks.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rustix::fs::{Access, FlockOperation, access, flock};

use super::record::{OVERHEAD, Record};
use crate::store::MAX_VALUE;

#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Taken before the lock of the folder, so that threads of this process wait without polling.
    guard: Mutex<()>,
}

/// Holds what keeps changes apart: first within the process, then on the machine.
struct Exclusive<'a> {
    /// The operating system releases it with the file, and with the process.
    _locked: File,
    _guard: MutexGuard<'a, ()>,
}

impl Folder {
    /// Opens the folder, and makes it if there is none. Removes what a process that died left behind.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        make_folder(&root)?;
        check_mode(&root)?;
        let folder = Self {
            root,
            guard: Mutex::new(()),
        };
        for part in [VALUES, LOCKS, TEMPORARY] {
            let path = folder.root.join(part);
            make_folder(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(FOLDER_MODE))?;
        }
        let exclusive = folder.exclusive()?;
        for entry in fs::read_dir(folder.root.join(TEMPORARY))? {
            fs::remove_file(entry?.path())?;
        }
        remove_ended(&folder.root.join(VALUES), SystemTime::now())?;
        drop(exclusive);
        Ok(folder)
    }

    pub(super) fn get(&self, key: &str) -> io::Result<Option<Bytes>> {
        let record = read(&path(self.root.join(VALUES), key))?;
        let record = record.filter(|record| !record.has_ended(SystemTime::now()));
        Ok(record.map(|record| record.content))
    }

    pub(super) fn put(
        &self,
        key: &str,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> io::Result<()> {
        let _exclusive = self.exclusive()?;
        let record = Record::new(value, lifetime, SystemTime::now());
        self.replace(&path(self.root.join(VALUES), key), &record)
    }

    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        let _exclusive = self.exclusive()?;
        remove_file(&path(self.root.join(VALUES), key))
    }

    pub(super) fn lock(&self, name: &str, holder: &str, lease: Duration) -> io::Result<bool> {
        let _exclusive = self.exclusive()?;
        let path = path(self.root.join(LOCKS), name);
        let now = SystemTime::now();
        let held = match read(&path) {
            // A file that is no record is a lock that nothing can release: it is taken over.
            Err(error) if error.kind() == ErrorKind::InvalidData => None,
            // Of any other error, nothing is known about the lock.
            held => held?,
        };
        let is_free = held.is_none_or(|held| held.has_ended(now) || held.content == holder);
        if is_free {
            let holder = Bytes::copy_from_slice(holder.as_bytes());
            self.replace(&path, &Record::new(holder, Some(lease), now))?;
        }
        Ok(is_free)
    }

    pub(super) fn unlock(&self, name: &str, holder: &str) -> io::Result<()> {
        let _exclusive = self.exclusive()?;
        let path = path(self.root.join(LOCKS), name);
        match read(&path)? {
            Some(held) if held.content == holder => remove_file(&path),
            _ => Ok(()),
        }
    }

    /// Removes the values whose lifetimes have ended.
    pub(super) fn remove_ended(&self) -> io::Result<()> {
        let _exclusive = self.exclusive()?;
        remove_ended(&self.root.join(VALUES), SystemTime::now())
    }

    /// Waits until no other thread and no other process changes the folder.
    fn exclusive(&self) -> io::Result<Exclusive<'_>> {
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        let file = options().create(true).open(self.root.join(GUARD))?;
        let mut waited = Duration::ZERO;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    return Ok(Exclusive {
                        _locked: file,
                        _guard: guard,
                    });
                }
                Err(error) if error != rustix::io::Errno::WOULDBLOCK => return Err(error.into()),
                Err(_) if waited >= MAX_WAIT => {
                    let why = "another process has held the folder for 2 s";
                    return Err(io::Error::new(ErrorKind::TimedOut, why));
                }
                Err(_) => {
                    thread::sleep(POLL);
                    waited += POLL;
                }
            }
        }
    }

    /// Puts the record in place of the file: readers see the old bytes or the new ones, and so does
    /// a machine that lost its power.
    fn replace(&self, path: &Path, record: &Record) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.root);
        make_folder(parent)?;
        let temporary = self.root.join(TEMPORARY).join("value");
        let written = write(&temporary, &record.write())
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| File::open(parent)?.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Returns the file of a key below `folder`.
///
/// A key may be the folder of another one (`a` and `a/b`), and its segments may be longer than a name
/// of a file. So the name of the file ends in `@`, that of a folder in `=`, and that of a part of a long
/// segment in `+`: no segment has these.
fn path(folder: PathBuf, key: &str) -> PathBuf {
    let mut path = folder;
    let mut segments = key.split('/').peekable();
    while let Some(mut segment) = segments.next() {
        // Keys are ASCII.
        while let Some((part, rest)) = segment.split_at_checked(MAX_NAME) {
            path.push(format!("{part}+"));
            segment = rest;
        }
        match segments.peek() {
            Some(_) => path.push(format!("{segment}=")),
            None => path.push(format!("{segment}@")),
        }
    }
    path
}

/// Checks whether a folder could be opened, and makes none.
pub(super) fn check(root: &Path) -> io::Result<()> {
    match check_mode(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        checked => checked?,
    }
    can_make_in(root)
}

/// Checks whether files can be made in a folder. One that is not there would be made, with those above
/// it, so the nearest one that is there decides.
fn can_make_in(folder: &Path) -> io::Result<()> {
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => Err(ErrorKind::NotADirectory.into()),
        Ok(_) => Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = folder.parent();
            let above = above.filter(|above| !above.as_os_str().is_empty());
            can_make_in(above.unwrap_or_else(|| Path::new(".")))
        }
        Err(error) => Err(error),
    }
}

/// Refuses a folder that others can write to.
fn check_mode(root: &Path) -> io::Result<()> {
    let mode = fs::metadata(root)?.permissions().mode();
    match mode & OTHERS_WRITE {
        0 => Ok(()),
        _ => {
            let mode = mode & 0o777;
            let why = format!("other users can write to the folder (mode {mode:o})");
            Err(io::Error::new(ErrorKind::PermissionDenied, why))
        }
    }
}

/// Makes a folder, and those above it that are missing. Each of them outlives a loss of power: its entry is
/// synchronised to the disk, as that of a file is.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    if let Some(parent) = parent {
        make_folder(parent)?;
    }
    let mut builder = DirBuilder::new();
    // Another process may make it at this moment.
    builder.recursive(true).mode(FOLDER_MODE).create(path)?;
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(FILE_MODE);
    options
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = options().create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Option<Record>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    let most = MAX_VALUE + OVERHEAD;
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    let record = Record::read(&Bytes::from(bytes));
    let record = record.filter(|record| record.content.len() <= MAX_VALUE);
    let why = || {
        io::Error::new(
            ErrorKind::InvalidData,
            format!("{}: not written by a store", path.display()),
        )
    };
    record.map(Some).ok_or_else(why)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the values below `folder` whose lifetimes have ended; leaves what is no value.
fn remove_ended(folder: &Path, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_ended(&entry.path(), now)?;
        } else if matches!(read(&entry.path()), Ok(Some(record)) if record.has_ended(now)) {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

const VALUES: &str = "values";
const LOCKS: &str = "locks";
const TEMPORARY: &str = "temporary";
/// The file whose lock keeps processes apart.
const GUARD: &str = "guard";
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The group and others.
const OTHERS_WRITE: u32 = 0o022;
/// The bytes of a segment in one name; file systems accept 255.
const MAX_NAME: usize = 200;
/// A change takes some milliseconds; a process that is stopped within one holds all others up.
const MAX_WAIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_share_a_file_and_none_leaves_the_folder() {
        let long = "a".repeat(MAX_NAME);
        let longer = format!("{long}a");
        let (deeper, longest) = (format!("{long}/a"), "a".repeat(crate::store::MAX_KEY));
        let keys = ["a", "a/b", "a/b/c", "b", &long, &longer, &deeper, &longest];
        let mut paths: Vec<_> = keys.iter().map(|key| path("/s".into(), key)).collect();
        for path in &paths {
            assert!(path.starts_with("/s"));
            let mut names = path.iter().map(|name| name.len());
            assert!(names.all(|length| length <= 255), "{path:?}");
            // No file of one key is a folder of another.
            let is_within = |other: &&PathBuf| other != &path && other.starts_with(path);
            assert_eq!(paths.iter().find(is_within), None, "{path:?}");
        }
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), keys.len());
    }
}
