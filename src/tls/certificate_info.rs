//! [`CertificateInfo`]: what there is to know of a certificate in force.

use std::{path::PathBuf, time::SystemTime};

use super::{Certificate, certificate_entry::Entry, x509};
use crate::connect::crypto;

/// A certificate in force, for gauges, events and status pages;
/// see [`Certificates::in_force`](super::Certificates::in_force).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// The identifier with which it was inserted; `None` for a certificate of the list.
    pub id: Option<Box<str>>,
    /// The file of the chain; `None` for a certificate from memory.
    pub path: Option<PathBuf>,
    /// The DNS names in lower case, those with `*.` included.
    pub names: Box<[Box<str>]>,
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
}

impl CertificateInfo {
    pub(super) fn of(entry: &Entry) -> Self {
        let facts = &entry.parsed.facts;
        let files = entry.files.as_ref();
        let leaf = entry.parsed.key.cert.first();
        let fingerprint = leaf.map(|leaf| x509::hex(&crypto::sha256(leaf)));
        Self {
            id: entry.id.as_deref().map(Box::from),
            path: files.and_then(Certificate::path).cloned(),
            names: facts.names.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial.clone(),
            fingerprint: fingerprint.unwrap_or_default().into(),
            key: match entry.parsed.key.key.algorithm() {
                rustls::SignatureAlgorithm::RSA => "RSA",
                rustls::SignatureAlgorithm::ECDSA => "ECDSA",
                rustls::SignatureAlgorithm::ED25519 => "Ed25519",
                _ => "other",
            },
        }
    }
}
