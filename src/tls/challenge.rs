//! TLS-ALPN-01: the handshake by which a certificate authority checks a name (RFC 8737).

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::sync::Semaphore;

use super::CertificateSource;
use crate::{connect::provider, log_limit::LogLimit};

/// The certificates for the checks.
pub(super) struct Challenges {
    source: Box<dyn CertificateSource>,
    permits: Semaphore,
}

impl Challenges {
    pub(super) fn new(source: impl CertificateSource) -> Self {
        Self {
            source: Box::new(source),
            permits: Semaphore::new(MAX_LOOKUPS),
        }
    }

    /// Returns true for the handshake of a check: `acme-tls/1` is the only protocol (RFC 8737 §3).
    pub(super) fn is_check(hello: &ClientHello<'_>) -> bool {
        let Some(mut protocols) = hello.alpn() else {
            return false;
        };
        protocols.next() == Some(ACME_TLS) && protocols.next().is_none()
    }

    /// Returns the configuration of a handshake that shows the certificate; `None` without one.
    pub(super) async fn config(
        self: Arc<Self>,
        server_name: Box<str>,
    ) -> Option<Arc<ServerConfig>> {
        // Nothing closes the semaphore.
        let _permit = self.permits.acquire().await.ok()?;
        let found = match self.source.certificate(&server_name).await {
            Ok(found) => found?,
            Err(error) => {
                warn(&server_name, &*error);
                return None;
            }
        };
        let parsed = found
            .read()
            .and_then(|(chain, key)| found.parse_unchecked(&chain, &key));
        match parsed {
            Ok(parsed) => Some(config(parsed.key)),
            Err(error) => {
                warn(&server_name, &error);
                None
            }
        }
    }
}

/// Logs a failure, now and then: any client can offer the protocol of the checks.
fn warn(server_name: &str, error: &(dyn std::error::Error + 'static)) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(left_out) = LIMIT.pass() {
        tracing::warn!(
            target: "evenkeel::tls", server_name, error, left_out, "no challenge certificate"
        );
    }
}

fn config(key: Arc<CertifiedKey>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = match builder.with_safe_default_protocol_versions() {
        Ok(builder) => builder,
        // The suites of both providers support both versions.
        Err(error) => unreachable!("{error}"),
    };
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Only(key)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The certificate of one check.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").finish_non_exhaustive()
    }
}

/// The protocol of the checks (RFC 8737 §6.2).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";
/// A certificate authority checks a name from a handful of places; more would be an attack on the store.
const MAX_LOOKUPS: usize = 16;
