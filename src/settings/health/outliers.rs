//! `[health.outliers]`: when live traffic takes a backend out.

use std::{ops::RangeInclusive, time::Duration};

use serde::Deserialize;

use crate::{
    health::{self, HealthLayer, Outliers},
    settings::{SettingsError, draft::Draft, error::Location, value},
};

/// `[health.outliers]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutlierSettings {
    /// Whether live traffic is judged; true if absent.
    pub enabled: Option<bool>,
    /// The failures in a row that eject; 5 if absent.
    pub consecutive: Option<u32>,
    /// The share of failures within the window that ejects; 0.5 if absent, 0 for never.
    pub failure_rate: Option<f64>,
    /// The number of requests below which no share and no median counts; 20 if absent.
    pub volume: Option<u32>,
    /// The time over which shares and latencies are counted; 10 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub window: Option<Duration>,
    /// The multiple of the others' median latency that ejects; never if absent.
    pub slower_than: Option<f64>,
    /// The statuses that are failures: numbers, and ranges such as `"500-599"`; 502 to 504 if absent.
    #[serde(default, deserialize_with = "value::statuses")]
    pub statuses: Option<Vec<RangeInclusive<u16>>>,
    /// Whether a response may eject its backend; true if absent.
    pub immediate_fail: Option<bool>,
    /// The length of the first ejection; 30 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub ejection: Option<Duration>,
    /// The longest ejection; 300 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub max_ejection: Option<Duration>,
    /// The share of the pool that may be ejected; 0.5 if absent.
    pub max_share: Option<f64>,
}

impl Draft {
    pub(super) fn outliers(
        &self,
        given: &OutlierSettings,
        layer: HealthLayer,
    ) -> Result<HealthLayer, SettingsError> {
        if given.enabled == Some(false) {
            return Ok(layer.no_outliers());
        }
        layer.outliers(given.rules()).map_err(|error| {
            let key = error.field().rsplit('.').next().unwrap_or_default();
            self.at(self.outlier_location(key), &error)
        })
    }

    /// Returns the location of a key: in a table of its own, or in one line of `[health]`.
    fn outlier_location<'a>(&self, key: &'a str) -> Location<'a> {
        let is_table = self
            .text
            .lines()
            .any(|line| line.trim_start().starts_with("[health.outliers]"));
        match is_table {
            true => Location::new("[health.outliers]", key),
            false => Location::new("[health]", "outliers"),
        }
    }
}

impl OutlierSettings {
    fn rules(&self) -> Outliers {
        let mut rules = Outliers::new();
        if let Some(failures) = self.consecutive {
            rules = rules.consecutive(failures);
        }
        match self.failure_rate {
            Some(0.0) => rules = rules.no_failure_rate(),
            Some(share) => rules = rules.failure_rate(share),
            None => {}
        }
        if let Some(requests) = self.volume {
            rules = rules.volume(requests);
        }
        if let Some(factor) = self.slower_than {
            rules = rules.slower_than(factor);
        }
        if let Some(window) = self.window {
            rules = rules.window(window);
        }
        if let Some(statuses) = &self.statuses {
            rules = rules.statuses(statuses.clone());
        }
        if let Some(honoured) = self.immediate_fail {
            rules = rules.immediate_fail(honoured);
        }
        if self.ejection.is_some() || self.max_ejection.is_some() {
            let first = self.ejection.unwrap_or(health::EJECTION);
            // A first ejection above the default bound raises the bound.
            let most = self.max_ejection;
            let most = most.unwrap_or_else(|| health::MAX_EJECTION.max(first));
            rules = rules.ejection(first, most);
        }
        match self.max_share {
            Some(share) => rules.max_share(share),
            None => rules,
        }
    }
}
