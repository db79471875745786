//! `[access_log]`: one line for each request.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Settings, SettingsError,
    error::Location,
    value::{self, Value},
};
use crate::access_log::{AccessLogLayer, Lines};

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogSettings {
    /// Where the lines go: a path, or `stdout`.
    #[serde(deserialize_with = "value::required")]
    pub file: AccessLogFile,
    /// The name of this instance in each line; none if absent.
    pub node: Option<String>,
    /// Whether backends get the request's id in `X-Request-Id`; true if absent.
    pub pass_request_id: Option<bool>,
}

/// `[access_log] file`
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessLogFile {
    /// A path: lines are appended to this file.
    Path(PathBuf),
    /// `"stdout"`: the standard output of the process.
    Stdout,
}

impl Value for AccessLogFile {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "stdout" => Self::Stdout,
            path => Self::Path(path.into()),
        })
    }
}

impl Settings {
    /// Opens the access log. Returns the sink and its layer; `None` without `[access_log]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened.
    pub fn access_log(&self) -> Result<Option<(Lines, AccessLogLayer)>, SettingsError> {
        let Some(log) = &self.access_log else {
            return Ok(None);
        };
        let (sink, shown) = match &log.file {
            AccessLogFile::Stdout => (Lines::stdout(), "\"stdout\"".to_owned()),
            AccessLogFile::Path(path) => (Lines::file(path), format!("{path:?}")),
        };
        let sink = sink.map_err(|error| {
            let location = Location::new("[access_log]", "file");
            location.wrong(&self.draft.text, format!("{shown}: {error}"))
        })?;
        let layer = self.access_log_layer(sink.clone());
        Ok(layer.map(|layer| (sink, layer)))
    }

    /// Returns the access log layer on a sink that is open already; `None` without `[access_log]`.
    /// A reload needs it, because `[proxy] trusted` decides whose request ids are believed.
    #[must_use]
    pub fn access_log_layer(&self, sink: Lines) -> Option<AccessLogLayer> {
        let log = self.access_log.as_ref()?;
        let mut layer = AccessLogLayer::new(sink);
        if let Some(node) = &log.node {
            layer = layer.node(node);
        }
        if log.pass_request_id.unwrap_or(true) {
            layer = layer.pass_request_id(true);
        }
        if !self.proxy.trusted.is_empty() {
            let trusted = self.proxy.trusted.clone();
            layer = layer.trust_request_id_from(move |peer| trusted.contains(peer));
        }
        Some(layer)
    }
}
