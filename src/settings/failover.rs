//! `[failover]`: its structs, and the layer that is made of them.

use std::{fmt, time::Duration};

use http::Method;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use super::{
    Settings, SettingsError,
    draft::Draft,
    error::Location,
    value::{self, Value},
};
use crate::{
    error::ConfigError,
    failover::{Backoff, Budget, FailoverLayer, Hedge},
};

/// `[failover]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FailoverSettings {
    /// The attempts in all, hedges included; 2 if absent.
    pub attempts: Option<u32>,
    /// When a second attempt begins beside the first; after the 95th percentile if absent.
    pub hedge: Option<HedgeSettings>,
    /// The time for one attempt until its response head; no limit if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub per_try_timeout: Option<Duration>,
    /// The time for all attempts until the response head; no limit if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub timeout: Option<Duration>,
    /// The statuses that are tried again; none if absent.
    pub retry_statuses: Option<Vec<u16>>,
    /// The waits from the third attempt on.
    pub backoff: Option<BackoffSettings>,
}

/// `[failover] hedge`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HedgeSettings {
    /// `false`: no hedging.
    Off,
    /// Hedging after a percentile or a time.
    Rule(HedgeRuleSettings),
}

impl<'de> Deserialize<'de> for HedgeSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HedgeVisitor)
    }
}

struct HedgeVisitor;

impl<'de> Visitor<'de> for HedgeVisitor {
    type Value = HedgeSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or { after = \"p95\", at_least = \"50ms\" }")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<HedgeSettings, E> {
        match on {
            true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
            false => Ok(HedgeSettings::Off),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HedgeSettings, A::Error> {
        HedgeRuleSettings::deserialize(MapAccessDeserializer::new(map)).map(HedgeSettings::Rule)
    }
}

/// `[failover] hedge` as a table
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgeRuleSettings {
    /// `p50` to `p99`, or a duration; `p95` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub after: Option<HedgeAfter>,
    /// The shortest wait that a percentile comes to; 50 ms if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub at_least: Option<Duration>,
    /// The longest wait that a percentile comes to; 2 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub at_most: Option<Duration>,
    /// The methods that are hedged, idempotent ones only; GET and HEAD if absent.
    #[serde(default, deserialize_with = "methods")]
    pub methods: Option<Vec<Method>>,
}

/// `[failover] backoff`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The bound of the first wait; 25 ms if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub base: Option<Duration>,
    /// The bound of all waits; 250 ms if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub max: Option<Duration>,
    /// The longest `Retry-After` of a backend that is waited for; 1 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub retry_after: Option<Duration>,
}

/// `[failover] hedge.after`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HedgeAfter {
    /// `"p50"` to `"p99"`: this percentile of the pool's own latency.
    Percentile(u8),
    /// A fixed time.
    Time(Duration),
}

impl Value for HedgeAfter {
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix('p').map(str::parse) {
            Some(Ok(percentile)) => Ok(Self::Percentile(percentile)),
            Some(Err(_)) => Err(format!(
                "after: {text:?}: \"p50\" to \"p99\", or a duration such as \"80ms\", is accepted"
            )),
            None => Duration::parse(text).map(Self::Time),
        }
    }
}

fn methods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Method>>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let methods = names.iter().map(|name| {
        Method::from_bytes(name.as_bytes())
            .map_err(|_error| value::refused(format!("methods: {name:?} is no method")))
    });
    methods.collect::<Result<_, _>>().map(Some)
}

/// The layer, and its hedge apart: a layer that gets a hedge measures latencies of its own.
#[derive(Clone)]
pub(super) struct FailoverParts {
    layer: FailoverLayer,
    hedge: Option<Hedge>,
}

impl Settings {
    /// Returns the failover layer; without `[failover]`, a layer that makes no second attempt. With
    /// the section, GET and HEAD are hedged unless it has `hedge = false`. Each call makes a layer
    /// with a budget of its own.
    pub fn failover_layer(&self) -> FailoverLayer {
        let FailoverParts { layer, hedge } = self.parts.failover.clone();
        let layer = layer.budget(Budget::default());
        match hedge {
            Some(hedge) => layer.hedge(hedge),
            None => layer,
        }
    }
}

impl Draft {
    pub(super) fn failover(&self) -> Result<FailoverParts, SettingsError> {
        let at = |key| move |error| self.at(Location::new("[failover]", key), &error);
        let mut layer = FailoverLayer::new();
        let Some(given) = &self.sections.failover else {
            layer = layer.max_attempts(1).map_err(at("attempts"))?;
            return Ok(FailoverParts { layer, hedge: None });
        };
        if let Some(attempts) = given.attempts {
            layer = layer.max_attempts(attempts).map_err(at("attempts"))?;
        }
        let hedge = match &given.hedge {
            None => Some(Hedge::new()),
            Some(HedgeSettings::Off) => None,
            Some(HedgeSettings::Rule(rule)) => Some(rule.hedge().map_err(|error| {
                let field = error.field();
                let key = field.rsplit_once('.').map_or(field, |(_, key)| key);
                let message = format!("{key}: {}", error.message());
                Location::new("[failover]", "hedge").wrong(&self.text, message)
            })?),
        };
        if let Some(timeout) = given.per_try_timeout {
            let made = layer.per_try_timeout(timeout);
            layer = made.map_err(at("per_try_timeout"))?;
        }
        if let Some(timeout) = given.timeout {
            layer = layer.timeout(timeout).map_err(at("timeout"))?;
        }
        if let Some(statuses) = &given.retry_statuses {
            let made = layer.retry_statuses(statuses.iter().copied());
            layer = made.map_err(at("retry_statuses"))?;
        }
        if let Some(backoff) = &given.backoff {
            layer = layer.backoff(backoff.backoff().map_err(at("backoff"))?);
        }
        Ok(FailoverParts { layer, hedge })
    }
}

impl HedgeRuleSettings {
    fn hedge(&self) -> Result<Hedge, ConfigError> {
        let mut hedge = match self.after {
            None => Hedge::new(),
            Some(HedgeAfter::Percentile(percentile)) => Hedge::new().percentile(percentile)?,
            Some(HedgeAfter::Time(delay)) => Hedge::new().after(delay)?,
        };
        if let Some(delay) = self.at_least {
            hedge = hedge.at_least(delay)?;
        }
        if let Some(delay) = self.at_most {
            hedge = hedge.at_most(delay)?;
        }
        match &self.methods {
            Some(methods) => hedge.methods(methods.iter().cloned()),
            None => Ok(hedge),
        }
    }
}

impl BackoffSettings {
    fn backoff(&self) -> Result<Backoff, ConfigError> {
        let mut backoff = Backoff::new();
        if self.base.is_some() || self.max.is_some() {
            let base = self.base.unwrap_or(Backoff::BASE);
            // A base above the default bound raises the bound.
            let max = self.max.unwrap_or_else(|| Backoff::MAX.max(base));
            backoff = backoff.exponential(base, max)?;
        }
        match self.retry_after {
            Some(most) => backoff.retry_after(most),
            None => Ok(backoff),
        }
    }
}
