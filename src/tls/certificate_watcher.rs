//! [`CertificateWatcher`]: reads certificate files again at an interval.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::{Certificates, ClientAuth};
use crate::error::ConfigError;

impl Certificates {
    /// The interval to pass to [`watch`](Self::watch): 5 s. An operator that replaces a file sees the
    /// effect soon, and the cost is two small reads for each certificate.
    pub const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

    /// Reads the files again at this interval, and serves those that changed. Watching ends when the
    /// returned [`CertificateWatcher`] is dropped.
    ///
    /// The contents are compared: modification times are wrong on network file systems and behind a
    /// symbolic link that is swapped. The blocking threads of tokio read the files. A certificate with
    /// a fault keeps its previous state; the fault is logged at ERROR once, and the next reading tries
    /// again. A chain and a key that are replaced one after the other may not match for one reading.
    ///
    /// An interval under 10 ms counts as 10 ms. [`RELOAD_INTERVAL`](Self::RELOAD_INTERVAL) suits most programs.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn watch(&self, interval: Duration) -> CertificateWatcher {
        let certificates = self.clone();
        CertificateWatcher::start(interval, move || certificates.refresh())
    }
}

impl ClientAuth {
    /// Reads the files of roots and revocation lists again at this interval, as
    /// [`Certificates::watch`] reads those of certificates.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn watch(&self, interval: Duration) -> CertificateWatcher {
        let auth = self.clone();
        CertificateWatcher::start(interval, move || auth.reload())
    }
}

/// Keeps [`Certificates::watch`] or [`ClientAuth::watch`] running; dropping it ends the task.
#[must_use = "watching ends when this is dropped"]
pub struct CertificateWatcher {
    task: JoinHandle<()>,
}

impl CertificateWatcher {
    fn start(
        interval: Duration,
        refresh: impl Fn() -> Result<bool, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            task: tokio::spawn(watch(Arc::new(refresh), interval.max(MIN_INTERVAL))),
        }
    }
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

async fn watch<F>(refresh: Arc<F>, interval: Duration)
where
    F: Fn() -> Result<bool, ConfigError> + Send + Sync + 'static,
{
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    loop {
        ticks.tick().await;
        let refresh = refresh.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || refresh()).await else {
            continue;
        };
        let error = read.err().map(|error| error.to_string());
        if let Some(error) = error.as_ref().filter(|_| error != last_error) {
            tracing::error!(target: "evenkeel::tls", error, "kept as it was");
        }
        last_error = error;
    }
}

/// tokio panics at an interval of zero, and the contents seldom change this fast.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
