//! How an instance and the store exchange a secret: the first makes it, all read it, and one at a time
//! replaces it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    secret_ring::{Secret, SecretRing},
    wall_clock,
};
use crate::{error::BoxError, store::Store};

/// What a program does with the secrets: the first makes new things, all are accepted.
pub(super) type Receive = Arc<dyn Fn(&[&[u8]]) + Send + Sync>;

/// A secret of the fleet.
pub(super) struct SharedSecret {
    key: String,
    every: Duration,
    receive: Receive,
    /// What this instance last knew. It stays in use while the store fails, and is written back to a
    /// store that lost it.
    known: SecretRing,
    given: Vec<Secret>,
    /// The last exchange failed, and the log said so.
    fails: bool,
}

impl SharedSecret {
    pub(super) fn new(name: &str, every: Duration, receive: Receive) -> Self {
        Self {
            key: format!("secrets/{name}"),
            every,
            receive,
            known: SecretRing::default(),
            given: Vec::new(),
            fails: false,
        }
    }

    /// Returns true once the program has a secret.
    pub(super) fn is_given(&self) -> bool {
        !self.given.is_empty()
    }

    /// Reads the secret; makes it or replaces it if that is due. While another instance does, nothing
    /// changes: the next look finds the result. A failure is logged once.
    pub(super) async fn exchange(&mut self, store: &dyn Store) {
        match self.read_and_write(store).await {
            Ok(()) => self.fails = false,
            Err(error) => {
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!(
                        target: "evenkeel::fleet",
                        secret = self.key, %error,
                        "a secret of the fleet is not exchanged: the known ones stay in use"
                    );
                }
            }
        }
    }

    async fn read_and_write(&mut self, store: &dyn Store) -> Result<(), BoxError> {
        let stored = self.read(store).await?;
        self.known = self.known.merge(&stored).accepted(wall_clock());
        if self.known == stored && !self.known.is_due(self.every, wall_clock()) {
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
    async fn write(&mut self, store: &dyn Store) -> Result<(), BoxError> {
        let stored = self.read(store).await?;
        let now = wall_clock();
        let mut ring = self.known.merge(&stored).accepted(now);
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
        self.known = ring;
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

    /// Gives the program the secrets, if others are in use than before.
    pub(super) fn give(&mut self) {
        let in_use = self.known.in_use(wall_clock());
        if in_use.is_empty() || in_use == self.given {
            return;
        }
        let secrets: Vec<&[u8]> = in_use.iter().map(|secret| &secret[..]).collect();
        (self.receive)(&secrets);
        self.given = in_use;
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
