//! [`Format`]: what a line looks like.

use std::str::FromStr;

use crate::error::ConfigError;

/// What a line looks like; for [`Lines`](super::Lines).
///
/// | format | a line |
/// |---|---|
/// | [`Json`](Self::Json) | `{"time":"2025-01-31T12:00:00.000Z","client":"192.0.2.9",…,"outcome":"ok"}` |
/// | [`Logfmt`](Self::Logfmt) | `time=2025-01-31T12:00:00.000Z client=192.0.2.9 … outcome=ok` |
/// | [`Combined`](Self::Combined) | `192.0.2.9 - ada [31/Jan/2025:12:00:00 +0000] "GET /cart HTTP/1.1" 200 5 "-" "curl/8.5"` |
///
/// No format lets a client begin a line or a field: what the client sent is escaped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON object a line, with the fields that the [module](super::super) lists.
    #[default]
    Json,
    /// `key=value` pairs with the names and values of the JSON. A value stands in quotes, with the
    /// escapes of JSON, unless it consists of visible ASCII characters other than `=`, `"` and `\`.
    /// A list is its JSON in quotes. The thread of the log turns JSON into logfmt, so that a line
    /// costs a request what JSON does.
    Logfmt,
    /// The combined log format of Apache and nginx, for tools that read it. It has no place for most
    /// fields: the backend, the times and the outcome are not in it.
    ///
    /// `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`. As nginx does, it writes `"`, `\`
    /// and every byte that is not printable ASCII as `\xHH`, and a missing value as `-`; the
    /// user's name has no space or bracket either. The time is the request's arrival in UTC. A
    /// request without a response has the status `-`. The query and the referer are in it if the
    /// layer [logs](crate::access_log::AccessLogLayer::query)
    /// [them](crate::access_log::AccessLogLayer::referer).
    ///
    /// A line costs clones of the request's fields, as a [`Sink`](super::super::Sink) of one's own
    /// does.
    Combined,
}

impl FromStr for Format {
    type Err = ConfigError;

    /// Reads `json`, `logfmt` or `combined`.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        match name {
            "json" => Ok(Self::Json),
            "logfmt" => Ok(Self::Logfmt),
            "combined" => Ok(Self::Combined),
            _ => Err(ConfigError::new(
                "format",
                format!("{name:?} is none of json, logfmt, combined"),
            )),
        }
    }
}
