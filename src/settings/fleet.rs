//! `[fleet]`: what the instances of a fleet share.

#[cfg(feature = "redis")]
use std::fs;
use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

#[cfg(any(feature = "fleet", feature = "redis"))]
use super::Settings;
#[cfg(feature = "fleet")]
use super::mistakes::can_make;
use super::{SettingsError, draft::Draft, error::Location, value};
#[cfg(feature = "fleet")]
use crate::fleet::handover::Handover;
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
    /// The Unix socket at which a running process hands over to the next one.
    pub handover: Option<PathBuf>,
    /// How long the next process may take until it is ready; 60 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub start_timeout: Option<Duration>,
}

impl FleetSettings {
    /// Returns true if the section names a Redis server.
    #[must_use]
    pub fn has_redis(&self) -> bool {
        self.redis.is_some() || self.redis_file.is_some()
    }

    /// Returns the first key that is of use with a server alone, if it is set.
    fn key_for_redis(&self) -> Option<&'static str> {
        let set = [
            ("redis_ca", self.redis_ca.is_some()),
            ("name", self.name.is_some()),
            ("instance", self.instance.is_some()),
            ("ticket_rotation", self.ticket_rotation.is_some()),
        ];
        set.iter().find(|(_, is_set)| *is_set).map(|(key, _)| *key)
    }
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
    if cfg!(not(any(feature = "fleet", feature = "redis"))) {
        return Err(value::refused(
            "built without the features `redis` and `fleet`",
        ));
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
    fn check_redis(&self, given: &FleetSettings) -> Result<(), SettingsError> {
        match (&given.redis, &given.redis_file) {
            (None, None) => return Ok(()),
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

#[cfg(feature = "fleet")]
impl Settings {
    /// Returns where this process takes over from another one, and hands over to the next; `None`
    /// without `[fleet] handover`.
    pub fn handover(&self) -> Option<Handover> {
        self.parts.handover.clone()
    }
}

impl Draft {
    #[cfg(feature = "fleet")]
    pub(super) fn handover(&self) -> Result<Option<Handover>, SettingsError> {
        let Some((path, timeout)) = self.handover_keys()? else {
            return Ok(None);
        };
        let handover = Handover::new(path).map_err(|error| self.at(at("handover"), &error))?;
        let Some(timeout) = timeout else {
            return Ok(Some(handover));
        };
        let limited = handover.start_timeout(timeout);
        let limited = limited.map_err(|error| self.at(at("start_timeout"), &error))?;
        Ok(Some(limited))
    }

    /// Checks whether the socket can be made: it replaces what is at its path.
    #[cfg(feature = "fleet")]
    pub(super) fn handover_mistake(&self) -> Option<SettingsError> {
        let path = self.sections.fleet.as_ref()?.handover.as_ref()?;
        let error = can_make(path).err()?;
        let message = format!("{path:?}: its folder cannot be written to: {error}");
        Some(at("handover").wrong(&self.text, message))
    }

    /// Checks all but the files. Refuses what this build has no code for.
    pub(super) fn check_fleet(&self) -> Result<(), SettingsError> {
        let Some(given) = &self.sections.fleet else {
            return Ok(());
        };
        let wrong = |key, message| Err(at(key).wrong(&self.text, message));
        if !given.has_redis() {
            match given.key_for_redis() {
                Some(key) => return wrong(key, "for `redis` or `redis_file`, which are absent"),
                None if given.handover.is_none() && given.start_timeout.is_none() => {
                    return wrong(
                        "",
                        "the key `redis` is missing, or `redis_file`, or `handover`",
                    );
                }
                None => {}
            }
        } else if cfg!(not(feature = "redis")) {
            let key = if given.redis.is_some() {
                "redis"
            } else {
                "redis_file"
            };
            return wrong(key, "built without the feature `redis`");
        }
        if self.handover_keys()?.is_some() && cfg!(not(feature = "fleet")) {
            return wrong("handover", "built without the feature `fleet`");
        }
        #[cfg(feature = "redis")]
        self.check_redis(given)?;
        Ok(())
    }

    fn handover_keys(&self) -> Result<Option<(&PathBuf, Option<Duration>)>, SettingsError> {
        let Some(fleet) = &self.sections.fleet else {
            return Ok(None);
        };
        match (&fleet.handover, fleet.start_timeout) {
            (Some(path), timeout) => Ok(Some((path, timeout))),
            (None, Some(_)) => {
                let message = "for `handover`, which is absent";
                Err(at("start_timeout").wrong(&self.text, message))
            }
            (None, None) => Ok(None),
        }
    }
}

fn at(key: &str) -> Location<'_> {
    Location::new("[fleet]", key)
}

/// A secret that is stolen opens the tickets of two days.
#[cfg(all(feature = "redis", feature = "__tls"))]
const TICKET_ROTATION: Duration = Duration::from_secs(86_400);
