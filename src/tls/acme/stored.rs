//! What is kept in the store, as JSON: certificates with their keys, what the authority suggests, and
//! how often an order has failed.

use std::{
    collections::BTreeMap,
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

    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.obtained > other.obtained
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

/// The failures in a row of one certificate, by the directory of the authority.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct StoredFailures {
    version: u32,
    by_directory: BTreeMap<String, Failed>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Failed {
    count: u32,
    /// No order before this, in seconds since 1970.
    not_before: u64,
    /// No order before this after a restart, by which an operator may have removed the cause.
    not_before_restart: u64,
}

impl StoredFailures {
    pub(super) fn count(&self, directory: &str) -> u32 {
        self.by_directory.get(directory).map_or(0, |f| f.count)
    }

    /// Returns the time before which this authority gets no order.
    pub(super) fn not_before(&self, directory: &str, is_restart: bool) -> SystemTime {
        let failed = self.by_directory.get(directory);
        failed.map_or(UNIX_EPOCH, |failed| match is_restart {
            true => time(failed.not_before_restart),
            false => time(failed.not_before),
        })
    }

    pub(super) fn add(
        &mut self,
        directory: &str,
        failure: Failure,
        now: SystemTime,
        wait: Duration,
    ) {
        self.version = VERSION;
        let failed = self.by_directory.entry(directory.to_owned()).or_default();
        failed.count = failed.count.saturating_add(1);
        failed.not_before = seconds(now + wait);
        failed.not_before_restart = match failure {
            Failure::RateLimited => failed.not_before,
            _ => seconds(now + wait.min(MAX_RESTART_WAIT)),
        };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_directory.is_empty()
    }
}

/// Reads a value; one that is not ours is an error, and is left as it is.
pub(super) async fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<T>, BoxError> {
    let Some(bytes) = store.get(key).await? else {
        return Ok(None);
    };
    let version = serde_json::from_slice::<Version>(&bytes).map(|version| version.version);
    match (version, serde_json::from_slice(&bytes)) {
        (Ok(VERSION), Ok(value)) => Ok(Some(value)),
        // The error of serde_json may show a part of the value.
        _ => Err(format!("{key}: not written by this version").into()),
    }
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

    #[test]
    fn failures_are_counted_by_authority_and_a_restart_waits_less() {
        let (now, hour) = (time(1_000_000), Duration::from_secs(3_600));
        let mut failures = StoredFailures::default();
        failures.add("a", Failure::Validation, now, hour);
        failures.add("a", Failure::Validation, now, hour);
        failures.add("b", Failure::RateLimited, now, hour);
        assert_eq!(
            (
                failures.count("a"),
                failures.count("b"),
                failures.count("c")
            ),
            (2, 1, 0)
        );
        let quarter = hour / 4;
        for (directory, is_restart, wanted) in [
            ("a", false, now + hour),
            ("a", true, now + quarter),
            ("b", false, now + hour),
            ("b", true, now + hour),
            ("c", false, UNIX_EPOCH),
        ] {
            assert_eq!(
                failures.not_before(directory, is_restart),
                wanted,
                "{directory}"
            );
        }
    }
}
