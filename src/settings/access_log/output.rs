//! `[[access_log.outputs]]`: one place that lines go to.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer};

use super::{
    AccessLogFile, SyslogSettings,
    sample::{NotOpen, SampleSettings},
};
use crate::{
    access_log::{Format, Lines, Output, Rotation, Sampled, Sink, Syslog},
    error::ConfigError,
    settings::{SettingsError, draft::Draft, value},
};

/// `[[access_log.outputs]]`: one of `file`, `syslog`, `tcp`, `udp` and `unix`, and how it gets lines
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutputSettings {
    /// A file, or the standard output.
    #[serde(default, deserialize_with = "value::optional")]
    pub file: Option<AccessLogFile>,
    /// A syslog server (RFC 5424).
    pub syslog: Option<SyslogSettings>,
    /// A TCP connection to this host and port; each line ends with a newline.
    #[serde(default, deserialize_with = "value::host_and_port")]
    pub tcp: Option<String>,
    /// Datagrams to this host and port.
    #[serde(default, deserialize_with = "value::host_and_port")]
    pub udp: Option<String>,
    /// Datagrams to this Unix socket.
    pub unix: Option<PathBuf>,
    /// What a line looks like; JSON if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub format: Option<Format>,
    /// When the file is begun again; never if absent.
    pub rotate: Option<RotateSettings>,
    /// Which lines the output gets; all if absent.
    pub sample: Option<SampleSettings>,
}

/// `rotate` of a file
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RotateSettings {
    /// The most bytes of a file; no limit if absent.
    #[serde(default, deserialize_with = "size")]
    pub size: Option<u64>,
    /// The time that a file is written to; no limit if absent.
    #[serde(default, deserialize_with = "every")]
    pub every: Option<Duration>,
    /// The files that are kept beside the current one; 7 if absent.
    #[serde(default, deserialize_with = "keep")]
    pub keep: Option<u32>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let bytes = value::size(deserializer)?;
    let checked = Rotation::new().size(bytes);
    value::check(checked)?;
    Ok(Some(bytes))
}

fn every<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let every = value::long_duration(deserializer)?;
    if let Some(every) = every {
        let checked = Rotation::new().every(every);
        value::check(checked)?;
    }
    Ok(every)
}

fn keep<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let files = u32::deserialize(deserializer)?;
    let checked = Rotation::new().keep(files);
    value::check(checked)?;
    Ok(Some(files))
}

impl RotateSettings {
    /// The values were checked when they were read.
    fn rotation(&self) -> Result<Rotation, ConfigError> {
        let mut rotation = Rotation::new();
        if let Some(bytes) = self.size {
            rotation = rotation.size(bytes)?;
        }
        if let Some(every) = self.every {
            rotation = rotation.every(every)?;
        }
        match self.keep {
            Some(files) => rotation.keep(files),
            None => Ok(rotation),
        }
    }
}

/// An output that was checked and is not open.
#[derive(Clone, Debug)]
pub(in crate::settings) struct OutputPart {
    /// Which of `outputs` it is; `None` for that of `file`.
    pub(super) nth: Option<usize>,
    destination: Destination,
    format: Format,
    sample: Option<Sampled<NotOpen>>,
}

#[derive(Clone, Debug)]
enum Destination {
    File(PathBuf, Option<Rotation>),
    Stdout,
    Syslog(Syslog),
    Tcp(String),
    Udp(String),
    Unix(PathBuf),
}

impl Draft {
    /// Checks an output.
    pub(super) fn output(
        &self,
        given: &OutputSettings,
        nth: Option<usize>,
    ) -> Result<OutputPart, SettingsError> {
        let refused = |key, message: &str| Err(self.output_error(nth, key, message));
        let places = [
            ("file", given.file.is_some()),
            ("syslog", given.syslog.is_some()),
            ("tcp", given.tcp.is_some()),
            ("udp", given.udp.is_some()),
            ("unix", given.unix.is_some()),
        ];
        let mut places = places.iter().filter(|(_, is_given)| *is_given);
        let Some((place, _)) = places.next() else {
            return refused("", &format!("the place is missing: {ONE_PLACE}"));
        };
        if let Some((second, _)) = places.next() {
            return refused(second, &format!("beside `{place}`: {ONE_PLACE}"));
        }
        let is_path = matches!(given.file, Some(AccessLogFile::Path(_)));
        if given.rotate.is_some() && !is_path {
            return refused("rotate", "for a `file` that is a path only");
        }
        let at = |error: ConfigError| self.output_error(nth, error.field(), error.message());
        let rotation = given.rotate.as_ref().map(RotateSettings::rotation);
        let rotation = rotation.transpose().map_err(at)?;
        let sampled = given.sample.as_ref().map(SampleSettings::sampled);
        let destination = match given.clone() {
            OutputSettings {
                syslog: Some(syslog),
                ..
            } => Destination::Syslog(self.syslog(&syslog, nth)?),
            OutputSettings {
                tcp: Some(address), ..
            } => Destination::Tcp(address),
            OutputSettings {
                udp: Some(address), ..
            } => Destination::Udp(address),
            OutputSettings {
                unix: Some(path), ..
            } => Destination::Unix(path),
            OutputSettings {
                file: Some(AccessLogFile::Path(path)),
                ..
            } => Destination::File(path, rotation),
            _ => Destination::Stdout,
        };
        Ok(OutputPart {
            nth,
            destination,
            format: given.format.unwrap_or_default(),
            sample: sampled.transpose().map_err(at)?,
        })
    }
}

impl OutputPart {
    /// Returns the file that the output writes to, and `stdout` for the standard output: two
    /// writers would mix their lines.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.destination {
            Destination::File(path, _) => Some(path),
            Destination::Stdout => Some(Path::new("stdout")),
            _ => None,
        }
    }

    /// Opens the output. Returns its lines, and the sink in front of them.
    pub(super) fn open(&self, draft: &Draft) -> Result<(Lines, Box<dyn Sink>), SettingsError> {
        let output = match self.destination.clone() {
            Destination::File(path, None) => Output::file(path),
            Destination::File(path, Some(rotation)) => Output::rotated_file(path, rotation),
            Destination::Stdout => Output::stdout(),
            Destination::Syslog(syslog) => Output::syslog(syslog),
            Destination::Tcp(address) => Output::tcp(address),
            Destination::Udp(address) => Output::udp(address),
            Destination::Unix(path) => Output::unix(path),
        };
        let lines = Lines::new(self.format, output).map_err(|error| {
            let (key, shown) = match &self.destination {
                Destination::File(path, _) => ("file", format!("{path:?}: ")),
                Destination::Stdout => ("file", "\"stdout\": ".to_owned()),
                Destination::Syslog(_) => ("syslog", String::new()),
                Destination::Tcp(address) => ("tcp", format!("{address:?}: ")),
                Destination::Udp(address) => ("udp", format!("{address:?}: ")),
                Destination::Unix(path) => ("unix", format!("{path:?}: ")),
            };
            draft.output_error(self.nth, key, format!("{shown}{error}"))
        })?;
        let sink: Box<dyn Sink> = match self.sample {
            Some(sampled) => Box::new(sampled.with_sink(lines.clone())),
            None => Box::new(lines.clone()),
        };
        Ok((lines, sink))
    }
}

const ONE_PLACE: &str = "one of `file`, `syslog`, `tcp`, `udp` and `unix` is accepted";
