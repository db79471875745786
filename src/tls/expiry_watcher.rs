//! [`ExpiryWatcher`]: logs certificates that expire soon.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::{task::JoinHandle, time::MissedTickBehavior};

use super::expiry::{Reminder, Reminders, days_left};
use crate::{
    connect::x509::utc,
    stats::{CertificateRegistry, Expiry},
};

/// Logs the certificates of a registry that expire soon, until it is dropped.
///
/// Each certificate is logged once a day, under `evenkeel::tls`: at WARN from
/// [`warn_before`](CertificateRegistry::warn_before) its end, at ERROR from
/// [`error_before`](CertificateRegistry::error_before) and after its end, and at once when it passes one
/// of these. A reading logs 100 certificates at most, and how many more there are; the next readings log
/// those. A certificate that is replaced is logged no more. A placeholder, which is served until an
/// authority has issued a certificate, is logged at ERROR from its fifth minute. The line has the names of the certificate
/// and of its listeners, its file, its issuer, its serial number, its end and the days that are left.
///
/// ```no_run
/// use evenkeel::{stats::CertificateRegistry, tls::{Certificate, Certificates, ExpiryWatcher}};
///
/// # async fn run() -> Result<(), evenkeel::ConfigError> {
/// let certificates = Certificates::new([Certificate::files("cert.pem", "key.pem")])?;
/// let registry = CertificateRegistry::new();
/// certificates.show_in(&registry, "0.0.0.0:443");
/// let _watcher = ExpiryWatcher::start(&registry, ExpiryWatcher::INTERVAL);
/// # Ok(())
/// # }
/// ```
#[must_use = "watching ends when this is dropped"]
pub struct ExpiryWatcher {
    task: JoinHandle<()>,
}

impl ExpiryWatcher {
    /// The interval to pass to [`start`](Self::start): 60 s. A reading costs a reference count for each
    /// certificate.
    pub const INTERVAL: Duration = Duration::from_secs(60);

    /// Reads the registry now and at this interval, with the thresholds of this handle. An interval under
    /// 10 ms counts as 10 ms.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(registry: &CertificateRegistry, interval: Duration) -> Self {
        let task = watch(registry.clone(), interval.max(MIN_INTERVAL));
        Self {
            task: tokio::spawn(task),
        }
    }
}

impl Drop for ExpiryWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for ExpiryWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpiryWatcher").finish_non_exhaustive()
    }
}

async fn watch(registry: CertificateRegistry, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reminders = Reminders::default();
    loop {
        ticks.tick().await;
        let now = SystemTime::now();
        let due = reminders.due(&registry, &registry.read(), now);
        for reminder in &due.reminders {
            log(reminder, now);
        }
        let left_out = due.left_out;
        match due.worst_left_out {
            None => {}
            Some(Expiry::Error | Expiry::Expired) => {
                tracing::error!(target: "evenkeel::tls", left_out, "more certificates expire very soon or have expired; the next lines name them");
            }
            Some(_) => {
                tracing::warn!(target: "evenkeel::tls", left_out, "more certificates expire soon; the next lines name them");
            }
        }
    }
}

fn log(reminder: &Reminder, now: SystemTime) {
    let certificate = &*reminder.certificate;
    let until = utc(certificate.not_after);
    let days_left = days_left(certificate, now);
    // The level is a constant of its call.
    macro_rules! line {
        ($level:ident, $message:literal) => {
            tracing::$level!(
                target: "evenkeel::tls",
                name = certificate.name(),
                listener = %reminder.listeners,
                path = certificate.path.as_ref().map(|path| tracing::field::debug(path)),
                issuer = &*certificate.issuer,
                serial = &*certificate.serial,
                until,
                days_left,
                $message
            )
        };
    }
    match reminder.expiry {
        _ if certificate.is_placeholder() => {
            line!(
                error,
                "a placeholder is served, which no client accepts: no certificate was obtained"
            );
        }
        Expiry::Expired => line!(error, "a certificate has expired; replace it"),
        Expiry::Error => line!(error, "a certificate expires very soon; renew it"),
        _ => line!(warn, "a certificate expires soon; renew it"),
    }
}

/// tokio panics at an interval of zero, and time passes for all certificates at once.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
