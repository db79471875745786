//! The facts of a TLS session.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri, header::HOST};

use super::{ClientIdentity, host_policies::ConnPolicy};

/// The facts of a TLS session, set when its handshake has ended; see [`ConnInfo::tls`](super::ConnInfo::tls).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version: `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's IANA name.
    pub cipher: &'static str,
    /// The key exchange group's IANA name.
    pub key_exchange: Option<&'static str>,
    /// The protocol that ALPN selected.
    pub alpn: Option<Bytes>,
    /// The server name that the client asked for (SNI).
    pub sni: Option<Box<str>>,
    /// True if the client resumed an earlier session.
    pub resumed: bool,
    /// The client's certificate chain in DER, the leaf first; empty if the client sent none.
    pub client_certificates: Vec<Bytes>,
    /// What the client's certificate says; `None` if the client sent none. The handshake has verified it
    /// against the roots of the listener.
    pub client: Option<Box<ClientIdentity>>,
    /// The time from accept to the end of the handshake.
    pub handshake: Duration,
    /// `None` if all hosts of the listener have one policy.
    pub(crate) policy: Option<ConnPolicy>,
}

impl TlsInfo {
    /// Returns true if a request for this host may come over the connection: the handshake followed the
    /// policy that the listener has for the host. `host` may have a port.
    ///
    /// True for every host if the listener has one policy for all of them. Where it is false, the answer
    /// is 421 (RFC 9110 §15.5.20): the client may try again over a connection whose server name is the
    /// host.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let policy = self.policy.as_ref();
        policy.is_none_or(|policy| policy.covers(host))
    }

    /// Returns true if the request may come over the connection; see [`covers`](Self::covers). A request
    /// that names no host may.
    pub(crate) fn covers_request(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let Some(policy) = &self.policy else {
            return true;
        };
        // Each of them: a backend may read another one than this server does.
        let mut fields = headers.get_all(HOST).iter();
        // Both must have the policy: which of the two a backend follows is not known here.
        uri.authority()
            .is_none_or(|name| policy.covers(name.as_str()))
            && fields.all(|host| host.to_str().is_ok_and(|host| policy.covers(host.trim())))
    }
}
