//! `[pool] strategy`: how a backend is chosen.

use super::{Settings, SettingsError, error::Location};
use crate::{
    balance::{
        ConsistentHash, HashKey, LeastRequests, PeakEwma, PowerOfTwo, Random, RoundRobin, Strategy,
    },
    error::ConfigError,
};

impl Settings {
    /// Returns the strategy; round robin by default.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn strategy(&self) -> Result<Box<dyn Strategy>, SettingsError> {
        let name = self.pool.strategy.as_deref().unwrap_or("round-robin");
        let strategy: Box<dyn Strategy> = match name {
            "round-robin" => Box::new(RoundRobin::new()),
            "random" => Box::new(Random::new()),
            "least-requests" => Box::new(LeastRequests::new()),
            "power-of-two" => Box::new(PowerOfTwo::new()),
            "peak-ewma" => Box::new(PeakEwma::new()),
            "consistent-hash" => return Ok(Box::new(self.consistent_hash()?)),
            other => {
                let location = Location::new("[pool]", "strategy");
                let message = format!("{other:?}: {STRATEGIES}");
                return Err(location.wrong(&self.text, message));
            }
        };
        for (key, is_given) in [
            ("hash", self.pool.hash.is_some()),
            ("load_factor", self.pool.load_factor.is_some()),
            ("affinity_floor", self.pool.affinity_floor.is_some()),
        ] {
            if is_given {
                let message = "for strategy = \"consistent-hash\" only; leave it out";
                return Err(Location::new("[pool]", key).wrong(&self.text, message));
            }
        }
        Ok(strategy)
    }

    fn consistent_hash(&self) -> Result<ConsistentHash, SettingsError> {
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let mut strategy = ConsistentHash::new(self.hash_key()?);
        if let Some(factor) = self.pool.load_factor {
            strategy = strategy.load_factor(factor).map_err(at)?;
        }
        if let Some(floor) = self.pool.affinity_floor {
            strategy = strategy.affinity_floor(floor).map_err(at)?;
        }
        Ok(strategy)
    }

    fn hash_key(&self) -> Result<HashKey, SettingsError> {
        let location = Location::new("[pool]", "hash");
        let given = self.pool.hash.as_ref();
        let table = given.and_then(toml::Value::as_table);
        let named = |kind: &str| {
            let table = table.filter(|table| table.len() == 1);
            table.and_then(|table| table.get(kind)?.as_str())
        };
        let key = match given.and_then(toml::Value::as_str) {
            Some("path") => Some(HashKey::Path),
            Some("client") => Some(HashKey::Client),
            Some(_) => None,
            None => {
                let header = named("header").and_then(|name| name.parse().ok());
                let cookie = named("cookie").filter(|name| !name.is_empty());
                header
                    .map(HashKey::Header)
                    .or_else(|| cookie.map(|name| HashKey::Cookie(name.to_owned())))
            }
        };
        key.ok_or_else(|| match given {
            Some(_) => location.wrong(&self.text, HASH_KEYS),
            None => Location::new("[pool]", "strategy").wrong(&self.text, HASH_KEYS),
        })
    }
}

const STRATEGIES: &str =
    "round-robin, random, least-requests, power-of-two, peak-ewma or consistent-hash is accepted";
const HASH_KEYS: &str = "consistent-hash needs hash = \"path\", \"client\", { header = \"name\" } or { cookie = \"name\" }";
