//! `ClientIdentity`: what a client's verified certificate says.
//!
//! Made once a handshake, so that a request reads texts that are ready. The subject and the names come
//! from a certificate that the roots of the listener have verified: they are as trustworthy as its
//! issuer.

use std::{fmt, time::SystemTime};

use http::HeaderValue;

/// What the certificate of a client says, after the handshake has verified it; see
/// [`TlsInfo::client`](super::TlsInfo::client).
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// The subject in the form of RFC 4514, such as `CN=app-1,O=Example`; empty if it has none.
    pub subject: Box<str>,
    /// The issuer in the same form.
    pub issuer: Box<str>,
    /// The alternative names with their kind: `DNS:a.test`, `URI:spiffe://a.test/app`, `email:a@b.test`,
    /// `IP:192.0.2.1`. Names of other kinds are left out.
    pub names: Vec<Box<str>>,
    /// The serial number in hexadecimal.
    pub serial: Box<str>,
    /// The SHA-256 fingerprint in hexadecimal.
    pub fingerprint: Box<str>,
    /// The time at which the certificate expires.
    pub not_after: SystemTime,
    /// The value of `Client-Cert` (RFC 9440 §2.2).
    pub(crate) client_cert: HeaderValue,
    /// The value of `Client-Cert-Chain` (RFC 9440 §2.3); `None` if the client sent its own certificate
    /// alone.
    pub(crate) client_cert_chain: Option<HeaderValue>,
}

impl ClientIdentity {
    /// Returns the value of the field `Client-Cert` (RFC 9440 §2.2): the certificate in base64.
    #[must_use]
    pub fn client_cert(&self) -> &HeaderValue {
        &self.client_cert
    }

    /// Returns the value of the field `Client-Cert-Chain` (RFC 9440 §2.3): the certificates that the
    /// client sent behind its own; `None` if it sent none.
    #[must_use]
    pub fn client_cert_chain(&self) -> Option<&HeaderValue> {
        self.client_cert_chain.as_ref()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity")
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("names", &self.names)
            .field("serial", &self.serial)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}
