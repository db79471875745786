//! What is kept in the store, as JSON: certificates with their keys, what the authority suggests, and
//! how often an order has failed.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{backoff::Failure, renewal::Window};
use crate::{error::BoxError, store::Store};

/// A certificate and its key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredCertificate {
    version: u32,
    /// The directory of the authority that issued it.
    pub(super) directory: String,
    /// PEM, the server's own certificate first.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: String,
    /// When it was obtained, in milliseconds since 1970: of two, the later one holds.
    obtained: u64,
}

impl StoredCertificate {
    pub(super) fn new(directory: String, chain: String, key: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let obtained = now.unwrap_or_default().as_millis();
        Self {
            version: VERSION,
            obtained: u64::try_from(obtained).unwrap_or(u64::MAX),
            directory,
            chain,
            key,
        }
    }

    pub(super) fn obtained(&self) -> SystemTime {
        let since = Duration::from_millis(self.obtained);
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

/// The directory of the authority that issued the last certificate of some names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredIssuer {
    version: u32,
    pub(super) directory: String,
}

impl StoredIssuer {
    pub(super) fn new(directory: String) -> Self {
        let version = VERSION;
        Self { version, directory }
    }
}

/// What the authority suggests for the renewal of a certificate. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredSuggestion {
    version: u32,
    /// The identifier of RFC 9773 §4.1: of another certificate, it says nothing.
    pub(super) certificate: String,
    /// `None` if the authority suggests nothing.
    window: Option<(u64, u64)>,
    /// When the authority is asked again.
    ask_again: u64,
}

impl StoredSuggestion {
    pub(super) fn new(certificate: String, window: Option<Window>, ask_again: SystemTime) -> Self {
        let window = window.map(|window| (seconds(window.start), seconds(window.end)));
        Self {
            version: VERSION,
            certificate,
            window,
            ask_again: seconds(ask_again),
        }
    }

    pub(super) fn window(&self) -> Option<Window> {
        let (start, end) = self.window?;
        Some(Window {
            start: time(start),
            end: time(end),
        })
    }

    pub(super) fn ask_again(&self) -> SystemTime {
        time(self.ask_again)
    }
}

/// The failures in a row of one certificate at one directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredFailures {
    version: u32,
    pub(super) count: u32,
    /// When the last one was, in seconds since 1970.
    failed: u64,
    /// No order before this, in seconds since 1970.
    not_before: u64,
    /// No order before this after a restart, by which an operator may have removed the cause.
    not_before_restart: u64,
}

impl StoredFailures {
    /// Returns the time before which this authority gets no order of a process that has run since
    /// `started`.
    pub(super) fn not_before(&self, started: SystemTime) -> SystemTime {
        // A failure of another instance, which this process has seen from the side, is no restart.
        match self.failed < seconds(started) {
            true => time(self.not_before_restart),
            false => time(self.not_before),
        }
    }

    pub(super) fn add(&mut self, failure: Failure, now: SystemTime, wait: Duration) {
        self.version = VERSION;
        self.count = self.count.saturating_add(1);
        self.failed = seconds(now);
        self.not_before = seconds(now + wait);
        self.not_before_restart = match failure {
            Failure::RateLimited => self.not_before,
            _ => seconds(now + wait.min(MAX_RESTART_WAIT)),
        };
    }
}

/// What is under a key.
#[derive(Debug, PartialEq)]
pub(super) enum Found<T> {
    Nothing,
    Value(T),
    /// Something that was damaged, or that this version did not write; with a message.
    Unreadable(String),
}

/// Reads a value. An error is one of the store, which may answer again later.
pub(super) async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Found<T>, BoxError> {
    let bytes = match store.get(key).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Found::Nothing),
        Err(error) if is_damaged(&error) => return Ok(Found::Unreadable(error.to_string())),
        Err(error) => return Err(error),
    };
    let version = serde_json::from_slice::<Version>(&bytes).map(|version| version.version);
    Ok(match (version, serde_json::from_slice(&bytes)) {
        (Ok(VERSION), Ok(value)) => Found::Value(value),
        // The error of serde_json may show a part of the value.
        _ => Found::Unreadable(format!("{key}: not written by this version")),
    })
}

/// Returns true for the error by which a store says that a value is there and cannot be read.
fn is_damaged(error: &BoxError) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

pub(super) async fn write(
    store: &dyn Store,
    key: &str,
    value: &(impl Serialize + Sync),
    lifetime: Option<Duration>,
) -> Result<(), BoxError> {
    let bytes = Bytes::from(serde_json::to_vec(value)?);
    store.put(key, bytes, lifetime).await
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn time(seconds: u64) -> SystemTime {
    let since = Duration::from_secs(seconds);
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

const VERSION: u32 = 1;
/// Four validations an hour, if a process is started again and again.
const MAX_RESTART_WAIT: Duration = Duration::from_secs(15 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileStore;

    #[test]
    fn a_restart_waits_less_than_a_process_that_saw_the_failure() {
        let (now, hour) = (time(1_000_000), Duration::from_secs(3_600));
        let moment = Duration::from_secs(1);
        for (failure, restarted) in [
            (Failure::Validation, now + hour / 4),
            (Failure::Unreachable, now + hour / 4),
            (Failure::RateLimited, now + hour),
        ] {
            let mut failures = StoredFailures::default();
            assert_eq!(failures.not_before(now), UNIX_EPOCH);
            failures.add(failure, now, hour);
            failures.add(failure, now, hour);
            assert_eq!(failures.count, 2);
            assert_eq!(failures.not_before(now + moment), restarted, "{failure:?}");
            // It runs, and another instance or itself has failed.
            assert_eq!(failures.not_before(now), now + hour, "{failure:?}");
            assert_eq!(failures.not_before(now - moment), now + hour);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_apart_from_a_store_that_fails() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::new(folder.path()).unwrap();
        let read = async |key| read::<StoredIssuer>(&store, key).await;
        assert_eq!(read("k").await.unwrap(), Found::Nothing);
        let value = StoredIssuer::new("d".to_owned());
        write(&store, "k", &value, None).await.unwrap();
        assert_eq!(read("k").await.unwrap(), Found::Value(value));
        for (garbage, why) in [
            (
                &b"evenkeel-store 1 -\n{}"[..],
                "not written by this version",
            ),
            (
                b"evenkeel-store 1 -\n{\"version\":2,\"directory\":\"d\"}",
                "version",
            ),
            (b"\0\0\0", "not written by a store"),
            (b"", "not written by a store"),
        ] {
            std::fs::write(folder.path().join("values/k@"), garbage).unwrap();
            let Found::Unreadable(error) = read("k").await.unwrap() else {
                panic!("{garbage:?}");
            };
            assert!(error.contains(why), "{error}");
        }
        std::fs::remove_dir_all(folder.path().join("values")).unwrap();
        std::fs::write(folder.path().join("values"), "").unwrap();
        assert!(read("k").await.is_err(), "no folder is there");
    }
}
