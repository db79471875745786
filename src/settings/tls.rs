//! `[listen.tls]`: TLS termination.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Settings, SettingsError, duration, error::Location};
#[cfg(feature = "__tls")]
use crate::error::ConfigError;

/// `[listen.tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsSettings {
    /// One or more certificates; the server name of the client chooses one.
    pub certificates: Vec<CertificateSettings>,
    /// The lowest version: `"1.2"` or `"1.3"`; 1.2 if absent.
    pub min_version: Option<String>,
    /// `h2` and `http/1.1` in order of preference; both if absent.
    pub alpn: Option<Vec<String>>,
    /// The `max-age` of `Strict-Transport-Security`; the field is not sent if absent. `"0s"` withdraws
    /// what was sent before.
    pub hsts: Option<String>,
}

/// One of `[listen.tls] certificates`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CertificateSettings {
    /// The PEM file of the certificate and its intermediates.
    pub chain: PathBuf,
    /// The PEM file of the private key.
    pub key: PathBuf,
}

impl Settings {
    pub(super) fn check_tls(&self, nth: usize) -> Result<(), SettingsError> {
        let Some(tls) = self.listen.get(nth).and_then(|listen| listen.tls.as_ref()) else {
            return Ok(());
        };
        let location = |key| Location {
            header: "[listen.tls]",
            nth,
            key,
        };
        if cfg!(not(feature = "__tls")) {
            let message = "built without the feature `tls`";
            return Err(location("").wrong(&self.text, message));
        }
        if tls.certificates.is_empty() {
            let message =
                "none: 1 or more of { chain = \"cert.pem\", key = \"key.pem\" } is accepted";
            return Err(location("certificates").wrong(&self.text, message));
        }
        if let Some(version) = &tls.min_version {
            if !["1.2", "1.3"].contains(&version.as_str()) {
                let message = format!("{version:?}: \"1.2\" or \"1.3\" is accepted");
                return Err(location("min_version").wrong(&self.text, message));
            }
        }
        for name in tls.alpn.iter().flatten() {
            if !["h2", "http/1.1"].contains(&name.as_str()) {
                let message = format!("{name:?}: \"h2\" and \"http/1.1\" are accepted");
                return Err(location("alpn").wrong(&self.text, message));
            }
        }
        self.hsts_age(nth)?;
        Ok(())
    }

    /// Returns the `max-age` of `hsts` on the nth listener.
    fn hsts_age(&self, nth: usize) -> Result<Option<Duration>, SettingsError> {
        let tls = self.listen.get(nth).and_then(|listen| listen.tls.as_ref());
        let given = tls.and_then(|tls| tls.hsts.as_deref());
        let age = given.map(duration::parse_long).transpose();
        age.map_err(|message| {
            let location = Location {
                header: "[listen.tls]",
                nth,
                key: "hsts",
            };
            location.wrong(&self.text, message)
        })
    }

    /// Reads the certificates of the nth listener. Returns its TLS layer and the certificates, which
    /// can be watched or replaced; `None` if the listener has no TLS, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or a key does not belong to its certificate.
    #[cfg(feature = "__tls")]
    pub fn tls(
        &self,
        nth: usize,
    ) -> Result<Option<(crate::tls::TlsLayer, crate::tls::Certificates)>, SettingsError> {
        use crate::tls::{Certificate, Certificates, TlsConfig, TlsLayer, TlsVersion};
        let Some(tls) = self.listen.get(nth).and_then(|l| l.tls.as_ref()) else {
            return Ok(None);
        };
        let at = |key: &str, error: &ConfigError| {
            let location = Location {
                header: "[listen.tls]",
                nth,
                key,
            };
            location.wrong(
                &self.text,
                format!("{}: {}", error.field(), error.message()),
            )
        };
        let files = tls
            .certificates
            .iter()
            .map(|c| Certificate::files(&c.chain, &c.key));
        let certificates = Certificates::new(files).map_err(|error| at("certificates", &error))?;
        let mut config = TlsConfig::new(certificates.clone());
        if tls.min_version.as_deref() == Some("1.3") {
            config = config.min_version(TlsVersion::V1_3);
        }
        if let Some(names) = &tls.alpn {
            config = config
                .alpn(names.iter().map(String::as_str))
                .map_err(|error| at("alpn", &error))?;
        }
        Ok(Some((TlsLayer::new(config), certificates)))
    }

    /// Returns the layer that adds `Strict-Transport-Security` on the nth listener; `None` without
    /// `hsts`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    #[cfg(feature = "__tls")]
    pub fn hsts(&self, nth: usize) -> Result<Option<crate::tls::HstsLayer>, SettingsError> {
        let age = self.hsts_age(nth)?;
        Ok(age.map(|age| crate::tls::HstsLayer::new().max_age(age)))
    }
}
