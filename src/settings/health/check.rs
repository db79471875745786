//! The check that `[health]` describes: of HTTP, TCP or gRPC.

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use super::{CheckKind, HealthSettings};
use crate::{
    connect::{Connector, TargetOverride},
    error::ConfigError,
    health::{Checks, HttpCheck, TcpCheck},
    pool::Scheme,
    settings::{SettingsError, draft::Draft, error::Location, value},
};

/// `[health] identity`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentitySettings {
    /// The name of the field.
    #[serde(deserialize_with = "value::required")]
    pub header: HeaderName,
    /// The value of the field; the backend's id if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub value: Option<HeaderValue>,
}

impl Draft {
    /// Returns the checks with the check of the section's type.
    pub(super) fn check(
        &self,
        health: &HealthSettings,
        connector: &Connector,
    ) -> Result<Checks, SettingsError> {
        let target_override = self.target_override(health)?;
        match health.kind.unwrap_or_default() {
            CheckKind::Http => {
                let check = HttpCheck::new().connector(connector.clone());
                let check = self.http_check(health, check.target_override(target_override))?;
                Ok(Checks::new().with_check(check))
            }
            CheckKind::Tcp => {
                let check = TcpCheck::new().connector(connector.clone());
                let check = health.tcp_check(check.target_override(target_override));
                Ok(Checks::new().with_check(check))
            }
            #[cfg(all(feature = "proxy", feature = "http2"))]
            CheckKind::Grpc => {
                let check = crate::health::GrpcCheck::new().connector(connector.clone());
                let check = health.grpc_check(check.target_override(target_override));
                let check = check.map_err(|error| self.at_health(&error))?;
                Ok(Checks::new().with_check(check))
            }
            #[cfg(not(all(feature = "proxy", feature = "http2")))]
            CheckKind::Grpc => {
                let message = "built without the feature `http2`";
                Err(Location::new("[health]", "type").wrong(&self.text, message))
            }
        }
    }

    fn http_check(
        &self,
        health: &HealthSettings,
        mut check: HttpCheck,
    ) -> Result<HttpCheck, SettingsError> {
        // A check names these fields by other names than the section.
        let at = |key| move |error| self.at(Location::new("[health]", key), &error);
        if let Some(path) = &health.path {
            check = check.path(path).map_err(at("path"))?;
        }
        if let Some(method) = &health.method {
            check = check.method(method.clone());
        }
        if let Some(host) = &health.host {
            check = check.host(host).map_err(at("host"))?;
        }
        for (name, value) in &health.headers {
            let made = check.header(name.clone(), value.clone());
            check = made.map_err(at("headers"))?;
        }
        if let Some(statuses) = health.statuses.clone() {
            check = check.healthy(statuses).map_err(at("statuses"))?;
        }
        if let Some(statuses) = health.draining_statuses.clone() {
            check = check.draining(statuses).map_err(at("draining_statuses"))?;
        }
        if let Some(text) = &health.body_contains {
            check = check.body_contains(text.as_bytes());
        }
        if let Some(IdentitySettings { header, value }) = health.identity.clone() {
            check = match value {
                Some(value) => check.identity(header, value),
                None => check.identity_by_id(header),
            };
        }
        Ok(match health.pooled {
            Some(true) => check.pooled(),
            _ => check,
        })
    }

    fn target_override(&self, health: &HealthSettings) -> Result<TargetOverride, SettingsError> {
        let at = |error: ConfigError| self.at_health(&error);
        let mut target_override = TargetOverride::new();
        if let Some(port) = health.port {
            target_override = target_override.port(port).map_err(at)?;
        }
        if let Some(address) = &health.address {
            target_override = target_override.host(address).map_err(at)?;
        }
        if let Some(tls) = health.tls {
            target_override =
                target_override.scheme(if tls { Scheme::Https } else { Scheme::Http });
        }
        if let Some(name) = &health.server_name {
            #[cfg(feature = "__tls")]
            {
                target_override = target_override.server_name(name).map_err(at)?;
            }
            #[cfg(not(feature = "__tls"))]
            {
                let message = format!("{name:?}: built without the feature `tls`");
                return Err(Location::new("[health]", "server_name").wrong(&self.text, message));
            }
        }
        Ok(target_override)
    }
}

impl HealthSettings {
    fn tcp_check(&self, mut check: TcpCheck) -> TcpCheck {
        if let Some(text) = &self.send {
            check = check.send(text.as_bytes());
        }
        match &self.expect {
            Some(text) => check.expect(text.as_bytes()),
            None => check,
        }
    }

    #[cfg(all(feature = "proxy", feature = "http2"))]
    fn grpc_check(
        &self,
        mut check: crate::health::GrpcCheck,
    ) -> Result<crate::health::GrpcCheck, ConfigError> {
        if let Some(service) = &self.service {
            check = check.service(service)?;
        }
        if let Some(host) = &self.host {
            check = check.host(host)?;
        }
        Ok(match self.pooled {
            Some(true) => check.pooled(),
            _ => check,
        })
    }
}
