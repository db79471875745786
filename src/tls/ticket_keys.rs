//! The keys of session tickets: made for this process, or derived from a secret that instances share.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::server::ProducesTickets;

use crate::{
    connect::crypto::{aead, hkdf, rand},
    error::ConfigError,
};

/// A secret from which every instance derives the same ticket keys, so that a session of one can be
/// resumed at any other.
///
/// The keys change every 12 h, at the same time everywhere. A ticket is accepted in its 12 h and in those
/// that follow; a clock that is off by less than 12 h does no harm. Keys are derived with HKDF-SHA-256
/// (RFC 5869), and each ticket is encrypted with AES-256-GCM under a key of its own, so the number of
/// tickets has no limit.
///
/// **Deployment caveat.** A reader of the secret can decrypt tickets, old ones too. In TLS 1.3 a resumed
/// session has a key exchange of its own and stays secret; in TLS 1.2 it does not. Change the secret as
/// often as other keys: give the new one to [`new`](Self::new) and the old one to
/// [`previous`](Self::previous) for a day.
///
/// ```
/// use evenkeel::tls::TicketSecret;
///
/// # fn main() -> Result<(), evenkeel::ConfigError> {
/// // In production: 32 bytes of `openssl rand -hex 32`, from where other secrets are kept.
/// let secret = TicketSecret::new(b"9c1185a5c5e9fc54612808977ee8f548")?;
/// # let _ = secret;
/// let error = TicketSecret::new(b"short").unwrap_err();
/// assert_eq!(error.to_string(), "ticket_secret: 5 bytes; 32 or more are accepted");
/// # Ok(())
/// # }
/// ```
///
/// A secret that changes while the process runs, such as one that a fleet shares, is set
/// with [`replace`](Self::replace).
#[derive(Clone)]
#[must_use]
pub struct TicketSecret {
    /// The first encrypts; all decrypt. Clones share them.
    secrets: Arc<ArcSwap<Vec<Arc<hkdf::Prk>>>>,
    clock: Clock,
}

/// The seconds since 1970.
type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

impl TicketSecret {
    /// Makes the keys of new tickets from this secret.
    ///
    /// # Errors
    ///
    /// If it is shorter than 32 bytes.
    pub fn new(secret: &[u8]) -> Result<Self, ConfigError> {
        Ok(Self {
            secrets: Arc::new(ArcSwap::from_pointee(vec![prk(secret)?])),
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_secs())
            }),
        })
    }

    /// Makes a secret that no other process knows, to be [replaced](Self::replace) by a shared one later.
    ///
    /// # Errors
    ///
    /// If the crypto provider has no random numbers.
    pub fn random() -> Result<Self, ConfigError> {
        let mut secret = [0; MIN_SECRET];
        let filled = random(&mut secret);
        filled.ok_or_else(|| ConfigError::new("ticket_secret", "no random numbers are there"))?;
        Self::new(&secret)
    }

    /// Replaces the secrets, in all clones and in the layers that were made with them: the first makes
    /// the keys of new tickets, and tickets of all are accepted. Connections that are open go on.
    ///
    /// # Errors
    ///
    /// If there is none, or if one is shorter than 32 bytes. Nothing changes then.
    pub fn replace(&self, secrets: &[&[u8]]) -> Result<(), ConfigError> {
        let secrets: Vec<_> = secrets
            .iter()
            .map(|secret| prk(secret))
            .collect::<Result<_, _>>()?;
        if secrets.is_empty() {
            return Err(ConfigError::new(
                "ticket_secret",
                "none; 1 or more is accepted",
            ));
        }
        self.secrets.store(Arc::new(secrets));
        Ok(())
    }

    /// Accepts tickets that were made with a previous secret as well. Several calls add several.
    ///
    /// # Errors
    ///
    /// If it is shorter than 32 bytes.
    pub fn previous(mut self, secret: &[u8]) -> Result<Self, ConfigError> {
        let mut secrets = Vec::clone(&self.secrets.load());
        secrets.push(prk(secret)?);
        self.secrets = Arc::new(ArcSwap::from_pointee(secrets));
        Ok(self)
    }

    #[cfg(test)]
    pub(super) fn with_clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Returns the ticket keys of a policy: another label makes other keys.
    pub(super) fn keys(&self, label: &str) -> Option<SharedKeys> {
        let slot = (self.clock)() / KEY_SECONDS;
        let slots = Slots::derive(self.secrets.load_full(), label, slot)?;
        Some(SharedKeys {
            secret: self.clone(),
            label: label.into(),
            slots: ArcSwap::from_pointee(slots),
        })
    }
}

fn prk(secret: &[u8]) -> Result<Arc<hkdf::Prk>, ConfigError> {
    if secret.len() < MIN_SECRET {
        return Err(ConfigError::new(
            "ticket_secret",
            format!("{} bytes; {MIN_SECRET} or more are accepted", secret.len()),
        ));
    }
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"evenkeel session tickets 1");
    Ok(Arc::new(salt.extract(secret)))
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSecret").finish_non_exhaustive()
    }
}

/// The ticket keys of one policy, derived from a shared secret.
pub(super) struct SharedKeys {
    secret: TicketSecret,
    label: Box<str>,
    slots: ArcSwap<Slots>,
}

/// The keys that are accepted in one slot of time.
struct Slots {
    slot: u64,
    secrets: Arc<Vec<Arc<hkdf::Prk>>>,
    /// The key of this slot first.
    keys: Vec<Key>,
}

impl Slots {
    fn derive(secrets: Arc<Vec<Arc<hkdf::Prk>>>, label: &str, slot: u64) -> Option<Self> {
        let mut keys = Vec::with_capacity(3 * secrets.len());
        for secret in secrets.iter() {
            // The next one, too: the clock of the instance that made the ticket may be ahead.
            for slot in [slot, slot.wrapping_sub(1), slot.wrapping_add(1)] {
                let mut material = [0; NAME + KEY];
                expand(
                    secret,
                    &[label.as_bytes(), b"\0", &slot.to_be_bytes()],
                    &mut material,
                )?;
                keys.push(Key::new(&material));
            }
        }
        Some(Self {
            slot,
            secrets,
            keys,
        })
    }
}

impl SharedKeys {
    fn slots(&self) -> Option<Arc<Slots>> {
        let slot = (self.secret.clock)() / KEY_SECONDS;
        let slots = self.slots.load_full();
        let secrets = self.secret.secrets.load();
        if slots.slot == slot && Arc::ptr_eq(&slots.secrets, &secrets) {
            return Some(slots);
        }
        let secrets = Arc::clone(&secrets);
        let slots = Arc::new(Slots::derive(secrets, &self.label, slot)?);
        self.slots.store(slots.clone());
        Some(slots)
    }
}

impl ProducesTickets for SharedKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.slots()?.keys.first()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let slots = self.slots()?;
        slots.keys.iter().find_map(|key| key.decrypt(cipher))
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys")
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// Derives the key of a policy from a secret that this process made.
pub(super) fn derive(secret: &[u8], label: &str) -> Option<Key> {
    let mut material = [0; NAME + KEY];
    let prk = prk(secret).ok()?;
    expand(&prk, &[label.as_bytes()], &mut material)?;
    Some(Key::new(&material))
}

/// One ticket key. A ticket is the name of the key, 32 random bytes, and the state of the session,
/// encrypted under a key that is derived from both.
pub(super) struct Key {
    name: [u8; NAME],
    prk: hkdf::Prk,
}

impl Key {
    fn new(material: &[u8; NAME + KEY]) -> Self {
        let mut name = [0; NAME];
        name.copy_from_slice(&material[..NAME]);
        Self {
            name,
            prk: hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &material[NAME..]),
        }
    }

    /// Returns the key and the nonce of one ticket.
    fn of_ticket(&self, random: &[u8]) -> Option<(aead::LessSafeKey, aead::Nonce)> {
        let mut material = [0; KEY + aead::NONCE_LEN];
        expand(&self.prk, &[random], &mut material)?;
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &material[..KEY]).ok()?;
        let nonce = aead::Nonce::try_assume_unique_for_key(&material[KEY..]).ok()?;
        Some((aead::LessSafeKey::new(key), nonce))
    }
}

impl ProducesTickets for Key {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TICKET_LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = Vec::with_capacity(HEAD + plain.len() + aead::MAX_TAG_LEN);
        ticket.extend_from_slice(&self.name);
        ticket.resize(HEAD, 0);
        random(&mut ticket[NAME..])?;
        let (key, nonce) = self.of_ticket(&ticket[NAME..])?;
        let aad = aead::Aad::from(self.name);
        ticket.extend_from_slice(plain);
        let tag = key.seal_in_place_separate_tag(nonce, aad, &mut ticket[HEAD..]);
        ticket.extend_from_slice(tag.ok()?.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = cipher.split_at_checked(HEAD)?;
        // The name is no secret, so the time of the comparison is none either.
        let random = head.strip_prefix(&self.name)?;
        if sealed.len() > MAX_TICKET {
            return None;
        }
        let (key, nonce) = self.of_ticket(random)?;
        let mut plain = sealed.to_vec();
        let aad = aead::Aad::from(self.name);
        let length = key.open_in_place(nonce, aad, &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

pub(super) fn random(bytes: &mut [u8]) -> Option<()> {
    rand::SecureRandom::fill(&rand::SystemRandom::new(), bytes).ok()
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]], out: &mut [u8]) -> Option<()> {
    prk.expand(info, Length(out.len())).ok()?.fill(out).ok()
}

/// The length of what HKDF makes.
#[derive(Clone, Copy)]
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// As HAProxy's and nginx' documentation advise: a key that is stolen opens the tickets of a day.
pub(super) const KEY_SECONDS: u64 = 12 * 3_600;
/// How long a client keeps a ticket, in seconds: the last ticket of a key lives as long as the key is
/// accepted.
pub(super) const TICKET_LIFETIME: u32 = 12 * 3_600;
/// As long as the keys that are derived from it.
pub(super) const MIN_SECRET: usize = 32;
const NAME: usize = 16;
const KEY: usize = 32;
/// The name of the key, and the random bytes.
const HEAD: usize = NAME + 32;
/// No ticket that rustls makes without client certificates is as long; an attacker's may be.
const MAX_TICKET: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SECRET: &[u8] = &[7; 32];

    fn keys_at(secret: &[u8], label: &str, now: u64) -> SharedKeys {
        let secret = TicketSecret::new(secret).unwrap();
        secret.with_clock(move || now).keys(label).unwrap()
    }

    #[test]
    fn instances_with_one_secret_open_each_others_tickets_for_a_slot_longer() {
        let now = 100 * KEY_SECONDS;
        let ticket = keys_at(SECRET, "a", now).encrypt(b"state").unwrap();
        let opened = |secret: &[u8], label: &str, now| keys_at(secret, label, now).decrypt(&ticket);
        for (at, opens) in [
            (now, true),
            (now + KEY_SECONDS - 1, true),
            (now + KEY_SECONDS, true),
            (now + 2 * KEY_SECONDS - 1, true),
            (now + 2 * KEY_SECONDS, false),
            // A clock that is late.
            (now - KEY_SECONDS, true),
            (now - KEY_SECONDS - 1, false),
        ] {
            let opened = opened(SECRET, "a", at);
            assert_eq!(opened.as_deref(), opens.then_some(&b"state"[..]), "{at}");
        }
        assert!(opened(SECRET, "b", now).is_none(), "another policy");
        assert!(opened(&[8; 32], "a", now).is_none(), "another secret");
        let both = TicketSecret::new(&[8; 32])
            .unwrap()
            .previous(SECRET)
            .unwrap();
        let both = both.with_clock(move || now).keys("a").unwrap();
        assert_eq!(both.decrypt(&ticket).unwrap(), b"state");
        let new = both.encrypt(b"state").unwrap();
        assert!(keys_at(SECRET, "a", now).decrypt(&new).is_none());
    }

    #[test]
    fn a_secret_is_replaced_in_its_clones_and_in_the_keys_made_of_it() {
        let ours = TicketSecret::random().unwrap();
        let keys = ours.keys("a").unwrap();
        let alone = keys.encrypt(b"1").unwrap();
        let theirs = TicketSecret::new(SECRET).unwrap().keys("a").unwrap();
        assert!(theirs.decrypt(&alone).is_none());
        for refused in [&[][..], &[&b"short"[..]], &[SECRET, b""]] {
            assert!(ours.replace(refused).is_err());
        }
        assert_eq!(keys.decrypt(&alone).unwrap(), b"1", "nothing changed");
        ours.replace(&[SECRET]).unwrap();
        assert_eq!(theirs.decrypt(&keys.encrypt(b"2").unwrap()).unwrap(), b"2");
        assert!(keys.decrypt(&alone).is_none());
        ours.replace(&[&[9; 32], SECRET]).unwrap();
        assert_eq!(keys.decrypt(&theirs.encrypt(b"3").unwrap()).unwrap(), b"3");
        assert!(theirs.decrypt(&keys.encrypt(b"4").unwrap()).is_none());
    }

    #[test]
    fn keys_change_as_the_clock_moves() {
        let now = Arc::new(AtomicU64::new(KEY_SECONDS - 1));
        let clock = now.clone();
        let secret = TicketSecret::new(SECRET).unwrap();
        let secret = secret.with_clock(move || clock.load(Ordering::Relaxed));
        let keys = secret.keys("a").unwrap();
        let first = keys.encrypt(b"1").unwrap();
        now.store(KEY_SECONDS, Ordering::Relaxed);
        let second = keys.encrypt(b"2").unwrap();
        assert_ne!(first[..NAME], second[..NAME], "another key");
        assert_eq!(keys.decrypt(&first).unwrap(), b"1");
        now.store(2 * KEY_SECONDS, Ordering::Relaxed);
        assert!(keys.decrypt(&first).is_none());
        assert_eq!(keys.decrypt(&second).unwrap(), b"2");
    }

    #[test]
    fn a_changed_ticket_does_not_open() {
        let keys = keys_at(SECRET, "", 5);
        let ticket = keys.encrypt(b"state").unwrap();
        assert_eq!(keys.decrypt(&ticket).unwrap(), b"state");
        assert_ne!(keys.encrypt(b"state").unwrap(), ticket, "each is unique");
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(keys.decrypt(&changed).is_none(), "byte {at}");
            assert!(keys.decrypt(&ticket[..at]).is_none(), "cut at {at}");
        }
        assert!(keys.decrypt(&vec![0; 100_000]).is_none());
    }
}
