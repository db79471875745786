//! The certificates in force, indexed by name.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::SystemTime,
};

use rustls::{SignatureScheme, sign::CertifiedKey};

use super::certificate::{Certificate, Parsed};
use crate::error::ConfigError;

/// The certificates, indexed by name: first those of the list, then those that were inserted.
#[derive(Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Arc<Entry>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

pub(super) struct Entry {
    /// The identifier of [`Certificates::insert`](super::Certificates::insert); `None` in the list.
    pub(super) id: Option<Box<str>>,
    pub(super) certificate: Certificate,
    /// Of the bytes that were read.
    pub(super) fingerprint: u64,
    pub(super) parsed: Parsed,
}

impl Table {
    pub(super) fn new(entries: Vec<Arc<Entry>>) -> Self {
        let mut exact = HashMap::<_, Vec<_>>::with_capacity(entries.len());
        let mut wildcard = HashMap::<_, Vec<_>>::new();
        for (index, entry) in entries.iter().enumerate() {
            for name in &*entry.parsed.facts.names {
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
    pub(super) fn find(&self, name: Option<&str>) -> Option<Candidates<'_>> {
        let name = name?;
        let found = self.exact.get(name).or_else(|| {
            // A wildcard stands for one whole label (RFC 9525 §6.3).
            self.wildcard.get(name.split_once('.')?.1)
        });
        found.map(|indices| Candidates::Some(&self.entries, indices))
    }

    /// Returns all certificates, for a client that asks for none of their names.
    pub(super) fn all(&self) -> Candidates<'_> {
        Candidates::All(&self.entries)
    }
}

impl Entry {
    pub(super) fn read(
        id: Option<&str>,
        certificate: Certificate,
        hasher: &RandomState,
    ) -> Result<Arc<Self>, ConfigError> {
        let (chain, key) = certificate.read()?;
        Ok(Arc::new(Self {
            id: id.map(Box::from),
            fingerprint: hasher.hash_one((&chain, &key)),
            parsed: certificate.parse(&chain, &key, SystemTime::now())?,
            certificate,
        }))
    }

    /// Reads the current bytes; returns the new state if they differ.
    pub(super) fn refresh(&self, hasher: &RandomState) -> Result<Option<Arc<Self>>, ConfigError> {
        let (chain, key) = self.certificate.read()?;
        let fingerprint = hasher.hash_one((&chain, &key));
        if fingerprint == self.fingerprint {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            id: self.id.clone(),
            certificate: self.certificate.clone(),
            fingerprint,
            parsed: self.certificate.parse(&chain, &key, SystemTime::now())?,
        })))
    }
}

/// The certificates for a name, in order of preference.
pub(super) enum Candidates<'a> {
    All(&'a [Arc<Entry>]),
    Some(&'a [Arc<Entry>], &'a [usize]),
}

impl Candidates<'_> {
    pub(super) fn best(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = |entry: &Arc<Entry>| entry.parsed.key.clone();
        let fits = |entry: &&Arc<Entry>| entry.parsed.key.key.choose_scheme(schemes).is_some();
        match self {
            // If none fits, the first: rustls then reports that no signature scheme is shared.
            Self::All(entries) => {
                let best = entries.iter().find(fits);
                best.or_else(|| entries.first()).map(key)
            }
            Self::Some(entries, [only]) => entries.get(*only).map(key),
            Self::Some(entries, indices) => {
                let mut among = indices.iter().filter_map(|index| entries.get(*index));
                let first = among.clone().next();
                among.find(fits).or(first).map(key)
            }
        }
    }
}
