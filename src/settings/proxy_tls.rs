//! `[proxy.tls]`: TLS to backends.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::{CertificateSettings, value};
#[cfg(feature = "__tls")]
use super::{Settings, SettingsError, draft::Draft, error::Location};
#[cfg(feature = "__tls")]
use crate::{
    connect::{ClientTls, DangerousClientTls},
    context::CertificateInfo,
    error::ConfigError,
};

/// `[proxy.tls]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxyTlsSettings {
    /// `mozilla`, `platform`, or the PEM file of the roots that backends are verified against; those of
    /// Mozilla if absent.
    pub ca: Option<PathBuf>,
    /// The name that TLS asks for and verifies; the host of each backend's URL if absent.
    pub server_name: Option<String>,
    /// The certificate that is shown to backends that ask for one; none if absent.
    pub client_certificate: Option<CertificateSettings>,
    /// Accepts any certificate of a backend; off if absent.
    #[serde(default)]
    pub danger_no_verification: bool,
}

/// Reads the section, which needs a feature.
pub(super) fn section<'de, D>(deserializer: D) -> Result<ProxyTlsSettings, D::Error>
where
    D: Deserializer<'de>,
{
    if cfg!(not(feature = "__tls")) {
        return Err(value::refused("built without the feature `tls`"));
    }
    ProxyTlsSettings::deserialize(deserializer)
}

#[cfg(feature = "__tls")]
impl Settings {
    /// Describes the certificate that backends see; `None` without `client_certificate`. The handle
    /// lives as long as these settings and the layers that are made of them.
    #[must_use]
    pub fn client_certificate(&self) -> Option<&std::sync::Arc<CertificateInfo>> {
        self.parts.client_tls.certificate()
    }
}

#[cfg(feature = "__tls")]
impl Draft {
    pub(super) fn client_tls(&self) -> Result<ClientTls, SettingsError> {
        let given = &self.sections.proxy.tls;
        let at = |key| move |error: ConfigError| self.client_tls_mistake(key, error.message());
        let read = |key, path: &PathBuf| {
            std::fs::read(path).map_err(|error| {
                let path = path.display();
                let message = format!("{path}: {error}; a readable PEM file is accepted");
                self.client_tls_mistake(key, &message)
            })
        };
        let mut tls = match (&given.ca, given.danger_no_verification) {
            (None, true) => DangerousClientTls::without_verification(),
            (Some(_), true) => {
                let message = "true: nothing is verified against ca then; leave one of the two out";
                return Err(self.client_tls_mistake("danger_no_verification", message));
            }
            (None, false) => ClientTls::new(),
            (Some(path), false) => match path.to_str() {
                Some("mozilla") => ClientTls::new(),
                Some("platform") => ClientTls::platform_roots().map_err(at("ca"))?,
                _ => ClientTls::roots_pem(&read("ca", path)?).map_err(at("ca"))?,
            },
        };
        if let Some(name) = &given.server_name {
            tls = tls.server_name(name).map_err(at("server_name"))?;
        }
        if let Some(own) = &given.client_certificate {
            let key = "client_certificate";
            let (chain, private) = (read(key, &own.chain)?, read(key, &own.key)?);
            tls = tls.client_certificate(&chain, &private).map_err(at(key))?;
        }
        Ok(tls)
    }

    /// Makes an error, with the line of the key or, in a table without a header, of the table.
    fn client_tls_mistake(&self, key: &str, message: &str) -> SettingsError {
        let is_table = |line: &str| line.trim_start().starts_with("[proxy.tls]");
        match self.text.lines().any(is_table) {
            true => Location::new("[proxy.tls]", key).wrong(&self.text, message),
            false => {
                let message = format!("{key}: {message}");
                Location::new("[proxy]", "tls").wrong(&self.text, message)
            }
        }
    }
}
