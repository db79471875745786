//! [`Certificate`]: the source of one chain and its key, and how they are parsed.

use std::{fmt, fs, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::{
    SignatureScheme,
    pki_types::CertificateDer,
    sign::{CertifiedKey, SigningKey},
};
use webpki::EndEntityCert;

use crate::{
    connect::{
        pem, provider,
        x509::{Facts, utc},
    },
    context::CertificateInfo,
    error::ConfigError,
};

/// The source of one certificate chain and its private key: two files, or memory.
///
/// Both are PEM: the chain as `CERTIFICATE`, the key as `PRIVATE KEY` (PKCS #8), `RSA PRIVATE KEY`
/// (PKCS #1) or `EC PRIVATE KEY` (SEC 1), without a passphrase. RSA of 2,048 bits or more, ECDSA with
/// P-256, P-384 or P-521, and Ed25519 are accepted. The certificates may be in any order: the server's
/// own is the one that the key belongs to. Chain and key may be in one file, with other text around them
/// (RFC 7468 §2), and with the line ends and the byte order mark of Windows editors.
#[derive(Clone)]
#[must_use]
pub struct Certificate {
    source: Source,
    names: Vec<Box<str>>,
    any_validity: bool,
}

#[derive(Clone, PartialEq)]
enum Source {
    Files { chain: PathBuf, key: PathBuf },
    Pem { chain: Arc<[u8]>, key: Arc<[u8]> },
}

impl Certificate {
    /// Names the files of the chain and of the key. Each reload reads them again.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self::new(Source::Files {
            chain: chain.into(),
            key: key.into(),
        })
    }

    /// Takes the chain and the key from memory. A reload does not change them.
    pub fn pem(chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self::new(Source::Pem {
            chain: chain.into().into(),
            key: key.into().into(),
        })
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            names: Vec::new(),
            any_validity: false,
        }
    }

    /// Requires the certificate to be valid for these server names. A certificate that lacks one is
    /// refused, at start and at each reload: the wrong file is noticed before a client notices it.
    ///
    /// Default: none is required.
    pub fn required_names<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter();
        self.names = names
            .map(|name| name.as_ref().to_ascii_lowercase().into())
            .collect();
        self
    }

    /// Sets whether a certificate is served that has expired or is not valid yet. Clients refuse it,
    /// unless their operators say otherwise. A certificate that expires while it is served is served on, and
    /// stays when its list is [replaced](super::Certificates::replace) by one with the same files.
    ///
    /// Default: `false`.
    pub fn any_validity(mut self, any: bool) -> Self {
        self.any_validity = any;
        self
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

    /// Parses the bytes, and checks that a client could accept the certificate at the time `now`.
    pub(super) fn parse(
        &self,
        chain: &[u8],
        key: &[u8],
        now: SystemTime,
    ) -> Result<Parsed, ConfigError> {
        let parsed = self.parse_unchecked(chain, key)?;
        let bad = |why: String| self.bad_chain(&why);
        let leaf = parsed.key.cert.first();
        if let Some(Err(error)) = leaf.map(EndEntityCert::try_from) {
            return Err(bad(format!("the certificate cannot be read: {error}")));
        }
        self.check(&parsed.facts, now)?;
        Ok(parsed)
    }

    /// Checks that a client could accept a certificate with these facts at the time `now`.
    fn check(&self, facts: &Facts, now: SystemTime) -> Result<(), ConfigError> {
        let bad = |why: String| self.bad_chain(&why);
        if !self.any_validity && now < facts.not_before {
            let from = utc(facts.not_before);
            // Without the time now: a message that changes would be logged at every reading.
            let why = format!("the certificate is not valid before {from}, which is to come");
            return Err(bad(why));
        }
        if !self.any_validity && now > facts.not_after {
            let until = utc(facts.not_after);
            return Err(bad(format!("the certificate expired at {until}")));
        }
        match self.names.iter().find(|name| !facts.covers(name)) {
            Some(name) => Err(bad(format!(
                "the certificate is for {}; one for {name} is required",
                facts.names.join(", ")
            ))),
            None => Ok(()),
        }
    }

    /// Parses the bytes of a certificate that only a certificate authority's check will see
    /// (RFC 8737 §3): it has an extension that no other client knows.
    pub(super) fn parse_unchecked(&self, chain: &[u8], key: &[u8]) -> Result<Parsed, ConfigError> {
        let chain = pem::certificates(chain).map_err(|why| self.bad_chain(&why))?;
        if chain.is_empty() {
            let why = "no certificate is there; a PEM section CERTIFICATE is accepted";
            return Err(self.bad_chain(why));
        }
        let facts = chain.iter().map(Facts::of);
        let facts: Vec<_> = facts
            .collect::<Result<_, _>>()
            .map_err(|why| self.bad_chain(&why))?;
        let key = pem::private_key(key).map_err(|why| self.bad_key(&why))?;
        let key = provider().key_provider.load_private_key(key);
        let key = key.map_err(|error| self.bad_key(&error.to_string()))?;
        let own = key.public_key().and_then(|public_key| {
            let mut facts = facts.iter();
            facts.position(|facts| *facts.public_key == *public_key)
        });
        let Some(own) = own else {
            return Err(self.bad_key("the key does not belong to a certificate of the chain"));
        };
        let (chain, facts) = in_order(&chain, facts, own);
        if !facts.has_names {
            // Clients ignore the common name (RFC 9525 §2).
            let why = "the certificate has no subjectAltName, so no client accepts it";
            return Err(self.bad_chain(why));
        }
        Ok(Parsed {
            kind: kind(&*key),
            key: Arc::new(CertifiedKey::new(chain, key)),
            facts: Arc::new(facts),
        })
    }

    /// Returns true if both are read from the same place, under the same requirements.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.source == other.source
            && self.names == other.names
            && self.any_validity == other.any_validity
    }

    /// Describes the certificate that was parsed from the source.
    pub(super) fn describe(&self, id: Option<&str>, parsed: &Parsed) -> CertificateInfo {
        let key = parsed.key.key.algorithm();
        // A chain that was parsed has a certificate.
        let leaf = parsed.key.cert.first().cloned();
        let leaf = leaf.unwrap_or_else(|| CertificateDer::from(Vec::new()));
        CertificateInfo {
            id: id.map(Box::from),
            path: self.path().cloned(),
            ..parsed.facts.describe(&leaf, key)
        }
    }

    /// Returns the file of the chain.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        match &self.source {
            Source::Files { chain, .. } => Some(chain),
            Source::Pem { .. } => None,
        }
    }

    fn bad_chain(&self, why: &str) -> ConfigError {
        ConfigError::new("chain", self.with_path(why, |chain, _| chain))
    }

    fn bad_key(&self, why: &str) -> ConfigError {
        ConfigError::new("key", self.with_path(why, |_, key| key))
    }

    fn with_path(
        &self,
        why: &str,
        choose: for<'a> fn(&'a PathBuf, &'a PathBuf) -> &'a PathBuf,
    ) -> String {
        match &self.source {
            Source::Files { chain, key } => format!("{}: {why}", choose(chain, key).display()),
            Source::Pem { .. } => why.to_owned(),
        }
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
    pub(super) facts: Arc<Facts>,
    /// The kind of key: keys of one kind suit the same clients.
    pub(super) kind: usize,
}

/// Numbers the kinds of keys. All RSA keys make the same signatures, and an ECDSA key makes those of its
/// curve alone.
fn kind(key: &dyn SigningKey) -> usize {
    let makes = |scheme: &SignatureScheme| key.choose_scheme(&[*scheme]).is_some();
    SCHEMES.iter().position(makes).unwrap_or(SCHEMES.len())
}

/// Puts the server's own certificate first, then each issuer behind what it issued, as TLS 1.2 requires
/// (RFC 5246 §7.4.2). What belongs to no such chain, such as the root of a second path, comes last.
fn in_order(
    chain: &[CertificateDer<'static>],
    mut facts: Vec<Facts>,
    own: usize,
) -> (Vec<CertificateDer<'static>>, Facts) {
    let mut order = vec![own];
    let mut last = own;
    let is_next = |last: usize, next: usize| facts[next].subject == facts[last].issuer;
    while let Some(next) =
        (0..facts.len()).find(|next| !order.contains(next) && is_next(last, *next))
    {
        order.push(next);
        last = next;
    }
    let others: Vec<_> = (0..facts.len()).filter(|n| !order.contains(n)).collect();
    order.extend(others);
    let ordered = order.iter().map(|&n| chain[n].clone()).collect();
    (ordered, facts.swap_remove(own))
}

/// One for each kind of key.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
];
