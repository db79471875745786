//! `[[listen]]`: the addresses that clients connect to.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use serde::Deserialize;

use super::{Settings, SettingsError, TlsSettings, error::Location};
use crate::endpoints::{EndpointsLayer, Readiness};
#[cfg(feature = "server")]
use crate::server::Http;

/// `[[listen]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ListenSettings {
    /// The address and port.
    pub address: String,
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
    /// The time that a request and its whole response may take; no limit if absent. See
    /// [`request_timeout`](Settings::request_timeout).
    pub request_timeout: Option<String>,
    /// Reserved: the PROXY protocol is not supported yet, and only `false` is accepted.
    pub(super) proxy_protocol: Option<toml::Value>,
    /// `[listen.tls]`: TLS termination; cleartext if absent.
    pub tls: Option<TlsSettings>,
}

impl Settings {
    pub(super) fn check_listen(&self) -> Result<(), SettingsError> {
        if self.listen.is_empty() {
            return Err(SettingsError::new(
                None,
                "[[listen]]",
                "1 or more is needed",
            ));
        }
        let mut seen = HashSet::new();
        if let Some(admin) = &self.admin {
            seen.insert(admin.address);
        }
        for (nth, listen) in self.listen.iter().enumerate() {
            let location = |key| Location {
                header: "[[listen]]",
                nth,
                key,
            };
            let address = self.listen_address(nth)?;
            if address.port() != 0 && !seen.insert(address) {
                let message = format!("{address}: another listener has this address");
                return Err(location("address").wrong(&self.text, message));
            }
            if !matches!(
                &listen.proxy_protocol,
                None | Some(toml::Value::Boolean(false))
            ) {
                let message = "not in this version yet; leave it out, or say false";
                return Err(location("proxy_protocol").wrong(&self.text, message));
            }
            #[cfg(feature = "server")]
            if let Some(rate) = listen.min_rate {
                let checked = Http::new(()).min_rate(rate);
                checked
                    .map(drop)
                    .map_err(|error| self.at(location("min_rate"), &error))?;
            }
            self.request_timeout(nth)?;
            self.check_tls(nth)?;
        }
        Ok(())
    }

    /// Returns the address of the nth listener, counted from 0.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no such listener, or its address is not an IP address with a
    /// port; [`from_toml`](Self::from_toml) has checked the latter.
    pub fn listen_address(&self, nth: usize) -> Result<SocketAddr, SettingsError> {
        let Some(listen) = self.listen.get(nth) else {
            let message = format!("no listener {nth}; there are {}", self.listen.len());
            return Err(SettingsError::new(None, "[[listen]]", message));
        };
        let address = &listen.address;
        address.parse().map_err(|_error| {
            let location = Location { header: "[[listen]]", nth, key: "address" };
            let message = format!("{address:?}: an IP address and a port is accepted, as in \"127.0.0.1:8080\" or \"[::]:443\"");
            location.wrong(&self.text, message)
        })
    }

    /// Returns the time that a request on the nth listener and its whole response may take; `None`
    /// for no limit, and if there is no such listener.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no duration, or outside of 10 ms to 24 h, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn request_timeout(&self, nth: usize) -> Result<Option<Duration>, SettingsError> {
        let location = || Location {
            header: "[[listen]]",
            nth,
            key: "request_timeout",
        };
        let listen = self.listen.get(nth);
        let value = listen.and_then(|listen| listen.request_timeout.as_deref());
        let timeout = self.duration(location(), value)?;
        #[cfg(feature = "server")]
        if let Some(timeout) = timeout {
            let checked = Http::new(()).request_timeout(timeout);
            checked
                .map(drop)
                .map_err(|error| self.at(location(), &error))?;
        }
        Ok(timeout)
    }

    /// Returns the layer that answers `live` and `ready` on the nth listener; `None` if the listener
    /// has neither path, or does not exist.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn endpoints_layer(
        &self,
        nth: usize,
        readiness: &Readiness,
    ) -> Result<Option<EndpointsLayer>, SettingsError> {
        let Some(listen) = self.listen.get(nth) else {
            return Ok(None);
        };
        let location = |key| Location {
            header: "[[listen]]",
            nth,
            key,
        };
        let mut layer = EndpointsLayer::new(readiness.clone()).no_live().no_ready();
        if let Some(path) = &listen.live {
            let made = layer.live_path(path);
            layer = made.map_err(|error| self.at(location("live"), &error))?;
        }
        if let Some(path) = &listen.ready {
            if listen.live.as_ref() == Some(path) {
                let message = format!("{path:?}: it is the path of `live`");
                return Err(location("ready").wrong(&self.text, message));
            }
            let made = layer.ready_path(path);
            layer = made.map_err(|error| self.at(location("ready"), &error))?;
        }
        Ok((listen.live.is_some() || listen.ready.is_some()).then_some(layer))
    }
}
