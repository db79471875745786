//! The facts of a TLS session.

use std::time::Duration;

use bytes::Bytes;

/// What a TLS handshake settled.
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
    /// The server name that the client asked for.
    pub sni: Option<Box<str>>,
    /// The session was resumed.
    pub resumed: bool,
    /// The client's certificate chain, DER, the leaf first.
    pub client_certificates: Vec<Bytes>,
    /// From accept to the handshake's end.
    pub handshake: Duration,
}
