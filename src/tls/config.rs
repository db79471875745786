//! What a TLS handshake may settle on.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, ProducesTickets},
    version::{TLS12, TLS13},
};

use super::{Certificates, certificates::Resolver};
use crate::{connect::provider, error::ConfigError};

/// What clients may agree on with us: certificates, versions, ALPN, tickets.
///
/// Cipher suites are forward secret and authenticated whatever is set: rustls has no others. The
/// crypto provider is the one that the features chose (`aws-lc-rs`, else `ring`); none is
/// installed for the process.
///
/// There is no 0-RTT: rustls ties it to sessions kept in memory, and a request that anyone may
/// replay is not worth the round trip.
#[derive(Clone)]
#[must_use]
pub struct TlsConfig {
    certificates: Certificates,
    strict_sni: bool,
    min_version: TlsVersion,
    alpn: Vec<Vec<u8>>,
    tickets: bool,
}

impl TlsConfig {
    /// Serves these certificates; a handle, so that they may change later.
    pub fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            strict_sni: false,
            min_version: MIN_VERSION,
            alpn: ALPN.iter().map(|name| name.to_vec()).collect(),
            tickets: true,
        }
    }

    /// Refuses clients whose server name no certificate covers, or who send none (as those do
    /// that connect to an address), instead of showing them the first certificate.
    ///
    /// Default: false.
    pub fn strict_sni(mut self, strict: bool) -> Self {
        self.strict_sni = strict;
        self
    }

    /// Refuses older versions.
    ///
    /// Default: TLS 1.2.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Offers these protocols by ALPN (RFC 7301), the first that the client speaks too. A client
    /// that speaks none of them is refused; one that sends no ALPN is not. An empty list leaves
    /// ALPN out.
    ///
    /// Default: `h2`, `http/1.1`; what the features `http1` and `http2` leave of them where the
    /// feature `server` is on.
    ///
    /// # Errors
    ///
    /// When a name is not 1 to 255 bytes long.
    pub fn alpn<N: Into<Vec<u8>>>(
        mut self,
        protocols: impl IntoIterator<Item = N>,
    ) -> Result<Self, ConfigError> {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        if self.alpn.iter().all(|name| (1..=255).contains(&name.len())) {
            return Ok(self);
        }
        Err(ConfigError::new(
            "alpn",
            "a protocol name of 1 to 255 bytes is accepted",
        ))
    }

    /// Lets clients resume a session by ticket (RFC 8446 §2.2), which saves both sides most of
    /// the handshake's cost. Keys are made here, live in memory only, change every 6 hours and
    /// are forgotten after 12; they outlive a reload of the certificates. In TLS 1.3, two tickets go
    /// out with the first write: a packet and a system call less than on their own.
    ///
    /// Default: true.
    pub fn tickets(mut self, tickets: bool) -> Self {
        self.tickets = tickets;
        self
    }

    pub(super) fn build(self) -> Arc<ServerConfig> {
        let versions: &[_] = match self.min_version {
            TlsVersion::V1_2 => &[&TLS13, &TLS12],
            TlsVersion::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider());
        let mut config = match builder.with_protocol_versions(versions) {
            Ok(builder) => builder,
            // The providers' own suites support both versions.
            Err(error) => unreachable!("{error}"),
        }
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver::new(self.certificates, self.strict_sni)));
        config.alpn_protocols = self.alpn;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match self.tickets.then(ticketer) {
            Some(Ok(ticketer)) => config.ticketer = ticketer,
            Some(Err(error)) => {
                tracing::warn!(target: "evenkeel::tls", %error, "no session tickets");
                config.send_tls13_tickets = 0;
            }
            None => config.send_tls13_tickets = 0,
        }
        Arc::new(config)
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alpn: Vec<_> = self.alpn.iter().map(|n| n.escape_ascii()).collect();
        f.debug_struct("TlsConfig")
            .field("certificates", &self.certificates)
            .field("strict_sni", &self.strict_sni)
            .field("min_version", &self.min_version)
            .field("alpn", &alpn)
            .field("tickets", &self.tickets)
            .finish()
    }
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    #[cfg(feature = "aws-lc-rs")]
    let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new();
    #[cfg(not(feature = "aws-lc-rs"))]
    let ticketer = rustls::crypto::ring::Ticketer::new();
    ticketer
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

impl FromStr for TlsVersion {
    type Err = ConfigError;

    fn from_str(version: &str) -> Result<Self, ConfigError> {
        match version {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            other => Err(ConfigError::new(
                "min_version",
                format!("{other:?}: \"1.2\" or \"1.3\" is accepted"),
            )),
        }
    }
}

/// What every client in use speaks; 1.0 and 1.1 are withdrawn (RFC 8996), and rustls has neither.
pub(super) const MIN_VERSION: TlsVersion = TlsVersion::V1_2;
/// What can be served, the better first.
pub(super) const ALPN: &[&[u8]] = {
    // Without `server`, whoever stands below speaks what they speak.
    let http1 = cfg!(any(feature = "http1", not(feature = "server")));
    let http2 = cfg!(any(feature = "http2", not(feature = "server")));
    match (http2, http1) {
        (true, true) => &[b"h2", b"http/1.1"],
        (true, false) => &[b"h2"],
        (false, true) => &[b"http/1.1"],
        (false, false) => &[],
    }
};
