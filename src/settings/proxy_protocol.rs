//! `[[listen]] proxy_protocol`: its structs, and the layer that is made of them.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use super::value;
#[cfg(feature = "proxy-protocol")]
use super::{ListenSettings, Settings, SettingsError, draft::Draft, listen::location};
use crate::context::TrustedPeers;
#[cfg(feature = "proxy-protocol")]
use crate::{error::ConfigError, proxy_protocol::ProxyProtocolLayer};

/// `[[listen]] proxy_protocol`
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum ProxyProtocolSettings {
    /// `false`: no header is read.
    #[default]
    Off,
    /// Headers of these peers are read.
    From(ProxyProtocolRule),
}

impl<'de> Deserialize<'de> for ProxyProtocolSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProxyProtocolVisitor)
    }
}

struct ProxyProtocolVisitor;

impl<'de> Visitor<'de> for ProxyProtocolVisitor {
    type Value = ProxyProtocolSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or { trusted = [\"10.0.0.0/8\"] }")
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<ProxyProtocolSettings, E> {
        match on {
            true => Err(E::invalid_value(Unexpected::Bool(true), &self)),
            false => Ok(ProxyProtocolSettings::Off),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ProxyProtocolSettings, A::Error> {
        if cfg!(not(feature = "proxy-protocol")) {
            return Err(value::refused("built without the feature `proxy-protocol`"));
        }
        let rule = ProxyProtocolRule::deserialize(MapAccessDeserializer::new(map));
        rule.map(ProxyProtocolSettings::From)
    }
}

/// `[[listen]] proxy_protocol` as a table
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxyProtocolRule {
    /// The balancers in front: the peers whose header counts.
    #[serde(deserialize_with = "value::trusted_peers")]
    pub trusted: TrustedPeers,
    /// Whether these peers have to send a header; true if absent.
    pub required: Option<bool>,
    /// The time from accept to the whole header; 5 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub timeout: Option<Duration>,
    /// Whether the header of peers over Unix sockets counts as well; false if absent.
    #[serde(default)]
    pub trust_unix: bool,
    /// The largest length of a version 2 header in bytes; 512 if absent.
    pub max_length: Option<usize>,
}

#[cfg(feature = "proxy-protocol")]
impl Settings {
    /// Returns the layer that reads the PROXY protocol on the nth listener. It is
    /// [off](ProxyProtocolLayer::off) without `proxy_protocol`, and if there is no such listener.
    pub fn proxy_protocol(&self, nth: usize) -> ProxyProtocolLayer {
        let layers = &self.parts.proxy_protocol;
        layers
            .get(nth)
            .cloned()
            .unwrap_or_else(ProxyProtocolLayer::off)
    }
}

#[cfg(feature = "proxy-protocol")]
impl Draft {
    pub(super) fn proxy_protocol(&self) -> Result<Vec<ProxyProtocolLayer>, SettingsError> {
        let listeners = self.sections.listen.iter().enumerate();
        let layers = listeners.map(|(nth, listen)| {
            layer(listen).map_err(|error| {
                let message = format!("{}: {}", error.field(), error.message());
                location(nth, "proxy_protocol").wrong(&self.text, message)
            })
        });
        layers.collect()
    }
}

#[cfg(feature = "proxy-protocol")]
fn layer(listen: &ListenSettings) -> Result<ProxyProtocolLayer, ConfigError> {
    let ProxyProtocolSettings::From(rule) = &listen.proxy_protocol else {
        return Ok(ProxyProtocolLayer::off());
    };
    if rule.trusted.is_empty() && !rule.trust_unix {
        let message = "[]: 1 or more addresses or networks are accepted";
        return Err(ConfigError::new("trusted", message));
    }
    let layer = ProxyProtocolLayer::new(rule.trusted.clone());
    let mut layer = layer.trust_unix(rule.trust_unix);
    if let Some(required) = rule.required {
        layer = layer.required(required);
    }
    if let Some(timeout) = rule.timeout {
        layer = layer.timeout(timeout)?;
    }
    match rule.max_length {
        Some(bytes) => layer.max_length(bytes),
        None => Ok(layer),
    }
}
