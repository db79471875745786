//! Certificates follow their files, without a restart.

use std::{fmt, time::Duration};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::Certificates;

impl Certificates {
    /// Reads the files again at this interval and serves what changed.
    ///
    /// It is contents that are compared: modification times lie on network file systems and where
    /// a symbolic link is swapped. Reading happens on tokio's blocking threads. What is wrong is
    /// served as it was, said once in an error event, and tried again. A chain and a key that are
    /// replaced one after the other may be wrong together for one reading.
    ///
    /// Call it within a tokio runtime. See [`RELOAD_INTERVAL`].
    pub fn watch(&self, interval: Duration) -> CertificateWatcher {
        let certificates = self.clone();
        CertificateWatcher {
            task: tokio::spawn(watch(certificates, interval.max(MIN_INTERVAL))),
        }
    }
}

/// Keeps [`Certificates::watch`] going; dropped, it ends.
#[must_use = "watching ends when this is dropped"]
pub struct CertificateWatcher {
    task: JoinHandle<()>,
}

impl Drop for CertificateWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for CertificateWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateWatcher").finish_non_exhaustive()
    }
}

async fn watch(certificates: Certificates, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    loop {
        ticks.tick().await;
        let reading = certificates.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || reading.refresh()).await else {
            continue;
        };
        let error = read.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|_| error != last_error) {
            tracing::error!(target: "evenkeel::tls", error, "certificate kept as it was");
        }
        last_error = error;
    }
}

/// How often [`Certificates::watch`] is worth calling for: soon enough for a renewal days ahead
/// of expiry or for somebody who waits for it, and two small reads at a time.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// An interval of zero would panic, and shorter ones only read the same again.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
