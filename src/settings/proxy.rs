//! `[proxy]`: forwarding, and whose word about the client counts.

use std::time::Duration;

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::{
    connect::Connector,
    context::TrustedPeers,
    error::ConfigError,
    forwarded::{ClientField, ForwardedLayer},
    proxy::Proxy,
};

/// `[proxy]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxySettings {
    /// The time to connect to a backend, TLS included; 2 s if absent.
    pub connect_timeout: Option<String>,
    /// The time from the whole request to the response head; 15 s if absent.
    pub response_timeout: Option<String>,
    /// The time for which a side may be silent, and an idle connection is kept; 60 s if absent.
    pub idle_timeout: Option<String>,
    /// The largest age of a connection to a backend; no limit if absent.
    pub max_connection_age: Option<String>,
    /// The peers whose `X-Forwarded-*` fields are believed; none if absent.
    pub trusted: Option<Vec<String>>,
    /// The field in which trusted peers name the client: `x-forwarded-for` or `forwarded`;
    /// `x-forwarded-for` if absent.
    pub client_field: Option<String>,
}

impl Settings {
    /// Returns the proxy.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn proxy(&self) -> Result<Proxy, SettingsError> {
        let given = &self.proxy;
        let location = |key| Location::new("[proxy]", key);
        let at = |error: ConfigError| self.at(Location::new("[proxy]", error.field()), &error);
        let mut proxy = Proxy::new().connector(self.connector()?);
        let response = given.response_timeout.as_deref();
        if let Some(timeout) = self.duration(location("response_timeout"), response)? {
            proxy = proxy.response_timeout(timeout).map_err(at)?;
        }
        if let Some(timeout) =
            self.duration(location("idle_timeout"), given.idle_timeout.as_deref())?
        {
            proxy = proxy.idle_timeout(timeout).map_err(at)?;
        }
        let age = given.max_connection_age.as_deref();
        if let Some(age) = self.duration(location("max_connection_age"), age)? {
            proxy = proxy.max_connection_age(age).map_err(at)?;
        }
        Ok(proxy.trusted_peers(self.trusted_peers()?))
    }

    /// Returns the layer that finds the address of the client behind `[proxy] trusted`.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Self::from_toml) has checked.
    pub fn forwarded_layer(&self) -> Result<ForwardedLayer, SettingsError> {
        let location = Location::new("[proxy]", "client_field");
        let field = match self.proxy.client_field.as_deref() {
            None | Some("x-forwarded-for") => ClientField::XForwardedFor,
            Some("forwarded") => ClientField::Forwarded,
            Some(other) => {
                let message = format!("{other:?}: x-forwarded-for or forwarded is accepted");
                return Err(location.wrong(&self.text, message));
            }
        };
        let trusted = self.trusted_peers()?;
        if trusted.is_empty() && self.proxy.client_field.is_some() {
            let message = "it is read from trusted peers only; name them in trusted";
            return Err(location.wrong(&self.text, message));
        }
        Ok(ForwardedLayer::new(trusted).field(field))
    }

    pub(super) fn trusted_peers(&self) -> Result<TrustedPeers, SettingsError> {
        let trusted = self.proxy.trusted.iter().flatten();
        TrustedPeers::new(trusted)
            .map_err(|error| self.at(Location::new("[proxy]", error.field()), &error))
    }

    pub(super) fn connector(&self) -> Result<Connector, SettingsError> {
        let location = Location::new("[proxy]", "connect_timeout");
        let mut connector = Connector::new();
        // A backend that acknowledges nothing for the idle time is given up like a silent one.
        let idle_location = Location::new("[proxy]", "idle_timeout");
        let idle = self.proxy.idle_timeout.as_deref();
        if let Some(idle) = self.duration(idle_location, idle)? {
            connector = connector
                .tcp_user_timeout(idle.clamp(MIN_USER_TIMEOUT, MAX_USER_TIMEOUT))
                .map_err(|error| self.at(idle_location, &error))?;
        }
        match self.duration(location, self.proxy.connect_timeout.as_deref())? {
            Some(timeout) => connector
                .timeout(timeout)
                .map_err(|error| self.at(location, &error)),
            None => Ok(connector),
        }
    }
}

/// The least user time-out, for any idle time-out: a backend whose packets are lost four times in a
/// row has not vanished yet.
const MIN_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that [`Connector::tcp_user_timeout`] accepts.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(3_600);
