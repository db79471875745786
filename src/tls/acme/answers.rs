//! [`ChallengeAnswers`]: what the authority finds when it checks a name.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{
    connect::crypto::sha256,
    connect::x509::hex,
    log_limit::LogLimit,
    store::Store,
    tls::{Certificate, CertificateFuture, CertificateSource},
};

/// The answers to the challenges of HTTP-01 and TLS-ALPN-01 that are open now: a shared handle, cheap to
/// clone.
///
/// An answer is in memory while the order runs here. It is also in the store, so that any instance that
/// shares the store answers: a load balancer in front sends the authority to any of them.
#[derive(Clone, Default)]
pub struct ChallengeAnswers {
    inner: Arc<Inner>,
}

struct Inner {
    /// By the key in the store, with what tells two answers of one key apart: the last one is given. Seldom
    /// more than a few.
    open: ArcSwap<HashMap<String, Vec<Answer>>>,
    /// How many there have been.
    count: AtomicU64,
    stores: ArcSwap<Vec<Arc<dyn Store>>>,
    /// Held while a change derives a map from the previous one.
    change_lock: Mutex<()>,
    lookups: Semaphore,
}

#[derive(Clone)]
struct Answer {
    nth: u64,
    answer: Bytes,
}

impl ChallengeAnswers {
    /// Makes a handle without an answer, and without a store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for answers in this store, too.
    pub(super) fn follow(&self, store: &Arc<dyn Store>) {
        let _guard = self.inner.change_lock.lock();
        let mut stores = Vec::clone(&self.inner.stores.load());
        if !stores.iter().any(|other| Arc::ptr_eq(other, store)) {
            stores.push(store.clone());
            self.inner.stores.store(Arc::new(stores));
        }
    }

    /// Adds an answer here, until the returned value is dropped. The caller puts it in the store.
    pub(super) fn present(&self, key: String, answer: Bytes) -> Presented {
        let nth = self.inner.count.fetch_add(1, Ordering::Relaxed);
        let added = Answer {
            nth,
            answer: answer.clone(),
        };
        self.change(|open| open.entry(key.clone()).or_default().push(added));
        Presented {
            answers: self.clone(),
            key,
            nth,
            answer,
        }
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Vec<Answer>>)) {
        let lock = self.inner.change_lock.lock();
        let _guard = lock.unwrap_or_else(PoisonError::into_inner);
        let mut open = HashMap::clone(&self.inner.open.load());
        change(&mut open);
        self.inner.open.store(Arc::new(open));
    }

    /// Returns the answer that is in memory.
    pub(super) fn get(&self, key: &str) -> Option<Bytes> {
        let open = self.inner.open.load();
        open.get(key)?.last().map(|last| last.answer.clone())
    }

    /// Returns true if there is a store to look into.
    pub(super) fn has_store(&self) -> bool {
        !self.inner.stores.load().is_empty()
    }

    /// Looks into the stores. Any client can cause such a look, so few run at once; others wait, and
    /// get no answer where they wait too long.
    pub(super) async fn look_up(&self, key: &str) -> Option<Bytes> {
        if let Some(answer) = self.get(key) {
            return Some(answer);
        }
        let looked_up = tokio::time::timeout(LOOKUP_TIMEOUT, async {
            // Nothing closes the semaphore.
            let _permit = self.inner.lookups.acquire().await.ok()?;
            let stores = self.inner.stores.load_full();
            for store in stores.iter() {
                match store.get(key).await {
                    Ok(Some(answer)) => return Some(answer),
                    Ok(None) => {}
                    Err(error) => {
                        // Any client can ask for a challenge.
                        static LIMIT: LogLimit = LogLimit::new();
                        if let Some(left_out) = LIMIT.pass() {
                            tracing::warn!(
                                target: "evenkeel::tls", error, left_out,
                                "answer of a challenge not read"
                            );
                        }
                    }
                }
            }
            None
        });
        looked_up.await.ok().flatten()
    }
}

/// Makes the certificate of TLS-ALPN-01 from the answer for a name (RFC 8737 §3).
impl CertificateSource for ChallengeAnswers {
    fn certificate(&self, server_name: &str) -> CertificateFuture {
        let (answers, name) = (self.clone(), server_name.to_owned());
        CertificateFuture::new(async move {
            let Some(answer) = answers.look_up(&tls_key(&name)).await else {
                return Ok(None);
            };
            let mut params = rcgen::CertificateParams::new([name])?;
            let identifier = rcgen::CustomExtension::new_acme_identifier(&sha256(&answer));
            params.custom_extensions = vec![identifier];
            let key = rcgen::KeyPair::generate()?;
            let made = params.self_signed(&key)?;
            Ok(Some(Certificate::pem(made.pem(), key.serialize_pem())))
        })
    }
}

/// Returns the key of the answer for a token of HTTP-01. Tokens have upper-case letters and keys have
/// none; a digest also keeps what a client sends out of the store.
pub(super) fn http_key(token: &str) -> String {
    format!("{PREFIX}http-01/{}", hex(&sha256(token.as_bytes())))
}

/// Returns the key of the answer for a name of TLS-ALPN-01.
pub(super) fn tls_key(name: &str) -> String {
    format!("{PREFIX}tls-alpn-01/{}", hex(&sha256(name.as_bytes())))
}

/// An answer that can be found until this is dropped. What is in the store ends by itself, and
/// [`remove`](Self::remove) removes it sooner.
pub(super) struct Presented {
    answers: ChallengeAnswers,
    key: String,
    nth: u64,
    answer: Bytes,
}

impl Presented {
    /// Removes the answer from the store, unless the next order has put its own there.
    pub(super) async fn remove(self, store: &Arc<dyn Store>) {
        let removed = match store.get(&self.key).await {
            Ok(Some(found)) if found == self.answer => store.remove(&self.key).await,
            other => other.map(drop),
        };
        if let Err(error) = removed {
            tracing::debug!(target: "evenkeel::tls", error, "answer of a challenge stays until it ends");
        }
    }
}

impl Drop for Presented {
    fn drop(&mut self) {
        self.answers.change(|open| {
            if let Some(answers) = open.get_mut(&self.key) {
                answers.retain(|answer| answer.nth != self.nth);
                if answers.is_empty() {
                    open.remove(&self.key);
                }
            }
        });
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            open: ArcSwap::default(),
            count: AtomicU64::new(0),
            stores: ArcSwap::default(),
            change_lock: Mutex::default(),
            lookups: Semaphore::new(MAX_LOOKUPS),
        }
    }
}

impl fmt::Debug for ChallengeAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengeAnswers")
            .field("open", &self.inner.open.load().len())
            .finish_non_exhaustive()
    }
}

const PREFIX: &str = "acme/challenges/";
/// How long an answer stays in the store after a process that died.
pub(super) const LIFETIME: Duration = Duration::from_secs(3_600);
/// An authority asks from a handful of places; more would be an attack on the store.
pub(super) const MAX_LOOKUPS: usize = 16;
/// Authorities wait for about ten seconds.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_ends_leaves_the_other_of_its_name() {
        let answers = ChallengeAnswers::new();
        let first = answers.present("k".into(), "first".into());
        let second = answers.present("k".into(), "second".into());
        assert_eq!(answers.get("k"), Some("second".into()), "the last one");
        drop(second);
        assert_eq!(answers.get("k"), Some("first".into()));
        let third = answers.present("k".into(), "third".into());
        drop(first);
        assert_eq!(answers.get("k"), Some("third".into()));
        drop(third);
        assert_eq!(answers.get("k"), None);
        assert!(answers.inner.open.load().is_empty());
    }
}
