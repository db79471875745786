//! `sample` of an output: which lines it gets.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::{
    access_log::{Entry, Sampled, Sink},
    error::ConfigError,
    settings::value,
};

/// `sample` of an output
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SampleSettings {
    /// The share of the lines of usual requests that is kept; all if absent.
    #[serde(default, deserialize_with = "ratio")]
    pub ratio: Option<f64>,
    /// The time from which on a request's line is always kept; 1 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub slow: Option<Duration>,
}

fn ratio<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let ratio = f64::deserialize(deserializer)?;
    let checked = Sampled::new(NotOpen).ratio(ratio);
    value::check(checked)?;
    Ok(Some(ratio))
}

impl SampleSettings {
    /// The values were checked when they were read.
    pub(super) fn sampled(&self) -> Result<Sampled<NotOpen>, ConfigError> {
        let mut sampled = Sampled::new(NotOpen);
        if let Some(slow) = self.slow {
            sampled = sampled.slow(slow);
        }
        match self.ratio {
            Some(ratio) => sampled.ratio(ratio),
            None => Ok(sampled),
        }
    }
}

/// Stands for the sink of an output until it is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotOpen;

impl Sink for NotOpen {
    fn enabled(&self) -> bool {
        false
    }

    fn record(&self, _entry: &Entry<'_>) {}
}
