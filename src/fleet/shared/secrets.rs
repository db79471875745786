//! How an instance and the store exchange a secret: the first makes it, all read it, and one at a time
//! replaces it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    secret_ring::{Secret, SecretRing},
    wall_clock,
};
use crate::{error::BoxError, store::Store};

/// What a program does with the secrets: the first makes new things, all are accepted.
pub(super) type Receive = Arc<dyn Fn(&[&[u8]]) + Send + Sync>;

/// A secret of the fleet. The task exchanges it, and the handle exports and imports it.
pub(super) struct SharedSecret {
    key: String,
    every: Duration,
    receive: Receive,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What this instance last knew. It stays in use while the store fails, and is written back to a
    /// store that lost it.
    known: SecretRing,
    given: Vec<Secret>,
    /// The last exchange failed, and the log said so.
    fails: bool,
    /// The secret should have been replaced long ago, and the log said so.
    is_late: bool,
}

impl SharedSecret {
    pub(super) fn new(name: &str, every: Duration, receive: Receive) -> Self {
        Self {
            key: format!("secrets/{name}"),
            every,
            receive,
            state: Mutex::default(),
        }
    }

    /// The lock is never held over a call of the store.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true once the program has a secret.
    pub(super) fn is_given(&self) -> bool {
        !self.state().given.is_empty()
    }

    /// Returns the key and the secrets, for a successor of the process; `None` before there is one.
    pub(super) fn export(&self) -> Option<(String, Vec<u8>)> {
        let state = self.state();
        (!state.known.is_empty()).then(|| (self.key.clone(), state.known.encode()))
    }

    /// Takes over the secrets of a predecessor beside those that are known.
    pub(super) fn import(&self, exported: &BTreeMap<String, Vec<u8>>) {
        let ring = exported.get(&self.key);
        if let Some(ring) = ring.and_then(|ring| SecretRing::parse(ring)) {
            self.learn(&ring);
            self.give();
        }
    }

    /// Adds secrets to those that are known, and returns all that are accepted.
    fn learn(&self, ring: &SecretRing) -> SecretRing {
        let mut state = self.state();
        state.known = state.known.merge(ring).accepted(wall_clock());
        state.known.clone()
    }

    /// Reads the secret; makes it or replaces it if that is due. While another instance does, nothing
    /// changes: the next look finds the result. A failure is logged once.
    pub(super) async fn exchange(&self, store: &dyn Store) {
        let failed = self.read_and_write(store).await.err();
        let failed_before = std::mem::replace(&mut self.state().fails, failed.is_some());
        if let Some(error) = failed.filter(|_| !failed_before) {
            tracing::warn!(
                target: "evenkeel::fleet",
                secret = self.key, %error,
                "a secret of the fleet is not exchanged: the known ones stay in use"
            );
        }
    }

    async fn read_and_write(&self, store: &dyn Store) -> Result<(), BoxError> {
        let stored = self.read(store).await?;
        let known = self.learn(&stored);
        if known == stored && !known.is_due(self.every, wall_clock()) {
            return Ok(());
        }
        let holder = super::random_name()?;
        if !store.lock(&self.key, &holder, LEASE).await? {
            return Ok(());
        }
        let written = self.write(store).await;
        let unlocked = store.unlock(&self.key, &holder).await;
        written.and(unlocked)
    }

    /// Writes while this instance holds the lock.
    async fn write(&self, store: &dyn Store) -> Result<(), BoxError> {
        let stored = self.read(store).await?;
        let mut ring = self.learn(&stored);
        let now = wall_clock();
        if ring.is_due(self.every, now) {
            ring = ring.rotated(super::random()?, self.every, now);
            tracing::info!(
                target: "evenkeel::fleet",
                secret = self.key, "a new secret of the fleet was made"
            );
        }
        if ring != stored {
            store.put(&self.key, ring.encode().into(), None).await?;
        }
        self.learn(&ring);
        Ok(())
    }

    /// An unreadable value is an error and stays: a later version may have written it.
    async fn read(&self, store: &dyn Store) -> Result<SecretRing, BoxError> {
        let Some(text) = store.get(&self.key).await? else {
            return Ok(SecretRing::default());
        };
        let ring = SecretRing::parse(&text);
        ring.ok_or_else(|| format!("the value of {}: no secrets of this program", self.key).into())
    }

    /// Gives the program the secrets, if others are in use than before. Says once that one should have
    /// been replaced long ago: instances agree on a new one through the store alone.
    pub(super) fn give(&self) {
        let now = wall_clock();
        let mut state = self.state();
        let is_late = !state.known.is_empty() && state.known.is_due(2 * self.every, now);
        if is_late && !std::mem::replace(&mut state.is_late, is_late) {
            tracing::warn!(
                target: "evenkeel::fleet",
                secret = self.key, every = ?self.every,
                "a secret of the fleet is twice as old as it should become: it is replaced when the \
                 store answers"
            );
        }
        state.is_late = is_late;
        let in_use = state.known.in_use(now);
        if in_use.is_empty() || in_use == state.given {
            return;
        }
        let secrets: Vec<&[u8]> = in_use.iter().map(|secret| &secret[..]).collect();
        // Under the lock, so that the last secrets that the program gets are the latest.
        (self.receive)(&secrets);
        state.given = in_use;
    }
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecret")
            .field("key", &self.key)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// Longer than the four calls that are made under the lock.
const LEASE: Duration = Duration::from_secs(10);
