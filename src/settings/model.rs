//! The structs that serde reads the sections into.

use std::{fmt, net::SocketAddr, ops::Deref, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{HealthSettings, SettingsError, check};

/// A whole settings file. The [module docs](super) describe every key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// `[server]`: the process.
    #[serde(default)]
    pub server: ServerSettings,
    /// `[[listen]]`: the addresses that clients connect to.
    pub listen: Vec<ListenSettings>,
    /// `[pool]`: the backends and their selection.
    pub pool: PoolSettings,
    /// `[health]`: active checks and outliers; `None` without the section.
    pub health: Option<HealthSettings>,
    /// `[sticky]`: sticky sessions; `None` without the section.
    pub sticky: Option<StickySettings>,
    /// `[proxy]`: forwarding.
    #[serde(default)]
    pub proxy: ProxySettings,
    /// `[failover]`: retries and hedges; `None` without the section.
    pub failover: Option<FailoverSettings>,
    /// `[access_log]`: the access log; `None` without the section.
    pub access_log: Option<AccessLogSettings>,
    /// `[admin]`: the listener of `/live` and `/ready`; `None` without the section.
    pub admin: Option<AdminSettings>,
    /// The text that was read; later errors take the line of a key from it.
    #[serde(skip)]
    pub(super) text: Text,
}

impl Settings {
    /// Reads and checks settings. Does not read the files that they name: [`tls`](Self::tls) and
    /// [`access_log`](Self::access_log) do.
    ///
    /// # Errors
    ///
    /// Returns the first mistake: its line, its key, and what is accepted.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        let mut settings: Self =
            toml::from_str(text).map_err(|error| check::syntax(text, &error))?;
        settings.text = Text(text.to_owned());
        settings.check()?;
        Ok(settings)
    }
}

/// The whole text. It holds the keys of `[sticky]`, so its `Debug` shows nothing.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Text(pub(super) String);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").finish_non_exhaustive()
    }
}

/// `[server]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerSettings {
    /// The number of worker threads; one for each core if absent.
    pub threads: Option<usize>,
    /// The region, zone and rack of this instance.
    pub locality: Option<String>,
    /// The times of a graceful shutdown.
    #[serde(default)]
    pub shutdown: ShutdownSettings,
}

/// `[server] shutdown`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// The time for which readiness fails before listeners close; if absent, 5 s with an `[admin]`
    /// or a listener with a `ready` path, else 0 s.
    pub lame_duck: Option<String>,
    /// The time that connections have to end; 30 s if absent.
    pub drain: Option<String>,
}

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

/// `[listen.tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsSettings {
    /// One or more certificates; the server name of the client chooses one.
    pub certificates: Vec<CertificateSettings>,
    /// The lowest version: `"1.2"` or `"1.3"`; 1.2 if absent.
    pub min_version: Option<String>,
    /// `h2` and `http/1.1` in order of preference; both if absent.
    pub alpn: Option<Vec<String>>,
    /// The `max-age` of `Strict-Transport-Security`; the field is not sent if absent. `"0s"` withdraws
    /// what was sent before.
    pub hsts: Option<String>,
}

/// One of `[listen.tls] certificates`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CertificateSettings {
    /// The PEM file of the certificate and its intermediates.
    pub chain: PathBuf,
    /// The PEM file of the private key.
    pub key: PathBuf,
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolSettings {
    /// The strategy that chooses a backend; `round-robin` if absent.
    pub strategy: Option<String>,
    /// The input of `consistent-hash`: `"path"`, `"client"`, `{ header = "name" }` or
    /// `{ cookie = "name" }`.
    pub(super) hash: Option<toml::Value>,
    /// The multiple of the mean load above which keys of a backend go to the next one
    /// (`consistent-hash`); 1.25 if absent.
    pub load_factor: Option<f64>,
    /// The requests in flight up to which a backend keeps its keys (`consistent-hash`); 16 if absent.
    pub affinity_floor: Option<u32>,
    /// The usable share below which health is ignored and all backends get traffic; requests fail
    /// fast if absent.
    pub panic: Option<f64>,
    /// The time over which the traffic of a recovered backend grows to its share; 30 s if absent,
    /// `"0s"` switches it off.
    pub slow_start: Option<String>,
    /// The multiple of its share that a tier can take before traffic overflows; 1.4 if absent.
    pub overprovisioning: Option<f64>,
    /// `[[pool.backends]]`: the backends.
    #[serde(default)]
    pub backends: Vec<BackendSettings>,
}

impl PoolSettings {
    /// Returns true if both sections have the same strategy with the same parameters. The backends
    /// may differ.
    #[must_use]
    pub fn chooses_like(&self, other: &Self) -> bool {
        self.strategy == other.strategy
            && self.hash == other.hash
            && self.load_factor == other.load_factor
            && self.affinity_floor == other.affinity_floor
    }
}

/// `[[pool.backends]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackendSettings {
    /// The stable id.
    pub id: String,
    /// The URL: scheme, host, port and base path.
    pub url: String,
    /// The share of traffic relative to the others; 1 if absent.
    pub weight: Option<u32>,
    /// The tier; 0, the preferred one, if absent.
    pub tier: Option<u8>,
    /// The region, zone and rack.
    pub locality: Option<String>,
    /// The most requests in flight; no cap if absent.
    pub max_in_flight: Option<u32>,
    /// `auto`, `http1` or `http2`; `auto` if absent.
    pub protocol: Option<String>,
}

/// `[sticky]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StickySettings {
    /// The name of the cookie; `PROXY_SERVER_ID` if absent.
    pub cookie: Option<String>,
    /// 64 hexadecimal digits each; the first signs, all verify.
    pub keys: Vec<String>,
    /// Whether the cookie is `Secure`; true if absent.
    pub secure: Option<bool>,
}

impl fmt::Debug for StickySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickySettings")
            .field("cookie", &self.cookie)
            .field("keys", &self.keys.len())
            .field("secure", &self.secure)
            .finish()
    }
}

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

/// `[failover]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FailoverSettings {
    /// The attempts in all, hedges included; 2 if absent.
    pub attempts: Option<u32>,
    /// When a second attempt begins beside the first; after the 95th percentile if absent.
    pub hedge: Option<HedgeSettings>,
    /// The time for one attempt until its response head; no limit if absent.
    pub per_try_timeout: Option<String>,
    /// The time for all attempts until the response head; no limit if absent.
    pub timeout: Option<String>,
    /// The statuses that are tried again; none if absent.
    pub retry_statuses: Option<Vec<u16>>,
    /// The waits from the third attempt on.
    pub backoff: Option<BackoffSettings>,
}

/// `[failover] hedge`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HedgeSettings {
    /// `false`: no hedging.
    Switch(bool),
    /// Hedging after a percentile or a time.
    Rule(HedgeRuleSettings),
}

impl<'de> Deserialize<'de> for HedgeSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HedgeVisitor)
    }
}

struct HedgeVisitor;

impl<'de> Visitor<'de> for HedgeVisitor {
    type Value = HedgeSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("false, or { after = \"p95\", at_least = \"50ms\" }")
    }

    fn visit_bool<E>(self, on: bool) -> Result<HedgeSettings, E> {
        Ok(HedgeSettings::Switch(on))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HedgeSettings, A::Error> {
        HedgeRuleSettings::deserialize(MapAccessDeserializer::new(map)).map(HedgeSettings::Rule)
    }
}

/// `[failover] hedge` as a table
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgeRuleSettings {
    /// `p50` to `p99`, or a duration; `p95` if absent.
    pub after: Option<String>,
    /// The shortest wait that a percentile comes to; 50 ms if absent.
    pub at_least: Option<String>,
    /// The longest wait that a percentile comes to; 2 s if absent.
    pub at_most: Option<String>,
    /// The methods that are hedged, idempotent ones only; GET and HEAD if absent.
    pub methods: Option<Vec<String>>,
}

/// `[failover] backoff`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The bound of the first wait; 25 ms if absent.
    pub base: Option<String>,
    /// The bound of all waits; 250 ms if absent.
    pub max: Option<String>,
    /// The longest `Retry-After` of a backend that is waited for; 1 s if absent.
    pub retry_after: Option<String>,
}

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogSettings {
    /// A path, or `stdout`.
    pub file: String,
    /// The name of this instance in each line; none if absent.
    pub node: Option<String>,
    /// Whether backends get the request's id in `X-Request-Id`; true if absent.
    pub pass_request_id: Option<bool>,
}

/// `[admin]`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminSettings {
    /// The address and port.
    pub address: SocketAddr,
}
