//! The task of one certificate: it follows the store, and orders when the time has come.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    account::Accounts,
    backoff::{self, Failure},
    current::Current,
    failure::OrderError,
    handle::{AcmeHandle, CertificateStatus},
    key::placeholder,
    names::Names,
    order::{Orders, Wanted},
    renewal::Window,
    stored::{self, StoredCertificate, StoredFailures, StoredSuggestion},
};
use crate::{connect::x509::utc, error::BoxError, store::Store, tls::Certificates};

/// What the tasks share.
pub(super) struct Shared {
    pub(super) orders: Orders,
    /// In order of preference.
    pub(super) accounts: Vec<Accounts>,
    pub(super) certificates: Certificates,
    pub(super) poll_interval: Duration,
}

/// One certificate, and what this instance knows of it.
pub(super) struct Managed {
    pub(super) shared: Arc<Shared>,
    pub(super) names: Names,
    nth: usize,
    statuses: Arc<watch::Sender<Vec<CertificateStatus>>>,
    /// Orders that run at once.
    permits: Arc<Semaphore>,
    pub(super) current: Option<Current>,
    pub(super) suggestion: Option<StoredSuggestion>,
    /// No order before this.
    pub(super) next_order: SystemTime,
    /// This process has ordered nothing yet.
    is_restart: bool,
    /// The store failed last time: that was logged.
    pub(super) has_store_failed: bool,
}

/// Puts certificates in force, and starts a task for each.
pub(super) async fn start(shared: Shared, wanted: Vec<Names>) -> AcmeHandle {
    let statuses = wanted.iter().map(|names| CertificateStatus {
        names: names.shared(),
        directory: None,
        not_after: None,
        renewal: None,
        failure: None,
    });
    let statuses = Arc::new(watch::Sender::new(statuses.collect()));
    let receiver = statuses.subscribe();
    let shared = Arc::new(shared);
    let permits = Arc::new(Semaphore::new(MAX_ORDERS));
    let mut reading = JoinSet::new();
    for (nth, names) in wanted.into_iter().enumerate() {
        let mut managed = Managed {
            shared: shared.clone(),
            names,
            nth,
            statuses: statuses.clone(),
            permits: permits.clone(),
            current: None,
            suggestion: None,
            next_order: UNIX_EPOCH,
            is_restart: true,
            has_store_failed: false,
        };
        reading.spawn(async move {
            managed.begin().await;
            managed
        });
    }
    let mut tasks = JoinSet::new();
    while let Some(managed) = reading.join_next().await {
        // A task that failed is not one of ours: the runtime ends.
        if let Ok(managed) = managed {
            tasks.spawn(managed.run());
        }
    }
    AcmeHandle {
        _tasks: tasks,
        statuses: receiver,
    }
}

impl Managed {
    /// Puts the stored certificate in force, or else a placeholder.
    async fn begin(&mut self) {
        let loaded = timeout(START_TIMEOUT, self.load()).await;
        let loaded = loaded.unwrap_or_else(|_| Err("the store has not answered for 2 s".into()));
        self.note_store(loaded);
        if self.current.is_some() {
            return;
        }
        let names = &self.names;
        let made = placeholder(names).and_then(|made| {
            let inserted = self.shared.certificates.insert(&self.id(), made);
            inserted.map_err(BoxError::from)
        });
        match made {
            Ok(()) => tracing::info!(target: "evenkeel::tls", %names, "a placeholder is served"),
            Err(error) => {
                tracing::error!(target: "evenkeel::tls", %names, error, "no placeholder made");
            }
        }
    }

    async fn run(mut self) {
        loop {
            let wait = self.step().await;
            sleep(wait).await;
        }
    }

    /// Does what is to be done now; returns how long nothing is.
    async fn step(&mut self) -> Duration {
        let loaded = self.load().await;
        self.note_store(loaded);
        self.ask_for_suggestion().await;
        let poll_interval = self.shared.poll_interval;
        let due = self.due();
        self.report(|status| status.renewal = self.current.as_ref().map(|_| due));
        if let Ok(left) = due.max(self.next_order).duration_since(SystemTime::now()) {
            return left.min(poll_interval).max(MIN_WAIT);
        }
        // One lock, and four orders at once: a list of thousands is no burst.
        let permits = self.permits.clone();
        let _permit = permits.acquire().await;
        let (store, key) = (self.store().clone(), self.key("certificates"));
        let holder = self.shared.orders.holder.clone();
        match store.lock(&key, &holder, LEASE).await {
            Ok(true) => {}
            // Another instance orders; its certificate is in the store soon.
            Ok(false) => return LOCKED_WAIT.min(poll_interval),
            Err(error) => {
                self.note_store(Err(error));
                return STORE_WAIT.min(poll_interval);
            }
        }
        let wait = Box::pin(self.order(&key)).await;
        if let Err(error) = store.unlock(&key, &holder).await {
            tracing::debug!(target: "evenkeel::tls", error, "the lock stays until its lease ends");
        }
        wait.min(poll_interval)
    }

    /// Orders while the lock is held, at the first authority that is not waited for.
    async fn order(&mut self, key: &str) -> Duration {
        // Another instance may have been faster.
        let failures = match self.load().await {
            Ok(()) => stored::read::<StoredFailures>(&**self.store(), &self.key("failures")).await,
            Err(error) => Err(error),
        };
        let now = SystemTime::now();
        if self.due() > now {
            return MIN_WAIT;
        }
        let mut failures = match failures {
            Ok(failures) => failures.unwrap_or_default(),
            Err(error) => {
                self.note_store(Err(error));
                return STORE_WAIT;
            }
        };
        let is_restart = self.is_restart;
        let shared = self.shared.clone();
        for accounts in &shared.accounts {
            let directory = accounts.authority.directory();
            if failures.not_before(directory, is_restart) > now {
                continue;
            }
            self.is_restart = false;
            match self.obtain(accounts, failures.count(directory), key).await {
                Ok(obtained) => {
                    self.obtained(obtained, !failures.is_empty()).await;
                    return MIN_WAIT;
                }
                Err(error) => self.failed(accounts, &error, &mut failures).await,
            }
        }
        let directories = shared.accounts.iter().map(|a| a.authority.directory());
        let next = directories.map(|directory| failures.not_before(directory, self.is_restart));
        self.next_order = next.min().unwrap_or(now);
        let left = self.next_order.duration_since(SystemTime::now());
        left.unwrap_or_default().max(MIN_WAIT)
    }

    /// Obtains a certificate while the lease is renewed.
    async fn obtain(
        &self,
        accounts: &Accounts,
        failures: u32,
        key: &str,
    ) -> Result<StoredCertificate, OrderError> {
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
        let order = async {
            let first = orders.obtain(accounts, wanted).await;
            match first {
                // It has lost its accounts, as a test server does at each start.
                Err(error) if error.is("accountDoesNotExist") => {
                    accounts.remove(&orders.store).await?;
                    orders.obtain(accounts, wanted).await
                }
                other => other,
            }
        };
        let obtained = tokio::select! {
            obtained = timeout(MAX_ORDER, Box::pin(order)) => obtained.unwrap_or_else(|_| {
                Err(OrderError::new(Failure::Unreachable, "the order has not ended for 10 min"))
            }),
            error = keep_lease(&orders.store, key, &orders.holder) => Err(error),
        }?;
        // What clients would refuse is not put in force.
        match Current::new(obtained.clone(), &self.names, SystemTime::now()) {
            Ok(_) => Ok(obtained),
            Err(error) => Err(OrderError::new(Failure::Refused, error.to_string())),
        }
    }

    /// Keeps a new certificate, and puts it in force.
    async fn obtained(&mut self, obtained: StoredCertificate, had_failed: bool) {
        let is_renewal = self.current.is_some();
        let written = self.write(&obtained).await;
        self.install(obtained);
        self.note_store(written);
        self.report(|status| status.failure = None);
        if had_failed {
            // What is left counts towards the next failure only.
            let _ = self.store().remove(&self.key("failures")).await;
        }
        let Some(current) = &self.current else { return };
        let (names, directory) = (&self.names, &current.stored.directory);
        let not_after = utc(current.validity.until);
        match is_renewal {
            true => {
                tracing::info!(target: "evenkeel::tls", %names, directory, not_after, "certificate renewed");
            }
            false => {
                tracing::info!(target: "evenkeel::tls", %names, directory, not_after, "certificate obtained");
            }
        }
    }

    /// Records a failure, so that no instance and no restart orders too soon.
    async fn failed(
        &mut self,
        accounts: &Accounts,
        error: &OrderError,
        failures: &mut StoredFailures,
    ) {
        accounts.forget_directory().await;
        let (directory, now) = (accounts.authority.directory(), SystemTime::now());
        let nth = failures.count(directory).saturating_add(1);
        let wait = backoff::wait(error.failure, nth, error.retry_after, fastrand::f64());
        failures.add(directory, error.failure, now, wait);
        let (key, lifetime) = (self.key("failures"), FAILURES_LIFETIME.max(2 * wait));
        let written = stored::write(&**self.store(), &key, failures, Some(lifetime)).await;
        self.note_store(written);
        let names = &self.names;
        let is_urgent = self
            .current
            .as_ref()
            .is_none_or(|c| c.validity.is_urgent(now));
        let expires = self.current.as_ref().map(|c| utc(c.validity.until));
        let (expires, retry_in) = (expires.as_deref().unwrap_or("placeholder"), wait.as_secs());
        match is_urgent {
            true => {
                tracing::error!(target: "evenkeel::tls", %names, directory, %error, retry_in, expires, "certificate not obtained");
            }
            false => {
                tracing::warn!(target: "evenkeel::tls", %names, directory, %error, retry_in, expires, "certificate not obtained");
            }
        }
        self.report(|status| status.failure = Some(error.to_string()));
    }

    /// Returns when the certificate is to be renewed.
    fn due(&self) -> SystemTime {
        let Some(current) = &self.current else {
            return UNIX_EPOCH;
        };
        let mut accounts = self.shared.accounts.iter();
        if !accounts.any(|a| a.authority.directory() == current.stored.directory) {
            // Another authority was configured, as after a trial with a staging environment.
            return UNIX_EPOCH;
        }
        current.renewal(self.window_of(current))
    }

    /// Returns when the authority suggests to renew this certificate.
    fn window_of(&self, current: &Current) -> Option<Window> {
        let suggestion = self.suggestion.as_ref();
        let suggestion = suggestion.filter(|s| current.is(&s.certificate));
        suggestion.and_then(StoredSuggestion::window)
    }

    pub(super) fn report(&self, change: impl FnOnce(&mut CertificateStatus)) {
        self.statuses.send_if_modified(|statuses| {
            let Some(status) = statuses.get_mut(self.nth) else {
                return false;
            };
            let before = status.clone();
            change(status);
            *status != before
        });
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.shared.orders.store
    }

    pub(super) fn key(&self, kind: &str) -> String {
        format!("acme/{kind}/{}", self.names.id())
    }

    /// The identifier among the certificates in force.
    pub(super) fn id(&self) -> String {
        format!("acme {}", self.names.id())
    }
}

/// Renews the lease of a lock; returns only when it is lost.
async fn keep_lease(store: &Arc<dyn Store>, key: &str, holder: &str) -> OrderError {
    let mut ends = Instant::now() + LEASE;
    loop {
        sleep(LEASE / 3).await;
        let begun = Instant::now();
        match store.lock(key, holder, LEASE).await {
            Ok(true) => ends = begun + LEASE,
            Ok(false) => return OrderError::store("another instance has taken the lock".into()),
            Err(error) if Instant::now() >= ends => return OrderError::store(error),
            Err(_) => {}
        }
    }
}

/// The wait for the store at the start.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(2);
/// A lock ends this long after the last sign of life of its holder.
pub(super) const LEASE: Duration = Duration::from_secs(60);
/// Orders of one process that run at once.
pub(super) const MAX_ORDERS: usize = 4;
/// Records of the DNS may take minutes.
const MAX_ORDER: Duration = Duration::from_secs(600);
const LOCKED_WAIT: Duration = Duration::from_secs(2);
const STORE_WAIT: Duration = Duration::from_secs(10);
const MIN_WAIT: Duration = Duration::from_millis(10);
const FAILURES_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);
