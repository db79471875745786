//! `[failover]`: its structs, and the layer that is made of them.

use std::fmt;

use http::Method;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Settings, SettingsError, error::Location};
use crate::{
    error::ConfigError,
    failover::{self, FailoverLayer},
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
    pub per_try_timeout: Option<String>,
    /// The time for all attempts until the response head; no limit if absent.
    pub timeout: Option<String>,
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
    Switch(bool),
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

    fn visit_bool<E>(self, on: bool) -> Result<HedgeSettings, E> {
        Ok(HedgeSettings::Switch(on))
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
    pub after: Option<String>,
    /// The shortest wait that a percentile comes to; 50 ms if absent.
    pub at_least: Option<String>,
    /// The longest wait that a percentile comes to; 2 s if absent.
    pub at_most: Option<String>,
    /// The methods that are hedged, idempotent ones only; GET and HEAD if absent.
    pub methods: Option<Vec<String>>,
}

/// `[failover] backoff`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The bound of the first wait; 25 ms if absent.
    pub base: Option<String>,
    /// The bound of all waits; 250 ms if absent.
    pub max: Option<String>,
    /// The longest `Retry-After` of a backend that is waited for; 1 s if absent.
    pub retry_after: Option<String>,
}

impl Settings {
    /// Returns the failover layer; without `[failover]`, a layer that makes no second attempt. With
    /// the section, GET and HEAD are hedged unless it has `hedge = false`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Settings::from_toml) has checked.
    pub fn failover_layer(&self) -> Result<FailoverLayer, SettingsError> {
        let layer = FailoverLayer::new();
        let Some(given) = &self.failover else {
            let location = Location::new("[failover]", "attempts");
            return layer
                .max_attempts(1)
                .map_err(|error| self.at(location, &error));
        };
        self.failover_given(layer, given)
    }

    fn failover_given(
        &self,
        mut layer: FailoverLayer,
        given: &FailoverSettings,
    ) -> Result<FailoverLayer, SettingsError> {
        let location = |key| Location::new("[failover]", key);
        let at = |key| move |error: ConfigError| self.at(location(key), &error);
        if let Some(attempts) = given.attempts {
            layer = layer.max_attempts(attempts).map_err(at("attempts"))?;
        }
        match &given.hedge {
            None => layer = layer.hedge(failover::Hedge::new()),
            Some(HedgeSettings::Switch(false)) => {}
            Some(HedgeSettings::Switch(true)) => {
                let message =
                    "true: false, or { after = \"p95\", at_least = \"50ms\" } is accepted";
                return Err(location("hedge").wrong(&self.text, message));
            }
            Some(HedgeSettings::Rule(when)) => layer = layer.hedge(self.hedge(when)?),
        }
        let per_try = given.per_try_timeout.as_deref();
        if let Some(timeout) = self.duration(location("per_try_timeout"), per_try)? {
            layer = layer
                .per_try_timeout(timeout)
                .map_err(at("per_try_timeout"))?;
        }
        if let Some(timeout) = self.duration(location("timeout"), given.timeout.as_deref())? {
            layer = layer.timeout(timeout).map_err(at("timeout"))?;
        }
        if let Some(statuses) = &given.retry_statuses {
            let statuses = statuses.iter().copied();
            layer = layer
                .retry_statuses(statuses)
                .map_err(at("retry_statuses"))?;
        }
        Ok(layer.backoff(self.backoff(given)?))
    }

    fn hedge(&self, when: &HedgeRuleSettings) -> Result<failover::Hedge, SettingsError> {
        let location = Location::new("[failover]", "hedge");
        let at = |error: ConfigError| {
            let field = error.field();
            let key = field.rsplit_once('.').map_or(field, |(_, key)| key);
            location.wrong(&self.text, format!("{key}: {}", error.message()))
        };
        let duration = |value: Option<&str>| self.duration(location, value);
        let mut hedge = failover::Hedge::new();
        if let Some(after) = &when.after {
            hedge = match after.strip_prefix('p').map(str::parse) {
                Some(Ok(percentile)) => hedge.percentile(percentile).map_err(at)?,
                Some(Err(_)) => {
                    let message = format!(
                        "after: {after:?}: \"p50\" to \"p99\", or a duration such as \"80ms\", is accepted"
                    );
                    return Err(location.wrong(&self.text, message));
                }
                None => match duration(Some(after))? {
                    Some(delay) => hedge.after(delay).map_err(at)?,
                    None => hedge,
                },
            };
        }
        if let Some(delay) = duration(when.at_least.as_deref())? {
            hedge = hedge.at_least(delay).map_err(at)?;
        }
        if let Some(delay) = duration(when.at_most.as_deref())? {
            hedge = hedge.at_most(delay).map_err(at)?;
        }
        if let Some(names) = &when.methods {
            let methods = names.iter().map(|name| {
                Method::from_bytes(name.as_bytes()).map_err(|_error| {
                    location.wrong(&self.text, format!("methods: {name:?} is no method"))
                })
            });
            let methods = methods.collect::<Result<Vec<_>, _>>()?;
            hedge = hedge.methods(methods).map_err(at)?;
        }
        Ok(hedge)
    }

    fn backoff(&self, given: &FailoverSettings) -> Result<failover::Backoff, SettingsError> {
        let location = Location::new("[failover]", "backoff");
        let mut backoff = failover::Backoff::new();
        let Some(given) = &given.backoff else {
            return Ok(backoff);
        };
        let at = |error: ConfigError| self.at(location, &error);
        let base = self.duration(location, given.base.as_deref())?;
        let max = self.duration(location, given.max.as_deref())?;
        if base.is_some() || max.is_some() {
            let base = base.unwrap_or(failover::Backoff::BASE);
            // A base above the default bound raises the bound.
            let max = max.unwrap_or_else(|| failover::Backoff::MAX.max(base));
            backoff = backoff.exponential(base, max).map_err(at)?;
        }
        if let Some(most) = self.duration(location, given.retry_after.as_deref())? {
            backoff = backoff.retry_after(most).map_err(at)?;
        }
        Ok(backoff)
    }
}
