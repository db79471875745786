//! [`Fleet`]: what an instance shares with the others, and how it begins.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    FleetHandle, RedisStore,
    redis_store::check_name,
    secrets::{Receive, SharedSecret},
    status::Part,
    sync::SyncTask,
};
use crate::{error::ConfigError, pool::Pool};

/// One instance of a fleet: several processes, each with the same backends, that share what an operator
/// orders, secrets, and what they know of the backends' health. See the [module](crate::fleet).
#[must_use]
pub struct Fleet {
    pub(super) store: RedisStore,
    pub(super) pool: Pool,
    pub(super) instance: String,
    pub(super) health_hints: bool,
    secrets: Vec<(String, Duration, Receive)>,
}

impl Fleet {
    /// Makes an instance that exchanges the orders for the backends of this pool, over a connection of
    /// its own. Fleets that share a database need a [prefix](RedisStore::prefix) each.
    pub fn new(store: RedisStore, pool: Pool) -> Self {
        Self {
            // A subscription belongs to one fleet: its messages start the exchange of that fleet.
            store: store.apart(),
            pool,
            instance: format!("{:08x}", fastrand::u32(..)),
            health_hints: false,
            secrets: Vec::new(),
        }
    }

    /// Sets the name of this instance, which logs show beside its orders and which no other instance has:
    /// 1 to 64 of `a`–`z`, `0`–`9`, `.`, `-` and `_`.
    ///
    /// Default: eight random hexadecimal digits.
    ///
    /// # Errors
    ///
    /// If it is no such name.
    pub fn instance(mut self, name: &str) -> Result<Self, ConfigError> {
        check_name("instance", name)?;
        name.clone_into(&mut self.instance);
        Ok(self)
    }

    /// Sets whether to exchange measured health. A backend that most of the other instances found
    /// unhealthy begins unhealthy here, until its checks pass. No hint admits a backend.
    ///
    /// **Hazard:** only with active checks. Without them, nothing would ever correct a hint.
    ///
    /// Default: `false`.
    pub fn health_hints(mut self, exchange: bool) -> Self {
        self.health_hints = exchange;
        self
    }

    /// Shares a secret of 32 random bytes under this name: the first instance makes it, and each `every`
    /// one of them makes a new one. `receive` gets all that are accepted, the one for new things first:
    /// within [`start`](Self::start) if the store answers, and when they change. A new secret comes
    /// 30 s before it is used, or half of `every`, and is accepted for 24 h after the next one is used.
    ///
    /// While the store does not answer, the secrets that are known stay in use, and a WARN says once that
    /// one is twice as old as `every`: instances cannot agree on another one without the store.
    ///
    /// `receive` runs on a task of the runtime. It must not block, nor call the handle of this fleet.
    ///
    /// # Errors
    ///
    /// If the name is not 1 to 64 of `a`–`z`, `0`–`9`, `.`, `-` and `_`, or `every` is under a minute or
    /// over a year.
    pub fn secret(
        mut self,
        name: &str,
        every: Duration,
        receive: impl Fn(&[&[u8]]) + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        check_name("secret", name)?;
        if !(SHORTEST_ROTATION..=LONGEST_ROTATION).contains(&every) {
            return Err(ConfigError::new(
                "every",
                format!("{every:?}: a minute to a year is accepted"),
            ));
        }
        self.secrets.push((name.into(), every, Arc::new(receive)));
        Ok(self)
    }

    /// Reads the orders, the secrets and the health of the fleet, then exchanges them until the returned
    /// handle is dropped. Call it before checks begin and before readiness is reported, so that no
    /// request goes where an operator does not want it.
    ///
    /// Waits for 2 s at most. If the store does not answer by then, the instance begins with what its
    /// configuration says, a WARN says so, and the rest follows when the store answers.
    ///
    /// A mode other than ready that a backend has already counts as an order that is given now.
    ///
    /// Needs a tokio runtime with time and I/O, on which a task goes on.
    pub async fn start(self) -> FleetHandle {
        let secrets = self.secrets.into_iter();
        let secrets =
            secrets.map(|(name, every, receive)| SharedSecret::new(&name, every, receive));
        let secrets = secrets.collect();
        let fleet = self.store.configured_prefix();
        let part = Arc::new(Part::new(fleet, &self.instance, self.pool, secrets));
        let hints = self.health_hints;
        let mut sync = SyncTask::new(self.store, self.instance, part.clone());
        sync.begin(hints, START_TIMEOUT).await;
        FleetHandle::new(tokio::spawn(sync.run()).abort_handle(), part)
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: Vec<_> = self
            .secrets
            .iter()
            .map(|(name, every, _)| (name, every))
            .collect();
        f.debug_struct("Fleet")
            .field("store", &self.store)
            .field("instance", &self.instance)
            .field("health_hints", &self.health_hints)
            .field("secrets", &secrets)
            .finish_non_exhaustive()
    }
}

/// Long enough for a server that is slow, short enough for a start without one.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST_ROTATION: Duration = Duration::from_secs(60);
const LONGEST_ROTATION: Duration = Duration::from_secs(365 * 86_400);
