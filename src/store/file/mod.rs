//! [`FileStore`]: a store in a folder.

mod folder;
mod record;

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use self::folder::Folder;
use super::{MAX_VALUE, Store, StoreFuture, check_key};
use crate::error::{BoxError, ConfigError};

/// A [`Store`] in a folder: one file a value. Processes on one machine may share it, and machines may
/// on a network file system that has `flock` and `fsync`, such as NFS 4. A clone is the same store.
///
/// Values are written to a file of their own, synchronised to the disk, and renamed. Files are
/// readable by their owner only (0600), and so are the folders (0700). A file that no store wrote is an
/// error to read, and is left as it is; [`put`](Store::put) replaces it.
///
/// Lifetimes and leases follow the clock of the machine: where several machines share the folder, their
/// clocks differ by less than the shortest lease.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::store::{FileStore, Store};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::BoxError> {
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path().join("state");
/// let store = FileStore::new(&folder)?;
/// store.put("certificates/a.test", "PEM".into(), None).await?;
/// assert_eq!(store.get("certificates/a.test").await?.as_deref(), Some(&b"PEM"[..]));
///
/// // Another process that opens the folder sees both.
/// let lease = Duration::from_secs(30);
/// assert!(store.lock("order", "instance 1", lease).await?);
/// assert!(!FileStore::new(&folder)?.lock("order", "instance 2", lease).await?);
/// # Ok(())
/// # }
/// ```
///
/// # Cost
///
/// Each call runs on tokio's blocking threads. A change waits for the disk, some milliseconds, and for
/// the change of another process before it. Values whose lifetime has ended are removed when the store
/// is opened, and beside a [`put`](Store::put) with a lifetime, once an hour.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: Arc<Folder>,
    path: Arc<Path>,
    /// When the values that have ended were removed last, in seconds since 1970.
    removed_at: Arc<AtomicU64>,
}

impl FileStore {
    /// Opens the folder, and makes it if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// If the folder cannot be made or written to, or if the group or other users can write to it:
    /// they could put their keys in place of the store's.
    pub fn new(folder: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = folder.into();
        let opened = Folder::open(path.clone()).map_err(|error| refused(&path, &error))?;
        Ok(Self {
            folder: Arc::new(opened),
            path: path.into(),
            removed_at: Arc::new(AtomicU64::new(seconds_since_1970())),
        })
    }

    /// Checks whether [`new`](Self::new) would open a folder, and makes none. Blocks.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn check(folder: impl AsRef<Path>) -> Result<(), ConfigError> {
        let path = folder.as_ref();
        folder::check(path).map_err(|error| refused(path, &error))
    }

    /// Returns the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a blocking thread. It ends even if the caller no longer waits.
    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Folder, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        check_key(key)?;
        let (folder, key) = (self.folder.clone(), key.to_owned());
        let work = tokio::task::spawn_blocking(move || work(&folder, &key));
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(done) => done?.map_err(|error| self.error(error.kind(), &error)),
            Err(_) => Err(self.error(ErrorKind::TimedOut, &"the disk has not answered for 5 s")),
        }
    }

    fn error(&self, kind: ErrorKind, why: &dyn std::fmt::Display) -> BoxError {
        io::Error::new(kind, format!("store {}: {why}", self.path.display())).into()
    }

    /// Removes the values that have ended, if that was not done for an hour.
    fn remove_ended(&self) {
        let (now, removed_at) = (seconds_since_1970(), &self.removed_at);
        let last = removed_at.load(Ordering::Relaxed);
        if now.abs_diff(last) < REMOVAL_INTERVAL.as_secs() {
            return;
        }
        let changed = removed_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        if changed.is_ok() {
            let folder = self.folder.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = folder.remove_ended() {
                    tracing::warn!(target: "evenkeel::store", %error, "values that have ended stay on the disk");
                }
            });
        }
    }
}

impl Store for FileStore {
    fn get<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.run(key, Folder::get))
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        lifetime: Option<Duration>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if value.len() > MAX_VALUE {
                let length = value.len();
                let why =
                    format!("a value of {length} bytes for {key}; up to {MAX_VALUE} are accepted");
                return Err(self.error(ErrorKind::InvalidInput, &why));
            }
            if lifetime.is_some() {
                self.remove_ended();
            }
            self.run(key, move |folder, key| folder.put(key, value, lifetime))
                .await
        })
    }

    fn remove<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(self.run(key, Folder::remove))
    }

    fn lock<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        lease: Duration,
    ) -> StoreFuture<'a, bool> {
        let holder = holder.to_owned();
        Box::pin(self.run(name, move |folder, name| folder.lock(name, &holder, lease)))
    }

    fn unlock<'a>(&'a self, name: &'a str, holder: &'a str) -> StoreFuture<'a, ()> {
        let holder = holder.to_owned();
        Box::pin(self.run(name, move |folder, name| folder.unlock(name, &holder)))
    }
}

fn refused(path: &Path, error: &io::Error) -> ConfigError {
    let path = path.display();
    let accepted = "a folder that only this user can write to is accepted";
    ConfigError::new("folder", format!("{path}: {error}; {accepted}"))
}

fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Longer than the wait for another process.
const TIMEOUT: Duration = Duration::from_secs(5);
const REMOVAL_INTERVAL: Duration = Duration::from_secs(3_600);
