//! How a certificate is ordered: under locks, at the first authority that is not waited for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;

use super::{
    account::Accounts,
    backoff::{self, Failure},
    client::with_retry_after,
    current::Current,
    failure::OrderError,
    lease::{Lease, TAKEN},
    manager::{MIN_WAIT, Managed},
    order::Wanted,
    stored::{self, StoredCertificate, StoredFailures},
};
use crate::{connect::x509::utc, error::BoxError};

/// What follows an attempt at one authority.
enum Turn {
    /// It is the turn of the next authority.
    Next,
    /// Nothing is to be done for this time.
    Wait(Duration),
}

/// Why there is no certificate.
enum Unobtained {
    Failed(OrderError),
    /// Another instance may order now: nothing is written.
    LeaseLost(String),
}

impl Managed {
    /// Returns the time before which no authority gets an order: of what is in the store now, since
    /// another instance may have failed, or an operator have removed it.
    pub(super) async fn next_order(&mut self) -> SystemTime {
        let shared = self.shared.clone();
        let mut next: Option<SystemTime> = None;
        for accounts in &shared.accounts {
            let at = match self.failures(accounts.authority.directory()).await {
                Ok(failures) => self.not_before(&failures, accounts),
                // The order will not get its lock either.
                Err(_) => UNIX_EPOCH,
            };
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        next.unwrap_or(UNIX_EPOCH)
    }

    /// Orders at the first authority that is not waited for. Returns how long nothing is to be done.
    pub(super) async fn order(&mut self) -> Duration {
        let shared = self.shared.clone();
        for accounts in &shared.accounts {
            if let Turn::Wait(wait) = self.order_at(accounts).await {
                return wait;
            }
        }
        let left = self.next_order().await.duration_since(SystemTime::now());
        left.unwrap_or_default().max(MIN_WAIT)
    }

    async fn order_at(&mut self, accounts: &Accounts) -> Turn {
        let directory = accounts.authority.directory();
        if let Ok(failures) = self.failures(directory).await
            && self.not_before(&failures, accounts) > SystemTime::now()
        {
            return Turn::Next;
        }
        let cleanups = &self.shared.orders.cleanups;
        let lease = match Lease::take(self.store(), cleanups, self.locks(directory)).await {
            Ok(Some(lease)) => lease,
            // Another instance orders; its certificate is in the store soon.
            Ok(None) => return Turn::Wait(LOCKED_WAIT),
            Err(error) => return self.store_failed(error),
        };
        let turn = self.order_under(&lease, accounts).await;
        lease.release().await;
        turn
    }

    async fn order_under(&mut self, lease: &Lease, accounts: &Accounts) -> Turn {
        // Another instance may have been faster, or have failed.
        let failures = match self.load().await {
            Ok(()) => self.failures(accounts.authority.directory()).await,
            Err(error) => Err(error),
        };
        let failures = match failures {
            Ok(failures) => failures,
            Err(error) => return self.store_failed(error),
        };
        let now = SystemTime::now();
        if self.due() > now {
            return Turn::Wait(MIN_WAIT);
        }
        if self.not_before(&failures, accounts) > now {
            return Turn::Next;
        }
        match self.obtain(lease, accounts, failures.count).await {
            Ok(obtained) => {
                self.obtained(accounts, obtained).await;
                Turn::Wait(MIN_WAIT)
            }
            Err(Unobtained::Failed(error)) => self.failed(lease, accounts, &error, failures).await,
            Err(Unobtained::LeaseLost(why)) => self.lost(accounts, &why),
        }
    }

    /// Obtains a certificate while the lease is renewed.
    async fn obtain(
        &self,
        lease: &Lease,
        accounts: &Accounts,
        failures: u32,
    ) -> Result<StoredCertificate, Unobtained> {
        let orders = &self.shared.orders;
        let current = self.current.as_ref();
        // Only the authority that issued a certificate, and says so, counts what replaces it.
        let issued = current.filter(|c| c.stored.directory == accounts.authority.directory());
        let replaces = issued.filter(|current| self.window_of(current).is_some());
        let wanted = Wanted {
            names: &self.names,
            replaces: replaces.and_then(|current| current.id.as_ref()),
            failures,
        };
        let order = with_retry_after(async {
            let (store, cleanups) = (&orders.store, &orders.cleanups);
            let account = accounts.get(store, cleanups, None).await?;
            let first = orders.obtain(&accounts.authority, &account, wanted).await;
            match first {
                // It has lost its accounts, as a test server does at each start.
                Err(error) if error.is("accountDoesNotExist") => {
                    let account = accounts.get(store, cleanups, Some(account.id())).await?;
                    orders.obtain(&accounts.authority, &account, wanted).await
                }
                other => other,
            }
        });
        let obtained = tokio::select! {
            obtained = timeout(MAX_ORDER, Box::pin(order)) => obtained.unwrap_or_else(|_| {
                Err(OrderError::new(Failure::Unreachable, "the order has not ended for 10 min"))
            }),
            why = lease.lost() => return Err(Unobtained::LeaseLost(why)),
        };
        let obtained = obtained.map_err(Unobtained::Failed)?;
        // What clients would refuse is not put in force.
        match Current::new(obtained.clone(), &self.names, SystemTime::now()) {
            Ok(_) => Ok(obtained),
            Err(error) => {
                let error = OrderError::new(Failure::Refused, error.to_string());
                Err(Unobtained::Failed(error))
            }
        }
    }

    /// Keeps a new certificate, and puts it in force.
    async fn obtained(&mut self, accounts: &Accounts, obtained: StoredCertificate) {
        let is_renewal = self.current.is_some();
        let written = self.write(&obtained).await;
        self.install(obtained);
        self.write_copy().await;
        self.note_store(written);
        self.report(|status| status.failure = None);
        let directory = accounts.authority.directory();
        self.unwritten.clear();
        // What is left counts towards the next failure only.
        let _ = self.store().remove(&self.key("failures", directory)).await;
        let Some(current) = &self.current else { return };
        let (names, not_after) = (&self.names, utc(current.validity.until));
        match is_renewal {
            true => {
                tracing::info!(target: "evenkeel::tls", %names, directory, not_after, "certificate renewed");
            }
            false => {
                tracing::info!(target: "evenkeel::tls", %names, directory, not_after, "certificate obtained");
            }
        }
    }

    /// Records a failure, so that no instance and no restart orders too soon. `known` is what was in the
    /// store before the order.
    async fn failed(
        &mut self,
        lease: &Lease,
        accounts: &Accounts,
        error: &OrderError,
        known: StoredFailures,
    ) -> Turn {
        accounts.forget_directory().await;
        let (directory, now) = (accounts.authority.directory(), SystemTime::now());
        let read = match lease.renew().await {
            Ok(true) => self.failures(directory).await,
            Ok(false) => return self.lost(accounts, TAKEN),
            Err(error) => Err(error),
        };
        let (mut failures, read) = match read {
            Ok(failures) => (failures, Ok(())),
            Err(error) => (known, Err(error)),
        };
        let nth = failures.count.saturating_add(1);
        let wait = backoff::wait(error.failure, nth, error.retry_after, fastrand::f64());
        failures.add(error.failure, now, wait);
        let (key, lifetime) = (
            self.key("failures", directory),
            FAILURES_LIFETIME.max(2 * wait),
        );
        let written = match read {
            Ok(()) => stored::write(&**self.store(), &key, &failures, Some(lifetime)).await,
            failed => failed,
        };
        match &written {
            Ok(()) => self.unwritten.remove(directory),
            Err(_) => self.unwritten.insert(directory.to_owned(), now + wait),
        };
        self.note_store(written);
        self.log_failure(directory, error, wait);
        self.report(|status| status.failure = Some(error.to_string()));
        Turn::Next
    }

    fn log_failure(&self, directory: &str, error: &OrderError, wait: Duration) {
        let (names, current) = (&self.names, self.current.as_ref());
        let is_urgent = current.is_none_or(|c| c.validity.is_urgent(SystemTime::now()));
        let expires = current.map(|c| utc(c.validity.until));
        let (expires, retry_in) = (expires.as_deref().unwrap_or("placeholder"), wait.as_secs());
        match is_urgent {
            true => {
                tracing::error!(target: "evenkeel::tls", %names, directory, %error, retry_in, expires, "certificate not obtained");
            }
            false => {
                tracing::warn!(target: "evenkeel::tls", %names, directory, %error, retry_in, expires, "certificate not obtained");
            }
        }
    }

    /// Gives an order up that another instance may have begun as well. What that one writes holds.
    fn lost(&self, accounts: &Accounts, why: &str) -> Turn {
        let (names, directory) = (&self.names, accounts.authority.directory());
        tracing::warn!(target: "evenkeel::tls", %names, directory, why, "the lock of an order is lost: it is given up");
        Turn::Wait(LOCKED_WAIT)
    }

    fn store_failed(&mut self, error: BoxError) -> Turn {
        self.note_store(Err(error));
        Turn::Wait(match self.current {
            Some(_) => STORE_WAIT,
            None => STORE_WAIT_WITHOUT,
        })
    }

    async fn failures(&mut self, directory: &str) -> Result<StoredFailures, BoxError> {
        let key = self.key("failures", directory);
        let found = self.read(&key).await?;
        Ok(found.unwrap_or_default())
    }

    fn not_before(&self, failures: &StoredFailures, accounts: &Accounts) -> SystemTime {
        let unwritten = self.unwritten.get(accounts.authority.directory());
        let stored = failures.not_before(self.shared.started);
        unwritten.map_or(stored, |unwritten| stored.max(*unwritten))
    }
}

/// Records of the DNS may take minutes.
const MAX_ORDER: Duration = Duration::from_secs(600);
const LOCKED_WAIT: Duration = Duration::from_secs(2);
const STORE_WAIT: Duration = Duration::from_secs(10);
/// While a placeholder is served, the store is asked more often.
const STORE_WAIT_WITHOUT: Duration = Duration::from_secs(2);
const FAILURES_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);
