//! [`AcmeHandle`]: the running tasks, and what they know.

use std::{sync::Arc, time::SystemTime};

use tokio::{sync::watch, task::JoinSet};

/// Keeps the certificates of an [`Acme`](super::Acme) renewed; dropping it ends that.
#[derive(Debug)]
#[must_use = "the renewal ends when this is dropped"]
pub struct AcmeHandle {
    /// Dropped with the handle, and every task with it.
    pub(super) _tasks: JoinSet<()>,
    pub(super) statuses: watch::Receiver<Vec<CertificateStatus>>,
}

/// What is known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// The names.
    pub names: Arc<[Box<str>]>,
    /// The directory of the authority that issued the certificate; `None` while a placeholder is served.
    pub directory: Option<String>,
    /// When the certificate expires; `None` while a placeholder is served.
    pub not_after: Option<SystemTime>,
    /// When it is renewed, as far as known now.
    pub renewal: Option<SystemTime>,
    /// Why the last order failed; `None` if it did not.
    pub failure: Option<String>,
}

impl AcmeHandle {
    /// Describes the certificates, in the order in which they were added.
    #[must_use]
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        self.statuses.borrow().clone()
    }

    /// Waits until an authority has issued each certificate: no placeholder is served any more. That may
    /// take for ever, as where a name does not lead here.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again.
    pub async fn issued(&self) {
        let mut statuses = self.statuses.clone();
        let is_issued = |statuses: &Vec<CertificateStatus>| {
            statuses.iter().all(|status| status.directory.is_some())
        };
        if statuses.wait_for(is_issued).await.is_err() {
            // The tasks have ended, as with their runtime.
            std::future::pending().await
        }
    }

    /// Waits for a change of a status; returns at once if there was one since the last call.
    ///
    /// # Cancel safety
    ///
    /// It may be dropped and called again.
    pub async fn changed(&mut self) {
        if self.statuses.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
