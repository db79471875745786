//! The fields that describe the client to the backend, and their cache with the client's connection.
//!
//! Address, scheme and host are the same for all requests of a connection to one host, so their
//! lines are made once and kept with the [`ConnInfo`] of the connection in front, under a key of
//! this proxy's settings. A setter on the proxy makes a new key, so that bytes of other settings
//! are never used.
//!
//! The bytes are cached at the second request of a connection ([`ConnCache::get_or_compute`]): a
//! connection that carries one request pays no memory for them.

use std::net::IpAddr;

use http::{HeaderName, header};

use super::{ScannedHead, http1::write_host};
use crate::{
    context::{ConnCache, ConnInfo},
    proxy::{
        config::{ClientCertFields, Settings},
        forwarded_fields::{write_element, write_ip},
        header_sink::HeaderSink,
    },
};

/// The bytes that the requests of one connection to one host have in common.
///
/// Complete lines with CRLF, ready to be copied.
pub(in crate::proxy) struct ClientFields {
    /// The host that the client asked for.
    pub(super) host: Box<[u8]>,
    /// The end of the request line, and the `Host` field.
    ///
    /// It begins with the blank behind the target.
    pub(super) first: Box<[u8]>,
    /// The fields that describe the client.
    pub(super) fields: Box<[u8]>,
}

impl ScannedHead<'_> {
    /// Returns the address of the hop before this one, which sent the fields about the client.
    ///
    /// `None` for Unix sockets and for requests without a connection: then no address is added.
    pub(super) fn sender(&self) -> Option<IpAddr> {
        let peer = match self.conn {
            Some(conn) => conn.sender(),
            None => ConnInfo::peer_of(&self.parts.extensions),
        };
        peer.map(|p| p.ip())
    }

    /// Writes the fields about the client, and caches them for the next request of the connection.
    #[inline(never)]
    pub(super) fn describe_client(&self, settings: &Settings, out: &mut Vec<u8>) {
        let start = out.len();
        self.forwarded(settings, out);
        // Not for a trusted peer, whose fields may differ with each request.
        if let (Some(conn), Some(host), false) = (self.conn, self.host, self.trusted) {
            // A client can send a host of up to 32 KiB, and the memory would stay with its
            // connection.
            if host.len() > KEPT_HOST {
                return;
            }
            ConnCache::get_or_compute(conn, &settings.client_fields, || {
                let mut first = Vec::new();
                write_host(host, &mut first);
                ClientFields {
                    host: host.into(),
                    first: first.into(),
                    fields: out[start..].into(),
                }
            });
        }
    }

    /// What a trusted peer sent comes first, then the address of the peer. Protocol and host are
    /// added only if the trusted peer named none.
    pub(super) fn forwarded(&self, settings: &Settings, out: &mut impl HeaderSink) {
        if settings.forwarded.x() {
            if let Some(sender) = self.sender() {
                out.made(X_FORWARDED_FOR, |value| {
                    self.earlier(&X_FORWARDED_FOR, value);
                    write_ip(sender, value);
                });
            }
            let given = |name: &HeaderName| self.trusted && self.parts.headers.contains_key(name);
            if let Some(https) = self.https().filter(|_| !given(&X_FORWARDED_PROTO)) {
                let proto: &[u8] = if https { b"https" } else { b"http" };
                out.made(X_FORWARDED_PROTO, |value| value.extend_from_slice(proto));
            }
            if let Some(host) = self.host.filter(|_| !given(&X_FORWARDED_HOST)) {
                out.made(X_FORWARDED_HOST, |value| value.extend_from_slice(host));
            }
        }
        if settings.forwarded.rfc7239() {
            out.made(header::FORWARDED, |value| {
                self.earlier(&header::FORWARDED, value);
                write_element(self.sender(), self.host, self.https(), value);
            });
        }
        self.client_certificate(settings, out);
    }

    /// Writes the fields of RFC 9440, which were made when the handshake had ended.
    ///
    /// Without a client certificate nothing is written, and what the client sent under these names
    /// has ended at this hop.
    fn client_certificate(&self, settings: &Settings, out: &mut impl HeaderSink) {
        let chain = match settings.client_cert {
            ClientCertFields::None => return,
            ClientCertFields::Leaf => false,
            ClientCertFields::Chain => true,
        };
        let tls = self.conn.and_then(ConnInfo::tls);
        let Some(client) = tls.and_then(|tls| tls.client.as_ref()) else {
            return;
        };
        out.field(&CLIENT_CERT, client.client_cert());
        if let Some(chain) = client.client_cert_chain().filter(|_| chain) {
            out.field(&CLIENT_CERT_CHAIN, chain);
        }
    }

    /// Returns whether the client's connection uses TLS; `None` if nothing is known of it.
    fn https(&self) -> Option<bool> {
        self.conn.map(|c| c.tls().is_some())
    }

    /// Writes the values of a trusted peer, each followed by a comma.
    ///
    /// Only its own list: a client in front of the trusted peer may have begun it, which is why
    /// trust has to be set with care.
    fn earlier(&self, name: &HeaderName, buf: &mut Vec<u8>) {
        if self.trusted {
            for value in self.parts.headers.get_all(name) {
                buf.extend_from_slice(value.as_bytes());
                buf.extend_from_slice(b", ");
            }
        }
    }
}

/// A host and a port (RFC 1035 §2.3.4). Longer values are not cached with the connection.
const KEPT_HOST: usize = 262;
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
