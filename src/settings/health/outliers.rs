//! `[health.outliers]`: when live traffic takes a backend out.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    health::{self, HealthLayer},
    settings::{Settings, SettingsError, error::Location},
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
    pub window: Option<String>,
    /// The multiple of the others' median latency that ejects; never if absent.
    pub slower_than: Option<f64>,
    /// The statuses that are failures: numbers, and ranges such as `"500-599"`; 502 to 504 if absent.
    pub(super) statuses: Option<Vec<toml::Value>>,
    /// Whether a response may eject its backend; true if absent.
    pub immediate_fail: Option<bool>,
    /// The length of the first ejection; 30 s if absent.
    pub ejection: Option<String>,
    /// The longest ejection; 300 s if absent.
    pub max_ejection: Option<String>,
    /// The share of the pool that may be ejected; 0.5 if absent.
    pub max_share: Option<f64>,
}

impl Settings {
    pub(super) fn outliers(
        &self,
        given: &OutlierSettings,
        layer: HealthLayer,
    ) -> Result<HealthLayer, SettingsError> {
        if given.enabled == Some(false) {
            return Ok(layer.no_outliers());
        }
        let mut rules = health::Outliers::new();
        if let Some(failures) = given.consecutive {
            rules = rules.consecutive(failures);
        }
        match given.failure_rate {
            Some(0.0) => rules = rules.no_failure_rate(),
            Some(share) => rules = rules.failure_rate(share),
            None => {}
        }
        if let Some(requests) = given.volume {
            rules = rules.volume(requests);
        }
        if let Some(factor) = given.slower_than {
            rules = rules.slower_than(factor);
        }
        if let Some(window) = self.outlier_duration("window", given.window.as_deref())? {
            rules = rules.window(window);
        }
        if let Some(statuses) = &given.statuses {
            rules = rules.statuses(self.ranges(self.outlier_location("statuses"), statuses)?);
        }
        if let Some(honoured) = given.immediate_fail {
            rules = rules.immediate_fail(honoured);
        }
        let first = self.outlier_duration("ejection", given.ejection.as_deref())?;
        let most = self.outlier_duration("max_ejection", given.max_ejection.as_deref())?;
        if first.is_some() || most.is_some() {
            let first = first.unwrap_or(health::EJECTION);
            rules = rules.ejection(
                first,
                most.unwrap_or_else(|| health::MAX_EJECTION.max(first)),
            );
        }
        if let Some(share) = given.max_share {
            rules = rules.max_share(share);
        }
        layer.outliers(rules).map_err(|error| {
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

    fn outlier_duration(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Result<Option<Duration>, SettingsError> {
        self.duration(self.outlier_location(key), value)
    }
}
