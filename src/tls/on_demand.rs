//! [`OnDemand`]: certificates that are looked up when a client asks for their name.

use std::{
    collections::HashMap,
    fmt,
    hash::RandomState,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::sign::CertifiedKey;
use tokio::{
    sync::{OnceCell, Semaphore},
    time::Instant,
};

use super::{CertificateSource, certificate_entry::Entry};
use crate::{
    context::CertificateInfo,
    error::{BoxError, ConfigError},
    log_limit::LogLimit,
};

/// Looks up the certificates of names that no other certificate has, during the handshake that asks for
/// one; see [`Certificates::on_demand`](super::Certificates::on_demand).
///
/// One lookup runs for a name at a time, and handshakes for the same name wait for it. What was found is
/// kept in memory. A certificate that has the name by a wildcard serves all names of the wildcard, which
/// are not looked up, until it is due again: it takes one place, however many names clients invent. A name
/// without a certificate, and a lookup that failed, is not looked up again for
/// 10 s. The handshake then goes on without: it shows the first certificate, or fails where
/// [`strict_sni`](super::TlsConfig::strict_sni) is set.
///
/// **Deployment caveat.** Clients choose the names. A source that orders certificates from an authority
/// must know which names are its own, or a stream of invented names uses up the limits of that authority.
#[derive(Clone)]
#[must_use]
pub struct OnDemand {
    source: Arc<dyn CertificateSource>,
    max_certificates: usize,
    max_lookups: usize,
    timeout: Duration,
    max_age: Duration,
}

impl OnDemand {
    /// Makes a configuration that asks `source`.
    pub fn new(source: impl CertificateSource) -> Self {
        Self {
            source: Arc::new(source),
            max_certificates: MAX_CERTIFICATES,
            max_lookups: MAX_LOOKUPS,
            timeout: TIMEOUT,
            max_age: MAX_AGE,
        }
    }

    /// Sets how many certificates are kept. The one that was unused for longest makes room for the next.
    /// A certificate takes about 1 KiB and its chain.
    ///
    /// Default: 1,000.
    ///
    /// # Errors
    ///
    /// If `max` is not 1 to 1,000,000.
    pub fn max_certificates(mut self, max: usize) -> Result<Self, ConfigError> {
        self.max_certificates = within("max_certificates", max, 1_000_000)?;
        Ok(self)
    }

    /// Sets how many lookups run at once. Others wait within their time-out.
    ///
    /// Default: 16.
    ///
    /// # Errors
    ///
    /// If `max` is not 1 to 10,000.
    pub fn max_lookups(mut self, max: usize) -> Result<Self, ConfigError> {
        self.max_lookups = within("max_lookups", max, 10_000)?;
        Ok(self)
    }

    /// Sets how long a lookup may take, the wait for its turn included. The time-out of the
    /// [handshake](super::TlsLayer::handshake_timeout) holds as well.
    ///
    /// Default: 5 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the age at which a certificate is looked up again. If the lookup fails, the certificate is
    /// served on until it expires.
    ///
    /// Default: 1 h.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }
}

fn within(field: &str, value: usize, most: usize) -> Result<usize, ConfigError> {
    match (1..=most).contains(&value) {
        true => Ok(value),
        false => Err(ConfigError::new(
            field,
            format!("{value}: 1 to {most} is accepted"),
        )),
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand")
            .field("max_certificates", &self.max_certificates)
            .field("max_lookups", &self.max_lookups)
            .field("timeout", &self.timeout)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// What was looked up so far.
pub(super) struct Found {
    options: OnDemand,
    permits: Semaphore,
    names: RwLock<Names>,
    /// Counts the uses, so that the oldest is known.
    uses: AtomicU64,
    hasher: RandomState,
    /// For lookups that fail: clients choose their names.
    log_limit: LogLimit,
}

#[derive(Default)]
struct Names {
    /// By server name, or by the name from its first dot on for a certificate that has it by a wildcard.
    found: HashMap<Box<str>, Kept>,
    /// The time until which the name is not looked up again.
    missing: HashMap<Box<str>, Instant>,
    running: HashMap<Box<str>, Arc<OnceCell<()>>>,
}

/// A handshake that looks a name up, or waits for the lookup. The last one to go takes the lookup
/// along, if it did not end: a client that leaves early leaves nothing behind.
struct RunningLookup<'a> {
    found: &'a Found,
    name: &'a str,
    cell: Option<Arc<OnceCell<()>>>,
}

impl Drop for RunningLookup<'_> {
    fn drop(&mut self) {
        let mut names = self.found.write();
        // Given up under the lock, so that the last of several handshakes finds that it is the last.
        let cell = self.cell.take().map(|cell| Arc::downgrade(&cell));
        let running = names.running.get(self.name).map(Arc::downgrade);
        let is_last = match (cell, running) {
            (Some(cell), Some(running)) => {
                Weak::ptr_eq(&cell, &running) && running.strong_count() == 1
            }
            _ => false,
        };
        if is_last {
            names.running.remove(self.name);
        }
    }
}

struct Kept {
    entry: Arc<Entry>,
    info: Arc<CertificateInfo>,
    at: Instant,
    last_use: AtomicU64,
    /// True if a later lookup found nothing: the certificate is served on.
    is_kept_on: bool,
}

impl Found {
    pub(super) fn new(options: OnDemand) -> Self {
        Self {
            permits: Semaphore::new(options.max_lookups),
            options,
            names: RwLock::default(),
            uses: AtomicU64::new(0),
            hasher: RandomState::new(),
            log_limit: LogLimit::new(),
        }
    }

    /// Returns the certificate of the name, if it was looked up before.
    pub(super) fn get(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let names = self.read();
        let kept = names.find(name)?;
        let now = self.uses.fetch_add(1, Ordering::Relaxed);
        kept.last_use.store(now, Ordering::Relaxed);
        Some(kept.entry.parsed.key.clone())
    }

    /// Returns true if the name has to be looked up before the handshake goes on.
    pub(super) fn is_due(&self, name: &str) -> bool {
        let names = self.read();
        let now = Instant::now();
        if names.missing.get(name).is_some_and(|until| now < *until) {
            return false;
        }
        let kept = names.find(name);
        kept.is_none_or(|kept| now.duration_since(kept.at) >= self.options.max_age)
    }

    /// Looks the name up, or waits for the lookup that runs.
    pub(super) async fn look_up(self: Arc<Self>, name: Box<str>) {
        let cell = Arc::clone(self.write().running.entry(name.clone()).or_default());
        let lookup = RunningLookup {
            found: &self,
            name: &name,
            cell: Some(cell),
        };
        let Some(cell) = &lookup.cell else {
            return;
        };
        cell.get_or_init(|| async {
            let timeout = self.options.timeout;
            let looked_up = tokio::time::timeout(timeout, self.ask(&name)).await;
            let found = looked_up.unwrap_or_else(|_| Err("the lookup took too long".into()));
            self.keep(&name, found);
        })
        .await;
    }

    async fn ask(&self, name: &str) -> Result<Option<Arc<Entry>>, BoxError> {
        let _permit = self.permits.acquire().await?;
        let Some(certificate) = self.options.source.certificate(name).await? else {
            return Ok(None);
        };
        let (id, hasher) = (Box::<str>::from(name), self.hasher.clone());
        let certificate = certificate.required_names([name]);
        // It may read files.
        let read =
            tokio::task::spawn_blocking(move || Entry::read(Some(&id), certificate, &hasher));
        Ok(Some(read.await??))
    }

    fn keep(&self, name: &str, found: Result<Option<Arc<Entry>>, BoxError>) {
        let mut names = self.write();
        names.running.remove(name);
        let now = Instant::now();
        let entry = match found {
            Ok(Some(entry)) => entry,
            Ok(None) => return names.miss(name, now),
            Err(error) => {
                if let Some(left_out) = self.log_limit.pass() {
                    tracing::warn!(
                        target: "evenkeel::tls", server_name = name, error, left_out,
                        "no certificate on demand"
                    );
                }
                return names.miss(name, now);
            }
        };
        names.missing.remove(name);
        let has_name = entry.parsed.facts.names.iter().any(|own| **own == *name);
        // It covers the name, if only by a wildcard.
        let key = wildcard(name).filter(|_| !has_name).unwrap_or(name);
        if names.found.len() >= self.options.max_certificates && !names.found.contains_key(key) {
            let oldest = names.found.iter();
            let oldest = oldest.min_by_key(|(_, kept)| kept.last_use.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                names.found.remove(&oldest);
            }
        }
        let info = CertificateInfo {
            id: Some(if has_name {
                key.into()
            } else {
                format!("*{key}").into()
            }),
            on_demand: true,
            ..CertificateInfo::clone(&entry.info)
        };
        let kept = Kept {
            entry,
            info: Arc::new(info),
            at: now,
            last_use: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed)),
            is_kept_on: false,
        };
        names.found.insert(key.into(), kept);
    }

    /// Describes what clients are shown. A certificate that the next handshake looks up again is left out:
    /// the source may have renewed it, or its name may have moved elsewhere long ago. One whose lookup
    /// failed is served on until it expires.
    pub(super) fn in_force(&self) -> Vec<Arc<CertificateInfo>> {
        let (now, time) = (Instant::now(), SystemTime::now());
        let names = self.read();
        let is_current = |kept: &&Kept| {
            let is_due = now.duration_since(kept.at) >= self.options.max_age;
            !is_due || kept.is_kept_on && time <= kept.info.not_after
        };
        let kept = names.found.values().filter(is_current);
        kept.map(|kept| kept.info.clone()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Names> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Names> {
        self.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// Returns what serves the name: what was found for it, else for a wildcard that it belongs to.
    fn find(&self, name: &str) -> Option<&Kept> {
        let exact = self.found.get(name);
        exact.or_else(|| self.found.get(wildcard(name)?))
    }

    /// Remembers that there is no certificate. One that was found before is served on until it expires.
    fn miss(&mut self, name: &str, now: Instant) {
        // The one that serves the name.
        let keys = [Some(name), wildcard(name)].into_iter().flatten();
        let serves = keys.into_iter().find(|key| self.found.contains_key(*key));
        if let Some(key) = serves
            && let Some(kept) = self.found.get_mut(key)
        {
            kept.is_kept_on = SystemTime::now() <= kept.entry.parsed.facts.not_after;
            if !kept.is_kept_on {
                self.found.remove(key);
            }
        }
        if self.missing.len() >= MAX_MISSING {
            self.missing.retain(|_, until| now < *until);
        }
        // Invented names must not fill the memory.
        if self.missing.len() < MAX_MISSING {
            self.missing.insert(name.into(), now + MISSING_FOR);
        }
    }
}

/// Returns the wildcard that the name belongs to, without its `*`, which stands for one whole label
/// (RFC 9525 §6.3).
fn wildcard(name: &str) -> Option<&str> {
    name.get(name.find('.')?..)
}

/// Some 5 MiB with chains of usual length.
pub(super) const MAX_CERTIFICATES: usize = 1_000;
/// Enough for a store that answers within milliseconds; a flood of names does not become one of lookups.
pub(super) const MAX_LOOKUPS: usize = 16;
/// Half of the handshake's own time-out.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// A renewed certificate is seen within the hour; certificates live for days.
pub(super) const MAX_AGE: Duration = Duration::from_secs(3_600);
/// A name that was added a moment ago is served soon; a client that tries in a loop costs little.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// Some 400 KiB.
const MAX_MISSING: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        future::{Future, pending},
        sync::Mutex,
    };

    use super::*;
    use crate::tls::{Certificate, CertificateFuture};

    struct Silent;

    impl CertificateSource for Silent {
        fn certificate(&self, _server_name: &str) -> CertificateFuture {
            CertificateFuture::new(pending())
        }
    }

    #[tokio::test]
    async fn handshakes_that_leave_early_leave_no_lookup_behind() {
        let found = Arc::new(Found::new(OnDemand::new(Silent)));
        let mut lookups: Vec<_> = (0..3)
            .map(|_| Box::pin(found.clone().look_up("a.test".into())))
            .collect();
        for lookup in &mut lookups {
            let polled = poll_once(lookup.as_mut());
            assert!(polled.is_pending(), "the source says nothing");
        }
        while lookups.pop().is_some() {
            let running = found.read().running.len();
            assert_eq!(running, usize::from(!lookups.is_empty()));
        }
    }

    /// Answers each lookup with the next of these.
    #[derive(Clone, Default)]
    struct Answers(Arc<Mutex<VecDeque<Answer>>>);

    type Answer = Result<Option<Certificate>, &'static str>;

    impl CertificateSource for Answers {
        fn certificate(&self, _server_name: &str) -> CertificateFuture {
            let answer = self.0.lock().unwrap().pop_front().unwrap();
            CertificateFuture::new(async move { Ok(answer?) })
        }
    }

    /// A lookup that has an answer for `a.test`, and what is in force afterwards.
    struct Looked {
        answers: Answers,
        found: Arc<Found>,
    }

    impl Looked {
        fn new(max_age: Duration) -> Self {
            let answers = Answers::default();
            let options = OnDemand::new(answers.clone()).max_age(max_age);
            Self {
                answers,
                found: Arc::new(Found::new(options)),
            }
        }

        /// As a handshake does; returns true if it asked the source.
        async fn handshake(&self, answer: Answer) -> bool {
            let is_due = self.found.is_due("a.test");
            if is_due {
                self.answers.0.lock().unwrap().push_back(answer);
                self.found.clone().look_up("a.test".into()).await;
            }
            is_due
        }

        /// The serial numbers of what is in force.
        fn in_force(&self) -> Vec<String> {
            let infos = self.found.in_force();
            infos.iter().map(|info| info.serial.to_string()).collect()
        }
    }

    fn certificate(serial: u8, not_after: (i32, u8, u8)) -> Certificate {
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.serial_number = Some(vec![serial].into());
        params.not_after = rcgen::date_time_ymd(not_after.0, not_after.1, not_after.2);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        Certificate::pem(made.pem(), key.serialize_pem()).any_validity(true)
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_looked_up_again_at_its_age_and_raises_no_alarm_from_then_on() {
        let looked = Looked::new(HOUR);
        let valid = |serial| Ok(Some(certificate(serial, (2999, 1, 1))));
        assert!(looked.handshake(valid(1)).await);
        tokio::time::advance(HOUR - Duration::from_millis(1)).await;
        assert!(!looked.handshake(valid(2)).await, "it is not that old yet");
        assert_eq!(looked.in_force(), ["01"]);
        tokio::time::advance(Duration::from_millis(1)).await;
        // No client is shown it: the next one gets what the source has then.
        assert!(looked.in_force().is_empty());
        assert!(looked.found.get("a.test").is_some());
        assert!(looked.handshake(valid(3)).await);
        assert_eq!(looked.in_force(), ["03"]);
        assert!(
            !looked.handshake(valid(4)).await,
            "it is as old as its lookup"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_whose_lookup_failed_is_served_and_shown_until_it_expires() {
        let failures: [Answer; 2] = [Ok(None), Err("the store is down")];
        for failure in failures {
            let looked = Looked::new(HOUR);
            looked
                .handshake(Ok(Some(certificate(1, (2999, 1, 1)))))
                .await;
            tokio::time::advance(HOUR).await;
            assert!(looked.handshake(failure.clone()).await);
            for seconds in [0, 3_600] {
                tokio::time::advance(Duration::from_secs(seconds)).await;
                assert_eq!(looked.in_force(), ["01"], "{failure:?}");
                assert!(looked.found.get("a.test").is_some());
            }
            // The source is back.
            let renewed = Ok(Some(certificate(2, (2999, 1, 1))));
            assert!(looked.handshake(renewed).await);
            assert_eq!(looked.in_force(), ["02"]);
            tokio::time::advance(HOUR).await;
            assert!(looked.in_force().is_empty(), "no lookup failed since");

            let looked = Looked::new(HOUR);
            looked
                .handshake(Ok(Some(certificate(1, (2021, 1, 1)))))
                .await;
            assert_eq!(
                looked.in_force(),
                ["01"],
                "the source says that any will do"
            );
            tokio::time::advance(HOUR).await;
            assert!(looked.handshake(failure).await);
            assert!(looked.in_force().is_empty(), "it has expired");
            assert!(looked.found.get("a.test").is_none());
        }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    fn poll_once(future: std::pin::Pin<&mut impl Future>) -> std::task::Poll<()> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut cx).map(drop)
    }
}
