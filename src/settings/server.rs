//! `[server]`: the process.

use std::{num::NonZeroUsize, time::Duration};

use serde::Deserialize;

use super::{Settings, SettingsError, draft::Draft, error::Location, value};
use crate::{
    endpoints::Readiness,
    pool::{Locality, Pool},
    stats::CertificateRegistry,
};

/// `[server]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The number of worker threads; one for each core if absent.
    #[serde(default, deserialize_with = "value::threads")]
    pub threads: Option<NonZeroUsize>,
    /// The region, zone and rack of this instance.
    #[serde(default, deserialize_with = "value::optional")]
    pub locality: Option<Locality>,
    /// The times of a graceful shutdown.
    #[serde(default)]
    pub shutdown: ShutdownSettings,
    /// When the end of a certificate is worth a warning.
    #[serde(default)]
    pub certificate_expiry: CertificateExpirySettings,
}

/// `[server] certificate_expiry`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CertificateExpirySettings {
    /// How long before its end a certificate is logged as a warning, once a day; 30 days if absent. At
    /// least as long as `error`. A short lifetime limits both: see
    /// [`warn_before`](CertificateRegistry::warn_before).
    #[serde(default, deserialize_with = "value::long_duration")]
    pub warn: Option<Duration>,
    /// How long before its end a certificate is logged as an error, once a day; 7 days if absent.
    #[serde(default, deserialize_with = "value::long_duration")]
    pub error: Option<Duration>,
    /// Whether readiness fails while a certificate has expired; off if absent.
    #[serde(default)]
    pub unready: bool,
}

/// `[server] shutdown`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// The time for which readiness fails before listeners close; if absent, 5 s with an `[admin]`
    /// or a listener with a `ready` path, else 0 s. See [`lame_duck`](Settings::lame_duck).
    #[serde(default, deserialize_with = "value::optional")]
    pub lame_duck: Option<Duration>,
    /// The time that connections have to end; 30 s if absent. See [`drain`](Settings::drain).
    #[serde(default, deserialize_with = "value::optional")]
    pub drain: Option<Duration>,
}

impl Settings {
    /// Returns the time for which readiness fails before listeners close. It is zero by default if no
    /// path announces the shutdown.
    #[must_use]
    pub fn lame_duck(&self) -> Duration {
        let noticed = self.admin.is_some() || self.listen.iter().any(|l| l.ready.is_some());
        let default = match noticed {
            true => LAME_DUCK,
            false => Duration::ZERO,
        };
        self.server.shutdown.lame_duck.unwrap_or(default)
    }

    /// Returns a registry without a certificate, with the thresholds of `certificate_expiry`. A caller adds
    /// the certificates of [`tls`](Self::tls) by [`Certificates::show_in`](crate::tls::Certificates::show_in),
    /// and that of [`client_certificate`](Self::client_certificate).
    pub fn certificate_registry(&self) -> CertificateRegistry {
        let given = &self.server.certificate_expiry;
        let mut registry = CertificateRegistry::new();
        if let Some(before) = given.warn {
            registry = registry.warn_before(before);
        }
        if let Some(before) = given.error {
            registry = registry.error_before(before);
        }
        registry
    }

    /// Returns the readiness of this pool; with `certificate_expiry.unready`, it fails while a certificate
    /// of the registry has expired.
    #[must_use]
    pub fn readiness(&self, pool: &Pool, certificates: &CertificateRegistry) -> Readiness {
        let readiness = Readiness::new(pool.clone());
        match self.server.certificate_expiry.unready {
            true => readiness.certificates(certificates.clone()),
            false => readiness,
        }
    }

    /// Returns the time that connections have to end at shutdown.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.server.shutdown.drain.unwrap_or(DRAIN)
    }
}

impl Draft {
    /// Refuses an error that comes before its warning.
    pub(super) fn check_certificate_expiry(&self) -> Result<(), SettingsError> {
        let given = &self.sections.server.certificate_expiry;
        let warn = given.warn.unwrap_or(CertificateRegistry::WARN_BEFORE);
        let error = given.error.unwrap_or(CertificateRegistry::ERROR_BEFORE);
        if warn >= error {
            return Ok(());
        }
        let key = match given.warn {
            Some(_) => "warn",
            None => "error",
        };
        let header = "[server.certificate_expiry]";
        let is_table = self
            .text
            .lines()
            .any(|line| line.trim_start().starts_with(header));
        let location = match is_table {
            true => Location::new(header, key),
            false => Location::new("[server]", "certificate_expiry"),
        };
        let message = format!(
            "warn is {warn:?}, shorter than error, {error:?}; a warning comes first, so that the same or \
             more is accepted"
        );
        Err(location.wrong(&self.text, message))
    }
}

/// Long enough for a balancer that asks every 2 s to see the failing readiness twice.
const LAME_DUCK: Duration = Duration::from_secs(5);
/// As `Serve::drain_timeout`.
const DRAIN: Duration = Duration::from_secs(30);
