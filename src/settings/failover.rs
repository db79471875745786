//! `[failover]`: the layer that is made of it.

use http::Method;

use super::{
    Settings, SettingsError,
    error::Location,
    model::{FailoverSettings, HedgeRuleSettings, HedgeSettings},
};
use crate::{
    error::ConfigError,
    failover::{self, FailoverLayer},
};

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
