//! `[access_log]`: one line for each request.

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogSettings {
    /// A path, or `stdout`.
    pub file: String,
    /// The name of this instance in each line; none if absent.
    pub node: Option<String>,
    /// Whether backends get the request's id in `X-Request-Id`; true if absent.
    pub pass_request_id: Option<bool>,
}

impl Settings {
    /// Opens the access log. Returns the sink and its layer; `None` without `[access_log]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be opened.
    pub fn access_log(
        &self,
    ) -> Result<
        Option<(
            crate::access_log::JsonLines,
            crate::access_log::AccessLogLayer,
        )>,
        SettingsError,
    > {
        use crate::access_log::JsonLines;
        let Some(log) = &self.access_log else {
            return Ok(None);
        };
        let sink = match log.file.as_str() {
            "stdout" => JsonLines::stdout(),
            path => JsonLines::file(path),
        };
        let sink = sink.map_err(|error| {
            let location = Location::new("[access_log]", "file");
            location.wrong(&self.text, format!("{:?}: {error}", log.file))
        })?;
        let layer = self.access_log_layer(sink.clone())?;
        Ok(layer.map(|layer| (sink, layer)))
    }

    /// Returns the access log layer on a sink that is open already; `None` without `[access_log]`.
    /// A reload needs it, because `[proxy] trusted` decides whose request ids are believed.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn access_log_layer(
        &self,
        sink: crate::access_log::JsonLines,
    ) -> Result<Option<crate::access_log::AccessLogLayer>, SettingsError> {
        let Some(log) = &self.access_log else {
            return Ok(None);
        };
        let mut layer = crate::access_log::AccessLogLayer::new(sink);
        if let Some(node) = &log.node {
            layer = layer.node(node);
        }
        if log.pass_request_id.unwrap_or(true) {
            layer = layer.pass_request_id(true);
        }
        let trusted = self.trusted_peers()?;
        if !trusted.is_empty() {
            layer = layer.trust_request_id_from(move |peer| trusted.contains(peer));
        }
        Ok(Some(layer))
    }
}
