//! `[health]`: its struct, and the layer that is made of it.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use http::{HeaderMap, Method};
use serde::Deserialize;

use super::{
    Settings, SettingsError,
    draft::Draft,
    error::Location,
    value::{self, Value},
};
use crate::{
    connect::Connector,
    error::ConfigError,
    health::{Checks, HealthLayer},
    pool::Pool,
};

mod check;
mod outliers;

pub use check::IdentitySettings;
pub use outliers::OutlierSettings;

/// `[health]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HealthSettings {
    /// The kind of check: `http`, `tcp` or `grpc`; `http` if absent.
    #[serde(default, rename = "type", deserialize_with = "value::optional")]
    pub kind: Option<CheckKind>,
    /// The path of the request (`http`); `/health` if absent.
    pub path: Option<String>,
    /// The method of the request (`http`); GET if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub method: Option<Method>,
    /// The Host field, or the authority (`http`, `grpc`).
    pub host: Option<String>,
    /// Further header fields of the request (`http`).
    #[serde(default, deserialize_with = "value::header_fields")]
    pub headers: HeaderMap,
    /// Healthy statuses (`http`): numbers, and ranges such as `"200-299"`.
    #[serde(default, deserialize_with = "value::statuses")]
    pub statuses: Option<Vec<RangeInclusive<u16>>>,
    /// The statuses with which a backend asks for no new traffic (`http`).
    #[serde(default, deserialize_with = "value::statuses")]
    pub draining_statuses: Option<Vec<RangeInclusive<u16>>>,
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
    #[serde(default, deserialize_with = "value::optional")]
    pub interval: Option<Duration>,
    /// The time between checks while the last results disagree with the state; 1 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub changing_interval: Option<Duration>,
    /// The time between checks of a backend that is down; the interval if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub down_interval: Option<Duration>,
    /// The time for one check; 2 s if absent.
    #[serde(default, deserialize_with = "value::optional")]
    pub timeout: Option<Duration>,
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
    pub shared_failure: Option<f64>,
    /// The file that keeps measured health over a restart; none if absent.
    pub state_file: Option<PathBuf>,
    /// `[health.outliers]`: when live traffic takes a backend out.
    #[serde(default)]
    pub outliers: OutlierSettings,
}

/// `[health] type`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckKind {
    /// `"grpc"`: a call of `grpc.health.v1.Health`.
    Grpc,
    /// `"http"`: a request.
    #[default]
    Http,
    /// `"tcp"`: a connection, and what is sent and expected on it.
    Tcp,
}

impl CheckKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

impl Value for CheckKind {
    fn parse(text: &str) -> Result<Self, String> {
        let kinds = [Self::Http, Self::Tcp, Self::Grpc];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| format!("{text:?}: http, tcp or grpc is accepted"))
    }
}

impl Settings {
    /// Returns the health layer for this pool; without `[health]`, a layer without checks and
    /// ejections.
    pub fn health_layer(&self, pool: &Pool) -> HealthLayer {
        self.parts.health.for_pool(pool.clone())
    }
}

impl Draft {
    pub(super) fn health_layer(
        &self,
        pool: &Pool,
        connector: &Connector,
    ) -> Result<HealthLayer, SettingsError> {
        let layer = HealthLayer::new(pool.clone());
        let Some(health) = &self.sections.health else {
            return Ok(layer.no_checks().no_outliers());
        };
        self.refuse_keys_of_others(health)?;
        let check = self.check(health, connector)?;
        let layer = layer.checks(health.times_and_counts(check));
        let layer = layer.map_err(|error| self.at_health(&error))?;
        self.outliers(&health.outliers, layer)
    }

    /// Refuses keys that have no effect with this type of check.
    fn refuse_keys_of_others(&self, health: &HealthSettings) -> Result<(), SettingsError> {
        let kind = health.kind.unwrap_or_default().as_str();
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
            if is_given && !kinds.contains(kind) {
                let kinds = kinds.replace(' ', " or ");
                let message = format!("accepted with type {kinds}, not {kind}");
                return Err(Location::new("[health]", key).wrong(&self.text, message));
            }
        }
        Ok(())
    }

    fn at_health(&self, error: &ConfigError) -> SettingsError {
        let key = error.field().rsplit('.').next().unwrap_or_default();
        self.at(Location::new("[health]", key), error)
    }
}

impl HealthSettings {
    /// Sets when the checks run, and how many results change the state.
    fn times_and_counts(&self, mut checks: Checks) -> Checks {
        if let Some(interval) = self.interval {
            checks = checks.interval(interval);
        }
        if let Some(interval) = self.changing_interval {
            checks = checks.changing_interval(interval);
        }
        if let Some(interval) = self.down_interval {
            checks = checks.down_interval(interval);
        }
        if let Some(timeout) = self.timeout {
            checks = checks.timeout(timeout);
        }
        if let Some(share) = self.jitter {
            checks = checks.jitter(share);
        }
        if let Some(fall) = self.fall {
            checks = checks.fall(fall);
        }
        if let Some(rise) = self.rise {
            checks = checks.rise(rise);
        }
        if let Some(most) = self.concurrency {
            checks = checks.concurrency(most);
        }
        match self.shared_failure {
            Some(0.0) => checks.no_shared_failure(),
            Some(share) => checks.shared_failure(share),
            None => checks,
        }
    }
}
