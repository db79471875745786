//! How the certificate in force follows the store, and the store what is in force.

use std::time::UNIX_EPOCH;

use super::{
    current::Current,
    manager::Managed,
    stored::{self, StoredCertificate},
};
use crate::error::BoxError;

impl Managed {
    /// Takes a newer certificate from the store, or writes back what the store has lost.
    pub(super) async fn load(&mut self) -> Result<(), BoxError> {
        let key = self.key("certificates");
        let found = stored::read::<StoredCertificate>(&**self.store(), &key).await?;
        let current = self.current.as_ref().map(|current| &current.stored);
        match (found, current) {
            (None, None) => {}
            (Some(found), None) => self.install(found),
            (Some(found), Some(current)) if found.is_newer_than(current) => self.install(found),
            (Some(found), Some(current)) if !current.is_newer_than(&found) => {}
            (_, Some(current)) => {
                let current = current.clone();
                self.write(&current).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn write(&self, certificate: &StoredCertificate) -> Result<(), BoxError> {
        let key = self.key("certificates");
        stored::write(&**self.store(), &key, certificate, None).await
    }

    pub(super) fn install(&mut self, found: StoredCertificate) {
        let names = &self.names;
        let made = Current::new(found, names, UNIX_EPOCH).and_then(|current| {
            let inserted = self
                .shared
                .certificates
                .insert(&self.id(), current.certificate());
            inserted.map(|()| current)
        });
        match made {
            Ok(current) => {
                self.next_order = UNIX_EPOCH;
                self.report(|status| {
                    status.directory = Some(current.stored.directory.clone());
                    status.not_after = Some(current.validity.until);
                    status.failure = None;
                });
                self.current = Some(current);
            }
            Err(error) => {
                tracing::error!(target: "evenkeel::tls", %names, %error, "stored certificate left out");
            }
        }
    }

    /// Logs when the store begins to fail, and when it answers again.
    pub(super) fn note_store(&mut self, result: Result<(), BoxError>) {
        let names = &self.names;
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
