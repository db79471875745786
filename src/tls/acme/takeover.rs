//! What a process hands its certificates over with: [`Exporter`], and what its successor makes of it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{current::certificate, manager::Managed, stored::StoredCertificate};

/// The certificates in force of an [`Acme`](super::Acme): a shared handle, for the process that takes over
/// from this one. See [`LoadedAcme::exporter`](super::LoadedAcme::exporter).
#[derive(Clone, Default)]
pub struct Exporter {
    /// By identifier; none while a placeholder is served.
    in_force: Arc<Mutex<BTreeMap<String, StoredCertificate>>>,
}

impl Exporter {
    /// Returns the certificates in force with their **private keys**, for
    /// [`Acme::predecessor`](super::Acme::predecessor) in the process that takes over. Send them as a
    /// secret, such as one of a hand-over's state.
    ///
    /// They take `limit` bytes at most, at some 5 KiB for each certificate. Those that do not fit are left
    /// out, and the successor knows that they are: it takes them from the store alone.
    #[must_use]
    pub fn export(&self, limit: usize) -> Vec<u8> {
        let mut exported = Exported {
            version: VERSION,
            certificates: BTreeMap::new(),
            left_out: Vec::new(),
        };
        let mut left = limit.saturating_sub(EMPTY);
        for (id, certificate) in &*self.in_force() {
            let size = serde_json::to_vec(certificate).map_or(usize::MAX, |json| json.len());
            let size = size.saturating_add(id.len() + SEPARATORS);
            if size <= left {
                left -= size;
                exported
                    .certificates
                    .insert(id.clone(), certificate.clone());
            } else {
                left = left.saturating_sub(id.len() + SEPARATORS);
                exported.left_out.push(id.clone());
            }
        }
        serde_json::to_vec(&exported).unwrap_or_default()
    }

    pub(super) fn set(&self, id: &str, certificate: StoredCertificate) {
        self.in_force().insert(id.to_owned(), certificate);
    }

    fn in_force(&self) -> MutexGuard<'_, BTreeMap<String, StoredCertificate>> {
        self.in_force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

/// In JSON. Identifiers are those of [`Names`](super::names::Names).
#[derive(Serialize, Deserialize)]
struct Exported {
    version: u32,
    certificates: BTreeMap<String, StoredCertificate>,
    /// Certificates that are in force and are not above.
    left_out: Vec<String>,
}

/// What the process before this one had in force.
#[derive(Clone, Default)]
pub(super) struct Predecessor {
    certificates: HashMap<String, StoredCertificate>,
    /// `None` if it did not say what it had.
    left_out: Option<Vec<String>>,
}

impl Predecessor {
    /// Reads what an [`Exporter`] exported.
    pub(super) fn read(exported: Option<&[u8]>) -> Self {
        let read = exported.map(serde_json::from_slice::<Exported>);
        match read {
            Some(Ok(exported)) if exported.version == VERSION => Self {
                certificates: exported.certificates.into_iter().collect(),
                left_out: Some(exported.left_out),
            },
            Some(_) => {
                // The error of serde_json may show a part of a key.
                tracing::warn!(target: "evenkeel::tls", "the certificates of the process before are not in a form of this version");
                Self::default()
            }
            None => Self::default(),
        }
    }

    pub(super) fn certificate(&self, id: &str) -> Option<StoredCertificate> {
        self.certificates.get(id).cloned()
    }

    /// Returns true if the process may have a certificate of which nothing is known here.
    pub(super) fn may_have(&self, id: &str) -> bool {
        let left_out = self.left_out.as_ref();
        left_out.is_none_or(|left_out| left_out.iter().any(|other| other == id))
    }
}

impl Managed {
    /// Serves what the predecessor had for some of the names, under other sets of names, until there is a
    /// certificate for all of them.
    pub(super) fn bridge(&mut self, predecessor: &Predecessor) {
        for (nth, stored) in predecessor.certificates.values().enumerate() {
            let certificate = certificate(stored);
            let parsed = certificate
                .read()
                .and_then(|(chain, key)| certificate.parse_unchecked(&chain, &key));
            let Ok(parsed) = parsed else { continue };
            if self.names.iter().any(|name| parsed.facts.covers(name)) {
                let id = format!("{} before {nth}", self.id());
                if self.shared.certificates.insert(&id, certificate).is_ok() {
                    self.bridges.push(id);
                }
            }
        }
    }

    pub(super) fn end_bridges(&mut self) {
        for id in self.bridges.drain(..) {
            self.shared.certificates.remove(&id);
        }
    }
}

const VERSION: u32 = 1;
/// What JSON adds to an identifier.
const SEPARATORS: usize = 8;
/// The JSON of an export without a certificate.
const EMPTY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(directory: &str) -> StoredCertificate {
        StoredCertificate::new(
            directory.to_owned(),
            "chain\n".repeat(100),
            "key".to_owned(),
        )
    }

    #[test]
    fn what_fits_is_handed_over_and_the_successor_knows_what_is_missing() {
        let exporter = Exporter::default();
        exporter.set("a", stored("one"));
        exporter.set("b", stored("two"));
        let all = exporter.export(1 << 20);
        let predecessor = Predecessor::read(Some(&all));
        assert_eq!(predecessor.certificate("a").unwrap().directory, "one");
        assert_eq!(predecessor.certificate("b").unwrap().directory, "two");
        // Of the third, a placeholder is served.
        assert!(predecessor.certificate("c").is_none() && !predecessor.may_have("c"));

        for limit in [0, 100, all.len() - 1] {
            let part = exporter.export(limit);
            assert!(
                part.len() <= limit.max(EMPTY + 30),
                "{limit}: {}",
                part.len()
            );
            let predecessor = Predecessor::read(Some(&part));
            let has = ["a", "b"].map(|id| predecessor.certificate(id).is_some());
            assert_eq!(has, [limit > 500, false], "{limit}");
            assert_eq!(
                ["a", "b", "c"].map(|id| predecessor.may_have(id)),
                [!has[0], true, false]
            );
        }
        for nothing in [None, Some(&b"{}"[..]), Some(b"")] {
            let predecessor = Predecessor::read(nothing);
            assert!(predecessor.certificate("a").is_none() && predecessor.may_have("a"));
        }
        assert!(!format!("{exporter:?}").contains("key"));
    }
}
