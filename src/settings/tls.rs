//! `[listen.tls]`: TLS termination.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

#[cfg(feature = "__tls")]
use super::{Settings, SettingsError, draft::Draft, error::Location};
use super::{acme, client_auth_mode::ClientAuthMode, value};
#[cfg(feature = "__tls")]
use crate::{
    error::ConfigError,
    tls::{
        Certificate, Certificates, ClientAuth, ClientRoots, HostPolicy, HstsLayer, TicketSecret,
        TlsConfig, TlsLayer, TlsVersion,
    },
};

/// `[listen.tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsSettings {
    /// The certificates; the server name of the client chooses one. One or more, if `acme` is absent.
    #[serde(default)]
    pub certificates: Vec<CertificateSettings>,
    /// The lowest version: `"1.2"` or `"1.3"`; 1.2 if absent.
    #[cfg(feature = "__tls")]
    #[serde(default, deserialize_with = "value::optional")]
    pub min_version: Option<TlsVersion>,
    /// `h2` and `http/1.1` in order of preference; both if absent.
    pub alpn: Option<Vec<String>>,
    /// The time from accept to the end of the handshake; 10 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub handshake_timeout: Option<Duration>,
    /// Refuses clients whose server name has no certificate; off if absent.
    #[serde(default)]
    pub strict_sni: bool,
    /// Files with the secrets of session tickets: the first makes tickets, all are accepted. Without
    /// them, the process makes keys of its own.
    #[serde(default)]
    pub ticket_secret_files: Vec<PathBuf>,
    /// PEM files of the roots for certificates of clients; clients are asked for none if absent.
    #[serde(default)]
    pub client_ca: Vec<PathBuf>,
    /// Whether clients need a certificate; required if absent and `client_ca` is there.
    #[serde(default, deserialize_with = "value::optional")]
    pub client_auth: Option<ClientAuthMode>,
    /// PEM files of revocation lists for certificates of clients.
    #[serde(default)]
    pub client_crl: Vec<PathBuf>,
    /// Hosts with a policy of their own.
    #[serde(default)]
    pub hosts: Vec<TlsHostSettings>,
    /// The `max-age` of `Strict-Transport-Security`; the field is not sent if absent. `"0s"` withdraws
    /// what was sent before.
    #[serde(default, deserialize_with = "value::long_duration")]
    pub hsts: Option<Duration>,
    /// `[listen.tls.acme]`: automatic certificates; none if absent.
    #[serde(default, deserialize_with = "acme::section")]
    pub acme: Option<acme::AcmeSettings>,
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

/// One of `[[listen.tls.hosts]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsHostSettings {
    /// A host name, or `*.` and a domain.
    pub name: String,
    /// The lowest version; that of the listener if absent.
    #[cfg(feature = "__tls")]
    #[serde(default, deserialize_with = "value::optional")]
    pub min_version: Option<TlsVersion>,
    /// `h2` and `http/1.1` in order of preference; those of the listener if absent.
    pub alpn: Option<Vec<String>>,
    /// PEM files of the roots for certificates of clients; those of the listener if absent.
    #[serde(default)]
    pub client_ca: Vec<PathBuf>,
    /// Whether clients need a certificate; required if absent and `client_ca` is there.
    #[serde(default, deserialize_with = "value::optional")]
    pub client_auth: Option<ClientAuthMode>,
    /// PEM files of revocation lists for certificates of clients.
    #[serde(default)]
    pub client_crl: Vec<PathBuf>,
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
    /// can be watched or replaced. To watch them watches `client_ca` and `client_crl`, too. `None` if the listener has no TLS, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or a key does not belong to its certificate.
    pub fn tls(&self, nth: usize) -> Result<Option<(TlsLayer, Certificates)>, SettingsError> {
        let Some(tls) = tls_of(&self.listen, nth) else {
            return Ok(None);
        };
        let made = self.draft.tls(nth, tls, &tls.certificates, None);
        made.map(Some)
    }

    /// Returns the same, with the secret of session tickets that a fleet shares, unless the listener has
    /// `ticket_secret_files`.
    ///
    /// # Errors
    ///
    /// As [`tls`](Self::tls).
    pub fn tls_with_tickets(
        &self,
        nth: usize,
        tickets: &TicketSecret,
    ) -> Result<Option<(TlsLayer, Certificates)>, SettingsError> {
        let Some(tls) = tls_of(&self.listen, nth) else {
            return Ok(None);
        };
        let made = self.draft.tls(nth, tls, &tls.certificates, Some(tickets));
        made.map(Some)
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
        if tls.certificates.is_empty() && tls.acme.is_none() {
            let message = "none: 1 or more of { chain = \"cert.pem\", key = \"key.pem\" } is accepted, \
                           unless there is [listen.tls.acme], which is missing";
            return Err(location(nth, "certificates").wrong(&self.text, message));
        }
        let alpn = |key, names: &Option<Vec<String>>| {
            let is_known = |name: &&String| ["h2", "http/1.1"].contains(&name.as_str());
            match names.iter().flatten().find(|name| !is_known(name)) {
                None => Ok(()),
                Some(name) => {
                    let message = format!("{name:?}: \"h2\" and \"http/1.1\" are accepted");
                    Err(location(nth, key).wrong(&self.text, message))
                }
            }
        };
        alpn("alpn", &tls.alpn)?;
        let accepted = Duration::from_millis(10)..=Duration::from_secs(3_600);
        let timeout = tls.handshake_timeout;
        if let Some(timeout) = timeout.filter(|timeout| !accepted.contains(timeout)) {
            let message = format!("{timeout:?}: 10 ms to 1 h is accepted");
            return Err(location(nth, "handshake_timeout").wrong(&self.text, message));
        }
        let has_roots = !tls.client_ca.is_empty();
        self.check_clients(nth, tls.client_auth, has_roots, &tls.client_crl)?;
        for host in &tls.hosts {
            alpn("hosts", &host.alpn)?;
            let has_own = !host.client_ca.is_empty();
            if has_own && host.client_crl.is_empty() && !tls.client_crl.is_empty() {
                // The listener's lists say nothing of these roots, so that every client would be
                // refused; without lists, no client that was revoked would be.
                let message = format!(
                    "{:?}: it has roots of its own, and needs client_crl",
                    host.name
                );
                return Err(location(nth, "hosts").wrong(&self.text, message));
            }
            self.check_clients(
                nth,
                host.client_auth,
                has_own || has_roots,
                &host.client_crl,
            )?;
        }
        // The names alone: the files are read later.
        self.host_policies(nth, tls, &mut |_| Ok(None)).map(drop)
    }

    fn check_clients(
        &self,
        nth: usize,
        mode: Option<ClientAuthMode>,
        has_roots: bool,
        crl: &[PathBuf],
    ) -> Result<(), SettingsError> {
        if has_roots {
            return Ok(());
        }
        let needs = "it needs the roots of the clients; name their files in client_ca";
        match mode {
            Some(ClientAuthMode::Optional | ClientAuthMode::Required) => {
                Err(location(nth, "client_auth").wrong(&self.text, needs))
            }
            _ if !crl.is_empty() => Err(location(nth, "client_crl").wrong(&self.text, needs)),
            _ => Ok(()),
        }
    }

    /// Returns the mistakes of the files that the nth listener names: of each certificate alone, or
    /// else of all together.
    pub(super) fn certificate_mistakes(&self, nth: usize) -> Vec<SettingsError> {
        let Some(tls) = tls_of(&self.sections.listen, nth) else {
            return Vec::new();
        };
        #[cfg(feature = "__acme")]
        if let Some(mistake) = self.acme_mistakes(nth) {
            return vec![mistake];
        }
        let refused = |given: &[_]| self.tls(nth, tls, given, None).err();
        let Some(mistake) = refused(&tls.certificates) else {
            return Vec::new();
        };
        let each = tls.certificates.chunks(1).filter_map(refused);
        let mut found: Vec<_> = each.collect();
        // A mistake beside the certificates is found with each of them.
        found.dedup_by_key(|error: &mut SettingsError| error.to_string());
        match found.is_empty() {
            true => vec![mistake],
            false => found,
        }
    }

    fn tls(
        &self,
        nth: usize,
        tls: &TlsSettings,
        given: &[CertificateSettings],
        tickets: Option<&TicketSecret>,
    ) -> Result<(TlsLayer, Certificates), SettingsError> {
        let at = |key: &'static str| {
            move |error: ConfigError| {
                let message = format!("{}: {}", error.field(), error.message());
                location(nth, key).wrong(&self.text, message)
            }
        };
        let files = given.iter().map(|c| Certificate::files(&c.chain, &c.key));
        let certificates = match given.is_empty() {
            // `check_tls` made sure that others come from `acme`.
            true => Certificates::empty(),
            false => Certificates::new(files).map_err(at("certificates"))?,
        };
        let mut config = TlsConfig::new(certificates.clone());
        if let Some(version) = tls.min_version {
            config = config.min_version(version);
        }
        if let Some(names) = &tls.alpn {
            let names = names.iter().map(String::as_str);
            config = config.alpn(names).map_err(at("alpn"))?;
        }
        config = config.strict_sni(tls.strict_sni);
        let own = ticket_secret(tls).map_err(at("ticket_secret_files"))?;
        if let Some(secret) = own.or_else(|| tickets.cloned()) {
            config = config.ticket_secret(secret);
        }
        let auth = client_auth(&tls.client_ca, &tls.client_crl, tls.client_auth);
        if let Some(auth) = auth.map_err(at("client_ca"))? {
            config = config.client_auth(auth);
        }
        let mut auth_of = |host: &TlsHostSettings| {
            // A host that says nothing has the policy of the listener as it is.
            if host.client_auth.is_none() && host.client_ca.is_empty() && host.client_crl.is_empty()
            {
                return Ok(None);
            }
            let (ca, mode) = match host.client_ca.is_empty() {
                true => (&tls.client_ca, host.client_auth.or(tls.client_auth)),
                false => (&host.client_ca, host.client_auth),
            };
            let crl = match host.client_crl.is_empty() {
                true => &tls.client_crl,
                false => &host.client_crl,
            };
            client_auth(ca, crl, mode).map_err(at("hosts"))
        };
        for (name, policy) in self.host_policies(nth, tls, &mut auth_of)? {
            config = config.host(name, policy).map_err(at("hosts"))?;
        }
        let mut layer = TlsLayer::new(config);
        if let Some(timeout) = tls.handshake_timeout {
            layer = layer.handshake_timeout(timeout);
        }
        Ok((layer, certificates))
    }

    fn host_policies<'a>(
        &self,
        nth: usize,
        tls: &'a TlsSettings,
        auth: &mut dyn FnMut(&TlsHostSettings) -> Result<Option<ClientAuth>, SettingsError>,
    ) -> Result<Vec<(&'a str, HostPolicy)>, SettingsError> {
        let at = |error: ConfigError| location(nth, "hosts").wrong(&self.text, error.message());
        let mut policies = Vec::with_capacity(tls.hosts.len());
        // It refuses a name that is none, and one that is there twice.
        let mut checked = TlsConfig::new(Certificates::empty());
        for host in &tls.hosts {
            let mut policy = HostPolicy::new();
            if let Some(version) = host.min_version {
                policy = policy.min_version(version);
            }
            if let Some(names) = &host.alpn {
                policy = policy.alpn(names.iter().map(String::as_str)).map_err(at)?;
            }
            policy = match (auth(host)?, host.client_auth) {
                (Some(auth), _) => policy.client_auth(auth),
                (None, Some(ClientAuthMode::Off)) => policy.no_client_auth(),
                (None, _) => policy,
            };
            checked = checked.host(&host.name, policy.clone()).map_err(at)?;
            policies.push((host.name.as_str(), policy));
        }
        Ok(policies)
    }
}

#[cfg(feature = "__tls")]
fn client_auth(
    ca: &[PathBuf],
    crl: &[PathBuf],
    mode: Option<ClientAuthMode>,
) -> Result<Option<ClientAuth>, ConfigError> {
    if ca.is_empty() || mode == Some(ClientAuthMode::Off) {
        return Ok(None);
    }
    let roots = ClientRoots::files(ca).crl_files(crl);
    match mode {
        Some(ClientAuthMode::Optional) => ClientAuth::optional(roots).map(Some),
        _ => ClientAuth::required(roots).map(Some),
    }
}

/// Reads the files, without the line ends around the secrets.
#[cfg(feature = "__tls")]
fn ticket_secret(tls: &TlsSettings) -> Result<Option<TicketSecret>, ConfigError> {
    let mut made: Option<TicketSecret> = None;
    for path in &tls.ticket_secret_files {
        let bad = |why: &dyn std::fmt::Display| {
            ConfigError::new("ticket_secret", format!("{}: {why}", path.display()))
        };
        let bytes = std::fs::read(path).map_err(|error| bad(&error))?;
        let secret = bytes.trim_ascii();
        let added = match made {
            None => TicketSecret::new(secret),
            Some(made) => made.previous(secret),
        };
        made = Some(added.map_err(|error| bad(&error.message()))?);
    }
    Ok(made)
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
