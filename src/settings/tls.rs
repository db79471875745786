//! `[listen.tls]`: TLS termination.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

use super::value;
#[cfg(feature = "__tls")]
use super::{Settings, SettingsError, draft::Draft, error::Location};
#[cfg(feature = "__tls")]
use crate::{
    error::ConfigError,
    tls::{Certificate, Certificates, HstsLayer, TlsConfig, TlsLayer, TlsVersion},
};

/// `[listen.tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsSettings {
    /// One or more certificates; the server name of the client chooses one.
    pub certificates: Vec<CertificateSettings>,
    /// The lowest version: `"1.2"` or `"1.3"`; 1.2 if absent.
    #[cfg(feature = "__tls")]
    #[serde(default, deserialize_with = "value::optional")]
    pub min_version: Option<TlsVersion>,
    /// `h2` and `http/1.1` in order of preference; both if absent.
    pub alpn: Option<Vec<String>>,
    /// The `max-age` of `Strict-Transport-Security`; the field is not sent if absent. `"0s"` withdraws
    /// what was sent before.
    #[serde(default, deserialize_with = "value::long_duration")]
    pub hsts: Option<Duration>,
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

/// Reads the section, which needs a feature.
pub(super) fn section<'de, D>(deserializer: D) -> Result<Option<TlsSettings>, D::Error>
where
    D: Deserializer<'de>,
{
    if cfg!(not(feature = "__tls")) {
        return Err(value::refused("built without the feature `tls`"));
    }
    TlsSettings::deserialize(deserializer).map(Some)
}

#[cfg(feature = "__tls")]
impl Settings {
    /// Reads the certificates of the nth listener. Returns its TLS layer and the certificates, which
    /// can be watched or replaced; `None` if the listener has no TLS, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or a key does not belong to its certificate.
    pub fn tls(&self, nth: usize) -> Result<Option<(TlsLayer, Certificates)>, SettingsError> {
        let Some(tls) = tls_of(&self.listen, nth) else {
            return Ok(None);
        };
        self.draft.tls(nth, tls, &tls.certificates).map(Some)
    }

    /// Returns the layer that adds `Strict-Transport-Security` on the nth listener; `None` without
    /// `hsts`, and if there is no such listener.
    #[must_use]
    pub fn hsts(&self, nth: usize) -> Option<HstsLayer> {
        let age = tls_of(&self.listen, nth)?.hsts?;
        Some(HstsLayer::new().max_age(age))
    }
}

#[cfg(feature = "__tls")]
impl Draft {
    pub(super) fn check_tls(&self, nth: usize) -> Result<(), SettingsError> {
        let Some(tls) = tls_of(&self.sections.listen, nth) else {
            return Ok(());
        };
        if tls.certificates.is_empty() {
            let message =
                "none: 1 or more of { chain = \"cert.pem\", key = \"key.pem\" } is accepted";
            return Err(location(nth, "certificates").wrong(&self.text, message));
        }
        for name in tls.alpn.iter().flatten() {
            if !["h2", "http/1.1"].contains(&name.as_str()) {
                let message = format!("{name:?}: \"h2\" and \"http/1.1\" are accepted");
                return Err(location(nth, "alpn").wrong(&self.text, message));
            }
        }
        Ok(())
    }

    /// Returns the mistakes of the files that the nth listener names: of each certificate alone, or
    /// else of all together.
    pub(super) fn certificate_mistakes(&self, nth: usize) -> Vec<SettingsError> {
        let Some(tls) = tls_of(&self.sections.listen, nth) else {
            return Vec::new();
        };
        let refused = |given: &[_]| self.tls(nth, tls, given).err();
        let each = tls.certificates.chunks(1).filter_map(refused);
        let found: Vec<_> = each.collect();
        match found.is_empty() {
            true => refused(&tls.certificates).into_iter().collect(),
            false => found,
        }
    }

    fn tls(
        &self,
        nth: usize,
        tls: &TlsSettings,
        given: &[CertificateSettings],
    ) -> Result<(TlsLayer, Certificates), SettingsError> {
        let at = |key: &'static str| {
            move |error: ConfigError| {
                let message = format!("{}: {}", error.field(), error.message());
                location(nth, key).wrong(&self.text, message)
            }
        };
        let files = given.iter().map(|c| Certificate::files(&c.chain, &c.key));
        let certificates = Certificates::new(files).map_err(at("certificates"))?;
        let mut config = TlsConfig::new(certificates.clone());
        if let Some(version) = tls.min_version {
            config = config.min_version(version);
        }
        if let Some(names) = &tls.alpn {
            let names = names.iter().map(String::as_str);
            config = config.alpn(names).map_err(at("alpn"))?;
        }
        Ok((TlsLayer::new(config), certificates))
    }
}

#[cfg(feature = "__tls")]
fn tls_of(listen: &[super::ListenSettings], nth: usize) -> Option<&TlsSettings> {
    listen.get(nth)?.tls.as_ref()
}

#[cfg(feature = "__tls")]
fn location(nth: usize, key: &str) -> Location<'_> {
    Location {
        header: "[listen.tls]",
        nth,
        key,
    }
}
