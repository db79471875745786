//! `[access_log]`: one line for each request, and where the lines go.

mod opened;
mod output;
mod sample;
mod syslog;

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Settings, SettingsError,
    draft::Draft,
    error::Location,
    mistakes::can_write,
    value::{self, Value},
};
use crate::access_log::{AccessLogLayer, FieldNames, Format};

pub(super) use self::output::OutputPart;
pub use self::{
    opened::LogOutputs,
    output::{OutputSettings, RotateSettings},
    sample::SampleSettings,
    syslog::SyslogSettings,
};

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogSettings {
    /// Where the lines go: a path, or `stdout`. Needed unless there are `outputs`.
    #[serde(default, deserialize_with = "value::optional")]
    pub file: Option<AccessLogFile>,
    /// What the lines of `file` look like; JSON if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub format: Option<Format>,
    /// When `file` is begun again; never if absent.
    pub rotate: Option<RotateSettings>,
    /// Which lines `file` gets; all if absent.
    pub sample: Option<SampleSettings>,
    /// Outputs beside `file`, or instead of it. Each gets every line.
    #[serde(default)]
    pub outputs: Vec<OutputSettings>,
    /// The vocabulary of the fields' names; that of this crate if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub fields: Option<FieldNames>,
    /// The name of this instance in each line; none if absent.
    pub node: Option<String>,
    /// Whether backends get the request's id in `X-Request-Id`; true if absent.
    pub pass_request_id: Option<bool>,
    /// Whether the query of the target is logged, as the client sent it.
    #[serde(default)]
    pub query: bool,
    /// Whether the `Referer` field is logged.
    #[serde(default)]
    pub referer: bool,
    /// Whether the fingerprint of a client's certificate is logged.
    #[serde(default)]
    pub client_fingerprint: bool,
}

/// `file` of `[access_log]` and of its outputs
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

impl Value for Format {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_error| format!("{text:?}: \"json\", \"logfmt\" or \"combined\" is accepted"))
    }
}

impl Value for FieldNames {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "own" => Ok(Self::Own),
            "otel" => Ok(Self::OpenTelemetry),
            "ecs" => Ok(Self::Ecs),
            other => Err(format!(
                "{other:?}: \"own\", \"otel\" or \"ecs\" is accepted"
            )),
        }
    }
}

impl Settings {
    /// Opens the outputs of the access log. Returns them and the layer that writes to them; `None`
    /// without `[access_log]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be opened.
    pub fn access_log(&self) -> Result<Option<(LogOutputs, AccessLogLayer)>, SettingsError> {
        if self.access_log.is_none() {
            return Ok(None);
        }
        let outputs = LogOutputs::open(&self.parts.log_outputs, &self.draft)?;
        let layer = self.access_log_layer(&outputs);
        Ok(layer.map(|layer| (outputs, layer)))
    }

    /// Returns the access log layer on outputs that are open already; `None` without `[access_log]`.
    /// A reload needs it, because `[proxy] trusted` decides whose request ids are believed.
    #[must_use]
    pub fn access_log_layer(&self, outputs: &LogOutputs) -> Option<AccessLogLayer> {
        let log = self.access_log.as_ref()?;
        let mut layer = AccessLogLayer::new(outputs.clone())
            .field_names(log.fields.unwrap_or_default())
            .pass_request_id(log.pass_request_id.unwrap_or(true))
            .referer(log.referer)
            .client_fingerprint(log.client_fingerprint);
        if let Some(node) = &log.node {
            layer = layer.node(node);
        }
        if log.query {
            layer = layer.query(str::to_owned);
        }
        if !self.proxy.trusted.is_empty() {
            let trusted = self.proxy.trusted.clone();
            layer = layer.trust_request_id_from(move |peer| trusted.contains(peer));
        }
        Some(layer)
    }
}

impl Draft {
    /// Checks the outputs of the access log: that of `file` first.
    pub(super) fn log_outputs(&self) -> Result<Vec<OutputPart>, SettingsError> {
        let Some(log) = &self.sections.access_log else {
            return Ok(Vec::new());
        };
        let refused = |key, message: &str| {
            let location = Location::new("[access_log]", key);
            Err(location.wrong(&self.text, message))
        };
        let mut outputs = Vec::new();
        if let Some(file) = &log.file {
            let own = OutputSettings {
                file: Some(file.clone()),
                format: log.format,
                rotate: log.rotate.clone(),
                sample: log.sample.clone(),
                ..OutputSettings::default()
            };
            outputs.push(self.output(&own, None)?);
        } else if log.outputs.is_empty() {
            return refused("", "the key `file` is missing, or one or more `outputs`");
        }
        let of_file = [
            ("format", log.format.is_some()),
            ("rotate", log.rotate.is_some()),
            ("sample", log.sample.is_some()),
        ];
        for (key, is_given) in of_file {
            if is_given && log.file.is_none() {
                return refused(key, "for `file` only: each of the `outputs` has its own");
            }
        }
        for (nth, given) in log.outputs.iter().enumerate() {
            let output = self.output(given, Some(nth))?;
            let same = |other: &OutputPart| other.path().is_some() && other.path() == output.path();
            if outputs.iter().any(same) {
                let message = "another output writes to this file";
                return Err(self.output_error(Some(nth), "file", message));
            }
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// Returns the mistakes of the files that lines go to.
    pub(super) fn log_file_mistakes(&self) -> Vec<SettingsError> {
        let Some(log) = &self.sections.access_log else {
            return Vec::new();
        };
        let others = log.outputs.iter().enumerate();
        let others = others.map(|(nth, output)| (Some(nth), output.file.as_ref()));
        let mut found = Vec::new();
        for (nth, file) in [(None, log.file.as_ref())].into_iter().chain(others) {
            let Some(AccessLogFile::Path(path)) = file else {
                continue;
            };
            if let Err(error) = can_write(path) {
                found.push(self.output_error(nth, "file", format!("{path:?}: {error}")));
            }
        }
        found
    }

    /// Makes an error of a key of the nth of `outputs`, or of `[access_log]` itself.
    fn output_error(
        &self,
        nth: Option<usize>,
        key: &str,
        message: impl Into<String>,
    ) -> SettingsError {
        let mut lines = self.text.lines().map(str::trim_start);
        let has_headers = lines.any(|line| line.starts_with("[[access_log.outputs]]"));
        let location = match nth {
            Some(nth) if has_headers => Location {
                header: "[[access_log.outputs]]",
                nth,
                key,
            },
            Some(_) => Location::new("[access_log]", "outputs"),
            None => Location::new("[access_log]", key),
        };
        location.wrong(&self.text, message)
    }
}
