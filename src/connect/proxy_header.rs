//! The PROXY protocol header that a connection to a backend begins with. Pure: no I/O, no clock.
//!
//! The addresses are those of the connection in front, in one family: an IPv4 client of an IPv6
//! listener is written as a mapped address, since the header has room for one family. TLS fields
//! are those of the connection in front, too.
//!
//! Version 1 is limited to 107 bytes by its specification, which no line here reaches. Version 2
//! has a length field, so a receiver skips what it does not know.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use super::common_name::common_name;
use crate::context::{ConnInfo, TlsInfo};

/// The version of the PROXY protocol that a backend expects; see
/// [`Connector::proxy_protocol`](super::Connector::proxy_protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text: the addresses of the client.
    V1,
    /// Binary: the addresses, and of TLS in front the version, the cipher suite, the server name, ALPN,
    /// and whether the client has a certificate, with its common name.
    V2,
}

/// Returns the header of a connection for this client. Without a client, it says that this process
/// opened the connection for itself: LOCAL in version 2, UNKNOWN in version 1.
///
/// Allocates once or a few times; a connection is dialled for it.
pub(super) fn encode(version: ProxyVersion, client: Option<&ConnInfo>) -> Vec<u8> {
    let addresses = client.and_then(addresses);
    match (version, client) {
        (ProxyVersion::V1, _) => encode_v1(addresses),
        (ProxyVersion::V2, None) => v2(LOCAL, UNSPEC, &[]),
        (ProxyVersion::V2, Some(client)) => encode_v2(client, addresses),
    }
}

/// The source and the destination, both of one family.
#[derive(Clone, Copy)]
enum Addresses {
    V4(SocketAddrV4, SocketAddrV4),
    V6(SocketAddrV6, SocketAddrV6),
}

/// Returns the addresses of the client and of the listener; `None` where one is unknown, such as over
/// Unix sockets.
fn addresses(client: &ConnInfo) -> Option<Addresses> {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (client.sender()?, client.destination()?);
    Some(match (canonical(source), canonical(destination)) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => Addresses::V4(source, destination),
        (source, destination) => Addresses::V6(mapped(source), mapped(destination)),
    })
}

fn mapped(address: SocketAddr) -> SocketAddrV6 {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
        SocketAddr::V6(v6) => v6,
    }
}

/// A line of text, readable in a capture.
fn encode_v1(addresses: Option<Addresses>) -> Vec<u8> {
    let line = |family: &str, source: SocketAddr, destination: SocketAddr| {
        let (from, to) = (source.ip(), destination.ip());
        let ports = (source.port(), destination.port());
        format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
    };
    match addresses {
        Some(Addresses::V4(source, destination)) => line("TCP4", source.into(), destination.into()),
        Some(Addresses::V6(source, destination)) => line("TCP6", source.into(), destination.into()),
        None => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

fn encode_v2(client: &ConnInfo, addresses: Option<Addresses>) -> Vec<u8> {
    let (family, source, destination, ports) = match addresses {
        Some(Addresses::V4(source, destination)) => (
            TCP4,
            source.ip().octets().to_vec(),
            destination.ip().octets().to_vec(),
            [source.port(), destination.port()],
        ),
        Some(Addresses::V6(source, destination)) => (
            TCP6,
            source.ip().octets().to_vec(),
            destination.ip().octets().to_vec(),
            [source.port(), destination.port()],
        ),
        // Fields stand behind addresses; without those, receivers skip all of the rest.
        None => return v2(PROXY, UNSPEC, &[]),
    };
    let mut rest = [source, destination].concat();
    rest.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    if let Some(tls) = client.tls() {
        add_tls(tls, &mut rest);
    }
    v2(PROXY, family, &rest)
}

/// The common name is that of the first certificate; a chain has its owner first.
fn add_tls(tls: &TlsInfo, into: &mut Vec<u8>) {
    if let Some(alpn) = &tls.alpn {
        add(ALPN, alpn, into);
    }
    if let Some(sni) = &tls.sni {
        add(AUTHORITY, sni.as_bytes(), into);
    }
    let certificate = tls.client_certificates.first();
    // In a resumed session the certificate was shown on an earlier connection.
    let flags = match (certificate, tls.resumed) {
        (None, _) => CLIENT_SSL,
        (Some(_), true) => CLIENT_SSL | CLIENT_CERT_SESS,
        (Some(_), false) => CLIENT_SSL | CLIENT_CERT_SESS | CLIENT_CERT_CONN,
    };
    // Zero means that the client has a certificate, and it was verified.
    let verify = u32::from(certificate.is_none());
    let mut ssl = vec![flags];
    ssl.extend_from_slice(&verify.to_be_bytes());
    add(SSL_VERSION, tls.version.as_bytes(), &mut ssl);
    if let Some(name) = certificate.and_then(|der| common_name(der)) {
        add(SSL_CN, name, &mut ssl);
    }
    add(SSL_CIPHER, tls.cipher.as_bytes(), &mut ssl);
    add(SSL, &ssl, into);
}

/// Adds a field, unless it is longer than any receiver takes.
fn add(kind: u8, value: &[u8], into: &mut Vec<u8>) {
    // A client chooses its SNI and ALPN: without the limit it would choose the size of the header.
    if value.len() <= MAX_FIELD {
        into.push(kind);
        into.extend_from_slice(&length(value));
        into.extend_from_slice(value);
    }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let head = [command, family];
    [V2_SIGNATURE, &head[..], &length(rest), rest].concat()
}

/// The callers bound the length far below 64 KiB.
fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Family and transport.
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
const SSL_CIPHER: u8 = 0x23;
/// The bits of the first byte of the SSL field.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;
/// A host name has at most 253 bytes, a name of ALPN 255. With all fields, a header stays below 1 KiB.
const MAX_FIELD: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Peer;

    fn conn(peer: &str, local: &str) -> ConnInfo {
        let end = |text: &str| text.parse().map_or(Peer::Unix, Peer::Tcp);
        ConnInfo::new(end(peer), end(local))
    }

    #[test]
    fn lines_of_version_1() {
        for (peer, local, line) in [
            (
                "203.0.113.7:5",
                "192.0.2.1:443",
                "TCP4 203.0.113.7 192.0.2.1 5 443",
            ),
            (
                "[::ffff:203.0.113.7]:5",
                "[::ffff:192.0.2.1]:443",
                "TCP4 203.0.113.7 192.0.2.1 5 443",
            ),
            (
                "[2001:db8::7]:5",
                "[2001:db8::1]:443",
                "TCP6 2001:db8::7 2001:db8::1 5 443",
            ),
            (
                "203.0.113.7:5",
                "[2001:db8::1]:443",
                "TCP6 ::ffff:203.0.113.7 2001:db8::1 5 443",
            ),
            ("unix", "unix", "UNKNOWN"),
        ] {
            let header = encode(ProxyVersion::V1, Some(&conn(peer, local)));
            assert_eq!(
                String::from_utf8(header).unwrap(),
                format!("PROXY {line}\r\n")
            );
        }
        assert_eq!(encode(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn headers_of_version_2() {
        let signature = V2_SIGNATURE.to_vec();
        let local = encode(ProxyVersion::V2, None);
        assert_eq!(local, [&signature[..], &[0x20, 0, 0, 0]].concat());
        let unix = encode(ProxyVersion::V2, Some(&conn("unix", "unix")));
        assert_eq!(unix, [&signature[..], &[0x21, 0, 0, 0]].concat());
        let client = conn("203.0.113.7:5", "192.0.2.1:443");
        client.set_client("198.51.100.9:6".parse().unwrap());
        let header = encode(ProxyVersion::V2, Some(&client));
        let rest = [
            0x21, 0x11, 0, 12, 198, 51, 100, 9, 192, 0, 2, 1, 0, 6, 1, 187,
        ];
        assert_eq!(
            header,
            [&signature[..], &rest].concat(),
            "the client in front"
        );
    }

    #[test]
    fn facts_of_tls_are_fields() {
        let made = rcgen_certificate();
        let client = conn("203.0.113.7:5", "192.0.2.1:443");
        client.set_tls(TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS13_AES_128_GCM_SHA256",
            key_exchange: None,
            alpn: Some("h2".into()),
            sni: Some("www.example".into()),
            resumed: false,
            client_certificates: vec![made.into()],
            handshake: std::time::Duration::ZERO,
            ..TlsInfo::default()
        });
        let header = encode(ProxyVersion::V2, Some(&client));
        let has = |part: &[u8]| header.windows(part.len()).any(|window| window == part);
        assert!(has(b"\x01\0\x02h2"));
        assert!(has(b"\x02\0\x0bwww.example"));
        assert!(has(&[0x07, 0, 0, 0, 0, 0x21, 0, 7]), "verified");
        assert!(has(b"\x21\0\x07TLSv1.3"));
        assert!(has(b"\x22\0\x0ea client's own"));
        assert!(has(b"\x23\0\x18TLS13_AES_128_GCM_SHA256"));
    }

    fn rcgen_certificate() -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::OrganizationName, "an organisation");
        name.push(rcgen::DnType::CommonName, "a client's own");
        params.distinguished_name = name;
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }
}
