//! One certificate in force, and its place in the order of preference.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::SystemTime,
};

use super::certificate::{Certificate, Parsed};
use crate::{context::CertificateInfo, error::ConfigError};

pub(super) struct Entry {
    /// The identifier of [`Certificates::insert`](super::Certificates::insert); `None` in the list.
    pub(super) id: Option<Arc<str>>,
    /// The files that it is read from again; `None` for a certificate from memory, whose text is not
    /// kept.
    pub(super) files: Option<Certificate>,
    /// Of the bytes that were read.
    fingerprint: u64,
    pub(super) parsed: Parsed,
    pub(super) info: Arc<CertificateInfo>,
}

impl Entry {
    pub(super) fn read(
        id: Option<&str>,
        certificate: Certificate,
        hasher: &RandomState,
    ) -> Result<Arc<Self>, ConfigError> {
        let (chain, key) = certificate.read()?;
        let parsed = certificate.parse(&chain, &key, SystemTime::now())?;
        Ok(Arc::new(Self {
            id: id.map(Arc::from),
            fingerprint: hasher.hash_one((&chain, &key)),
            info: Arc::new(certificate.describe(id, &parsed)),
            parsed,
            files: certificate.path().is_some().then_some(certificate),
        }))
    }

    /// Reads the current bytes; returns the new state if they differ.
    pub(super) fn refresh(&self, hasher: &RandomState) -> Result<Option<Arc<Self>>, ConfigError> {
        let Some(files) = &self.files else {
            return Ok(None);
        };
        let (chain, key) = files.read()?;
        let fingerprint = hasher.hash_one((&chain, &key));
        if fingerprint == self.fingerprint {
            return Ok(None);
        }
        let parsed = files.parse(&chain, &key, SystemTime::now())?;
        Ok(Some(Arc::new(Self {
            id: self.id.clone(),
            files: Some(files.clone()),
            fingerprint,
            info: Arc::new(files.describe(self.id.as_deref(), &parsed)),
            parsed,
        })))
    }

    /// Reads a certificate whose files and requirements are those of `self`. If the bytes are the same,
    /// it is neither parsed nor checked again: one that has expired meanwhile is served on, and must not
    /// stop a reload of all the rest.
    pub(super) fn read_again(
        self: &Arc<Self>,
        hasher: &RandomState,
    ) -> Result<Arc<Self>, ConfigError> {
        let current = self.refresh(hasher)?;
        Ok(current.unwrap_or_else(|| self.clone()))
    }
}

/// A certificate, and its place in the order of preference: a lower rank is preferred.
#[derive(Clone)]
pub(super) struct Ranked {
    pub(super) rank: u64,
    pub(super) entry: Arc<Entry>,
}
