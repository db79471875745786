//! [`TlsConfig`]: what a handshake may negotiate.

use std::{fmt, str::FromStr};

use rustls::pki_types::DnsName;

use super::{Certificates, ClientAuth, HostPolicy, TicketSecret};
use crate::error::ConfigError;

/// The settings that a handshake negotiates within: certificates, versions, ALPN, tickets, certificates
/// of clients.
///
/// Cipher suites are forward secret and authenticated with any settings: rustls has no others. The
/// features choose the crypto provider (`aws-lc-rs`, else `ring`). The crate does not install it as
/// the default of the process.
///
/// There is no setting for 0-RTT (RFC 8446 §2.3). An attacker can replay early data: at another instance
/// too, since no instance knows what the others have seen. A balancer cannot know which requests of its
/// applications are safe to repeat, and the round trip that 0-RTT saves is the one that a connection
/// kept open saves as well.
#[derive(Clone)]
#[must_use]
pub struct TlsConfig {
    pub(super) certificates: Certificates,
    pub(super) strict_sni: bool,
    pub(super) min_version: TlsVersion,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) tickets: bool,
    pub(super) ticket_secret: Option<TicketSecret>,
    pub(super) client_auth: Option<ClientAuth>,
    pub(super) hosts: Vec<(Box<str>, HostPolicy)>,
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
            ticket_secret: None,
            client_auth: None,
            hosts: Vec::new(),
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
        self.alpn = check_alpn(protocols)?;
        Ok(self)
    }

    /// Sets whether a client can resume a session by ticket (RFC 8446 §2.2), which saves both sides most
    /// of the handshake's cost. The keys change every 12 h and are forgotten 12 h later; a reload of
    /// certificates keeps them. Hosts that ask for client certificates issue no tickets. In TLS 1.3, two tickets are sent
    /// together with the first write, which saves a packet and a system call.
    ///
    /// Default: `true`.
    pub fn tickets(mut self, tickets: bool) -> Self {
        self.tickets = tickets;
        self
    }

    /// Shares the ticket keys with every instance that has the same secret, so that a client can resume
    /// its session at any of them. The policies of [`host`](Self::host) must be the same there.
    ///
    /// Default: the keys are made by this process, and no other process knows them unless it is given
    /// them ([`TicketKeys`](super::TicketKeys)).
    pub fn ticket_secret(mut self, secret: TicketSecret) -> Self {
        self.ticket_secret = Some(secret);
        self
    }

    /// Asks clients for a certificate, at every host without a policy that says otherwise. Sessions of
    /// such a host are never resumed by ticket.
    ///
    /// Default: no certificate is asked for.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = Some(auth);
        self
    }

    /// Sets a policy for a host name: an exact one, or `*.` and a domain for all names that have one
    /// label more. An exact name precedes a wildcard.
    ///
    /// The server name of the ClientHello chooses the policy of a connection, and a connection serves
    /// requests for hosts of its own policy only. Others get 421 (RFC 9110 §15.5.20): from
    /// `evenkeel::serve` without more, under other servers from a
    /// [`MisdirectedLayer`](super::MisdirectedLayer). Without that layer, a client could reach a host
    /// whose certificate it lacks by the server name of another host.
    ///
    /// Default: one policy for all hosts.
    ///
    /// # Errors
    ///
    /// If the name is no DNS name, or has a policy already.
    pub fn host(mut self, name: &str, policy: HostPolicy) -> Result<Self, ConfigError> {
        let bad = |why: &str| {
            let message = format!("{name:?}: {why}");
            ConfigError::new("hosts", message)
        };
        let name: Box<str> = name.to_ascii_lowercase().into();
        let whole = name.strip_prefix("*.").unwrap_or(&name);
        if DnsName::try_from(whole).is_err() {
            return Err(bad(
                "a DNS name such as \"a.example\" or \"*.a.example\" is accepted",
            ));
        }
        if self.hosts.iter().any(|(other, _)| *other == name) {
            return Err(bad("the host has a policy already"));
        }
        self.hosts.push((name, policy));
        Ok(self)
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
            .field("ticket_secret", &self.ticket_secret)
            .field("client_auth", &self.client_auth)
            .field("hosts", &self.hosts)
            .finish()
    }
}

pub(super) fn check_alpn<N: Into<Vec<u8>>>(
    protocols: impl IntoIterator<Item = N>,
) -> Result<Vec<Vec<u8>>, ConfigError> {
    let protocols: Vec<Vec<u8>> = protocols.into_iter().map(Into::into).collect();
    if protocols.iter().all(|name| (1..=255).contains(&name.len())) {
        return Ok(protocols);
    }
    Err(ConfigError::new(
        "alpn",
        "a protocol name of 1 to 255 bytes is accepted",
    ))
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
