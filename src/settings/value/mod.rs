//! The values of keys. Each is parsed once, while serde reads the text, so that what follows works
//! on durations and addresses and not on their texts.
//!
//! How a refusal travels: a value is refused inside serde, which knows the position and nothing of our
//! messages. [`refused`] marks the message, serde carries it to `toml`, which adds the span, and
//! `parser_messages` finds the mark ([`refusal`]) and makes it an error with line, section and key.
//! The mark never reaches a reader.
//!
//! A value is parsed here only as far as its text goes; whether it fits is asked of the module that
//! uses it, whose setter knows the range. So no range stands in two places.

mod duration;
mod size;
mod statuses;

use std::{collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroUsize, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Deserializer, de::Error};

use crate::{
    connect::ProxyVersion,
    context::TrustedPeers,
    error::ConfigError,
    forwarded::ClientField,
    pool::{Locality, Protocol, ProxyProtocol},
    proxy::ClientCertFields,
    sticky::Keys,
};

pub(super) use statuses::optional as statuses;

/// A value that is written as a text in quotes.
pub(super) trait Value: Sized {
    /// Returns the value of a text, or the message for a text that is refused: the text, and what is
    /// accepted.
    fn parse(text: &str) -> Result<Self, String>;
}

/// Reads a key that may be absent. Such a field needs `default`, too.
pub(super) fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    required(deserializer).map(Some)
}

/// Reads a key that must be there.
///
/// # Errors
///
/// The text is read as a `String` first: a number without quotes is a mistake of type, which serde
/// reports.
pub(super) fn required<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Value,
{
    T::parse(&String::deserialize(deserializer)?).map_err(refused)
}

/// Reads the number of worker threads.
pub(super) fn threads<'de, D>(deserializer: D) -> Result<Option<NonZeroUsize>, D::Error>
where
    D: Deserializer<'de>,
{
    let number = usize::deserialize(deserializer)?;
    match NonZeroUsize::new(number).filter(|threads| threads.get() <= MOST_THREADS) {
        Some(threads) => Ok(Some(threads)),
        None => Err(refused(format!(
            "{number}: 1 to {MOST_THREADS} is accepted"
        ))),
    }
}

/// Reads a duration that may have days and years.
pub(super) fn long_duration<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    duration::parse_long(&text).map(Some).map_err(refused)
}

/// Reads a number of bytes with its unit.
pub(super) fn size<'de, D>(deserializer: D) -> Result<u64, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    size::parse(&text).map_err(refused)
}

/// Reads a host and a port. The host is resolved when it is connected to.
pub(super) fn host_and_port<'de, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let parts = text.rsplit_once(':');
    let is_accepted = parts.is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && !host.contains(['/', ' ']);
        // A bare IPv6 address would take its last group for the port.
        let is_address = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
        is_host && is_address && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    match is_accepted {
        true => Ok(Some(text)),
        false => Err(refused(format!(
            "{text:?}: a host and a port is accepted, as in \"collector.example:514\" or \"[::1]:514\""
        ))),
    }
}

/// Reads a table of header fields.
pub(super) fn header_fields<'de, D>(deserializer: D) -> Result<HeaderMap, D::Error>
where
    D: Deserializer<'de>,
{
    let given = BTreeMap::<String, String>::deserialize(deserializer)?;
    let mut fields = HeaderMap::with_capacity(given.len());
    for (name, value) in given {
        // Sorted by name, as the table is read into a map: the same file makes the same requests.
        let name = HeaderName::parse(&name).map_err(refused)?;
        fields.append(name, HeaderValue::parse(&value).map_err(refused)?);
    }
    Ok(fields)
}

/// Reads a list of addresses and networks.
pub(super) fn trusted_peers<'de, D>(deserializer: D) -> Result<TrustedPeers, D::Error>
where
    D: Deserializer<'de>,
{
    let networks = Vec::<String>::deserialize(deserializer)?;
    TrustedPeers::new(networks).map_err(|error| refused(error.message()))
}

/// Reads the same where an absent list differs from an empty one.
pub(super) fn some_trusted_peers<'de, D>(deserializer: D) -> Result<Option<TrustedPeers>, D::Error>
where
    D: Deserializer<'de>,
{
    trusted_peers(deserializer).map(Some)
}

/// Reads the keys of sticky cookies. No message shows them.
pub(super) fn keys<'de, D>(deserializer: D) -> Result<Keys, D::Error>
where
    D: Deserializer<'de>,
{
    let keys = Vec::<String>::deserialize(deserializer)?;
    Keys::from_hex(keys).map_err(|error| refused(error.message()))
}

/// Makes the error of a value that a module refused; the message names its key.
///
/// For values that a module checks as a group while serde reads their table: the mistake is then found
/// with the position of that table.
pub(super) fn check<T, E: Error>(made: Result<T, ConfigError>) -> Result<(), E> {
    match made {
        Ok(_) => Ok(()),
        Err(error) => Err(refused(format_args!(
            "{}: {}",
            error.field(),
            error.message()
        ))),
    }
}

/// Makes the error of a value that is of the right type and not accepted.
pub(super) fn refused<E: Error>(message: impl fmt::Display) -> E {
    E::custom(format_args!("{MARK}{message}"))
}

/// Returns the message of [`refused`] if this is one.
pub(super) fn refusal(message: &str) -> Option<&str> {
    message.strip_prefix(MARK)
}

/// Returns true if a text is a duration.
pub(super) fn is_duration(text: &str) -> bool {
    Duration::parse(text).is_ok()
}

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, String> {
        duration::parse(text)
    }
}

impl Value for SocketAddr {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_error| {
            format!(
                "{text:?}: an IP address and a port is accepted, as in \"127.0.0.1:8080\" or \
                 \"[::]:443\""
            )
        })
    }
}

impl Value for Locality {
    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.message().to_owned())
    }
}

impl Value for Protocol {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "http1" => Ok(Self::Http1),
            "http2" => Ok(Self::Http2),
            other => Err(format!("{other:?}: auto, http1 or http2 is accepted")),
        }
    }
}

impl Value for ProxyVersion {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            other => Err(format!("{other:?}: v1 or v2 is accepted")),
        }
    }
}

impl Value for ProxyProtocol {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            other => Err(format!("{other:?}: v1, v2 or off is accepted")),
        }
    }
}

impl Value for ClientField {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            other => Err(format!(
                "{other:?}: x-forwarded-for or forwarded is accepted"
            )),
        }
    }
}

impl Value for ClientCertFields {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "leaf" => Ok(Self::Leaf),
            "chain" => Ok(Self::Chain),
            other => Err(format!("{other:?}: none, leaf or chain is accepted")),
        }
    }
}

impl Value for Method {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_error| format!("{text:?}: a method such as \"GET\" is accepted"))
    }
}

impl Value for HeaderName {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_error| format!("{text:?}: the name of a header field is accepted"))
    }
}

impl Value for HeaderValue {
    /// The message does not show the text, because a header field may hold a secret.
    fn parse(text: &str) -> Result<Self, String> {
        let accepted = "a value of a header field is accepted: visible characters";
        Self::from_str(text).map_err(|_error| accepted.into())
    }
}

#[cfg(feature = "__tls")]
impl Value for crate::tls::TlsVersion {
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: ConfigError| error.message().to_owned())
    }
}

/// More threads than any machine has cores: a larger number is a mistake.
const MOST_THREADS: usize = 1_024;
/// What tells these messages from those of serde and of the TOML parser, which have no codes.
const MARK: &str = "invalid setting: ";
