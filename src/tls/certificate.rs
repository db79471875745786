//! [`Certificate`]: the source of one chain and its key, and how they are parsed.

use std::{fmt, fs, path::PathBuf, sync::Arc};

use rustls::{InconsistentKeys, pki_types::CertificateDer, sign::CertifiedKey};
use webpki::EndEntityCert;

use crate::{
    connect::{pem, provider},
    error::ConfigError,
};

/// The source of one certificate chain and its private key: two files, or memory.
///
/// Both are PEM: the chain with the server's own certificate first, the key as `PRIVATE KEY`
/// (PKCS #8), `RSA PRIVATE KEY` (PKCS #1) or `EC PRIVATE KEY` (SEC 1), without a passphrase. They
/// may be in one file, with other text around them (RFC 7468 §2), and with the line ends and the
/// byte order mark of Windows editors.
#[derive(Clone)]
#[must_use]
pub struct Certificate {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Files { chain: PathBuf, key: PathBuf },
    Pem { chain: Arc<[u8]>, key: Arc<[u8]> },
}

impl Certificate {
    /// Names the files of the chain and of the key. Each reload reads them again.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            source: Source::Files {
                chain: chain.into(),
                key: key.into(),
            },
        }
    }

    /// Takes the chain and the key from memory. A reload does not change them.
    pub fn pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            source: Source::Pem {
                chain: chain.into().into(),
                key: key.into().into(),
            },
        }
    }

    /// Reads the current bytes of the chain and of the key.
    pub(super) fn read(&self) -> Result<(Arc<[u8]>, Arc<[u8]>), ConfigError> {
        let read = |field, path: &PathBuf| match fs::read(path) {
            Ok(bytes) => Ok(Arc::from(bytes)),
            Err(error) => Err(ConfigError::new(
                field,
                format!(
                    "{}: {error}; a readable PEM file is accepted",
                    path.display()
                ),
            )),
        };
        match &self.source {
            Source::Files { chain, key } => Ok((read("chain", chain)?, read("key", key)?)),
            Source::Pem { chain, key } => Ok((chain.clone(), key.clone())),
        }
    }

    /// Parses the bytes, and checks that the key belongs to the chain.
    pub(super) fn parse(&self, chain: &[u8], key: &[u8]) -> Result<Parsed, ConfigError> {
        let (chain_from, key_from) = match &self.source {
            Source::Files { chain, key } => (
                format!("{}: ", chain.display()),
                format!("{}: ", key.display()),
            ),
            Source::Pem { .. } => (String::new(), String::new()),
        };
        let bad_chain = |why: &str| ConfigError::new("chain", format!("{chain_from}{why}"));
        let bad_key = |why: &str| ConfigError::new("key", format!("{key_from}{why}"));

        let chain = pem::certificates(chain).map_err(|why| bad_chain(&why))?;
        let leaf = chain.first().ok_or_else(|| {
            bad_chain("no certificate is there; a PEM section CERTIFICATE is accepted")
        })?;
        let names = names(leaf).map_err(|why| bad_chain(&why))?;
        let key = pem::private_key(key).map_err(|why| bad_key(&why))?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => bad_key(
                    "the key does not belong to the chain's first certificate; \
                     the server's own certificate comes first, and this is its key",
                ),
                other => bad_key(&other.to_string()),
            })?;
        Ok(Parsed {
            key: Arc::new(certified),
            names,
        })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Files { chain, key } => f
                .debug_struct("Certificate")
                .field("chain", chain)
                .field("key", key)
                .finish(),
            Source::Pem { .. } => f.debug_struct("Certificate").finish_non_exhaustive(),
        }
    }
}

/// A chain and the key that belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) key: Arc<CertifiedKey>,
    /// The DNS names of the certificate in lower case, those with `*.` included.
    pub(super) names: Arc<[Box<str>]>,
}

fn names(leaf: &CertificateDer<'_>) -> Result<Arc<[Box<str>]>, String> {
    // Clients ignore the common name (RFC 9525 §2), so no client accepts one without subjectAltName.
    if !leaf.windows(SAN.len()).any(|window| window == SAN) {
        return Err("the certificate has no subjectAltName, so no client accepts it".into());
    }
    let leaf = EndEntityCert::try_from(leaf)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    Ok(leaf
        .valid_dns_names()
        .map(|name| name.to_ascii_lowercase().into())
        .collect())
}

/// The object identifier of subjectAltName, 2.5.29.17, in DER.
const SAN: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
