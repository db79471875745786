//! [`CertificateWatcher`]: reads certificate files again at an interval.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::{Certificates, ClientAuth, certificates::Refreshed};
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
    /// a fault keeps its previous state; each fault is logged at ERROR once, up to 100 a reading, and the next reading tries
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
        CertificateWatcher::start(interval, move || match auth.reload() {
            Ok(is_changed) => Refreshed {
                is_changed,
                ..Refreshed::default()
            },
            Err(error) => Refreshed {
                faults: vec![error],
                ..Refreshed::default()
            },
        })
    }
}

/// Keeps [`Certificates::watch`] or [`ClientAuth::watch`] running; dropping it ends the task.
#[must_use = "watching ends when this is dropped"]
pub struct CertificateWatcher {
    task: JoinHandle<()>,
}

impl CertificateWatcher {
    fn start(interval: Duration, refresh: impl Fn() -> Refreshed + Send + Sync + 'static) -> Self {
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
    F: Fn() -> Refreshed + Send + Sync + 'static,
{
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut logged = LoggedFaults::default();
    loop {
        ticks.tick().await;
        let refresh = refresh.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || refresh()).await else {
            continue;
        };
        for error in logged.update(&read.faults) {
            tracing::error!(target: "evenkeel::tls", error, "kept as it was");
        }
    }
}

/// The faults that were logged, and that the last reading found again.
#[derive(Default)]
struct LoggedFaults {
    texts: HashSet<String>,
}

impl LoggedFaults {
    /// Returns the faults that have to be logged now, and forgets those that are gone. What is beyond the
    /// limit follows at the next reading.
    fn update(&mut self, faults: &[ConfigError]) -> Vec<String> {
        let faults = faults.iter().map(ToString::to_string);
        let (known, mut new): (Vec<_>, Vec<_>) =
            faults.partition(|fault| self.texts.contains(fault));
        new.truncate(MAX_LINES);
        self.texts = known.into_iter().chain(new.iter().cloned()).collect();
        new
    }
}

/// tokio panics at an interval of zero, and the contents seldom change this fast.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// A folder of thousands of certificates that is gone must not fill the log in one reading.
const MAX_LINES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(numbers: impl IntoIterator<Item = usize>) -> Vec<ConfigError> {
        let fault = |n| ConfigError::new(format!("certificates[{n}].chain"), "cannot be read");
        numbers.into_iter().map(fault).collect()
    }

    #[test]
    fn each_fault_is_logged_once_until_it_is_gone() {
        let mut logged = LoggedFaults::default();
        for (found, new) in [
            (&[][..], &[][..]),
            (&[1], &[1]),
            (&[1], &[]),
            (&[1, 2], &[2]),
            (&[0, 1, 2], &[0]),
            // A reading without 1 forgets it.
            (&[0, 2], &[]),
            (&[0, 1, 2], &[1]),
            (&[], &[]),
            (&[2], &[2]),
        ] {
            let lines = logged.update(&faults(found.iter().copied()));
            let wanted = faults(new.iter().copied());
            let wanted: Vec<_> = wanted.iter().map(ToString::to_string).collect();
            assert_eq!(lines, wanted, "{found:?}");
        }
    }

    #[test]
    fn what_is_beyond_the_limit_follows_at_the_next_reading() {
        let (mut logged, all) = (LoggedFaults::default(), faults(0..250));
        let mut seen = HashSet::new();
        for count in [100, 100, 50, 0] {
            let lines = logged.update(&all);
            assert_eq!(lines.len(), count);
            assert!(lines.into_iter().all(|line| seen.insert(line)), "once each");
        }
        assert_eq!(seen.len(), 250);
    }
}
