//! `[health]`: its struct, and the layer that is made of it.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::{
    error::ConfigError,
    health::{Checks, HealthLayer},
    pool,
};

mod check;
mod outliers;
mod statuses;

pub use check::IdentitySettings;
pub use outliers::OutlierSettings;

/// `[health]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthSettings {
    /// The kind of check: `http`, `tcp` or `grpc`; `http` if absent.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The path of the request (`http`); `/health` if absent.
    pub path: Option<String>,
    /// The method of the request (`http`); GET if absent.
    pub method: Option<String>,
    /// The Host field, or the authority (`http`, `grpc`).
    pub host: Option<String>,
    /// Further header fields of the request (`http`).
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Healthy statuses (`http`): numbers, and ranges such as `"200-299"`.
    pub(super) statuses: Option<Vec<toml::Value>>,
    /// The statuses with which a backend asks for no new traffic (`http`).
    pub(super) draining_statuses: Option<Vec<toml::Value>>,
    /// The text that the body must contain (`http`).
    pub body_contains: Option<String>,
    /// The response field that must name the backend (`http`).
    pub identity: Option<IdentitySettings>,
    /// The name of the service that is checked (`grpc`).
    pub service: Option<String>,
    /// The text that is sent (`tcp`).
    pub send: Option<String>,
    /// The text that the answer must begin with (`tcp`).
    pub expect: Option<String>,
    /// The port that is checked; that of the backend's URL if absent.
    pub port: Option<u16>,
    /// The host that is checked; that of the backend's URL if absent.
    pub address: Option<String>,
    /// Whether checks use TLS; as in the backend's URL if absent.
    pub tls: Option<bool>,
    /// The name that the certificate must have.
    pub server_name: Option<String>,
    /// Whether one connection is kept from check to check (`http`, `grpc`); false if absent.
    pub pooled: Option<bool>,
    /// The time between checks; 5 s if absent.
    pub interval: Option<String>,
    /// The time between checks while the last results disagree with the state; 1 s if absent.
    pub changing_interval: Option<String>,
    /// The time between checks of a backend that is down; the interval if absent.
    pub down_interval: Option<String>,
    /// The time for one check; 2 s if absent.
    pub timeout: Option<String>,
    /// The share by which each interval varies; 0.1 if absent.
    pub jitter: Option<f64>,
    /// The failures in a row that take a backend out; 2 if absent.
    pub fall: Option<u32>,
    /// The passes in a row that bring a backend back; 2 if absent.
    pub rise: Option<u32>,
    /// The number of checks that run at once; 256 if absent.
    pub concurrency: Option<usize>,
    /// The share of backends that must fail because of one dependency for all of them to stay in
    /// service; 1.0 if absent, 0 for never.
    pub shared_fate: Option<f64>,
    /// The file that keeps measured health over a restart; none if absent.
    pub state_file: Option<PathBuf>,
    /// `[health.outliers]`: when live traffic takes a backend out.
    #[serde(default)]
    pub outliers: OutlierSettings,
}

impl Settings {
    /// Returns the health layer; without `[health]`, a layer without checks and ejections.
    ///
    /// # Errors
    ///
    /// Returns an error if the section is not acceptable, which
    /// [`from_toml`](Settings::from_toml) has checked.
    pub fn health_layer(&self, pool: &pool::Pool) -> Result<HealthLayer, SettingsError> {
        let layer = HealthLayer::new(pool.clone());
        let Some(health) = &self.health else {
            return Ok(layer.no_checks().no_outliers());
        };
        let checks = self.checks(health)?;
        let layer = layer
            .checks(checks)
            .map_err(|error| self.at_health(&error))?;
        self.outliers(&health.outliers, layer)
    }

    fn checks(&self, health: &HealthSettings) -> Result<Checks, SettingsError> {
        let location = |key| Location::new("[health]", key);
        let kind = health.kind.as_deref().unwrap_or("http");
        self.refuse_keys_of_others(health, kind)?;
        let mut checks = match kind {
            "http" => Checks::new().with_check(self.http_check(health)?),
            "tcp" => Checks::new().with_check(self.tcp_check(health)?),
            "grpc" => self.grpc_checks(health)?,
            other => {
                let message = format!("{other:?}: http, tcp or grpc is accepted");
                return Err(location("type").wrong(&self.text, message));
            }
        };
        if let Some(interval) = self.duration(location("interval"), health.interval.as_deref())? {
            checks = checks.interval(interval);
        }
        let changing = health.changing_interval.as_deref();
        if let Some(interval) = self.duration(location("changing_interval"), changing)? {
            checks = checks.changing_interval(interval);
        }
        let down = health.down_interval.as_deref();
        if let Some(interval) = self.duration(location("down_interval"), down)? {
            checks = checks.down_interval(interval);
        }
        if let Some(timeout) = self.duration(location("timeout"), health.timeout.as_deref())? {
            checks = checks.timeout(timeout);
        }
        if let Some(share) = health.jitter {
            checks = checks.jitter(share);
        }
        if let Some(fall) = health.fall {
            checks = checks.fall(fall);
        }
        if let Some(rise) = health.rise {
            checks = checks.rise(rise);
        }
        if let Some(most) = health.concurrency {
            checks = checks.concurrency(most);
        }
        match health.shared_fate {
            Some(0.0) => checks = checks.no_shared_failure(),
            Some(share) => checks = checks.shared_failure(share),
            None => {}
        }
        Ok(checks)
    }

    /// Refuses keys that have no effect with this type of check.
    fn refuse_keys_of_others(
        &self,
        health: &HealthSettings,
        kind: &str,
    ) -> Result<(), SettingsError> {
        let given = [
            ("path", health.path.is_some(), "http"),
            ("method", health.method.is_some(), "http"),
            ("headers", !health.headers.is_empty(), "http"),
            ("statuses", health.statuses.is_some(), "http"),
            (
                "draining_statuses",
                health.draining_statuses.is_some(),
                "http",
            ),
            ("body_contains", health.body_contains.is_some(), "http"),
            ("identity", health.identity.is_some(), "http"),
            ("host", health.host.is_some(), "http grpc"),
            ("pooled", health.pooled.is_some(), "http grpc"),
            ("service", health.service.is_some(), "grpc"),
            ("send", health.send.is_some(), "tcp"),
            ("expect", health.expect.is_some(), "tcp"),
        ];
        for (key, is_given, kinds) in given {
            if is_given && ["http", "tcp", "grpc"].contains(&kind) && !kinds.contains(kind) {
                let kinds = kinds.replace(' ', " or ");
                let message = format!("accepted with type {kinds}, not {kind}");
                return Err(Location::new("[health]", key).wrong(&self.text, message));
            }
        }
        Ok(())
    }

    pub(super) fn at_health(&self, error: &ConfigError) -> SettingsError {
        let key = error.field().rsplit('.').next().unwrap_or_default();
        self.at(Location::new("[health]", key), error)
    }
}
