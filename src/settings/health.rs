//! `[health]`: its struct, and the layer that is made of it.

use std::{collections::BTreeMap, ops::RangeInclusive, path::PathBuf};

use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;

use super::{Settings, SettingsError, error::Location};
use crate::{
    connect::TargetOverride,
    error::ConfigError,
    health::{self, Checks, HealthLayer, HttpCheck, TcpCheck},
    pool::{self, Scheme},
};

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

/// `[health.outliers]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutlierSettings {
    /// Whether live traffic is judged; true if absent.
    pub enabled: Option<bool>,
    /// The failures in a row that eject; 5 if absent.
    pub consecutive: Option<u32>,
    /// The share of failures within the window that ejects; 0.5 if absent, 0 for never.
    pub failure_rate: Option<f64>,
    /// The number of requests below which no share and no median counts; 20 if absent.
    pub volume: Option<u32>,
    /// The time over which shares and latencies are counted; 10 s if absent.
    pub window: Option<String>,
    /// The multiple of the others' median latency that ejects; never if absent.
    pub slower_than: Option<f64>,
    /// The statuses that are failures: numbers, and ranges such as `"500-599"`; 502 to 504 if absent.
    pub(super) statuses: Option<Vec<toml::Value>>,
    /// Whether a response may eject its backend; true if absent.
    pub immediate_fail: Option<bool>,
    /// The length of the first ejection; 30 s if absent.
    pub ejection: Option<String>,
    /// The longest ejection; 300 s if absent.
    pub max_ejection: Option<String>,
    /// The share of the pool that may be ejected; 0.5 if absent.
    pub max_share: Option<f64>,
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

    fn http_check(&self, health: &HealthSettings) -> Result<HttpCheck, SettingsError> {
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

    fn tcp_check(&self, health: &HealthSettings) -> Result<TcpCheck, SettingsError> {
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
    fn grpc_checks(&self, health: &HealthSettings) -> Result<Checks, SettingsError> {
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
    fn grpc_checks(&self, _: &HealthSettings) -> Result<Checks, SettingsError> {
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

    fn outliers(
        &self,
        given: &OutlierSettings,
        layer: HealthLayer,
    ) -> Result<HealthLayer, SettingsError> {
        if given.enabled == Some(false) {
            return Ok(layer.no_outliers());
        }
        let mut rules = health::Outliers::new();
        if let Some(failures) = given.consecutive {
            rules = rules.consecutive(failures);
        }
        match given.failure_rate {
            Some(0.0) => rules = rules.no_failure_rate(),
            Some(share) => rules = rules.failure_rate(share),
            None => {}
        }
        if let Some(requests) = given.volume {
            rules = rules.volume(requests);
        }
        if let Some(factor) = given.slower_than {
            rules = rules.slower_than(factor);
        }
        if let Some(window) = self.outlier_duration("window", given.window.as_deref())? {
            rules = rules.window(window);
        }
        if let Some(statuses) = &given.statuses {
            rules = rules.statuses(self.ranges(self.outlier_location("statuses"), statuses)?);
        }
        if let Some(honoured) = given.immediate_fail {
            rules = rules.immediate_fail(honoured);
        }
        let first = self.outlier_duration("ejection", given.ejection.as_deref())?;
        let most = self.outlier_duration("max_ejection", given.max_ejection.as_deref())?;
        if first.is_some() || most.is_some() {
            let first = first.unwrap_or(health::EJECTION);
            rules = rules.ejection(
                first,
                most.unwrap_or_else(|| health::MAX_EJECTION.max(first)),
            );
        }
        if let Some(share) = given.max_share {
            rules = rules.max_share(share);
        }
        layer.outliers(rules).map_err(|error| {
            let key = error.field().rsplit('.').next().unwrap_or_default();
            self.at(self.outlier_location(key), &error)
        })
    }

    /// Returns the location of a key: in a table of its own, or in one line of `[health]`.
    fn outlier_location<'a>(&self, key: &'a str) -> Location<'a> {
        let is_table = self
            .text
            .lines()
            .any(|line| line.trim_start().starts_with("[health.outliers]"));
        match is_table {
            true => Location::new("[health.outliers]", key),
            false => Location::new("[health]", "outliers"),
        }
    }

    fn outlier_duration(
        &self,
        key: &str,
        value: Option<&str>,
    ) -> Result<Option<std::time::Duration>, SettingsError> {
        self.duration(self.outlier_location(key), value)
    }

    fn at_health(&self, error: &ConfigError) -> SettingsError {
        let key = error.field().rsplit('.').next().unwrap_or_default();
        self.at(Location::new("[health]", key), error)
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

    fn ranges(
        &self,
        location: Location<'_>,
        given: &[toml::Value],
    ) -> Result<Vec<RangeInclusive<u16>>, SettingsError> {
        let each = given.iter().map(|value| {
            range(value).ok_or_else(|| {
                let message = format!(
                    "{}: a status such as 204, or a range such as \"200-299\", is accepted",
                    shown(value)
                );
                location.wrong(&self.text, message)
            })
        });
        each.collect()
    }
}

fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::String(text) => format!("{text:?}"),
        other => other.type_str().to_owned(),
    }
}

fn range(value: &toml::Value) -> Option<RangeInclusive<u16>> {
    match value {
        toml::Value::Integer(status) => {
            let status = u16::try_from(*status).ok()?;
            Some(status..=status)
        }
        toml::Value::String(text) => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            Some(from.trim().parse().ok()?..=to.trim().parse().ok()?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let value = |text: &str| {
            toml::from_str::<toml::Table>(&format!("x = {text}")).unwrap()["x"].clone()
        };
        for (text, wanted) in [
            ("204", Some(204..=204)),
            ("\"204\"", Some(204..=204)),
            ("\"200-299\"", Some(200..=299)),
            ("\"200 - 299\"", Some(200..=299)),
            ("\"2xx\"", None),
            ("70000", None),
            ("true", None),
        ] {
            assert_eq!(range(&value(text)), wanted, "{text}");
        }
    }
}
