//! `[pool]`: the backends, and the routing among them.

use std::{collections::HashSet, time::Duration};

use serde::Deserialize;

use super::{
    Settings, SettingsError, StrategySettings, draft::Draft, error::Location, strategy, value,
};
use crate::{
    balance::HashKey,
    error::ConfigError,
    pool::{Backend, Locality, PanicRouting, Pool, Protocol, ProxyProtocol, Routing},
};

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The strategy that chooses a backend; `round-robin` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub strategy: Option<StrategySettings>,
    /// The input of `consistent-hash`: `"path"`, `"client"`, `{ header = "name" }` or
    /// `{ cookie = "name" }`.
    #[serde(default, deserialize_with = "strategy::hash_key")]
    pub hash: Option<HashKey>,
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
    #[serde(default, deserialize_with = "value::optional")]
    pub slow_start: Option<Duration>,
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
    #[serde(default, deserialize_with = "value::optional")]
    pub locality: Option<Locality>,
    /// The most requests in flight; no cap if absent.
    pub max_in_flight: Option<u32>,
    /// `auto`, `http1` or `http2`; `auto` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub protocol: Option<Protocol>,
    /// The PROXY protocol header that this backend gets, `v1`, `v2` or `off`; that of `[proxy]` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub send_proxy_protocol: Option<ProxyProtocol>,
}

impl Settings {
    /// Returns a new pool of the backends, with the routing of `[pool]`.
    #[must_use]
    pub fn pool(&self) -> Pool {
        let pool = Pool::of_distinct(self.backends());
        pool.update_routing(self.routing());
        pool
    }

    /// Returns the routing of `[pool]`, for [`Pool::update_routing`] after a reload.
    pub fn routing(&self) -> Routing {
        self.parts.routing.clone()
    }

    /// Returns the backends, for [`Pool::replace`] after a reload.
    #[must_use]
    pub fn backends(&self) -> Vec<Backend> {
        let backends = self.parts.backends.iter();
        backends.map(Backend::with_new_state).collect()
    }
}

impl Draft {
    pub(super) fn routing(&self) -> Result<Routing, SettingsError> {
        let given = &self.sections.pool;
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let mut routing = Routing::new();
        if let Some(locality) = &self.sections.server.locality {
            routing = routing.locality(locality.clone());
        }
        if let Some(factor) = given.overprovisioning {
            routing = routing.overprovisioning(factor).map_err(at)?;
        }
        if let Some(below) = given.panic {
            routing = routing.panic(PanicRouting::UseAll { below }).map_err(at)?;
        }
        if let Some(time) = given.slow_start {
            routing = routing.slow_start(time, SLOW_START_FROM).map_err(at)?;
        }
        Ok(routing)
    }

    pub(super) fn backends(&self) -> Result<Vec<Backend>, SettingsError> {
        let given = &self.sections.pool.backends;
        if given.is_empty() {
            let location = Location::new("[pool]", "");
            return Err(location.wrong(&self.text, "no [[pool.backends]]: 1 or more is needed"));
        }
        let mut seen = HashSet::new();
        let each = given.iter().enumerate().map(|(nth, given)| {
            if !seen.insert(&given.id) {
                let message = format!("{:?}: another backend has this id", given.id);
                return Err(location(nth, "id").wrong(&self.text, message));
            }
            let names_client = matches!(
                given.send_proxy_protocol,
                Some(ProxyProtocol::V1 | ProxyProtocol::V2)
            );
            if names_client && given.protocol == Some(Protocol::Http2) {
                let message = "clients share the connections of protocol = \"http2\"";
                return Err(location(nth, "send_proxy_protocol").wrong(&self.text, message));
            }
            given
                .backend()
                .map_err(|error| self.at(location(nth, error.field()), &error))
        });
        each.collect()
    }
}

impl BackendSettings {
    fn backend(&self) -> Result<Backend, ConfigError> {
        let mut backend = Backend::new(self.id.clone(), &self.url)?;
        if let Some(weight) = self.weight {
            backend = backend.weight(weight)?;
        }
        if let Some(max) = self.max_in_flight {
            backend = backend.max_in_flight(max)?;
        }
        if let Some(locality) = &self.locality {
            backend = backend.locality(locality.clone());
        }
        Ok(backend
            .protocol(self.protocol.unwrap_or_default())
            .proxy_protocol(self.send_proxy_protocol.unwrap_or_default())
            .tier(self.tier.unwrap_or(0)))
    }
}

fn location(nth: usize, key: &str) -> Location<'_> {
    Location {
        header: "[[pool.backends]]",
        nth,
        key,
    }
}

/// As [`Routing::new`].
const SLOW_START_FROM: f64 = 0.1;
