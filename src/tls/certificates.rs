//! [`Certificates`]: the certificates that are served, and the choice by server name (SNI).

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::certificate::{Certificate, Parsed};
use crate::error::ConfigError;

/// The certificates that are served now: a shared handle, cheap to clone.
///
/// A client sees the certificate whose subjectAltName is the server name that it asks for, else one
/// with a wildcard in place of the first label, else the first of the list (unless
/// [`strict_sni`](super::TlsConfig::strict_sni) is set). If several certificates have the name (RSA
/// and ECDSA), the client sees the first whose signature algorithm it supports.
///
/// [`replace`](Self::replace), [`reload`](Self::reload) and [`watch`](Self::watch) change the
/// certificates for handshakes that begin afterwards. Connections and session tickets stay valid.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    table: ArcSwap<Table>,
    /// Held while a change derives a table from the previous one.
    change_lock: Mutex<()>,
    /// Fingerprints are compared within the process only, so the seed is random.
    hasher: RandomState,
}

impl Certificates {
    /// Reads the certificates. Clients that ask for a name of none of them see the first.
    ///
    /// Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// If the list is empty, or for the first certificate with a fault: a file that cannot be read, a
    /// file without a certificate or key, a key that does not belong to the certificate, a certificate
    /// without subjectAltName.
    pub fn new(certificates: impl IntoIterator<Item = Certificate>) -> Result<Self, ConfigError> {
        let hasher = RandomState::new();
        let table = Table::read(certificates, &hasher)?;
        Ok(Self {
            inner: Arc::new(Inner {
                table: ArcSwap::from_pointee(table),
                change_lock: Mutex::new(()),
                hasher,
            }),
        })
    }

    /// Replaces all certificates by these, or none if one has a fault.
    ///
    /// Blocks while it reads files.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); the previous certificates stay.
    pub fn replace(
        &self,
        certificates: impl IntoIterator<Item = Certificate>,
    ) -> Result<(), ConfigError> {
        let table = Table::read(certificates, &self.inner.hasher)?;
        let _guard = self.lock();
        self.inner.table.store(Arc::new(table));
        Ok(())
    }

    /// Reads the files again, regardless of their modification times. Returns true if a certificate
    /// changed. A certificate that has a fault now keeps its previous state; the others change.
    ///
    /// Blocks while it reads files; [`watch`](Self::watch) does not.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), about the first certificate with a fault; the fault is also logged at
    /// ERROR.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let changed = self.refresh();
        if let Err(error) = &changed {
            tracing::error!(target: "evenkeel::tls", %error, "certificate kept as it was");
        }
        changed
    }

    pub(super) fn refresh(&self) -> Result<bool, ConfigError> {
        let _guard = self.lock();
        let previous = self.inner.table.load();
        let mut entries = previous.entries.clone();
        let mut changed = false;
        let mut failed = None;
        for (index, entry) in entries.iter_mut().enumerate() {
            match entry.refresh(&self.inner.hasher) {
                Ok(is_changed) => changed |= is_changed,
                Err(error) => {
                    failed.get_or_insert_with(|| with_index(index, &error));
                }
            }
        }
        if changed {
            self.inner.table.store(Arc::new(Table::new(entries)));
            tracing::info!(target: "evenkeel::tls", "certificates changed");
        }
        failed.map_or(Ok(changed), Err)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        let change_lock = self.inner.change_lock.lock();
        change_lock.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.inner.table.load();
        f.debug_list()
            .entries(table.entries.iter().map(|e| &e.parsed.names))
            .finish()
    }
}

/// The resolver that rustls asks for a certificate.
pub(super) struct Resolver {
    certificates: Certificates,
    strict: bool,
}

impl Resolver {
    pub(super) fn new(certificates: Certificates, strict: bool) -> Self {
        Self {
            certificates,
            strict,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.certificates.inner.table.load();
        let found = table.pick(hello.server_name(), self.strict);
        found.best(hello.signature_schemes())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("certificates", &self.certificates)
            .field("strict", &self.strict)
            .finish()
    }
}

/// The certificates, indexed by name.
struct Table {
    entries: Vec<Entry>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

#[derive(Clone)]
struct Entry {
    certificate: Certificate,
    fingerprint: u64,
    parsed: Parsed,
}

impl Table {
    fn read(
        certificates: impl IntoIterator<Item = Certificate>,
        hasher: &RandomState,
    ) -> Result<Self, ConfigError> {
        let read = |(index, certificate)| {
            Entry::read(certificate, hasher).map_err(|error| with_index(index, &error))
        };
        let entries: Vec<_> = certificates
            .into_iter()
            .enumerate()
            .map(read)
            .collect::<Result<_, _>>()?;
        if entries.is_empty() {
            return Err(ConfigError::new(
                "certificates",
                "the list is empty; 1 or more is accepted",
            ));
        }
        Ok(Self::new(entries))
    }

    fn new(entries: Vec<Entry>) -> Self {
        let mut exact = HashMap::<_, Vec<_>>::new();
        let mut wildcard = HashMap::<_, Vec<_>>::new();
        for (index, entry) in entries.iter().enumerate() {
            for name in &*entry.parsed.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, &**name),
                };
                map.entry(Box::from(name)).or_default().push(index);
            }
        }
        Self {
            entries,
            exact,
            wildcard,
        }
    }

    /// Returns the certificates for the name, which rustls has put in lower case.
    fn pick(&self, name: Option<&str>, strict: bool) -> Candidates<'_> {
        let found = name.and_then(|name| {
            let exact = self.exact.get(name);
            // A wildcard stands for one whole label (RFC 9525 §6.3).
            exact.or_else(|| self.wildcard.get(name.split_once('.')?.1))
        });
        match found {
            Some(indices) => Candidates::Some(&self.entries, indices),
            None if strict => Candidates::None,
            None => Candidates::All(&self.entries),
        }
    }
}

impl Entry {
    fn read(certificate: Certificate, hasher: &RandomState) -> Result<Self, ConfigError> {
        let (chain, key) = certificate.read()?;
        Ok(Self {
            fingerprint: hasher.hash_one((&chain, &key)),
            parsed: certificate.parse(&chain, &key)?,
            certificate,
        })
    }

    /// Takes the current bytes if they differ; returns true if they did.
    fn refresh(&mut self, hasher: &RandomState) -> Result<bool, ConfigError> {
        let (chain, key) = self.certificate.read()?;
        let fingerprint = hasher.hash_one((&chain, &key));
        if fingerprint == self.fingerprint {
            return Ok(false);
        }
        self.parsed = self.certificate.parse(&chain, &key)?;
        self.fingerprint = fingerprint;
        Ok(true)
    }
}

/// The certificates for a name, in order of preference.
enum Candidates<'a> {
    All(&'a [Entry]),
    None,
    Some(&'a [Entry], &'a [usize]),
}

impl Candidates<'_> {
    fn best(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = |entry: &Entry| entry.parsed.key.clone();
        let fits = |entry: &&Entry| entry.parsed.key.key.choose_scheme(schemes).is_some();
        match self {
            // If none fits, the first: rustls then reports that no signature scheme is shared.
            Self::All(entries) => {
                let best = entries.iter().find(fits);
                best.or_else(|| entries.first()).map(key)
            }
            Self::None => None,
            Self::Some(entries, [only]) => entries.get(*only).map(key),
            Self::Some(entries, indices) => {
                let mut among = indices.iter().filter_map(|index| entries.get(*index));
                let first = among.clone().next();
                among.find(fits).or(first).map(key)
            }
        }
    }
}

fn with_index(index: usize, error: &ConfigError) -> ConfigError {
    let field = format!("certificates[{index}].{}", error.field());
    ConfigError::new(field, error.message())
}
