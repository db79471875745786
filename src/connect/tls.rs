//! `ClientTls`: TLS to `https` backends.

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::{
    Connected, DialTimes, Stream, TargetOverride, crypto::provider, pem, stream::TlsStream,
};
use crate::{
    error::{ConfigError, Error, ErrorKind},
    local_fault::LocalFault,
    pool::{Backend, Protocol},
};

/// The roots, the server name and the ALPN protocols of TLS to backends. A clone costs three atomic
/// additions.
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
}

impl ClientTls {
    /// Verifies the certificates of backends against Mozilla's roots.
    pub fn new() -> Self {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Self::with_roots(roots)
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

    /// Uses a configuration of rustls; its ALPN protocols are replaced.
    pub fn from_config(config: &ClientConfig) -> Self {
        Self {
            configs: alpn(config),
            server_name: None,
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

    pub(super) async fn handshake(
        &self,
        stream: Stream,
        backend: &Backend,
        target: &TargetOverride,
    ) -> Result<Connected, Error> {
        let failed =
            |source: crate::BoxError| Error::new(ErrorKind::ConnectTls).with_source(source);
        let name = match target.certificate_name().or(self.server_name.as_ref()) {
            Some(name) => name.clone(),
            None => ServerName::try_from(backend.host().to_owned())
                .map_err(|error| failed(error.into()))?,
        };
        let config = match backend.configured_protocol() {
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
        let selected = stream.get_ref().1.alpn_protocol();
        let http2 = match backend.configured_protocol() {
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
        let builder = ClientConfig::builder_with_provider(provider());
        // The suites of a provider always support the default versions.
        let config = match builder.with_safe_default_protocol_versions() {
            Ok(builder) => builder.with_root_certificates(roots).with_no_client_auth(),
            Err(error) => unreachable!("{error}"),
        };
        Self::from_config(&config)
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
