//! `ClientTls`: TLS to `https` backends.
//!
//! ALPN is a part of a rustls configuration, so there are three of each, made once: a connection
//! clones an `Arc`. They share the roots, the key and the session store.
//!
//! | protocol of the backend | ALPN offers | if the backend chooses none |
//! |---|---|---|
//! | `Auto` | `h2`, `http/1.1` | HTTP/1.1 |
//! | `Http1` | `http/1.1` | HTTP/1.1 |
//! | `Http2` | `h2` | `ConnectTls` |
//!
//! The name that is verified is, in this order: that of the
//! [`TargetOverride`](super::TargetOverride), that of [`ClientTls::server_name`], the host of the
//! backend's URL. It is never the client's Host field.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier,
    client::Resumption,
    pki_types::ServerName,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_rustls::TlsConnector;

use super::{
    Connected, DialTimes, Stream, crypto::provider, dial::Dial, pem, stream::TlsStream, x509::Facts,
};
use crate::{
    context::CertificateInfo,
    error::{ConfigError, Error, ErrorKind},
    local_fault::LocalFault,
    pool::Protocol,
};

/// The roots, the server name, the client certificate and the ALPN protocols of TLS to backends. A clone
/// costs three atomic additions, another one with a client certificate, and an allocation with a server
/// name.
///
/// Certificates are always verified: against Mozilla's roots, those of the operating system, or those of
/// a PEM text. Only [`DangerousClientTls`](super::DangerousClientTls) leaves the verification out.
/// Sessions are resumed by ticket.
///
/// ```
/// use evenkeel::connect::{ClientTls, Connector};
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// let tls = ClientTls::new().server_name("app.example")?;
/// let connector = Connector::new().tls(tls);
/// assert!(ClientTls::roots_pem(b"no certificate").is_err());
/// # let _: Connector = connector;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ClientTls {
    /// One for each [`Protocol`]: both, HTTP/1.1 only, HTTP/2 only. They differ in ALPN.
    configs: [Arc<ClientConfig>; 3],
    server_name: Option<ServerName<'static>>,
    /// The own certificate.
    certificate: Option<Arc<CertificateInfo>>,
    /// A [`DangerousClientTls`](super::DangerousClientTls) made it.
    is_dangerous: bool,
}

impl ClientTls {
    /// Verifies the certificates of backends against Mozilla's roots, as this version of `webpki-roots`
    /// has them.
    pub fn new() -> Self {
        Self::with_roots(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        })
    }

    /// Verifies the certificates of backends against the roots of the operating system, or those that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name. A root that cannot be read is left out, and logged.
    ///
    /// Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// If there is no root.
    pub fn platform_roots() -> Result<Self, ConfigError> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(target: "evenkeel::connect", %error, "roots of the platform left out");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        match added {
            0 => Err(ConfigError::new(
                "roots",
                "the platform has none; ClientTls::new has those of Mozilla",
            )),
            _ => Ok(Self::with_roots(roots)),
        }
    }

    /// Verifies the certificates of backends against these roots alone, in PEM.
    ///
    /// # Errors
    ///
    /// If there is no certificate, or if one cannot be read.
    pub fn roots_pem(pem: &[u8]) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::new("roots", why);
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(pem).map_err(bad)? {
            roots
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad(
                "no PEM certificate is there; 1 or more is accepted".into()
            ));
        }
        Ok(Self::with_roots(roots))
    }

    /// Proves to backends that ask for it that this is the client of a certificate: the chain in PEM, its
    /// own certificate first, and the key, without a passphrase.
    ///
    /// A certificate whose names or validity cannot be read is used all the same. It has no
    /// [description](Self::certificate) then, so that its end is watched by nothing: a WARN says so.
    ///
    /// Default: no certificate is shown.
    ///
    /// # Errors
    ///
    /// If chain or key cannot be read, or do not belong together.
    pub fn client_certificate(mut self, chain: &[u8], key: &[u8]) -> Result<Self, ConfigError> {
        let bad = |why: String| ConfigError::new("client_certificate", why);
        let chain = pem::certificates(chain).map_err(bad)?;
        if chain.is_empty() {
            return Err(bad(
                "no PEM certificate is there; 1 or more is accepted".into()
            ));
        }
        let key = pem::private_key(key).map_err(bad)?;
        let certified = CertifiedKey::from_der(chain, key, &provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                bad("the key does not belong to the chain's first certificate".into())
            }
            other => bad(other.to_string()),
        })?;
        self.certificate = describe(&certified).map(Arc::new);
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = ClientConfig::clone(&self.configs[0]);
        config.client_auth_cert_resolver = resolver;
        // Sessions that were begun without the certificate must not be resumed with it.
        config.resumption = Resumption::default();
        self.configs = alpn(&config);
        Ok(self)
    }

    /// Describes the certificate of [`client_certificate`](Self::client_certificate); `None` without one,
    /// and for one that cannot be read. A certificate that expires is shown to backends as before: watch it with a
    /// [`CertificateRegistry`](crate::stats::CertificateRegistry).
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<CertificateInfo>> {
        self.certificate.as_ref()
    }

    /// Uses a configuration of rustls; its ALPN protocols are replaced.
    pub fn from_config(config: &ClientConfig) -> Self {
        Self {
            configs: alpn(config),
            server_name: None,
            certificate: None,
            is_dangerous: false,
        }
    }

    /// Sets the name that TLS asks for (SNI) and verifies, for all backends.
    ///
    /// Default: the host of each backend's URL.
    ///
    /// # Errors
    ///
    /// If it is neither a DNS name nor an IP address.
    pub fn server_name(mut self, name: &str) -> Result<Self, ConfigError> {
        let parsed = ServerName::try_from(name.to_owned())
            .map_err(|error| ConfigError::new("server_name", format!("{name:?}: {error}")))?;
        self.server_name = Some(parsed);
        Ok(self)
    }

    pub(super) fn mark_dangerous(mut self) -> Self {
        self.is_dangerous = true;
        self
    }

    /// Offers no protocol by ALPN, for a server that does not speak HTTP.
    pub(crate) fn without_alpn(mut self) -> Self {
        for config in &mut self.configs {
            Arc::make_mut(config).alpn_protocols.clear();
        }
        self
    }

    /// Returns the same without the sessions of earlier connections.
    #[cfg(feature = "__serde")]
    pub(crate) fn with_own_sessions(&self) -> Self {
        let mut config = ClientConfig::clone(&self.configs[0]);
        config.resumption = Resumption::default();
        Self {
            configs: alpn(&config),
            ..self.clone()
        }
    }

    /// No deadline of its own: `dial` bounds it.
    ///
    /// # Errors
    ///
    /// `ConnectTls`, with the reason of rustls; `Local` if this process lacks a resource.
    pub(super) async fn handshake(
        &self,
        stream: Stream,
        protocol: Protocol,
        dial: Dial<'_>,
    ) -> Result<Connected, Error> {
        let failed =
            |source: crate::BoxError| Error::new(ErrorKind::ConnectTls).with_source(source);
        let (backend, target) = (dial.backend, dial.target);
        let name = match target.certificate_name().or(self.server_name.as_ref()) {
            Some(name) => name.clone(),
            None => ServerName::try_from(backend.host().to_owned())
                .map_err(|error| failed(error.into()))?,
        };
        let config = match protocol {
            Protocol::Auto => &self.configs[0],
            Protocol::Http1 => &self.configs[1],
            Protocol::Http2 => &self.configs[2],
        };
        let stream = TlsConnector::from(config.clone())
            .connect(name, stream)
            .await
            .map_err(|error| match LocalFault::of(&error) {
                Some(fault) => fault.error(&error),
                None => failed(error.into()),
            })?;
        // A backend may ignore ALPN: then nothing is selected.
        let selected = stream.get_ref().1.alpn_protocol();
        let http2 = match protocol {
            Protocol::Http2 if selected != Some(b"h2") => {
                return Err(failed("the backend did not select h2 by ALPN".into()));
            }
            _ => selected == Some(b"h2"),
        };
        Ok(Connected {
            stream: Stream::Tls(Box::new(TlsStream(stream))),
            http2,
            resolved: None,
            took: DialTimes::default(),
        })
    }

    fn with_roots(roots: RootCertStore) -> Self {
        let config = builder().with_root_certificates(roots);
        Self::from_config(&config.with_no_client_auth())
    }
}

/// Describes the certificate; `None` for what rustls accepts and this reader does not.
fn describe(certified: &CertifiedKey) -> Option<CertificateInfo> {
    let leaf = certified.cert.first()?;
    match Facts::of(leaf) {
        Ok(facts) => Some(facts.describe(leaf, certified.key.algorithm())),
        Err(error) => {
            tracing::warn!(
                target: "evenkeel::connect",
                error,
                "the certificate that backends see is used, but its end is not watched"
            );
            None
        }
    }
}

pub(super) fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider());
    match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        // The suites of a provider always support the default versions.
        Err(error) => unreachable!("{error}"),
    }
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .field("is_dangerous", &self.is_dangerous)
            .finish_non_exhaustive()
    }
}

fn alpn(config: &ClientConfig) -> [Arc<ClientConfig>; 3] {
    let with = |names: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    let auto: &[&[u8]] = if cfg!(feature = "http2") {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    [with(auto), with(&[b"http/1.1"]), with(&[b"h2"])]
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    /// The lines of tracing.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_described_is_used_with_a_warning() {
        let mut params = rcgen::CertificateParams::default();
        // A subjectAltName with half a name in it. rustls does not read the names of its own certificate.
        let broken = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 1, 0xff]);
        params.custom_extensions.push(broken);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let client = tracing::subscriber::with_default(subscriber, || {
            let (chain, key) = (made.pem(), key.serialize_pem());
            ClientTls::new().client_certificate(chain.as_bytes(), key.as_bytes())
        });
        let client = client.unwrap();
        assert!(client.certificate().is_none());
        assert!(client.configs[0].client_auth_cert_resolver.has_certs());
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(
            log.contains("WARN") && log.contains("subjectAltName"),
            "{log}"
        );
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}
