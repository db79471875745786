//! The Unix socket of a running process, and its place in the file system.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// A listener that replaces another one at its path as a whole, so that a process that asks finds one
/// of the two. Its path is removed with it, unless another socket is there.
#[derive(Debug)]
pub(super) struct PathSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl PathSocket {
    /// Binds beside the path.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let beside = beside(path);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", beside.display()))
        };
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&beside).map_err(named)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).map_err(named)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(&beside).map_err(named)?,
        })
    }

    /// Moves it to the path, in place of another one.
    pub(super) fn publish(&self) -> io::Result<()> {
        fs::rename(beside(&self.path), &self.path)
    }

    /// Returns true if no other socket has replaced it.
    pub(super) fn is_published(&self) -> bool {
        identity(&self.path).is_ok_and(|there| there == self.identity)
    }
}

impl Drop for PathSocket {
    fn drop(&mut self) {
        for path in [&self.path, &beside(&self.path)] {
            if identity(path).is_ok_and(|there| there == self.identity) {
                // It is of no use any more; the next process replaces it if it stays.
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    beside.into()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
