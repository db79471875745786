//! [`Certificates`]: the certificates that are served, and the choice by server name (SNI).

use std::{
    fmt,
    future::Future,
    hash::RandomState,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    Certificate, CertificateSource,
    certificate_entry::Entry,
    certificate_reader as reader,
    certificate_store::{Change, Store},
    certificate_table::Table,
    challenge::Challenges,
    client_auth::{ClientAuth, WeakClientAuth},
    on_demand::{Found, OnDemand},
};
use crate::{context::CertificateInfo, error::ConfigError, stats::CertificateRegistry};

/// The certificates that are served now: a shared handle, cheap to clone.
///
/// A client sees the certificate whose subjectAltName is the server name that it asks for, else one
/// with a wildcard in place of the first label, else the first of the list (unless
/// [`strict_sni`](super::TlsConfig::strict_sni) is set). If several certificates have the name (RSA
/// and ECDSA), the client sees the first whose signature algorithm it supports.
///
/// [`replace`](Self::replace), [`insert`](Self::insert), [`remove`](Self::remove),
/// [`reload`](Self::reload) and [`watch`](Self::watch) change the certificates for handshakes that begin
/// afterwards. A change is made beside the running handshakes, and comes into force at once and whole.
/// Connections and session tickets stay valid.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    /// What handshakes read; made from the store by each change.
    table: ArcSwap<Table>,
    /// Locked for moments only: files are read and parsed without the lock.
    store: Mutex<Store>,
    /// How often the store has changed.
    changes: AtomicU64,
    /// Answers the checks of a certificate authority.
    challenges: ArcSwapOption<Challenges>,
    on_demand: ArcSwapOption<Found>,
    /// The roots of clients that are read again with the certificates.
    client_auths: Mutex<Vec<WeakClientAuth>>,
    /// Held while files are read again, so that two readers do not take an older state for the newer.
    refresh_lock: Mutex<()>,
    /// Fingerprints are compared within the process only, so the seed is random.
    hasher: RandomState,
}

impl Certificates {
    /// Reads the certificates. Clients that ask for a name of none of them see the first.
    ///
    /// Blocks while it reads files, on several threads if there are more than 64.
    ///
    /// # Errors
    ///
    /// If the list is empty, or for the first certificate with a fault: a file that cannot be read, a
    /// file without a certificate or key, a key that does not belong to the certificate, a certificate
    /// without subjectAltName.
    pub fn new(certificates: impl IntoIterator<Item = Certificate>) -> Result<Self, ConfigError> {
        let made = Self::empty();
        made.replace(certificates)?;
        Ok(made)
    }

    /// Makes a store without a certificate. Every handshake fails until one is
    /// [inserted](Self::insert).
    #[must_use]
    pub fn empty() -> Self {
        Self {
            inner: Arc::new(Inner {
                table: ArcSwap::default(),
                store: Mutex::default(),
                changes: AtomicU64::new(0),
                challenges: ArcSwapOption::empty(),
                on_demand: ArcSwapOption::empty(),
                client_auths: Mutex::default(),
                refresh_lock: Mutex::new(()),
                hasher: RandomState::new(),
            }),
        }
    }

    /// Replaces the certificates of the list by these, or none if one has a fault. Those that were
    /// [inserted](Self::insert) stay. A certificate of the previous list whose files have the same bytes
    /// is neither parsed nor checked again, so one that has expired meanwhile stays.
    ///
    /// Blocks while it reads files, on several threads if there are more than 64.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new); the previous certificates stay.
    pub fn replace(
        &self,
        certificates: impl IntoIterator<Item = Certificate>,
    ) -> Result<(), ConfigError> {
        // A refresh beside it could put what it has read before in place of what was read here.
        let refreshing = self.inner.refresh_lock.lock();
        let _refreshing = refreshing.unwrap_or_else(PoisonError::into_inner);
        let previous: Vec<_> = self.store().listed().cloned().collect();
        let entries = reader::read(certificates, &previous, &self.inner.hasher)?;
        self.change(|store| store.replace_list(entries));
        Ok(())
    }

    /// Removes the certificates of the list. Those that were [inserted](Self::insert) stay; without any,
    /// every handshake fails.
    ///
    /// ```
    /// use evenkeel::tls::{Certificate, Certificates};
    ///
    /// # fn main() -> Result<(), evenkeel::BoxError> {
    /// let made = rcgen::generate_simple_self_signed(["a.test".to_owned()])?;
    /// let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
    /// let certificates = Certificates::new([certificate])?;
    /// certificates.clear_list();
    /// assert!(certificates.in_force().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_list(&self) {
        let refreshing = self.inner.refresh_lock.lock();
        let _refreshing = refreshing.unwrap_or_else(PoisonError::into_inner);
        self.change(|store| store.replace_list(Vec::new()));
    }

    /// Adds a certificate beside the others, or replaces the one that was inserted with the same
    /// identifier. The identifier is any text that the caller chooses, such as the first domain name.
    ///
    /// Those of the list are preferred to those inserted. Blocks while it reads files.
    ///
    /// ```
    /// use evenkeel::tls::{Certificate, Certificates};
    ///
    /// # fn main() -> Result<(), evenkeel::BoxError> {
    /// let certificates = Certificates::empty();
    /// let made = rcgen::generate_simple_self_signed(["a.test".to_owned()])?;
    /// let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
    /// certificates.insert("a.test", certificate)?;
    /// assert_eq!(&*certificates.in_force()[0].names[0], "a.test");
    /// assert!(certificates.remove("a.test"));
    /// assert!(certificates.in_force().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the certificate has a fault, as for [`new`](Self::new); nothing changes then.
    pub fn insert(&self, id: &str, certificate: Certificate) -> Result<(), ConfigError> {
        let entry = Entry::read(Some(id), certificate, &self.inner.hasher)?;
        self.change(|store| store.insert(id.into(), entry));
        Ok(())
    }

    /// Removes the certificate that was [inserted](Self::insert) with this identifier. Returns true if
    /// there was one.
    pub fn remove(&self, id: &str) -> bool {
        self.change(|store| store.remove(id))
    }

    /// Describes the certificates in force: those of the list in its order, then those inserted, then
    /// those that were looked up on demand, with their server name as the identifier. Of these, one that is
    /// due for another lookup is left out until a client asks for it.
    #[must_use]
    pub fn in_force(&self) -> Vec<Arc<CertificateInfo>> {
        self.inner.in_force()
    }

    /// Shows the certificates in a registry, under the name of the listener that serves them: those that
    /// are in force at each reading, so that one that is replaced leaves with it. The registry keeps
    /// none of them alive.
    ///
    /// ```
    /// use evenkeel::{stats::CertificateRegistry, tls::Certificates};
    ///
    /// let certificates = Certificates::empty();
    /// let registry = CertificateRegistry::new();
    /// certificates.show_in(&registry, "0.0.0.0:443");
    /// assert!(registry.read().is_empty());
    /// ```
    pub fn show_in(&self, registry: &CertificateRegistry, listener: &str) {
        let version = |inner: &Inner| inner.changes.load(Ordering::Acquire);
        registry.add_versioned_store(listener, &self.inner, version, Inner::in_force);
    }

    /// Lets `source` answer the checks of a certificate authority by TLS-ALPN-01 (RFC 8737).
    ///
    /// A client that offers the protocol `acme-tls/1` and no other gets the certificate that the source
    /// has for its server name. The connection ends after its handshake, and no request is read. The
    /// certificate is the one of RFC 8737 §3, with the extension `acmeIdentifier`. Clients of other
    /// protocols never see it. Without a certificate, the client gets the alert
    /// `no_application_protocol`.
    ///
    /// The source has until the end of the handshake's time-out. 16 lookups run at once; others wait.
    ///
    /// Default: no such check is answered.
    pub fn answer_challenges(&self, source: impl CertificateSource) {
        let challenges = Challenges::new(source);
        self.inner.challenges.store(Some(Arc::new(challenges)));
    }

    /// Looks up the certificates of names that no certificate of the list and none inserted has.
    ///
    /// Default: no certificate is looked up.
    pub fn on_demand(&self, options: OnDemand) {
        let found = Found::new(options);
        self.inner.on_demand.store(Some(Arc::new(found)));
    }

    /// Returns the lookup that this name needs before its handshake goes on.
    pub(super) fn lookup(&self, name: &str) -> Option<impl Future<Output = ()> + use<>> {
        let found = self.inner.on_demand.load();
        let found = found.as_ref()?;
        let is_known = self.inner.table.load().find(Some(name)).is_some();
        (!is_known && found.is_due(name)).then(|| found.clone().look_up(name.into()))
    }

    /// Reads the roots of clients again whenever the certificates are read again.
    pub(super) fn follow(&self, auth: &ClientAuth) {
        let mut followed = self.client_auths();
        followed.retain(|other| other.upgrade().is_some_and(|other| !other.is_same(auth)));
        followed.push(auth.downgrade());
    }

    fn client_auths(&self) -> MutexGuard<'_, Vec<WeakClientAuth>> {
        let auths = self.inner.client_auths.lock();
        auths.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn challenges(&self) -> Option<Arc<Challenges>> {
        self.inner.challenges.load_full()
    }

    /// Reads the files again, regardless of their modification times. Returns true if a certificate
    /// changed. A certificate that has a fault now keeps its previous state; the others change. The files
    /// of each [`ClientAuth`] that a [`TlsConfig`](super::TlsConfig) serves beside these certificates are
    /// read again as well.
    ///
    /// Blocks while it reads files; [`watch`](Self::watch) does not.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), about the first file with a fault. The fault of each file is also
    /// logged at ERROR. The field of one that was [inserted](Self::insert) has its identifier:
    /// `certificates["a.test"].chain`.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let Refreshed { is_changed, faults } = self.refresh();
        for error in &faults {
            tracing::error!(target: "evenkeel::tls", %error, "kept as it was");
        }
        faults.into_iter().next().map_or(Ok(is_changed), Err)
    }

    pub(super) fn refresh(&self) -> Refreshed {
        let refreshing = self.inner.refresh_lock.lock();
        let _refreshing = refreshing.unwrap_or_else(PoisonError::into_inner);
        let ranked: Vec<_> = self.store().ranked().collect();
        let mut renewed = Vec::new();
        let mut faults = Vec::new();
        for (index, ranked) in ranked.iter().enumerate() {
            match ranked.entry.refresh(&self.inner.hasher) {
                Ok(Some(current)) => renewed.push((ranked, current)),
                Ok(None) => {}
                // Those of the list come first, so that their index is that of the list.
                Err(error) => faults.push(match &ranked.entry.id {
                    Some(id) => reader::below(format!("{id:?}"), &error),
                    None => reader::below(index, &error),
                }),
            }
        }
        let mut is_changed = self.change(|store| {
            let mut change = Change::default();
            for (before, current) in renewed {
                store.renew(before, current, &mut change);
            }
            change
        });
        if is_changed {
            tracing::info!(target: "evenkeel::tls", "certificates changed");
        }
        let followed: Vec<_> = self
            .client_auths()
            .iter()
            .filter_map(WeakClientAuth::upgrade)
            .collect();
        for auth in followed {
            match auth.reload() {
                Ok(is_other) => is_changed |= is_other,
                Err(error) => faults.push(error),
            }
        }
        Refreshed { is_changed, faults }
    }

    /// Changes the store, and lets handshakes see the result. Returns false if nothing changed.
    fn change(&self, change: impl FnOnce(&mut Store) -> Change) -> bool {
        let mut store = self.store();
        let change = change(&mut store);
        if change.is_empty() {
            return false;
        }
        let table = self.inner.table.load().changed(&change, &store);
        self.inner.table.store(Arc::new(table));
        self.inner.changes.fetch_add(1, Ordering::Release);
        true
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        let store = self.inner.store.lock();
        store.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn in_force(&self) -> Vec<Arc<CertificateInfo>> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let mut infos: Vec<_> = store
            .ranked()
            .map(|ranked| ranked.entry.info.clone())
            .collect();
        drop(store);
        if let Some(found) = self.on_demand.load_full() {
            infos.extend(found.in_force());
        }
        infos
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranked: Vec<_> = self.store().ranked().collect();
        let names = ranked.iter().map(|r| &r.entry.parsed.facts.names);
        f.debug_list().entries(names).finish()
    }
}

/// What a reading of all files found.
#[derive(Default)]
pub(super) struct Refreshed {
    pub(super) is_changed: bool,
    /// One for each certificate, and one for the roots and lists of each [`ClientAuth`].
    pub(super) faults: Vec<ConfigError>,
}

/// The resolver that rustls asks for a certificate.
pub(super) struct Resolver {
    certificates: Certificates,
    strict: bool,
}

impl Resolver {
    pub(super) fn new(certificates: Certificates, strict: bool) -> Self {
        Self {
            certificates,
            strict,
        }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.certificates.inner.table.load();
        let schemes = hello.signature_schemes();
        if let Some(found) = table.find(hello.server_name()) {
            return found.best(schemes);
        }
        let on_demand = self.certificates.inner.on_demand.load();
        let on_demand = on_demand.as_ref();
        let looked_up = on_demand.and_then(|found| found.get(hello.server_name()?));
        match looked_up {
            None if !self.strict => table.first().best(schemes),
            looked_up => looked_up,
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("certificates", &self.certificates)
            .field("strict", &self.strict)
            .finish()
    }
}
