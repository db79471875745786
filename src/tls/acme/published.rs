//! [`Published`]: what one order has published for its challenges, and its removal.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{task::JoinHandle, time::timeout};

use super::{
    answers::{ChallengeAnswers, LIFETIME, Presented},
    cleanups::Cleanups,
    dns::{DnsProvider, DnsRecord},
};
use crate::{error::BoxError, store::Store};

/// What one order has published. It is removed at the end of the order, and also where the future of the
/// order is dropped, as at its time-out: by a task that nothing cancels.
pub(super) struct Published {
    store: Arc<dyn Store>,
    dns: Option<Arc<dyn DnsProvider>>,
    answers: Vec<Presented>,
    records: Vec<DnsRecord>,
    cleanups: Cleanups,
}

impl Published {
    pub(super) fn new(
        store: &Arc<dyn Store>,
        dns: Option<&Arc<dyn DnsProvider>>,
        cleanups: &Cleanups,
    ) -> Self {
        Self {
            store: store.clone(),
            dns: dns.cloned(),
            answers: Vec::new(),
            records: Vec::new(),
            cleanups: cleanups.clone(),
        }
    }

    /// Adds an answer to those of this process, and puts it in the store.
    pub(super) async fn answer(
        &mut self,
        answers: &ChallengeAnswers,
        key: String,
        answer: Bytes,
    ) -> Result<(), BoxError> {
        // Pushed first: a call that fails, or that is dropped, may have written it.
        let presented = answers.present(key.clone(), answer.clone());
        self.answers.push(presented);
        self.store.put(&key, answer, Some(LIFETIME)).await
    }

    /// Adds a record to the zone.
    pub(super) async fn record(&mut self, record: DnsRecord) -> Result<(), BoxError> {
        let Some(dns) = self.dns.clone() else {
            return Ok(());
        };
        // Also what failed may be there, and is removed.
        self.records.push(record.clone());
        dns.present(&record).await
    }

    /// Waits until all servers of the zone have each record.
    pub(super) async fn wait(&self) -> Result<(), (&DnsRecord, BoxError)> {
        let Some(dns) = &self.dns else {
            return Ok(());
        };
        for record in &self.records {
            dns.wait(record).await.map_err(|error| (record, error))?;
        }
        Ok(())
    }

    /// Removes all, and waits for it.
    pub(super) async fn remove(mut self) {
        if let Some(task) = self.spawn_removal() {
            // A task that failed leaves answers in the store until they end.
            let _ = task.await;
        }
    }

    fn spawn_removal(&mut self) -> Option<JoinHandle<()>> {
        let answers = std::mem::take(&mut self.answers);
        let records = std::mem::take(&mut self.records);
        if answers.is_empty() && records.is_empty() {
            return None;
        }
        let (store, dns) = (self.store.clone(), self.dns.clone());
        Some(self.cleanups.spawn(async move {
            for answer in answers {
                answer.remove(&store).await;
            }
            for record in &records {
                let Some(dns) = &dns else { continue };
                let removed = timeout(REMOVAL_TIMEOUT, dns.clean_up(record)).await;
                let removed = removed.unwrap_or_else(|_| Err("it took over 60 s".into()));
                if let Err(error) = removed {
                    let name = &*record.name;
                    tracing::warn!(target: "evenkeel::tls", name, error, "record of a challenge not removed");
                }
            }
        }))
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        drop(self.spawn_removal());
    }
}

/// For each record: services for the DNS answer within seconds.
pub(super) const REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);
