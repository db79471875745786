//! `syslog` of `[[access_log.outputs]]`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::{
    access_log::{Facility, Syslog},
    error::ConfigError,
    settings::{
        SettingsError,
        draft::Draft,
        value::{self, Value},
    },
};

/// `syslog` of `[[access_log.outputs]]`: one of `unix`, `udp` and `tcp`, and the head of a message
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SyslogSettings {
    /// Datagrams to this Unix socket, such as `/dev/log`.
    pub unix: Option<PathBuf>,
    /// Datagrams to this host and port.
    #[serde(default, deserialize_with = "value::host_and_port")]
    pub udp: Option<String>,
    /// A TCP connection to this host and port, with octet counting (RFC 6587).
    #[serde(default, deserialize_with = "value::host_and_port")]
    pub tcp: Option<String>,
    /// The part of a system that the messages come from; `local0` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub facility: Option<Facility>,
    /// The name of the program in each message; `evenkeel` if absent.
    #[serde(default, deserialize_with = "app_name")]
    pub app_name: Option<String>,
    /// Whether `@cee: ` stands before the line, as rsyslog's `mmjsonparse` wants it.
    #[serde(default)]
    pub cee: bool,
}

impl Value for Facility {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: ConfigError| format!("facility: {}", error.message()))
    }
}

fn app_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let checked = Syslog::unix("").app_name(&name);
    value::check(checked)?;
    Ok(Some(name))
}

impl Draft {
    pub(super) fn syslog(
        &self,
        given: &SyslogSettings,
        nth: Option<usize>,
    ) -> Result<Syslog, SettingsError> {
        let refused = |message: &str| self.output_error(nth, "syslog", message);
        let syslog = match (&given.unix, &given.udp, &given.tcp) {
            (Some(path), None, None) => Syslog::unix(path),
            (None, Some(address), None) => Syslog::udp(address),
            (None, None, Some(address)) => Syslog::tcp(address),
            (None, None, None) => {
                return Err(refused(&format!("the address is missing: {ONE_ADDRESS}")));
            }
            _ => return Err(refused(ONE_ADDRESS)),
        };
        let mut syslog = syslog.cee(given.cee);
        if let Some(facility) = given.facility {
            syslog = syslog.facility(facility);
        }
        match &given.app_name {
            Some(name) => syslog
                .app_name(name)
                .map_err(|error| refused(error.message())),
            None => Ok(syslog),
        }
    }
}

const ONE_ADDRESS: &str = "one of `unix`, `udp` and `tcp` is accepted";
