//! `[pool]`: the backends, and the routing among them.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::{
    error::ConfigError,
    pool::{self, Locality, PanicRouting, Protocol, Routing},
};

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The strategy that chooses a backend; `round-robin` if absent.
    pub strategy: Option<String>,
    /// The input of `consistent-hash`: `"path"`, `"client"`, `{ header = "name" }` or
    /// `{ cookie = "name" }`.
    pub(super) hash: Option<toml::Value>,
    /// The multiple of the mean load above which keys of a backend go to the next one
    /// (`consistent-hash`); 1.25 if absent.
    pub load_factor: Option<f64>,
    /// The requests in flight up to which a backend keeps its keys (`consistent-hash`); 16 if absent.
    pub affinity_floor: Option<u32>,
    /// The usable share below which health is ignored and all backends get traffic; requests fail
    /// fast if absent.
    pub panic: Option<f64>,
    /// The time over which the traffic of a recovered backend grows to its share; 30 s if absent,
    /// `"0s"` switches it off.
    pub slow_start: Option<String>,
    /// The multiple of its share that a tier can take before traffic overflows; 1.4 if absent.
    pub overprovisioning: Option<f64>,
    /// `[[pool.backends]]`: the backends.
    #[serde(default)]
    pub backends: Vec<BackendSettings>,
}

impl PoolSettings {
    /// Returns true if both sections have the same strategy with the same parameters. The backends
    /// may differ.
    #[must_use]
    pub fn chooses_like(&self, other: &Self) -> bool {
        self.strategy == other.strategy
            && self.hash == other.hash
            && self.load_factor == other.load_factor
            && self.affinity_floor == other.affinity_floor
    }
}

/// `[[pool.backends]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackendSettings {
    /// The stable id.
    pub id: String,
    /// The URL: scheme, host, port and base path.
    pub url: String,
    /// The share of traffic relative to the others; 1 if absent.
    pub weight: Option<u32>,
    /// The tier; 0, the preferred one, if absent.
    pub tier: Option<u8>,
    /// The region, zone and rack.
    pub locality: Option<String>,
    /// The most requests in flight; no cap if absent.
    pub max_in_flight: Option<u32>,
    /// `auto`, `http1` or `http2`; `auto` if absent.
    pub protocol: Option<String>,
}

impl Settings {
    /// Returns a new pool of the backends, with the routing of `[pool]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a backend is not acceptable, or two have the same id, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn pool(&self) -> Result<pool::Pool, SettingsError> {
        let backends = self.backends()?;
        let pool = pool::Pool::new(backends).map_err(SettingsError::from)?;
        pool.update_routing(self.routing()?);
        Ok(pool)
    }

    /// Returns the routing of `[pool]`, for
    /// [`Pool::update_routing`](crate::Pool::update_routing) after a reload.
    ///
    /// # Errors
    ///
    /// Returns an error if a key is not in its range, which [`from_toml`](Self::from_toml) has
    /// checked.
    pub fn routing(&self) -> Result<Routing, SettingsError> {
        let given = &self.pool;
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let mut routing = Routing::new();
        if let Some(locality) = self.locality()? {
            routing = routing.locality(locality);
        }
        if let Some(factor) = given.overprovisioning {
            routing = routing.overprovisioning(factor).map_err(at)?;
        }
        if let Some(below) = given.panic {
            routing = routing.panic(PanicRouting::UseAll { below }).map_err(at)?;
        }
        let location = Location::new("[pool]", "slow_start");
        if let Some(time) = self.duration(location, given.slow_start.as_deref())? {
            routing = routing.slow_start(time, SLOW_START_FROM).map_err(at)?;
        }
        Ok(routing)
    }

    /// Returns the backends, for [`Pool::replace`](crate::Pool::replace) after a reload.
    ///
    /// # Errors
    ///
    /// Returns an error if a backend is not acceptable, or two have the same id, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn backends(&self) -> Result<Vec<pool::Backend>, SettingsError> {
        if self.pool.backends.is_empty() {
            let location = Location::new("[pool]", "");
            return Err(location.wrong(&self.text, "no [[pool.backends]]: 1 or more is needed"));
        }
        let mut seen = HashSet::new();
        let mut backends = Vec::with_capacity(self.pool.backends.len());
        for (nth, given) in self.pool.backends.iter().enumerate() {
            let location = |key| Location {
                header: "[[pool.backends]]",
                nth,
                key,
            };
            if !seen.insert(&given.id) {
                let message = format!("{:?}: another backend has this id", given.id);
                return Err(location("id").wrong(&self.text, message));
            }
            backends.push(self.backend(nth)?);
        }
        Ok(backends)
    }

    fn backend(&self, nth: usize) -> Result<pool::Backend, SettingsError> {
        let given = &self.pool.backends[nth];
        let at = |error: ConfigError| {
            let key = error.field().to_owned();
            let location = Location {
                header: "[[pool.backends]]",
                nth,
                key: &key,
            };
            self.at(location, &error)
        };
        let mut backend = pool::Backend::new(given.id.clone(), &given.url).map_err(at)?;
        if let Some(weight) = given.weight {
            backend = backend.weight(weight).map_err(at)?;
        }
        if let Some(max) = given.max_in_flight {
            backend = backend.max_in_flight(max).map_err(at)?;
        }
        if let Some(locality) = &given.locality {
            backend = backend.locality(Locality::new(locality).map_err(at)?);
        }
        let protocol = match given.protocol.as_deref() {
            None | Some("auto") => Protocol::Auto,
            Some("http1") => Protocol::Http1,
            Some("http2") => Protocol::Http2,
            Some(other) => {
                let location = Location {
                    header: "[[pool.backends]]",
                    nth,
                    key: "protocol",
                };
                let message = format!("{other:?}: auto, http1 or http2 is accepted");
                return Err(location.wrong(&self.text, message));
            }
        };
        Ok(backend.protocol(protocol).tier(given.tier.unwrap_or(0)))
    }
}

/// As [`Routing::new`].
const SLOW_START_FROM: f64 = 0.1;
