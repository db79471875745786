//! [`Lease`]: the locks of an order, renewed while it runs and released at its end.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::cleanups::Cleanups;
use crate::{error::BoxError, store::Store};

/// Locks of a store that one order holds. A drop releases them as well, as where the future of the order
/// is dropped: the next instance need not wait until the leases end.
pub(super) struct Lease {
    store: Arc<dyn Store>,
    /// 128 random bits of this lease alone, so that two orders of one process exclude one another.
    holder: String,
    names: Vec<String>,
    cleanups: Cleanups,
}

impl Lease {
    /// Takes all of these locks, or none. `None` if another order has one of them.
    ///
    /// Callers pass the locks that they share in one order; two that wait for one another would both
    /// begin again.
    pub(super) async fn take(
        store: &Arc<dyn Store>,
        cleanups: &Cleanups,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Option<Self>, BoxError> {
        let mut lease = Self {
            store: store.clone(),
            holder: format!("{:032x}", fastrand::u128(..)),
            names: Vec::new(),
            cleanups: cleanups.clone(),
        };
        for name in names {
            // Pushed first: a call that fails, or that is dropped, may have taken the lock.
            lease.names.push(name);
            if !lease.lock_last().await? {
                return Ok(None);
            }
        }
        Ok(Some(lease))
    }

    async fn lock_last(&self) -> Result<bool, BoxError> {
        match self.names.last() {
            Some(name) => self.store.lock(name, &self.holder, LEASE).await,
            None => Ok(true),
        }
    }

    /// Extends all locks; false if another holder has taken one.
    pub(super) async fn renew(&self) -> Result<bool, BoxError> {
        for name in &self.names {
            if !self.store.lock(name, &self.holder, LEASE).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Renews the locks again and again; returns why, once one is lost.
    pub(super) async fn lost(&self) -> String {
        let mut ends = Instant::now() + LEASE;
        loop {
            sleep(LEASE / 3).await;
            let begun = Instant::now();
            match self.renew().await {
                Ok(true) => ends = begun + LEASE,
                Ok(false) => return TAKEN.to_owned(),
                Err(error) if Instant::now() >= ends => return error.to_string(),
                Err(_) => {}
            }
        }
    }

    /// Releases the locks, and waits for it.
    pub(super) async fn release(mut self) {
        if let Some(task) = self.spawn_release() {
            // A task that failed leaves the locks until their leases end.
            let _ = task.await;
        }
    }

    fn spawn_release(&mut self) -> Option<JoinHandle<()>> {
        let names = std::mem::take(&mut self.names);
        if names.is_empty() {
            return None;
        }
        let (store, holder) = (self.store.clone(), std::mem::take(&mut self.holder));
        Some(self.cleanups.spawn(async move {
            for name in names {
                if let Err(error) = store.unlock(&name, &holder).await {
                    tracing::debug!(target: "evenkeel::tls", name, error, "the lock stays until its lease ends");
                }
            }
        }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.spawn_release());
    }
}

/// Why a lease is lost that another holder has.
pub(super) const TAKEN: &str = "another instance has taken the lock";
/// A lock ends this long after the last sign of life of its holder.
pub(super) const LEASE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::FileStore;

    async fn is_free(store: &Arc<dyn Store>, name: &str) -> bool {
        let is_free = store.lock(name, "test", LEASE).await.unwrap();
        store.unlock(name, "test").await.unwrap();
        is_free
    }

    #[tokio::test]
    async fn all_locks_are_taken_or_none_and_two_leases_of_a_process_exclude_one_another() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::new(folder.path()).unwrap());
        let (cleanups, _done) = Cleanups::new();
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let first = Lease::take(&store, &cleanups, names(&["a", "b"]))
            .await
            .unwrap();
        let first = first.expect("nothing else has a lock");
        let second = Lease::take(&store, &cleanups, names(&["0", "b"]))
            .await
            .unwrap();
        assert!(second.is_none());
        // What it took before it found the other one is released beside it.
        while !is_free(&store, "0").await {
            tokio::task::yield_now().await;
        }
        assert!(!is_free(&store, "a").await && !is_free(&store, "b").await);
        assert!(first.renew().await.unwrap());
        first.release().await;
        assert!(is_free(&store, "a").await && is_free(&store, "b").await);
    }

    #[tokio::test]
    async fn a_lease_that_is_dropped_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::new(folder.path()).unwrap());
        let (cleanups, mut done) = Cleanups::new();
        let lease = Lease::take(&store, &cleanups, ["a".to_owned()])
            .await
            .unwrap();
        assert!(!is_free(&store, "a").await);
        drop((lease, cleanups));
        done.wait().await;
        assert!(is_free(&store, "a").await);
    }

    #[tokio::test]
    async fn a_lease_that_another_holder_has_taken_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(FileStore::new(folder.path()).unwrap());
        let (cleanups, _done) = Cleanups::new();
        let lease = Lease::take(&store, &cleanups, ["a".to_owned()])
            .await
            .unwrap();
        let lease = lease.expect("it is free");
        // As if this process had been stopped for longer than its lease.
        store.unlock("a", &lease.holder).await.unwrap();
        assert!(store.lock("a", "another", LEASE).await.unwrap());
        assert!(!lease.renew().await.unwrap());
        lease.release().await;
        assert!(!is_free(&store, "a").await, "it is the other one's");
    }
}
