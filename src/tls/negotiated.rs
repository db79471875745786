//! The result of a handshake, in the names of the IANA registries.

use bytes::Bytes;
use rustls::{CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion, ServerConnection};

use super::client_identity;
use crate::context::{ConnInfo, ConnPolicy, TlsInfo};

/// Writes the result of the handshake to the `ConnInfo`.
pub(super) fn record(
    conn: &ConnInfo,
    session: &ServerConnection,
    sni: Option<Box<str>>,
    policy: Option<ConnPolicy>,
) {
    let suite = session.negotiated_cipher_suite();
    let group = session.negotiated_key_exchange_group();
    let client_certificates = session.peer_certificates().unwrap_or_default();
    conn.set_tls(TlsInfo {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "",
        },
        cipher: suite.map(|suite| cipher(suite.suite())).unwrap_or_default(),
        key_exchange: group.and_then(|group| key_exchange(group.name())),
        alpn: session.alpn_protocol().map(alpn),
        sni,
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client_certificates: client_certificates
            .iter()
            .map(|certificate| Bytes::copy_from_slice(certificate))
            .collect(),
        client: client_identity::read(client_certificates),
        policy,
        handshake: conn.accepted().elapsed(),
    });
}

fn alpn(protocol: &[u8]) -> Bytes {
    match protocol {
        b"h2" => Bytes::from_static(b"h2"),
        b"http/1.1" => Bytes::from_static(b"http/1.1"),
        other => Bytes::copy_from_slice(other),
    }
}

/// The IANA name: rustls writes `TLS13_` where the registry has `TLS_`.
pub(super) fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or_default(),
    }
}

/// The IANA name: rustls writes `X25519` where the registry has `x25519`.
pub(super) fn key_exchange(group: NamedGroup) -> Option<&'static str> {
    match group {
        NamedGroup::secp256r1MLKEM768 => Some("SecP256r1MLKEM768"),
        NamedGroup::X25519 => Some("x25519"),
        NamedGroup::X448 => Some("x448"),
        other => other.as_str(),
    }
}
