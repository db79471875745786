//! `[trace]`: traces that are continued or begun.

use serde::Deserialize;

use super::{Settings, SettingsError, draft::Draft, error::Location, value};
use crate::{context::TrustedPeers, trace::TraceLayer};

/// `[trace]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TraceSettings {
    /// The senders whose traces are continued; every sender's if absent.
    #[serde(default, deserialize_with = "value::some_trusted_peers")]
    pub trusted: Option<TrustedPeers>,
    /// The share of the traces begun here that is sampled; 1.0 if absent.
    pub sampling_ratio: Option<f64>,
}

impl Settings {
    /// Returns the layer of traces; `None` without `[trace]`.
    #[must_use]
    pub fn trace_layer(&self) -> Option<TraceLayer> {
        self.parts.trace.clone()
    }
}

impl Draft {
    pub(super) fn trace_layer(&self) -> Result<Option<TraceLayer>, SettingsError> {
        let Some(trace) = &self.sections.trace else {
            return Ok(None);
        };
        let mut layer = TraceLayer::new();
        if let Some(trusted) = &trace.trusted {
            layer = layer.trusted_peers(trusted.clone());
        }
        if let Some(ratio) = trace.sampling_ratio {
            layer = layer
                .sampling_ratio(ratio)
                .map_err(|error| self.at(Location::new("[trace]", error.field()), &error))?;
        }
        Ok(Some(layer))
    }
}
