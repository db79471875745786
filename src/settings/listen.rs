//! `[[listen]]`: the addresses that clients connect to.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::{
    Settings, SettingsError, draft::Draft, error::Location, proxy_protocol::ProxyProtocolSettings,
    tls, value,
};
use crate::endpoints::{EndpointsLayer, Readiness};

/// `[[listen]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ListenSettings {
    /// The address and port.
    #[serde(deserialize_with = "value::required")]
    pub address: SocketAddr,
    /// The path that answers whether this instance can route; none if absent.
    pub ready: Option<String>,
    /// The path that answers while this process serves; none if absent.
    pub live: Option<String>,
    /// Lets an HTTP/1.1 client that ended its side of the connection still get its response; off if
    /// absent.
    #[serde(default)]
    pub half_close: bool,
    /// Accepts a Host field without a value in HTTP/1.1; off if absent.
    #[serde(default)]
    pub allow_empty_host: bool,
    /// Accepts UTF-8 that is not percent-encoded in an HTTP/1.1 target; off if absent.
    #[serde(default)]
    pub allow_raw_target: bool,
    /// The bytes a second that a client must move while the server waits for it; 240 if absent, 0
    /// for no limit.
    pub min_rate: Option<u32>,
    /// The time that a request and its whole response may take; no limit if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub request_timeout: Option<Duration>,
    /// The connections of clients that are open at once; 10,000 for each worker thread if absent.
    pub max_connections: Option<usize>,
    /// The balancers in front that name the client in a PROXY protocol header; no header is read if
    /// absent.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocolSettings,
    /// `[listen.tls]`: TLS termination; cleartext if absent.
    #[serde(default, deserialize_with = "tls::section")]
    pub tls: Option<tls::TlsSettings>,
}

impl Settings {
    /// Returns the layer that answers `live` and `ready` on the nth listener; `None` if the listener
    /// has neither path, or does not exist.
    #[must_use]
    pub fn endpoints_layer(&self, nth: usize, readiness: &Readiness) -> Option<EndpointsLayer> {
        let layer = self.parts.endpoints.get(nth)?.clone()?;
        Some(layer.readiness(readiness.clone()))
    }
}

impl Draft {
    pub(super) fn check_listeners(&self) -> Result<(), SettingsError> {
        if self.sections.listen.is_empty() {
            return Err(SettingsError::new(
                None,
                "[[listen]]",
                "1 or more is needed",
            ));
        }
        let mut seen = HashSet::new();
        seen.extend(self.sections.admin.as_ref().map(|admin| admin.address));
        for (nth, listen) in self.sections.listen.iter().enumerate() {
            let address = listen.address;
            if address.port() != 0 && !seen.insert(address) {
                let message = format!("{address}: another listener has this address");
                return Err(location(nth, "address").wrong(&self.text, message));
            }
            #[cfg(feature = "server")]
            self.check_http(nth, listen)?;
            #[cfg(feature = "__tls")]
            self.check_tls(nth)?;
            #[cfg(feature = "__acme")]
            self.check_acme(nth)?;
        }
        Ok(())
    }

    #[cfg(feature = "server")]
    fn check_http(&self, nth: usize, listen: &ListenSettings) -> Result<(), SettingsError> {
        let at = |key| move |error| self.at(location(nth, key), &error);
        if let Some(max) = listen.max_connections {
            crate::server::connection_limit::check(max).map_err(at("max_connections"))?;
        }
        let mut http = crate::server::Http::new(());
        if let Some(rate) = listen.min_rate {
            http = http.min_rate(rate).map_err(at("min_rate"))?;
        }
        if let Some(timeout) = listen.request_timeout {
            http = http
                .request_timeout(timeout)
                .map_err(at("request_timeout"))?;
        }
        drop(http);
        Ok(())
    }

    pub(super) fn endpoints_layer(
        &self,
        nth: usize,
        readiness: &Readiness,
    ) -> Result<Option<EndpointsLayer>, SettingsError> {
        let Some(listen) = self.sections.listen.get(nth) else {
            return Ok(None);
        };
        let mut layer = EndpointsLayer::new(readiness.clone()).no_live().no_ready();
        if let Some(path) = &listen.live {
            let made = layer.live_path(path);
            layer = made.map_err(|error| self.at(location(nth, "live"), &error))?;
        }
        if let Some(path) = &listen.ready {
            if listen.live.as_ref() == Some(path) {
                let message = format!("{path:?}: it is the path of `live`");
                return Err(location(nth, "ready").wrong(&self.text, message));
            }
            let made = layer.ready_path(path);
            layer = made.map_err(|error| self.at(location(nth, "ready"), &error))?;
        }
        Ok((listen.live.is_some() || listen.ready.is_some()).then_some(layer))
    }
}

pub(super) fn location(nth: usize, key: &str) -> Location<'_> {
    Location {
        header: "[[listen]]",
        nth,
        key,
    }
}
