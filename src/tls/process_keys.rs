//! Ticket keys that this process makes, and can hand to its successor.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::server::ProducesTickets;

use super::ticket_keys::{KEY_SECONDS, Key, TICKET_LIFETIME, derive, random};
use crate::error::ConfigError;

/// The ticket keys of a [`TlsLayer`](super::TlsLayer) without a
/// [`TicketSecret`](super::TicketSecret): random, made by this process, replaced every 12 h and
/// forgotten 12 h later. A server without a handshake replaces and forgets them at the next one, of any
/// of its hosts. Until then they open no ticket either, but are in memory.
///
/// A clone is a handle to the same keys. A program that replaces itself hands them to its successor,
/// so that clients resume their sessions there:
///
/// ```
/// use evenkeel::tls::{Certificates, TlsConfig, TlsLayer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let old = TlsLayer::new(TlsConfig::new(Certificates::empty()));
/// let new = TlsLayer::new(TlsConfig::new(Certificates::empty()));
/// let secret = old.ticket_keys().ok_or("no tickets")?.export();
/// new.ticket_keys().ok_or("no tickets")?.import(&secret)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TicketKeys {
    shared: Arc<Shared>,
}

struct Shared {
    secrets: ArcSwap<Secrets>,
    /// The keys of each policy, which are forgotten with the secrets. Locked while these are replaced.
    replacing: Mutex<Vec<Weak<ArcSwap<Derived>>>>,
    clock: Clock,
}

/// The seconds since 1970.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// The secrets of one period.
struct Secrets {
    /// Counts the replacements, so that a policy knows when to derive its keys.
    generation: u64,
    /// The newest first: it makes tickets, and all are accepted.
    secrets: Vec<Secret>,
}

#[derive(Clone)]
struct Secret {
    made: u64,
    bytes: [u8; SECRET],
}

impl Secret {
    fn make(now: u64) -> Option<Self> {
        let mut bytes = [0; SECRET];
        random(&mut bytes)?;
        Some(Self { made: now, bytes })
    }

    /// One that was made in the future has the greatest age: the clock was set back, and would keep it
    /// for as long as it was ahead.
    fn age(&self, now: u64) -> u64 {
        now.checked_sub(self.made).unwrap_or(u64::MAX)
    }
}

impl TicketKeys {
    /// Makes keys; `None` if the system has no randomness.
    pub(super) fn generate() -> Option<Self> {
        Self::with_clock(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        })
    }

    fn with_clock(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Option<Self> {
        let secrets = Secrets {
            generation: 0,
            secrets: vec![Secret::make(clock())?],
        };
        Some(Self {
            shared: Arc::new(Shared {
                secrets: ArcSwap::from_pointee(secrets),
                replacing: Mutex::default(),
                clock: Box::new(clock),
            }),
        })
    }

    /// Returns the secrets of the keys, for [`import`](Self::import) in another process. **They open
    /// every ticket of the last day**: hand them over on a channel that no other user can read, and
    /// do not store them.
    #[must_use]
    pub fn export(&self) -> Vec<u8> {
        let current = self.secrets();
        let each = current.secrets.iter();
        each.flat_map(|secret| {
            let made = secret.made.to_be_bytes();
            made.into_iter().chain(secret.bytes)
        })
        .collect()
    }

    /// Replaces the keys by those that another process [exported](Self::export). Their age counts
    /// on. Call it before the first handshake: tickets that the replaced keys made are refused
    /// afterwards, and their clients make a full handshake.
    ///
    /// # Errors
    ///
    /// If the bytes are not those of an export. The keys stay as they are then.
    pub fn import(&self, exported: &[u8]) -> Result<(), ConfigError> {
        let records = exported.chunks_exact(RECORD);
        if !records.remainder().is_empty() || !(1..=2).contains(&records.len()) {
            return Err(ConfigError::new(
                "ticket_keys",
                format!(
                    "{} bytes: the bytes of an export are accepted",
                    exported.len()
                ),
            ));
        }
        let now = (self.shared.clock)();
        let parse = |record: &[u8]| {
            let (mut made, mut bytes) = ([0; 8], [0; SECRET]);
            made.copy_from_slice(&record[..8]);
            bytes.copy_from_slice(&record[8..]);
            // A clock that was set back must not make a key live longer.
            let made = u64::from_be_bytes(made).min(now);
            Secret { made, bytes }
        };
        self.replace(records.map(parse).collect());
        Ok(())
    }

    /// Returns the keys of a policy: another label makes other keys.
    pub(super) fn of_policy(&self, label: &str) -> Option<PolicyKeys> {
        let derived = Derived::new(&self.secrets(), label)?;
        let derived = Arc::new(ArcSwap::from_pointee(derived));
        let mut policies = self.policies();
        policies.retain(|policy| policy.strong_count() > 0);
        policies.push(Arc::downgrade(&derived));
        drop(policies);
        Some(PolicyKeys {
            source: self.clone(),
            label: label.into(),
            derived,
        })
    }

    fn policies(&self) -> MutexGuard<'_, Vec<Weak<ArcSwap<Derived>>>> {
        let policies = self.shared.replacing.lock();
        policies.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the secrets, after a replacement if it is due.
    fn secrets(&self) -> Arc<Secrets> {
        let current = self.shared.secrets.load_full();
        let now = (self.shared.clock)();
        let is_due = |secrets: &Secrets| {
            let newest = secrets.secrets.first();
            newest.is_none_or(|newest| newest.age(now) >= KEY_SECONDS)
        };
        if !is_due(&current) {
            return current;
        }
        let policies = self.policies();
        let current = self.shared.secrets.load_full();
        // Without randomness, the old ones serve on.
        let Some(new) = Secret::make(now).filter(|_| is_due(&current)) else {
            return current;
        };
        let accepted = |secret: &&Secret| secret.age(now) < 2 * KEY_SECONDS;
        let previous = current.secrets.iter().take(1).filter(accepted).cloned();
        let secrets = Arc::new(Secrets {
            generation: current.generation + 1,
            secrets: [new].into_iter().chain(previous).collect(),
        });
        self.shared.secrets.store(secrets.clone());
        forget(&policies);
        secrets
    }

    fn replace(&self, secrets: Vec<Secret>) {
        let policies = self.policies();
        let generation = self.shared.secrets.load().generation + 1;
        let secrets = Secrets {
            generation,
            secrets,
        };
        self.shared.secrets.store(Arc::new(secrets));
        forget(&policies);
    }
}

/// Forgets the derived keys, also of hosts whose next handshake is far: that one derives them again.
fn forget(policies: &[Weak<ArcSwap<Derived>>]) {
    for policy in policies.iter().filter_map(Weak::upgrade) {
        policy.store(Arc::default());
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").finish_non_exhaustive()
    }
}

/// The ticket keys of one policy.
pub(super) struct PolicyKeys {
    source: TicketKeys,
    label: Box<str>,
    derived: Arc<ArcSwap<Derived>>,
}

/// The keys of one generation; none of the default, for which a generation counts that no secrets have.
struct Derived {
    generation: u64,
    keys: Vec<(u64, Key)>,
}

impl Default for Derived {
    fn default() -> Self {
        Self {
            generation: u64::MAX,
            keys: Vec::new(),
        }
    }
}

impl Derived {
    fn new(secrets: &Secrets, label: &str) -> Option<Self> {
        let keys = secrets.secrets.iter().map(|secret| {
            let key = derive(&secret.bytes, label)?;
            Some((secret.made, key))
        });
        Some(Self {
            generation: secrets.generation,
            keys: keys.collect::<Option<_>>()?,
        })
    }
}

impl PolicyKeys {
    fn derived(&self) -> Option<Arc<Derived>> {
        let secrets = self.source.secrets();
        let derived = self.derived.load_full();
        if derived.generation == secrets.generation {
            return Some(derived);
        }
        let derived = Arc::new(Derived::new(&secrets, &self.label)?);
        self.derived.store(derived.clone());
        Some(derived)
    }
}

impl ProducesTickets for PolicyKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let derived = self.derived()?;
        let (_, key) = derived.keys.first()?;
        key.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let derived = self.derived()?;
        let now = (self.source.shared.clock)();
        let accepted = |made: u64| now.saturating_sub(made) < 2 * KEY_SECONDS;
        let keys = derived.keys.iter().filter(|(made, _)| accepted(*made));
        keys.map(|(_, key)| key).find_map(|key| key.decrypt(cipher))
    }
}

impl fmt::Debug for PolicyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyKeys")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// As long as the keys that are derived from it.
const SECRET: usize = 32;
/// When it was made, and the secret.
const RECORD: usize = 8 + SECRET;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    fn at(now: &Arc<AtomicU64>) -> TicketKeys {
        let now = now.clone();
        TicketKeys::with_clock(move || now.load(Relaxed)).unwrap()
    }

    #[test]
    fn a_key_is_replaced_after_a_period_and_forgotten_after_another() {
        let now = Arc::new(AtomicU64::new(1_000));
        let keys = at(&now).of_policy("a").unwrap();
        let first = keys.encrypt(b"1").unwrap();
        for (later, opens) in [
            (KEY_SECONDS - 1, true),
            (KEY_SECONDS, true),
            (2 * KEY_SECONDS - 1, true),
            (2 * KEY_SECONDS, false),
        ] {
            now.store(1_000 + later, Relaxed);
            let second = keys.encrypt(b"2").unwrap();
            assert_eq!(keys.decrypt(&first).is_some(), opens, "after {later} s");
            assert_eq!(keys.decrypt(&second).unwrap(), b"2");
        }
        // Nothing was asked for, for a long time.
        let late = keys.encrypt(b"3").unwrap();
        now.fetch_add(100 * KEY_SECONDS, Relaxed);
        assert!(keys.decrypt(&late).is_none());
    }

    #[test]
    fn a_host_without_handshakes_forgets_its_keys_with_the_others() {
        let now = Arc::new(AtomicU64::new(1_000));
        let keys = at(&now);
        let (busy, quiet) = (keys.of_policy("a").unwrap(), keys.of_policy("b").unwrap());
        let ticket = quiet.encrypt(b"1").unwrap();
        assert_eq!(quiet.derived.load().keys.len(), 1);
        for _ in 0..2 {
            now.fetch_add(KEY_SECONDS, Relaxed);
            busy.encrypt(b"2").unwrap();
        }
        assert!(quiet.derived.load().keys.is_empty(), "none is in memory");
        assert!(quiet.decrypt(&ticket).is_none());
        let ticket = quiet.encrypt(b"3").unwrap();
        assert_eq!(quiet.decrypt(&ticket).unwrap(), b"3");
        // A replacement by an import is one, too.
        keys.import(&at(&now).export()).unwrap();
        assert!(quiet.derived.load().keys.is_empty());
        drop(quiet);
        let _other = keys.of_policy("c");
        assert_eq!(keys.policies().len(), 2, "the one that is gone is no more");
    }

    #[test]
    fn a_successor_opens_the_tickets_and_the_age_of_the_keys_counts_on() {
        let now = Arc::new(AtomicU64::new(1_000));
        let (old, new) = (at(&now), at(&now));
        let (before, after) = (old.of_policy("a").unwrap(), new.of_policy("a").unwrap());
        let other = new.of_policy("b").unwrap();
        let first = before.encrypt(b"1").unwrap();
        assert!(after.decrypt(&first).is_none(), "not before the import");
        now.fetch_add(KEY_SECONDS, Relaxed);
        let second = before.encrypt(b"2").unwrap();
        new.import(&old.export()).unwrap();
        assert_eq!(after.decrypt(&first).unwrap(), b"1");
        assert_eq!(after.decrypt(&second).unwrap(), b"2");
        assert!(other.decrypt(&second).is_none(), "another policy");
        now.fetch_add(KEY_SECONDS, Relaxed);
        let third = after.encrypt(b"3").unwrap();
        assert!(after.decrypt(&first).is_none());
        assert_eq!(after.decrypt(&second).unwrap(), b"2");
        assert!(before.decrypt(&third).is_none(), "a key of the successor");
    }

    #[test]
    fn only_an_export_is_imported() {
        let now = Arc::new(AtomicU64::new(1_000));
        let keys = at(&now);
        let ticket = keys.of_policy("").unwrap().encrypt(b"1").unwrap();
        for length in [0, 1, RECORD - 1, RECORD + 1, 3 * RECORD] {
            let error = keys.import(&vec![0; length]).unwrap_err();
            assert_eq!(error.field(), "ticket_keys", "{length}");
        }
        assert!(keys.of_policy("").unwrap().decrypt(&ticket).is_some());
        // Made in the future: the clock was set back.
        let mut exported = keys.export();
        exported[..8].copy_from_slice(&u64::MAX.to_be_bytes());
        keys.import(&exported).unwrap();
        assert_eq!(keys.secrets().secrets[0].made, 1_000);
    }

    #[test]
    fn a_changed_ticket_does_not_open() {
        let keys = TicketKeys::generate().unwrap().of_policy("").unwrap();
        let ticket = keys.encrypt(b"state").unwrap();
        assert_eq!(keys.decrypt(&ticket).unwrap(), b"state");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(keys.decrypt(&changed).is_none(), "byte {at}");
        }
        let other = TicketKeys::generate().unwrap().of_policy("").unwrap();
        assert!(other.decrypt(&ticket).is_none());
    }
}
