//! How the certificate in force follows the store, and the store what is in force.

use std::{
    cmp::Reverse,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::de::DeserializeOwned;

use super::{
    current::Current,
    manager::Managed,
    stored::{self, Found, StoredCertificate, StoredIssuer},
};
use crate::error::BoxError;

impl Managed {
    /// Takes a better certificate from the store, or writes back what the store has lost.
    pub(super) async fn load(&mut self) -> Result<(), BoxError> {
        let shared = self.shared.clone();
        let mut found = Vec::new();
        let mut is_lost = false;
        for accounts in &shared.accounts {
            let directory = accounts.authority.directory();
            let key = self.key("certificates", directory);
            let stored: Option<StoredCertificate> = self.read(&key).await?;
            let current = self.current.as_ref().map(|current| &current.stored);
            if let Some(current) = current.filter(|current| current.directory == directory) {
                let stored = stored.as_ref();
                is_lost = stored.is_none_or(|stored| current.obtained() > stored.obtained());
            }
            found.extend(stored);
        }
        if found.is_empty() && self.current.is_none() {
            found = self.read_elsewhere().await?;
        }
        found.sort_by_key(|stored| Reverse(self.rank(stored)));
        for stored in found {
            let current = self.current.as_ref();
            if current.is_some_and(|current| self.rank(&stored) <= self.rank(&current.stored)) {
                break;
            }
            if self.install(stored) {
                self.write_copy().await;
                return Ok(());
            }
        }
        match &self.current {
            Some(current) if is_lost => {
                let current = current.stored.clone();
                self.write(&current).await
            }
            _ => Ok(()),
        }
    }

    /// Reads the certificate that another configuration left, to be served until there is one of a
    /// directory of this one: that of the directory that issued last, and the one under the key of an
    /// earlier version of this crate, which had no directory.
    async fn read_elsewhere(&mut self) -> Result<Vec<StoredCertificate>, BoxError> {
        let key = format!("acme/certificates/{}", self.names.id());
        let mut found = Vec::from_iter(self.read(&key).await?);
        let issuer: Option<StoredIssuer> = self.read(&self.issuer_key()).await?;
        if let Some(issuer) = issuer {
            let key = self.key("certificates", &issuer.directory);
            found.extend(self.read(&key).await?);
        }
        Ok(found)
    }

    /// Of two certificates, that of a configured directory holds, then the later one.
    fn rank(&self, stored: &StoredCertificate) -> (bool, SystemTime) {
        (self.is_configured(&stored.directory), stored.obtained())
    }

    /// Reads a value. One that cannot be read is logged once, and counts as none: it is written again
    /// when there is another.
    pub(super) async fn read<T: DeserializeOwned>(
        &mut self,
        key: &str,
    ) -> Result<Option<T>, BoxError> {
        let found = stored::read(&**self.store(), key).await?;
        match found {
            Found::Unreadable(error) => {
                if self.unreadable.insert(key.to_owned()) {
                    let names = &self.names;
                    tracing::error!(target: "evenkeel::tls", %names, error, "a value of the store is left out");
                }
                Ok(None)
            }
            Found::Value(value) => {
                self.unreadable.remove(key);
                Ok(Some(value))
            }
            Found::Nothing => Ok(None),
        }
    }

    pub(super) async fn write(&self, certificate: &StoredCertificate) -> Result<(), BoxError> {
        let (store, directory) = (&**self.store(), &certificate.directory);
        let key = self.key("certificates", directory);
        stored::write(store, &key, certificate, None).await?;
        let issuer = StoredIssuer::new(directory.clone());
        stored::write(store, &self.issuer_key(), &issuer, None).await
    }

    /// Puts the copy in force that an earlier process of this instance has kept.
    pub(super) async fn read_copy(&mut self) {
        let Some(copies) = self.shared.copies.clone() else {
            return;
        };
        let read = stored::read::<StoredCertificate>(&*copies, &self.copy_key()).await;
        let error = match read {
            Ok(Found::Value(copy)) => {
                self.copied = Some(copy.obtained());
                let current = self.current.as_ref().map(|current| &current.stored);
                if current.is_none_or(|current| self.rank(&copy) > self.rank(current)) {
                    self.install(copy);
                }
                return;
            }
            Ok(Found::Nothing) => return,
            Ok(Found::Unreadable(error)) => error,
            Err(error) => error.to_string(),
        };
        tracing::warn!(target: "evenkeel::tls", names = %self.names, error, "copy of a certificate not read");
    }

    /// Keeps a copy of the certificate in force, unless there is one.
    pub(super) async fn write_copy(&mut self) {
        let (Some(copies), Some(current)) = (&self.shared.copies, &self.current) else {
            return;
        };
        let obtained = Some(current.stored.obtained());
        if self.copied == obtained {
            return;
        }
        let written = stored::write(&**copies, &self.copy_key(), &current.stored, None).await;
        match written {
            Ok(()) => self.copied = obtained,
            Err(error) => {
                tracing::warn!(target: "evenkeel::tls", names = %self.names, error, "copy of a certificate not written");
            }
        }
    }

    fn copy_key(&self) -> String {
        format!("acme/copies/{}", self.names.id())
    }

    fn issuer_key(&self) -> String {
        format!("acme/issuers/{}", self.names.id())
    }

    /// Puts a certificate in force; returns false if it cannot be served.
    pub(super) fn install(&mut self, found: StoredCertificate) -> bool {
        let (names, obtained) = (&self.names, found.obtained());
        if self.refused.contains(&obtained) {
            return false;
        }
        let made = Current::new(found, names, UNIX_EPOCH).and_then(|current| {
            let inserted = self
                .shared
                .certificates
                .insert(&self.id(), current.certificate());
            inserted.map(|()| current)
        });
        match made {
            Ok(current) => {
                self.report(|status| {
                    status.directory = Some(current.stored.directory.clone());
                    status.not_after = Some(current.validity.until);
                    status.failure = None;
                });
                self.shared.exporter.set(names.id(), current.stored.clone());
                self.current = Some(current);
                self.end_bridges();
                true
            }
            Err(error) => {
                tracing::error!(target: "evenkeel::tls", %names, %error, "stored certificate left out");
                self.refused.insert(obtained);
                false
            }
        }
    }

    /// Logs when the store begins to fail, and when it answers again.
    pub(super) fn note_store(&mut self, result: Result<(), BoxError>) {
        let names = &self.names;
        let failure = result.as_ref().err().map(ToString::to_string);
        self.report(|status| status.store_failure = failure);
        match (result, self.has_store_failed) {
            (Err(error), false) => {
                self.has_store_failed = true;
                tracing::error!(target: "evenkeel::tls", %names, error, "the store of certificates failed; what is in force is served on");
            }
            (Ok(()), true) => {
                self.has_store_failed = false;
                tracing::info!(target: "evenkeel::tls", %names, "the store of certificates answers again");
            }
            _ => {}
        }
    }
}
