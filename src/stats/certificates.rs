//! [`CertificateRegistry`]: the certificates in force of all listeners, and how near their end is.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use super::certificate_store::Store;
use crate::context::CertificateInfo;

/// The certificates in force, of all listeners and towards backends: what gauges, the status page,
/// warnings and readiness read.
///
/// A registry is a handle: clones share what was added, and each has thresholds of its own. It keeps
/// nothing alive. A store or a certificate that is gone is gone from the next reading.
///
/// # Example
///
#[cfg_attr(feature = "__tls", doc = "```")]
#[cfg_attr(not(feature = "__tls"), doc = "```text")]
/// use evenkeel::{stats::CertificateRegistry, tls::{Certificate, Certificates}};
///
/// # fn main() -> Result<(), evenkeel::BoxError> {
/// let made = rcgen::generate_simple_self_signed(["a.test".to_owned()])?;
/// let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
/// let certificates = Certificates::new([certificate])?;
/// let registry = CertificateRegistry::new();
/// certificates.show_in(&registry, "0.0.0.0:443");
///
/// let shown = &registry.read()[0];
/// assert_eq!((&*shown.listener, shown.certificate.name()), ("0.0.0.0:443", "a.test"));
/// # drop(certificates);
/// # assert!(registry.read().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct CertificateRegistry {
    stores: Arc<Mutex<Vec<Store>>>,
    warn_before: Duration,
    error_before: Duration,
}

impl CertificateRegistry {
    /// Makes a registry without a certificate.
    pub fn new() -> Self {
        Self {
            stores: Arc::default(),
            warn_before: Self::WARN_BEFORE,
            error_before: Self::ERROR_BEFORE,
        }
    }

    /// Sets how long before its end a certificate is worth a warning: never more than three tenths of
    /// its lifetime. Clients of ACME renew a certificate when a third of its lifetime is left, so one of
    /// 90 days is worth a warning 27 days before its end, and one of 6 days 43 hours before.
    ///
    /// Default: [`WARN_BEFORE`](Self::WARN_BEFORE), 30 days.
    pub fn warn_before(mut self, before: Duration) -> Self {
        self.warn_before = before;
        self
    }

    /// Sets how long before its end a certificate is an error: never more than a tenth of its lifetime,
    /// 14 hours for one of 6 days.
    ///
    /// Default: [`ERROR_BEFORE`](Self::ERROR_BEFORE), 7 days.
    pub fn error_before(mut self, before: Duration) -> Self {
        self.error_before = before;
        self
    }

    /// Adds one certificate, under the name of the listener that shows it to clients, or under
    /// [`BACKENDS`](Self::BACKENDS).
    pub fn add(&self, listener: &str, certificate: &Arc<CertificateInfo>) {
        let of = Arc::downgrade(certificate);
        let read = move || of.upgrade().into_iter().collect();
        // One certificate never changes.
        let version = || Some(0);
        self.push(Store::new(
            listener,
            Arc::downgrade(certificate) as _,
            version,
            read,
        ));
    }

    /// Adds a store of certificates, which `read` reads for each reading, on the thread of its caller.
    /// It must not call this registry. A store that is added twice under one name counts once.
    ///
    /// [`expired`](Self::expired) reads it at each call; see
    /// [`add_versioned_store`](Self::add_versioned_store) for a large one.
    pub fn add_store<T: Send + Sync + 'static>(
        &self,
        listener: &str,
        store: &Arc<T>,
        read: impl Fn(&T) -> Vec<Arc<CertificateInfo>> + Send + Sync + 'static,
    ) {
        let of = Arc::downgrade(store);
        let read = move || of.upgrade().map_or_else(Vec::new, |store| read(&store));
        self.push(Store::new(
            listener,
            Arc::downgrade(store) as _,
            || None,
            read,
        ));
    }

    /// Adds a store as [`add_store`](Self::add_store) does, which knows when its certificates change:
    /// `version` returns another number after each change. [`expired`](Self::expired) then reads the
    /// certificates after a change and at the end of one of them, and otherwise not at all.
    pub fn add_versioned_store<T: Send + Sync + 'static>(
        &self,
        listener: &str,
        store: &Arc<T>,
        version: impl Fn(&T) -> u64 + Send + Sync + 'static,
        read: impl Fn(&T) -> Vec<Arc<CertificateInfo>> + Send + Sync + 'static,
    ) {
        let of = Arc::downgrade(store);
        let version = move || of.upgrade().map(|store| version(&store));
        let of = Arc::downgrade(store);
        let read = move || of.upgrade().map_or_else(Vec::new, |store| read(&store));
        self.push(Store::new(
            listener,
            Arc::downgrade(store) as _,
            version,
            read,
        ));
    }

    fn push(&self, added: Store) {
        let mut stores = self.stores();
        stores.retain(|store| !store.is_same(&added));
        stores.push(added);
    }

    /// Returns the certificates in force now, those that expire first at the beginning.
    ///
    /// Costs a reference count for each certificate, and sorts them.
    #[must_use]
    pub fn read(&self) -> Vec<CertificateReading> {
        // Cloned, so that `read` may take a lock of its own.
        let stores = self.stores().clone();
        let mut readings: Vec<_> = stores
            .iter()
            .flat_map(|store| {
                let certificates = store.read().into_iter();
                certificates.map(|certificate| CertificateReading {
                    listener: store.listener.clone(),
                    certificate,
                })
            })
            .collect();
        readings.sort_by_key(|reading| reading.certificate.not_after);
        readings
    }

    /// Returns how near the end of a certificate is at the time `now`, by the thresholds of this handle
    /// and the lifetime of the certificate. A placeholder, which no client accepts, counts as
    /// [`Error`](Expiry::Error) from the beginning.
    #[must_use]
    pub fn expiry(&self, certificate: &CertificateInfo, now: SystemTime) -> Expiry {
        let lifetime = certificate.not_after.duration_since(certificate.not_before);
        // One that is never valid has no lifetime that could limit the thresholds.
        let tenth = lifetime.map_or(Duration::MAX, |lifetime| lifetime / 10);
        let warn_before = self.warn_before.min(tenth.saturating_mul(MOST_TENTHS));
        match certificate.not_after.duration_since(now) {
            // Valid until that very second (RFC 5280 §4.1.2.5), so one of no time left is still valid.
            Err(_) => Expiry::Expired,
            Ok(_) if certificate.is_placeholder() => Expiry::Error,
            Ok(left) if left <= self.error_before.min(tenth) => Expiry::Error,
            Ok(left) if left <= warn_before => Expiry::Warn,
            Ok(_) => Expiry::Far,
        }
    }

    /// Returns how many certificates have expired at the time `now`, without those that were looked up on
    /// demand: one of thousands of hosts must not speak for all.
    ///
    /// Costs a lock for each store, and reads a store only after it has changed or one of its certificates
    /// has expired; those of [`add_store`](Self::add_store) are read each time.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> usize {
        let stores = self.stores().clone();
        stores.iter().map(|store| store.expired(now)).sum()
    }

    /// The name under which certificates stand that backends see: `backends`.
    pub const BACKENDS: &'static str = "backends";
    /// The default of [`warn_before`](Self::warn_before): 30 days, a month for what is ordered by hand once
    /// a year.
    pub const WARN_BEFORE: Duration = Duration::from_secs(30 * DAY.as_secs());
    /// The default of [`error_before`](Self::error_before): 7 days, a week with its working days.
    pub const ERROR_BEFORE: Duration = Duration::from_secs(7 * DAY.as_secs());

    /// Returns the stores without those that are gone.
    fn stores(&self) -> MutexGuard<'_, Vec<Store>> {
        let stores = self.stores.lock();
        let mut stores = stores.unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| !store.is_gone());
        stores
    }
}

impl Default for CertificateRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CertificateRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRegistry")
            .field("stores", &self.stores().len())
            .field("warn_before", &self.warn_before)
            .field("error_before", &self.error_before)
            .finish()
    }
}

/// A certificate in force, and where.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertificateReading {
    /// The name of the listener that shows it to clients; [`CertificateRegistry::BACKENDS`] for one that
    /// backends see.
    pub listener: Arc<str>,
    /// The certificate.
    pub certificate: Arc<CertificateInfo>,
}

/// How near the end of a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Expiry {
    /// Further than the thresholds.
    Far,
    /// Within [`CertificateRegistry::warn_before`], and in the last three tenths of its lifetime.
    Warn,
    /// Within [`CertificateRegistry::error_before`], and in the last tenth of its lifetime.
    Error,
    /// It has expired: clients refuse it.
    Expired,
}

impl Expiry {
    /// Returns the name in the JSON of the status page: `valid`, `warn`, `error` or `expired`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Far => "valid",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Expired => "expired",
        }
    }
}

const DAY: Duration = Duration::from_secs(86_400);
/// Clients of ACME begin when a third of the lifetime is left, `tls::acme` within a thirtieth after that:
/// what has less than three tenths left was not renewed in time.
const MOST_TENTHS: u32 = 3;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn certificate(name: &str, not_after: u64) -> Arc<CertificateInfo> {
        Arc::new(CertificateInfo {
            id: None,
            path: None,
            names: [name.into()].into(),
            issuer: "".into(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            serial: "01".into(),
            fingerprint: name.into(),
            key: "ECDSA",
            on_demand: false,
        })
    }

    fn names(registry: &CertificateRegistry) -> Vec<String> {
        let readings = registry.read();
        let name = |r: &CertificateReading| format!("{} {}", r.listener, r.certificate.name());
        readings.iter().map(name).collect()
    }

    #[test]
    fn what_is_gone_is_read_no_longer_and_the_first_to_expire_comes_first() {
        let registry = CertificateRegistry::new();
        let store = Arc::new(vec![certificate("a", 30), certificate("b", 10)]);
        let own = certificate("c", 20);
        for _ in 0..2 {
            registry.add_store("l", &store, |all: &Vec<_>| all.clone());
            registry.add(CertificateRegistry::BACKENDS, &own);
        }
        let same = registry.clone().warn_before(DAY);
        same.add_store("m", &store, |all| vec![all[0].clone()]);
        assert_eq!(names(&registry), ["l b", "backends c", "l a", "m a"]);
        drop(own);
        assert_eq!(names(&registry), ["l b", "l a", "m a"]);
        drop(store);
        assert!(registry.read().is_empty());
        assert!(registry.stores().is_empty());
    }

    #[test]
    fn the_thresholds_are_those_of_the_handle() {
        let registry = CertificateRegistry::new();
        let shorter = registry.clone().warn_before(2 * DAY).error_before(DAY);
        let days = |days: u64| UNIX_EPOCH + DAY * u32::try_from(days).unwrap();
        let end = certificate("a", 100 * DAY.as_secs());
        for (at, one, two) in [
            (69, Expiry::Far, Expiry::Far),
            (70, Expiry::Warn, Expiry::Far),
            (93, Expiry::Error, Expiry::Far),
            (98, Expiry::Error, Expiry::Warn),
            (99, Expiry::Error, Expiry::Error),
            (100, Expiry::Error, Expiry::Error),
            (101, Expiry::Expired, Expiry::Expired),
        ] {
            assert_eq!(registry.expiry(&end, days(at)), one, "day {at}");
            assert_eq!(shorter.expiry(&end, days(at)), two, "day {at}");
        }
    }

    #[test]
    fn a_short_lifetime_limits_the_thresholds() {
        let registry = CertificateRegistry::new();
        // Hours of the lifetime, and those left at which it is worth a warning and is an error.
        for (lifetime, warn, error) in [
            (366 * 24, 30 * 24, 7 * 24),
            (100 * 24, 30 * 24, 7 * 24),
            (90 * 24, 27 * 24, 7 * 24),
            (60 * 24, 18 * 24, 6 * 24),
            (160, 48, 16),
        ] {
            let end = certificate("a", lifetime * 3_600);
            let left = |seconds: u64| {
                let now = UNIX_EPOCH + Duration::from_secs(lifetime * 3_600 - seconds);
                registry.expiry(&end, now)
            };
            // As soon as it is issued, when a client of ACME renews it, and when it should have done so.
            let issued = left(lifetime * 3_600);
            assert_eq!(issued, Expiry::Far, "{lifetime} h");
            assert_eq!(left(lifetime * 1_200), Expiry::Far, "{lifetime} h");
            assert_eq!(left(warn * 3_600 + 1), Expiry::Far, "{lifetime} h");
            assert_eq!(left(warn * 3_600), Expiry::Warn, "{lifetime} h");
            assert_eq!(left(error * 3_600 + 1), Expiry::Warn, "{lifetime} h");
            assert_eq!(left(error * 3_600), Expiry::Error, "{lifetime} h");
        }
        let never_valid = Arc::new(CertificateInfo {
            not_before: UNIX_EPOCH + 2 * DAY,
            ..CertificateInfo::clone(&certificate("a", DAY.as_secs()))
        });
        assert_eq!(registry.expiry(&never_valid, UNIX_EPOCH), Expiry::Error);
    }

    #[test]
    fn one_on_demand_does_not_speak_for_all() {
        let registry = CertificateRegistry::new();
        let (own, now) = (certificate("a", 10), UNIX_EPOCH + Duration::from_secs(11));
        let other = Arc::new(CertificateInfo {
            on_demand: true,
            ..CertificateInfo::clone(&own)
        });
        registry.add("l", &other);
        assert_eq!(registry.expired(now), 0);
        registry.add("l", &own);
        assert_eq!(registry.expired(now), 1);
        assert_eq!(registry.expired(UNIX_EPOCH), 0);
    }

    #[test]
    fn a_large_store_is_read_when_it_changes_and_when_a_certificate_ends() {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

        struct Large {
            certificates: Mutex<Vec<Arc<CertificateInfo>>>,
            version: AtomicU64,
            readings: AtomicU64,
        }

        let registry = CertificateRegistry::new();
        let store = Arc::new(Large {
            certificates: Mutex::new((0..10_000).map(|n| certificate("a", 1_000 + n)).collect()),
            version: AtomicU64::new(0),
            readings: AtomicU64::new(0),
        });
        registry.add_versioned_store(
            "l",
            &store,
            |store| store.version.load(Relaxed),
            |store| {
                store.readings.fetch_add(1, Relaxed);
                store.certificates.lock().unwrap().clone()
            },
        );
        let check = |now: u64, expired: usize, readings: u64| {
            let at = UNIX_EPOCH + Duration::from_secs(now);
            assert_eq!(registry.clone().expired(at), expired, "at {now}");
            assert_eq!(store.readings.load(Relaxed), readings, "at {now}");
        };
        for now in 0..=1_000 {
            check(now, 0, 1);
        }
        // The first two have ended, the third ends at 1,002 and is valid still.
        check(1_002, 2, 2);
        check(1_002, 2, 2);
        // The clock is set back.
        check(999, 0, 3);
        // A renewal.
        *store.certificates.lock().unwrap() = vec![certificate("a", 1), certificate("b", 5_000)];
        check(999, 0, 3);
        store.version.fetch_add(1, Relaxed);
        check(999, 1, 4);
        check(5_000, 1, 4);
        check(5_001, 2, 5);
        // None is left that could end.
        check(9_000, 2, 5);
    }
}
