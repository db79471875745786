//! [`KeyType`], and the keys and requests of certificates.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::names::Names;
use crate::{
    context::CertificateInfo,
    error::{BoxError, ConfigError},
    tls::Certificate,
};

/// The kind of key of a certificate. Each certificate gets a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KeyType {
    /// ECDSA with P-256: small, fast, and known to every client.
    #[default]
    P256,
    /// ECDSA with P-384.
    P384,
    /// RSA with 2,048 bits, for clients from before 2010. Needs the provider aws-lc-rs.
    Rsa2048,
}

impl KeyType {
    /// Refuses what the provider cannot make.
    pub(super) fn check(self) -> Result<Self, ConfigError> {
        match self {
            Self::Rsa2048 if cfg!(not(feature = "aws-lc-rs")) => Err(ConfigError::new(
                "key_type",
                "rsa2048: the provider ring makes no such keys; p256 and p384 are accepted",
            )),
            other => Ok(other),
        }
    }

    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        }
    }
}

/// A request for a certificate, and the key that belongs to it.
pub(super) struct Request {
    /// The PKCS #10 request in DER.
    pub(super) csr: Vec<u8>,
    /// PKCS #8 in PEM.
    pub(super) key: String,
}

impl Request {
    pub(super) fn new(names: &Names, kind: KeyType) -> Result<Self, BoxError> {
        let key = kind.generate()?;
        let csr = params(names)?.serialize_request(&key)?;
        Ok(Self {
            csr: csr.der().to_vec(),
            key: key.serialize_pem(),
        })
    }
}

/// Makes a certificate that no client accepts, to be served until there is another one. It ends soon, so
/// that whatever watches the ends of certificates sees it, and its issuer says what it is.
pub(super) fn placeholder(names: &Names, now: SystemTime) -> Result<Certificate, BoxError> {
    let key = KeyPair::generate()?;
    let mut params = params(names)?;
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, CertificateInfo::PLACEHOLDER);
    params.not_before = now.into();
    params.not_after = (now + PLACEHOLDER_LIFETIME).into();
    let made = params.self_signed(&key)?;
    let made = Certificate::pem(made.pem(), key.serialize_pem());
    // A clock that is set back must not leave a name without any certificate.
    Ok(made.any_validity(true))
}

fn params(names: &Names) -> Result<CertificateParams, BoxError> {
    let names: Vec<String> = names.iter().map(str::to_owned).collect();
    let mut params = CertificateParams::new(names)?;
    // The names are in subjectAltName; authorities leave out what else a request says.
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

/// Orders succeed within minutes. Within the threshold of every alert about the ends of certificates; and
/// after a day without a true certificate, it counts as expired.
pub(super) const PLACEHOLDER_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
