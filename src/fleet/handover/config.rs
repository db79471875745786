//! [`Handover`]: the Unix socket at which a running process hands over, and its deadlines.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::error::ConfigError;

/// Where a running process hands its sockets over: a Unix socket, at which the next process asks.
///
/// Both processes must run as the same user; neither talks to another one.
#[derive(Clone, Debug)]
#[must_use]
pub struct Handover {
    path: PathBuf,
    /// Where the running process is asked, if not at the same path.
    asked: Option<PathBuf>,
    start_timeout: Duration,
}

impl Handover {
    /// Uses a Unix socket of this path, which the running process creates. The directory has to be
    /// there, and should be writable for this user only.
    ///
    /// # Errors
    ///
    /// If the path is empty, or longer than the 103 bytes that fit in an address with the `.new` of
    /// the socket that is about to replace another.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        Ok(Self {
            path: checked(path.into())?,
            asked: None,
            start_timeout: START_TIMEOUT,
        })
    }

    /// Sets the path at which this process asks the running one, where that is not the path at which it
    /// hands over itself. A process that starts its successor passes the path at which it
    /// [listens](Self::path), in a variable of the environment for example: the settings, which the
    /// successor reads, may name another one by then.
    ///
    /// Default: the path of [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn ask_at(mut self, path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        self.asked = Some(checked(path.into())?);
        Ok(self)
    }

    /// Sets how long a new process may take from its question until it is ready. Then the running
    /// process refuses it and serves on.
    ///
    /// Default: 60 s.
    ///
    /// # Errors
    ///
    /// If the time is under a second or over an hour.
    pub fn start_timeout(mut self, timeout: Duration) -> Result<Self, ConfigError> {
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&timeout) {
            let message = format!("{timeout:?}: 1 s to 1 h is accepted");
            return Err(ConfigError::new("start_timeout", message));
        }
        self.start_timeout = timeout;
        Ok(self)
    }

    /// Returns how long a new process may take; see [`start_timeout`](Self::start_timeout).
    #[must_use]
    pub fn configured_start_timeout(&self) -> Duration {
        self.start_timeout
    }

    /// Returns the path at which this process listens for its successor.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to the running process; `None` if there is none.
    pub(super) async fn connect(&self) -> io::Result<Option<UnixStream>> {
        let asked = self.asked.as_ref().unwrap_or(&self.path);
        let stream = match UnixStream::connect(asked).await {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    // A process that was killed leaves its socket behind.
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(error),
                };
            }
        };
        check_peer(&stream)?;
        Ok(Some(stream))
    }
}

/// Checks that a path fits in the address of a socket.
fn checked(path: PathBuf) -> Result<PathBuf, ConfigError> {
    let length = path.as_os_str().as_bytes().len();
    if !(1..=MAX_PATH).contains(&length) {
        let message = format!("{length} bytes: a path of 1 to {MAX_PATH} is accepted");
        return Err(ConfigError::new("handover", message));
    }
    Ok(path)
}

/// Refuses a peer that runs as another user.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let (peer, own) = (stream.peer_cred()?.uid(), geteuid().as_raw());
    match peer == own {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the other process runs as user {peer}, this one as {own}"),
        )),
    }
}

/// The longest path of a Unix socket is 107 bytes (unix(7)).
const MAX_PATH: usize = 107 - ".new".len();
/// Settings with thousands of certificates are read in seconds. A supervisor that waits for the new
/// process usually gives up after 90 s.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For each answer that takes no work. A process that is suspended or out of memory takes longer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
