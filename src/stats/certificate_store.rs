//! One store of a [`CertificateRegistry`](super::CertificateRegistry), and how many of its certificates
//! have expired.
//!
//! A readiness probe asks for that number every second or two, and a store may have 10,000 certificates.
//! The number changes only with the store and at the end of a certificate, so it is kept until then.

use std::{
    any::Any,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::SystemTime,
};

use crate::context::CertificateInfo;

#[derive(Clone)]
pub(super) struct Store {
    pub(super) listener: Arc<str>,
    of: Weak<dyn Any + Send + Sync>,
    /// Returns nothing once the store is gone.
    read: Arc<dyn Fn() -> Vec<Arc<CertificateInfo>> + Send + Sync>,
    /// Returns a number that changes with the certificates; `None` if the store has none.
    version: Arc<dyn Fn() -> Option<u64> + Send + Sync>,
    expired: Arc<Mutex<Option<ExpiredCount>>>,
}

/// How many certificates have expired, and for how long that holds.
#[derive(Clone, Copy)]
struct ExpiredCount {
    number: usize,
    version: u64,
    since: SystemTime,
    /// The end of the next certificate, which is still valid then; `None` if there is no next one.
    until: Option<SystemTime>,
}

impl Store {
    pub(super) fn new(
        listener: &str,
        of: Weak<dyn Any + Send + Sync>,
        version: impl Fn() -> Option<u64> + Send + Sync + 'static,
        read: impl Fn() -> Vec<Arc<CertificateInfo>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            listener: listener.into(),
            of,
            read: Arc::new(read),
            version: Arc::new(version),
            expired: Arc::default(),
        }
    }

    /// Returns true if both show the same certificates for the same listener.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.of.ptr_eq(&other.of) && self.listener == other.listener
    }

    pub(super) fn is_gone(&self) -> bool {
        self.of.strong_count() == 0
    }

    pub(super) fn read(&self) -> Vec<Arc<CertificateInfo>> {
        (self.read)()
    }

    /// Returns how many certificates have expired, without those that were looked up on demand.
    pub(super) fn expired(&self, now: SystemTime) -> usize {
        // Read before the certificates are: a change meanwhile has another version, and is read next.
        let Some(version) = (self.version)() else {
            return ExpiredCount::of(&self.read(), 0, now).number;
        };
        let mut kept = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        match *kept {
            Some(count) if count.holds(version, now) => count.number,
            _ => {
                let count = ExpiredCount::of(&self.read(), version, now);
                *kept = Some(count);
                count.number
            }
        }
    }
}

impl ExpiredCount {
    fn of(certificates: &[Arc<CertificateInfo>], version: u64, now: SystemTime) -> Self {
        let mut count = Self {
            number: 0,
            version,
            since: now,
            until: None,
        };
        for certificate in certificates.iter().filter(|one| !one.on_demand) {
            let end = certificate.not_after;
            // Valid until that very second (RFC 5280 §4.1.2.5).
            if end < now {
                count.number += 1;
            } else {
                count.until = Some(count.until.map_or(end, |until| until.min(end)));
            }
        }
        count
    }

    /// A clock that was set back does not keep a number of the future.
    fn holds(&self, version: u64, now: SystemTime) -> bool {
        self.version == version && self.since <= now && self.until.is_none_or(|until| now <= until)
    }
}
