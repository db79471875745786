//! The task of one certificate: it follows the store, and orders when the time has come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    account::Accounts,
    authority::directory_id,
    builder::Challenge,
    cleanups::CleanupsDone,
    current::Current,
    handle::{AcmeHandle, CertificateStatus, LoadedAcme},
    key::placeholder,
    names::Names,
    order::Orders,
    renewal::Window,
    stored::StoredSuggestion,
    takeover::{Exporter, Predecessor},
};
use crate::{
    connect::{crypto::sha256, x509::hex},
    error::{BoxError, ConfigError},
    store::Store,
    tls::Certificates,
};

/// What the tasks share.
pub(super) struct Shared {
    pub(super) orders: Orders,
    /// In order of preference.
    pub(super) accounts: Vec<Accounts>,
    pub(super) certificates: Certificates,
    pub(super) poll_interval: Duration,
    /// Orders that run at once.
    order_permits: Semaphore,
    /// Questions about times of renewal that run at once.
    pub(super) suggestion_permits: Semaphore,
    statuses: watch::Sender<Vec<CertificateStatus>>,
    pub(super) exporter: Exporter,
    pub(super) copies: Option<Arc<dyn Store>>,
    /// Failures from before had another cause, perhaps.
    pub(super) started: SystemTime,
}

/// One certificate, and what this instance knows of it.
pub(super) struct Managed {
    pub(super) shared: Arc<Shared>,
    pub(super) names: Names,
    nth: usize,
    pub(super) current: Option<Current>,
    pub(super) suggestion: Option<StoredSuggestion>,
    /// The times before which a directory gets no order, where the store could not keep them.
    pub(super) unwritten: HashMap<String, SystemTime>,
    /// The keys of values that cannot be read: that was logged.
    pub(super) unreadable: HashSet<String>,
    /// The certificates of the store that cannot be served: that was logged.
    pub(super) refused: HashSet<SystemTime>,
    /// When the certificate was obtained of which there is a copy.
    pub(super) copied: Option<SystemTime>,
    /// Identifiers of certificates that the predecessor had for some of the names.
    pub(super) bridges: Vec<String>,
    /// The store failed last time: that was logged.
    pub(super) has_store_failed: bool,
}

/// What all certificates have in common.
pub(super) struct Common {
    pub(super) orders: Orders,
    pub(super) done: CleanupsDone,
    pub(super) accounts: Vec<Accounts>,
    pub(super) certificates: Certificates,
    pub(super) poll_interval: Duration,
    pub(super) copies: Option<Arc<dyn Store>>,
    pub(super) predecessor: Option<Predecessor>,
}

/// Puts certificates in force.
pub(super) async fn load(common: Common, wanted: Vec<Names>) -> Result<LoadedAcme, ConfigError> {
    let statuses = wanted.iter().map(CertificateStatus::new);
    let shared = Arc::new(Shared {
        orders: common.orders,
        accounts: common.accounts,
        certificates: common.certificates,
        poll_interval: common.poll_interval,
        order_permits: Semaphore::new(MAX_ORDERS),
        suggestion_permits: Semaphore::new(MAX_SUGGESTIONS),
        statuses: watch::Sender::new(statuses.collect()),
        exporter: Exporter::default(),
        copies: common.copies,
        started: SystemTime::now(),
    });
    let predecessor = common.predecessor.map(Arc::new);
    let mut reading = JoinSet::new();
    for (nth, names) in wanted.into_iter().enumerate() {
        let mut managed = Managed {
            shared: shared.clone(),
            names,
            nth,
            current: None,
            suggestion: None,
            unwritten: HashMap::new(),
            unreadable: HashSet::new(),
            refused: HashSet::new(),
            copied: None,
            bridges: Vec::new(),
            has_store_failed: false,
        };
        let predecessor = predecessor.clone();
        reading.spawn(async move {
            let begun = managed.begin(predecessor.as_deref()).await;
            begun.map(|()| managed)
        });
    }
    let mut managed = Vec::new();
    while let Some(begun) = reading.join_next().await {
        // A task that failed is not one of ours: the runtime ends.
        if let Ok(begun) = begun {
            managed.push(begun?);
        }
    }
    Ok(LoadedAcme {
        managed,
        statuses: shared.statuses.subscribe(),
        exporter: shared.exporter.clone(),
        done: common.done,
    })
}

/// Starts a task for each certificate.
pub(super) fn start(loaded: LoadedAcme) -> AcmeHandle {
    let mut tasks = JoinSet::new();
    for managed in loaded.managed {
        tasks.spawn(managed.run());
    }
    AcmeHandle {
        tasks,
        statuses: loaded.statuses,
        done: loaded.done,
    }
}

impl Managed {
    /// Puts the stored certificate in force, or that of the predecessor, or else a placeholder.
    async fn begin(&mut self, predecessor: Option<&Predecessor>) -> Result<(), ConfigError> {
        if let Some(found) = predecessor.and_then(|p| p.certificate(self.names.id())) {
            self.install(found);
        }
        self.read_copy().await;
        let loaded = timeout(START_TIMEOUT, self.load()).await;
        let loaded = loaded.unwrap_or_else(|_| Err("the store has not answered for 2 s".into()));
        if let (Err(error), None, Some(predecessor)) = (&loaded, &self.current, predecessor)
            && predecessor.may_have(self.names.id())
        {
            let names = &self.names;
            let why = format!(
                "{names}: {error}, and the process that runs may have a certificate, which this one \
                 would replace by a placeholder; a store that answers is accepted"
            );
            return Err(ConfigError::new("store", why));
        }
        self.note_store(loaded);
        if self.current.is_none() {
            if let Some(predecessor) = predecessor {
                self.bridge(predecessor);
            }
            self.serve_placeholder();
        }
        Ok(())
    }

    fn serve_placeholder(&self) {
        let names = &self.names;
        let made = placeholder(names, SystemTime::now()).and_then(|made| {
            let inserted = self.shared.certificates.insert(&self.id(), made);
            inserted.map_err(BoxError::from)
        });
        match (made, self.has_store_failed) {
            (Ok(()), false) => {
                tracing::info!(target: "evenkeel::tls", %names, "a placeholder is served");
            }
            // There may be a certificate that cannot be had.
            (Ok(()), true) => {
                tracing::error!(target: "evenkeel::tls", %names, "a placeholder is served, which no client accepts");
            }
            (Err(error), _) => {
                tracing::error!(target: "evenkeel::tls", %names, error, "no placeholder made");
            }
        }
    }

    async fn run(mut self) {
        self.write_copy().await;
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
        let next = match due <= SystemTime::now() {
            true => self.next_order().await,
            false => due,
        };
        if let Ok(left) = next.duration_since(SystemTime::now()) {
            return left.min(poll_interval).max(MIN_WAIT);
        }
        // Four orders at once: a list of thousands is no burst.
        let shared = self.shared.clone();
        let _permit = shared.order_permits.acquire().await;
        Box::pin(self.order()).await.min(poll_interval)
    }

    /// Returns when the certificate is to be renewed.
    pub(super) fn due(&self) -> SystemTime {
        match &self.current {
            // Another authority was configured, as after a trial with a staging environment.
            Some(current) if !self.is_configured(&current.stored.directory) => UNIX_EPOCH,
            Some(current) => current.renewal(self.window_of(current)),
            None => UNIX_EPOCH,
        }
    }

    pub(super) fn is_configured(&self, directory: &str) -> bool {
        let mut accounts = self.shared.accounts.iter();
        accounts.any(|a| a.authority.directory() == directory)
    }

    /// Returns when the authority suggests to renew this certificate.
    pub(super) fn window_of(&self, current: &Current) -> Option<Window> {
        let suggestion = self.suggestion.as_ref();
        let suggestion = suggestion.filter(|s| current.is(&s.certificate));
        suggestion.and_then(StoredSuggestion::window)
    }

    pub(super) fn report(&self, change: impl FnOnce(&mut CertificateStatus)) {
        self.shared.statuses.send_if_modified(|statuses| {
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

    /// Returns the key of what belongs to this certificate at one directory: two configurations with two
    /// directories share a store, and leave one another's certificates alone.
    pub(super) fn key(&self, kind: &str, directory: &str) -> String {
        format!(
            "acme/{kind}/{}/{}",
            directory_id(directory),
            self.names.id()
        )
    }

    /// Returns the locks of an order: that of the certificate, and one for each name that is checked by
    /// TLS-ALPN-01. Such a check shows one answer for a name, so that two orders for certificates that
    /// share a name would break each other's.
    pub(super) fn locks(&self, directory: &str) -> Vec<String> {
        let mut locks = Vec::new();
        if self
            .shared
            .orders
            .challenges
            .contains(&Challenge::TlsAlpn01)
        {
            let names = self.names.iter().filter(|name| !name.starts_with("*."));
            locks.extend(names.map(|name| format!("acme/names/{}", hex(&sha256(name.as_bytes())))));
            locks.sort();
        }
        locks.insert(0, self.key("certificates", directory));
        locks
    }

    /// The identifier among the certificates in force.
    pub(super) fn id(&self) -> String {
        format!("acme {}", self.names.id())
    }
}

/// The wait for the store at the start.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(2);
/// Orders of one process that run at once.
pub(super) const MAX_ORDERS: usize = 4;
/// Questions of one process that run at once: after a start, thousands of certificates may have one.
pub(super) const MAX_SUGGESTIONS: usize = 4;
pub(super) const MIN_WAIT: Duration = Duration::from_millis(10);
