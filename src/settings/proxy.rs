//! `[proxy]`: forwarding, and whose word about the client counts.

use std::time::Duration;

use serde::Deserialize;

use super::{Settings, SettingsError, draft::Draft, error::Location, proxy_tls, value};
use crate::{
    connect::{Connector, ProxyVersion},
    context::TrustedPeers,
    error::ConfigError,
    forwarded::{ClientField, ForwardedLayer},
    pool::Protocol,
    proxy::{ClientCertFields, Proxy},
};

/// `[proxy]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ProxySettings {
    /// The time to connect to a backend, TLS included; 2 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub connect_timeout: Option<Duration>,
    /// The time from the whole request to the response head; 15 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub response_timeout: Option<Duration>,
    /// The time for which a side may be silent, and an idle connection is kept; 60 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub idle_timeout: Option<Duration>,
    /// The largest age of a connection to a backend; no limit if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub max_connection_age: Option<Duration>,
    /// The peers whose `X-Forwarded-*` fields are believed; none if absent.
    #[serde(default, deserialize_with = "value::trusted_peers")]
    pub trusted: TrustedPeers,
    /// The field in which trusted peers name the client: `x-forwarded-for` or `forwarded`;
    /// `x-forwarded-for` if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub client_field: Option<ClientField>,
    /// The version of the PROXY protocol header that backends get, `v1` or `v2`; none if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub send_proxy_protocol: Option<ProxyVersion>,
    /// The fields that give backends the certificate of the client: `none`, `leaf` or `chain`; none if
    /// absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub client_cert_fields: Option<ClientCertFields>,
    /// `[proxy.tls]`: TLS to backends.
    #[serde(default, deserialize_with = "proxy_tls::section")]
    pub tls: proxy_tls::ProxyTlsSettings,
}

impl Settings {
    /// Returns the proxy. Each call makes one that shares no connections with the others.
    pub fn proxy(&self) -> Proxy {
        let connector = self.parts.connector.clone();
        // Each proxy resumes the TLS sessions of its own connections only.
        #[cfg(feature = "__tls")]
        let connector = connector.tls(self.parts.client_tls.with_own_sessions());
        self.parts.proxy.clone().connector(connector)
    }

    /// Returns the layer that finds the address of the client behind `[proxy] trusted`.
    pub fn forwarded_layer(&self) -> ForwardedLayer {
        self.parts.forwarded.clone()
    }
}

impl Draft {
    pub(super) fn proxy(&self, connector: &Connector) -> Result<Proxy, SettingsError> {
        let given = &self.sections.proxy;
        let at = |error: ConfigError| self.at(Location::new("[proxy]", error.field()), &error);
        let mut proxy = Proxy::new().connector(connector.clone());
        if let Some(timeout) = given.response_timeout {
            proxy = proxy.response_timeout(timeout).map_err(at)?;
        }
        if let Some(timeout) = given.idle_timeout {
            proxy = proxy.idle_timeout(timeout).map_err(at)?;
        }
        if let Some(age) = given.max_connection_age {
            proxy = proxy.max_connection_age(age).map_err(at)?;
        }
        let fields = given.client_cert_fields.unwrap_or_default();
        let proxy = proxy.client_cert_fields(fields);
        Ok(proxy.trusted_peers(given.trusted.clone()))
    }

    pub(super) fn forwarded_layer(&self) -> Result<ForwardedLayer, SettingsError> {
        let given = &self.sections.proxy;
        if given.trusted.is_empty() && given.client_field.is_some() {
            let message = "it is read from trusted peers only; name them in trusted";
            return Err(Location::new("[proxy]", "client_field").wrong(&self.text, message));
        }
        let field = given.client_field.unwrap_or_default();
        Ok(ForwardedLayer::new(given.trusted.clone()).field(field))
    }

    /// With the PROXY protocol, a connection to a backend is for one client.
    fn check_protocols(&self) -> Result<(), SettingsError> {
        let mut backends = self.sections.pool.backends.iter();
        let shared = backends.find(|backend| {
            // One with a setting of its own is checked with its section.
            backend.protocol == Some(Protocol::Http2) && backend.send_proxy_protocol.is_none()
        });
        let Some(shared) = shared else {
            return Ok(());
        };
        let id = &shared.id;
        let message =
            format!("the backend {id:?} has protocol = \"http2\", whose connections clients share");
        Err(Location::new("[proxy]", "send_proxy_protocol").wrong(&self.text, message))
    }

    pub(super) fn connector(&self) -> Result<Connector, SettingsError> {
        let given = &self.sections.proxy;
        let at = |key| move |error| self.at(Location::new("[proxy]", key), &error);
        let mut connector = Connector::new();
        if let Some(version) = given.send_proxy_protocol {
            self.check_protocols()?;
            connector = connector.proxy_protocol(version);
        }
        // A backend that acknowledges nothing for the idle time is given up like a silent one.
        if let Some(idle) = given.idle_timeout {
            connector = connector
                .tcp_user_timeout(idle.clamp(MIN_USER_TIMEOUT, MAX_USER_TIMEOUT))
                .map_err(at("idle_timeout"))?;
        }
        #[cfg(feature = "__tls")]
        {
            connector = connector.tls(self.client_tls()?);
        }
        match given.connect_timeout {
            Some(timeout) => connector.timeout(timeout).map_err(at("connect_timeout")),
            None => Ok(connector),
        }
    }
}

/// The least user time-out, for any idle time-out: a backend whose packets are lost four times in a
/// row has not vanished yet.
const MIN_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that [`Connector::tcp_user_timeout`] accepts.
const MAX_USER_TIMEOUT: Duration = Duration::from_secs(3_600);
