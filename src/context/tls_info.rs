//! The facts of a TLS session.

use std::time::Duration;

use bytes::Bytes;

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
    /// The time from accept to the end of the handshake.
    pub handshake: Duration,
}
