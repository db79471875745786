//! [`TlsConfig`]: what a handshake may negotiate.

use std::{fmt, str::FromStr, sync::Arc};

use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, ProducesTickets},
    version::{TLS12, TLS13},
};

use super::{Certificates, certificates::Resolver};
use crate::{connect::provider, error::ConfigError};

/// The settings that a handshake negotiates within: certificates, versions, ALPN, tickets.
///
/// Cipher suites are forward secret and authenticated with any settings: rustls has no others. The
/// features choose the crypto provider (`aws-lc-rs`, else `ring`). The crate does not install it as
/// the default of the process.
///
/// There is no setting for 0-RTT: rustls ties it to sessions kept in memory, and a request that an
/// attacker can replay is not worth the round trip that it saves.
#[derive(Clone)]
#[must_use]
pub struct TlsConfig {
    pub(super) certificates: Certificates,
    strict_sni: bool,
    min_version: TlsVersion,
    alpn: Vec<Vec<u8>>,
    tickets: bool,
}

impl TlsConfig {
    /// Makes a configuration that serves `certificates`: a handle, so that they can change later.
    pub fn new(certificates: Certificates) -> Self {
        Self {
            certificates,
            strict_sni: false,
            min_version: MIN_VERSION,
            alpn: ALPN.iter().map(|name| name.to_vec()).collect(),
            tickets: true,
        }
    }

    /// Sets whether to refuse a client whose server name has no certificate, or that sends no server name
    /// (as a client does that connects to an IP address). Otherwise such a client sees the first
    /// certificate.
    ///
    /// Default: `false`.
    pub fn strict_sni(mut self, strict: bool) -> Self {
        self.strict_sni = strict;
        self
    }

    /// Sets the oldest version that is accepted.
    ///
    /// Default: TLS 1.2.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Sets the protocols for ALPN (RFC 7301), in order of preference: the handshake selects the first
    /// that the client offers as well. A client that offers only others is refused with an alert; a
    /// client without ALPN is not. An empty list switches ALPN off.
    ///
    /// Default: `h2`, `http/1.1`. With the feature `server`, only those of the features `http2` and
    /// `http1`.
    ///
    /// # Errors
    ///
    /// If a name is not 1 to 255 bytes long.
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

    /// Sets whether a client can resume a session by ticket (RFC 8446 §2.2), which saves both sides most
    /// of the handshake's cost. The keys are made by this process, stay in memory, change every 6 h and
    /// are forgotten after 12 h; a reload of certificates keeps them. In TLS 1.3, two tickets are sent
    /// together with the first write, which saves a packet and a system call.
    ///
    /// Default: `true`.
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
            // Unreachable: the suites of both providers support both versions.
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

/// Every client in use supports 1.2. Versions 1.0 and 1.1 are withdrawn (RFC 8996), and rustls has
/// neither.
pub(super) const MIN_VERSION: TlsVersion = TlsVersion::V1_2;
/// The protocols that can be served, in order of preference.
pub(super) const ALPN: &[&[u8]] = {
    // Without `server`, the HTTP server is another crate's and may support both.
    let http1 = cfg!(any(feature = "http1", not(feature = "server")));
    let http2 = cfg!(any(feature = "http2", not(feature = "server")));
    match (http2, http1) {
        (true, true) => &[b"h2", b"http/1.1"],
        (true, false) => &[b"h2"],
        (false, true) => &[b"http/1.1"],
        (false, false) => &[],
    }
};
