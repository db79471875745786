//! `[pool] strategy`: how a backend is chosen.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::{
    Settings, SettingsError,
    draft::Draft,
    error::Location,
    value::{self, Value},
};
use crate::{
    balance::{
        ConsistentHash, HashKey, LeastRequests, PeakEwma, PowerOfTwo, Random, RoundRobin, Strategy,
    },
    error::ConfigError,
};

/// `[pool] strategy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StrategySettings {
    /// `"consistent-hash"`: [`ConsistentHash`].
    ConsistentHash,
    /// `"least-requests"`: [`LeastRequests`].
    LeastRequests,
    /// `"peak-ewma"`: [`PeakEwma`].
    PeakEwma,
    /// `"power-of-two"`: [`PowerOfTwo`].
    PowerOfTwo,
    /// `"random"`: [`Random`].
    Random,
    /// `"round-robin"`: [`RoundRobin`].
    #[default]
    RoundRobin,
}

/// Makes the strategy with its parameters, attached to no pool yet.
pub(super) type StrategyMaker = Arc<dyn Fn() -> Box<dyn Strategy> + Send + Sync>;

impl Value for StrategySettings {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "round-robin" => Self::RoundRobin,
            "random" => Self::Random,
            "least-requests" => Self::LeastRequests,
            "power-of-two" => Self::PowerOfTwo,
            "peak-ewma" => Self::PeakEwma,
            "consistent-hash" => Self::ConsistentHash,
            other => return Err(format!("{other:?}: {STRATEGIES}")),
        })
    }
}

/// Reads `hash`: a word, or a table with one key.
pub(super) fn hash_key<'de, D>(deserializer: D) -> Result<Option<HashKey>, D::Error>
where
    D: Deserializer<'de>,
{
    let given = toml::Value::deserialize(deserializer)?;
    let table = given.as_table().filter(|table| table.len() == 1);
    let named = |kind: &str| table.and_then(|table| table.get(kind)?.as_str());
    let key = match given.as_str() {
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
    key.map(Some).ok_or_else(|| value::refused(HASH_KEYS))
}

impl Settings {
    /// Returns the strategy; round robin by default.
    #[must_use]
    pub fn strategy(&self) -> Box<dyn Strategy> {
        (self.parts.strategy)()
    }
}

impl Draft {
    pub(super) fn strategy(&self) -> Result<StrategyMaker, SettingsError> {
        let pool = &self.sections.pool;
        let maker = match pool.strategy.unwrap_or_default() {
            StrategySettings::ConsistentHash => {
                let strategy = self.consistent_hash()?;
                return Ok(maker(move || strategy.clone()));
            }
            StrategySettings::LeastRequests => maker(LeastRequests::new),
            StrategySettings::PeakEwma => maker(PeakEwma::new),
            StrategySettings::PowerOfTwo => maker(PowerOfTwo::new),
            StrategySettings::Random => maker(Random::new),
            StrategySettings::RoundRobin => maker(RoundRobin::new),
        };
        for (key, is_given) in [
            ("hash", pool.hash.is_some()),
            ("load_factor", pool.load_factor.is_some()),
            ("affinity_floor", pool.affinity_floor.is_some()),
        ] {
            if is_given {
                let message = "for strategy = \"consistent-hash\" only; leave it out";
                return Err(Location::new("[pool]", key).wrong(&self.text, message));
            }
        }
        Ok(maker)
    }

    fn consistent_hash(&self) -> Result<ConsistentHash, SettingsError> {
        let pool = &self.sections.pool;
        let at = |error: ConfigError| self.at(Location::new("[pool]", error.field()), &error);
        let Some(key) = pool.hash.clone() else {
            return Err(Location::new("[pool]", "strategy").wrong(&self.text, HASH_KEYS));
        };
        let mut strategy = ConsistentHash::new(key);
        if let Some(factor) = pool.load_factor {
            strategy = strategy.load_factor(factor).map_err(at)?;
        }
        if let Some(floor) = pool.affinity_floor {
            strategy = strategy.affinity_floor(floor).map_err(at)?;
        }
        Ok(strategy)
    }
}

fn maker<S: Strategy>(new: impl Fn() -> S + Send + Sync + 'static) -> StrategyMaker {
    Arc::new(move || Box::new(new()))
}

const STRATEGIES: &str =
    "round-robin, random, least-requests, power-of-two, peak-ewma or consistent-hash is accepted";
const HASH_KEYS: &str = "consistent-hash needs hash = \"path\", \"client\", { header = \"name\" } or { cookie = \"name\" }";
