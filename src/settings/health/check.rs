//! The check that `[health]` describes: of HTTP, TCP or gRPC.

use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::HealthSettings;
use crate::{
    connect::TargetOverride,
    error::ConfigError,
    health::{self, Checks, HttpCheck, TcpCheck},
    pool::Scheme,
    settings::{Settings, SettingsError, error::Location},
};

/// `[health] identity`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentitySettings {
    /// The name of the field.
    pub header: String,
    /// The value of the field; the backend's id if absent.
    pub value: Option<String>,
}

impl Settings {
    pub(super) fn http_check(&self, health: &HealthSettings) -> Result<HttpCheck, SettingsError> {
        let at = |error: ConfigError| self.at_health(&error);
        let location = |key| Location::new("[health]", key);
        let mut check = HttpCheck::new()
            .connector(self.connector()?)
            .elsewhere(self.elsewhere(health)?);
        if let Some(path) = &health.path {
            check = check.path(path).map_err(at)?;
        }
        if let Some(method) = &health.method {
            let parsed = method.parse::<Method>().map_err(|_error| {
                let message = format!("{method:?}: a method such as \"GET\" is accepted");
                location("method").wrong(&self.text, message)
            })?;
            check = check.method(parsed);
        }
        if let Some(host) = &health.host {
            check = check.host(host).map_err(at)?;
        }
        for (name, value) in &health.headers {
            let name = self.header_name("headers", name)?;
            let value = self.header_value("headers", value)?;
            check = check
                .header(name, value)
                .map_err(|error| self.at(location("headers"), &error))?;
        }
        if let Some(statuses) = &health.statuses {
            let ranges = self.ranges(location("statuses"), statuses)?;
            check = check
                .healthy(ranges)
                .map_err(|error| self.at(location("statuses"), &error))?;
        }
        if let Some(statuses) = &health.draining_statuses {
            let ranges = self.ranges(location("draining_statuses"), statuses)?;
            check = check
                .draining(ranges)
                .map_err(|error| self.at(location("draining_statuses"), &error))?;
        }
        if let Some(text) = &health.body_contains {
            check = check.body_contains(text.as_bytes());
        }
        if let Some(identity) = &health.identity {
            let name = self.header_name("identity", &identity.header)?;
            check = match &identity.value {
                Some(value) => check.identity(name, self.header_value("identity", value)?),
                None => check.identity_by_id(name),
            };
        }
        Ok(match health.pooled {
            Some(true) => check.pooled(),
            _ => check,
        })
    }

    pub(super) fn tcp_check(&self, health: &HealthSettings) -> Result<TcpCheck, SettingsError> {
        let mut check = TcpCheck::new()
            .connector(self.connector()?)
            .elsewhere(self.elsewhere(health)?);
        if let Some(text) = &health.send {
            check = check.send(text.as_bytes());
        }
        if let Some(text) = &health.expect {
            check = check.expect(text.as_bytes());
        }
        Ok(check)
    }

    #[cfg(all(feature = "proxy", feature = "http2"))]
    pub(super) fn grpc_checks(&self, health: &HealthSettings) -> Result<Checks, SettingsError> {
        let at = |error: ConfigError| self.at_health(&error);
        let mut check = health::GrpcCheck::new()
            .connector(self.connector()?)
            .elsewhere(self.elsewhere(health)?);
        if let Some(service) = &health.service {
            check = check.service(service).map_err(at)?;
        }
        if let Some(host) = &health.host {
            check = check.host(host).map_err(at)?;
        }
        if health.pooled == Some(true) {
            check = check.pooled();
        }
        Ok(Checks::new().with_check(check))
    }

    #[cfg(not(all(feature = "proxy", feature = "http2")))]
    pub(super) fn grpc_checks(&self, _: &HealthSettings) -> Result<Checks, SettingsError> {
        let message = "built without the feature `http2`";
        Err(Location::new("[health]", "type").wrong(&self.text, message))
    }

    fn elsewhere(&self, health: &HealthSettings) -> Result<TargetOverride, SettingsError> {
        let at = |error: ConfigError| self.at_health(&error);
        let mut elsewhere = TargetOverride::new();
        if let Some(port) = health.port {
            elsewhere = elsewhere.port(port).map_err(at)?;
        }
        if let Some(address) = &health.address {
            elsewhere = elsewhere.host(address).map_err(at)?;
        }
        if let Some(tls) = health.tls {
            elsewhere = elsewhere.scheme(if tls { Scheme::Https } else { Scheme::Http });
        }
        if let Some(name) = &health.server_name {
            #[cfg(feature = "__tls")]
            {
                elsewhere = elsewhere.server_name(name).map_err(at)?;
            }
            #[cfg(not(feature = "__tls"))]
            {
                let message = format!("{name:?}: built without the feature `tls`");
                return Err(Location::new("[health]", "server_name").wrong(&self.text, message));
            }
        }
        Ok(elsewhere)
    }

    fn header_name(&self, key: &str, name: &str) -> Result<HeaderName, SettingsError> {
        name.parse().map_err(|_error| {
            let message = format!("{name:?}: the name of a header field is accepted");
            Location::new("[health]", key).wrong(&self.text, message)
        })
    }

    fn header_value(&self, key: &str, value: &str) -> Result<HeaderValue, SettingsError> {
        HeaderValue::from_str(value).map_err(|_error| {
            let message = "a value of a header field is accepted: visible characters";
            Location::new("[health]", key).wrong(&self.text, message)
        })
    }
}
