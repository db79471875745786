//! [`AcmeHandle`]: the running tasks, and what they know.

use std::{fmt, sync::Arc, time::SystemTime};

use tokio::{sync::watch, task::JoinSet};

use super::{
    cleanups::CleanupsDone,
    manager::{self, Managed},
    names::Names,
    takeover::Exporter,
};

/// Certificates in force that are not renewed yet: of [`Acme::load`](super::Acme::load).
#[must_use = "nothing is ordered until it is started"]
pub struct LoadedAcme {
    pub(super) managed: Vec<Managed>,
    pub(super) statuses: watch::Receiver<Vec<CertificateStatus>>,
    pub(super) exporter: Exporter,
    pub(super) done: CleanupsDone,
}

impl LoadedAcme {
    /// Begins to order and to renew. It does not wait.
    ///
    /// Start it when this process serves at its addresses: the authority connects to them.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn start(self) -> AcmeHandle {
        manager::start(self)
    }

    /// Describes the certificates, in the order in which they were added.
    #[must_use]
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        self.statuses.borrow().clone()
    }

    /// Returns a handle of the certificates in force, now and later, for the process that takes over.
    #[must_use]
    pub fn exporter(&self) -> Exporter {
        self.exporter.clone()
    }
}

impl fmt::Debug for LoadedAcme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedAcme")
            .field("statuses", &*self.statuses.borrow())
            .finish_non_exhaustive()
    }
}

/// Keeps the certificates of an [`Acme`](super::Acme) renewed; dropping it ends that.
#[derive(Debug)]
#[must_use = "the renewal ends when this is dropped"]
pub struct AcmeHandle {
    /// Dropped with the handle, and every task with it.
    pub(super) tasks: JoinSet<()>,
    pub(super) statuses: watch::Receiver<Vec<CertificateStatus>>,
    pub(super) done: CleanupsDone,
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
    /// Why the store could not be used last; `None` if it could. While a placeholder is served, there may
    /// be a certificate that cannot be had.
    pub store_failure: Option<String>,
}

impl CertificateStatus {
    pub(super) fn new(names: &Names) -> Self {
        Self {
            names: names.shared(),
            directory: None,
            not_after: None,
            renewal: None,
            failure: None,
            store_failure: None,
        }
    }
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

    /// Ends the renewal as a drop does, and waits until what running orders have published is removed,
    /// records of the DNS included, and their locks are released: the next process need not wait for the
    /// leases. A process awaits this before it ends, with a time-out of its own.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.done.wait().await;
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
