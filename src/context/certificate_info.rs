//! [`CertificateInfo`]: what there is to know of a certificate in force.

use std::{path::PathBuf, time::SystemTime};

/// A certificate that this process has the key of and uses now: to prove to clients, or to backends,
/// which host it is. For gauges, events and status pages.
///
/// [`Certificates::in_force`](crate::tls::Certificates::in_force) has those that clients see,
/// [`ClientTls::certificate`](crate::connect::ClientTls::certificate) the one that backends see. A
/// [`CertificateRegistry`](crate::stats::CertificateRegistry) shows them together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// The identifier with which it was inserted, or the server name for which it was looked up on
    /// demand; `None` for a certificate of the list.
    pub id: Option<Box<str>>,
    /// The file of the chain; `None` for a certificate from memory.
    pub path: Option<PathBuf>,
    /// The DNS names in lower case, those with `*.` included.
    pub names: Box<[Box<str>]>,
    /// The issuer in the form of RFC 4514, such as `CN=R11,O=Let's Encrypt,C=US`.
    pub issuer: Box<str>,
    /// The time from which it is valid.
    pub not_before: SystemTime,
    /// The time at which it expires.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal.
    pub serial: Box<str>,
    /// The SHA-256 fingerprint in hexadecimal: a replaced certificate has another one.
    pub fingerprint: Box<str>,
    /// The kind of key: `RSA`, `ECDSA` or `Ed25519`.
    pub key: &'static str,
    /// True if it was looked up when a client asked for its name.
    pub on_demand: bool,
}

impl CertificateInfo {
    /// The common name of a placeholder's issuer: of the certificate that no client accepts and that is
    /// served until an authority has issued a true one.
    pub const PLACEHOLDER: &'static str = "evenkeel placeholder";

    /// Returns true for a placeholder, by its issuer.
    #[must_use]
    pub fn is_placeholder(&self) -> bool {
        self.issuer.strip_prefix("CN=") == Some(Self::PLACEHOLDER)
    }

    /// Returns a short name: the first DNS name, else the identifier, else the name of its file, else the
    /// serial number.
    #[must_use]
    pub fn name(&self) -> &str {
        let file = || self.path.as_ref()?.file_name()?.to_str();
        let first = self.names.first().or(self.id.as_ref()).map(|name| &**name);
        first.or_else(file).unwrap_or(&self.serial)
    }
}
