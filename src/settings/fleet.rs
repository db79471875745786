//! `[fleet]`: what the instances of a fleet share.

#[cfg(feature = "redis")]
use std::fs;
use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

use super::value;
#[cfg(feature = "redis")]
use super::{Settings, SettingsError, draft::Draft, error::Location};
#[cfg(all(feature = "redis", feature = "__tls"))]
use crate::{connect::ClientTls, tls::TicketSecret};
#[cfg(feature = "redis")]
use crate::{
    error::ConfigError,
    fleet::{Fleet, RedisStore},
    pool::Pool,
};

/// `[fleet]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FleetSettings {
    /// The URL of the Redis server.
    pub redis: Option<FleetUrl>,
    /// A file that holds the URL instead. A line break at its end does not count.
    pub redis_file: Option<PathBuf>,
    /// The PEM file of the roots that the server's certificate is verified against; those of Mozilla if
    /// absent.
    pub redis_ca: Option<PathBuf>,
    /// The name of the fleet; `evenkeel` if absent.
    pub name: Option<String>,
    /// The name of this instance; random if absent.
    pub instance: Option<String>,
    /// How often the secret of session tickets is replaced; each day if absent.
    #[serde(default, deserialize_with = "value::long_duration")]
    pub ticket_rotation: Option<Duration>,
}

/// `[fleet] redis`: a URL, which may have a password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct FleetUrl(String);

impl FleetUrl {
    /// Returns the URL.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FleetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetUrl").finish_non_exhaustive()
    }
}

/// Reads the section, which needs a feature.
pub(super) fn section<'de, D>(deserializer: D) -> Result<Option<FleetSettings>, D::Error>
where
    D: Deserializer<'de>,
{
    if cfg!(not(feature = "redis")) {
        return Err(value::refused("built without the feature `redis`"));
    }
    FleetSettings::deserialize(deserializer).map(Some)
}

#[cfg(feature = "redis")]
impl Settings {
    /// Returns the part of this instance in the fleet, to be [started](Fleet::start) before checks begin;
    /// `None` without `[fleet]`. Health is exchanged if there is a `[health]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read, or does not hold what it should.
    pub fn fleet(&self, pool: &Pool) -> Result<Option<Fleet>, SettingsError> {
        let Some((store, given)) = self.draft.fleet_store()?.zip(self.fleet.as_ref()) else {
            return Ok(None);
        };
        let mut fleet = Fleet::new(store, pool.clone()).health_hints(self.health.is_some());
        if let Some(instance) = &given.instance {
            fleet = fleet
                .instance(instance)
                .map_err(|error| self.draft.at(at("instance"), &error))?;
        }
        Ok(Some(fleet))
    }

    /// Returns the store of the fleet, for certificates and other values; `None` without `[fleet]`. Each
    /// call makes a store with a connection of its own.
    ///
    /// # Errors
    ///
    /// As [`fleet`](Self::fleet).
    pub fn fleet_store(&self) -> Result<Option<RedisStore>, SettingsError> {
        self.draft.fleet_store()
    }

    /// Lets the instances of the fleet share the secret of session tickets. `tickets` is what the layers
    /// of [`tls_with_tickets`](Self::tls_with_tickets) were made with; it is replaced by that of the
    /// fleet.
    ///
    /// # Errors
    ///
    /// Returns an error if `ticket_rotation` is out of range.
    #[cfg(feature = "__tls")]
    pub fn share_tickets(
        &self,
        fleet: Fleet,
        tickets: &TicketSecret,
    ) -> Result<Fleet, SettingsError> {
        let given = self.fleet.as_ref().and_then(|fleet| fleet.ticket_rotation);
        let tickets = tickets.clone();
        let replace = move |secrets: &[&[u8]]| {
            // The fleet gives one or more, of 32 bytes each.
            let _ = tickets.replace(secrets);
        };
        let shared = fleet.secret("tickets", given.unwrap_or(TICKET_ROTATION), replace);
        shared.map_err(|error| self.draft.at(at("ticket_rotation"), &error))
    }
}

#[cfg(feature = "redis")]
impl Draft {
    /// Checks all but the files.
    pub(super) fn check_fleet(&self) -> Result<(), SettingsError> {
        let Some(given) = &self.sections.fleet else {
            return Ok(());
        };
        match (&given.redis, &given.redis_file) {
            (None, None) => {
                let message = "the key `redis` is missing, or `redis_file`";
                return Err(at("").wrong(&self.text, message));
            }
            (Some(_), Some(_)) => {
                let message = "beside `redis`: one of the two is accepted";
                return Err(at("redis_file").wrong(&self.text, message));
            }
            (Some(url), None) => drop(self.store(url.expose(), "redis")?),
            (None, Some(_)) => drop(self.store("redis://localhost", "redis_file")?),
        }
        let pool = Pool::of_distinct(Vec::new());
        let mut fleet = Fleet::new(self.store("redis://localhost", "redis")?, pool);
        if let Some(name) = &given.instance {
            let named = fleet.instance(name);
            fleet = named.map_err(|error| self.at(at("instance"), &error))?;
        }
        if let Some(every) = given.ticket_rotation {
            let shared = fleet.secret("tickets", every, |_| ());
            drop(shared.map_err(|error| self.at(at("ticket_rotation"), &error))?);
        }
        Ok(())
    }

    /// Reads the files, and makes the store.
    pub(super) fn fleet_store(&self) -> Result<Option<RedisStore>, SettingsError> {
        let Some(given) = &self.sections.fleet else {
            return Ok(None);
        };
        let store = match (&given.redis, &given.redis_file) {
            (Some(url), _) => self.store(url.expose(), "redis")?,
            (None, Some(path)) => {
                let text = fs::read_to_string(path).map_err(|error| {
                    at("redis_file").wrong(&self.text, format!("{path:?}: {error}"))
                })?;
                self.store(text.trim_end_matches(['\r', '\n']), "redis_file")?
            }
            (None, None) => return Ok(None),
        };
        self.with_roots(store, given).map(Some)
    }

    /// The message of a refused URL does not show it.
    fn store(&self, url: &str, key: &str) -> Result<RedisStore, SettingsError> {
        let wrong = |key, error: &ConfigError| self.at(at(key), error);
        let store = RedisStore::new(url).map_err(|error| wrong(key, &error))?;
        let name = self.sections.fleet.as_ref().and_then(|f| f.name.as_ref());
        match name {
            Some(name) => store.prefix(name).map_err(|error| wrong("name", &error)),
            None => Ok(store),
        }
    }

    #[cfg(feature = "__tls")]
    fn with_roots(
        &self,
        store: RedisStore,
        given: &FleetSettings,
    ) -> Result<RedisStore, SettingsError> {
        let Some(path) = &given.redis_ca else {
            return Ok(store);
        };
        let wrong =
            |why: &dyn fmt::Display| at("redis_ca").wrong(&self.text, format!("{path:?}: {why}"));
        let pem = fs::read(path).map_err(|error| wrong(&error))?;
        let roots = ClientTls::roots_pem(&pem).map_err(|error| wrong(&error.message()))?;
        Ok(store.tls(roots))
    }

    #[cfg(not(feature = "__tls"))]
    fn with_roots(
        &self,
        store: RedisStore,
        given: &FleetSettings,
    ) -> Result<RedisStore, SettingsError> {
        match given.redis_ca {
            None => Ok(store),
            Some(_) => Err(at("redis_ca").wrong(&self.text, "built without the feature `tls`")),
        }
    }
}

#[cfg(feature = "redis")]
fn at(key: &str) -> Location<'_> {
    Location::new("[fleet]", key)
}

/// A secret that is stolen opens the tickets of two days.
#[cfg(all(feature = "redis", feature = "__tls"))]
const TICKET_ROTATION: Duration = Duration::from_secs(86_400);
