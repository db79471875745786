//! The settings as they are written.

use std::{fmt, net::SocketAddr, ops::Deref, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{HealthSettings, SettingsError, check};

/// Everything that the `edge` example can be told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The process.
    #[serde(default)]
    pub server: ServerSettings,
    /// Where clients connect.
    pub listen: Vec<ListenSettings>,
    /// The backends.
    pub pool: PoolSettings,
    /// Active checks; none where absent.
    pub health: Option<HealthSettings>,
    /// Sticky sessions; none where absent.
    pub sticky: Option<StickySettings>,
    /// How requests are forwarded.
    #[serde(default)]
    pub proxy: ProxySettings,
    /// Further tries; none where absent.
    pub failover: Option<FailoverSettings>,
    /// The access log; none where absent.
    pub access_log: Option<AccessLogSettings>,
    /// The listener for those who check this instance; none where absent.
    pub admin: Option<AdminSettings>,
    /// As it was read, for messages about what is found out later.
    #[serde(skip)]
    pub(super) text: Text,
}

impl Settings {
    /// Reads and checks settings. Files that they name are read by what uses them.
    ///
    /// # Errors
    ///
    /// With the line, the key, and what is accepted.
    pub fn from_toml(text: &str) -> Result<Self, SettingsError> {
        let mut settings: Self =
            toml::from_str(text).map_err(|error| check::syntax(text, &error))?;
        settings.text = Text(text.to_owned());
        settings.check()?;
        Ok(settings)
    }
}

/// The whole text, which holds keys: no debug print shows it.
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
    /// Worker threads; all cores where absent.
    pub threads: Option<usize>,
    /// Where this instance stands.
    pub locality: Option<String>,
    /// How it ends.
    #[serde(default)]
    pub shutdown: ShutdownSettings,
}

/// `[server] shutdown`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ShutdownSettings {
    /// How long readiness fails before listeners close; 5 s where absent and there is
    /// an `[admin]` or a listener with a `ready`.
    pub lame_duck: Option<String>,
    /// How long connections may take to end; 30 s where absent.
    pub drain: Option<String>,
}

/// `[[listen]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ListenSettings {
    /// The address and port.
    pub address: String,
    /// The path that tells whether this instance can route; none where absent.
    pub ready: Option<String>,
    /// The path that tells whether this instance lives; none where absent.
    pub live: Option<String>,
    /// A client that ends its side of an HTTP/1.1 connection may still wait for its response; off
    /// where absent.
    #[serde(default)]
    pub half_close: bool,
    /// Accepts a Host field without a value in HTTP/1.1; off where absent.
    #[serde(default)]
    pub allow_empty_host: bool,
    /// Accepts UTF-8 that is not percent-encoded in an HTTP/1.1 target; off where absent.
    #[serde(default)]
    pub allow_raw_target: bool,
    /// Bytes a second that a client has to move while it is waited for; 240 where absent, 0 for
    /// any.
    pub min_rate: Option<u32>,
    /// How long a request and its response may take in all; no limit where absent. See
    /// [`request_timeout`](Settings::request_timeout).
    pub request_timeout: Option<String>,
    /// For a later version; only `false` is accepted.
    pub(super) proxy_protocol: Option<toml::Value>,
    /// Terminates TLS; cleartext where absent.
    pub tls: Option<TlsSettings>,
}

/// `[listen.tls]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsSettings {
    /// One or more, chosen by name.
    pub certificates: Vec<CertificateSettings>,
    /// `"1.2"` or `"1.3"`.
    pub min_version: Option<String>,
    /// `h2` and `http/1.1`, in order of preference.
    pub alpn: Option<Vec<String>>,
    /// How long browsers come by https only, from each response on; `Strict-Transport-Security` is
    /// not sent where absent. `"0s"` takes back what was sent.
    pub hsts: Option<String>,
}

/// One of `[listen.tls] certificates`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CertificateSettings {
    /// The certificate and those that vouch for it, PEM.
    pub chain: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// `[pool]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolSettings {
    /// How a backend is chosen; `round-robin` where absent.
    pub strategy: Option<String>,
    /// What `consistent-hash` is taken of: `"path"`, `"client"`, `{ header = "name" }` or
    /// `{ cookie = "name" }`.
    pub(super) hash: Option<toml::Value>,
    /// How many times the mean load a backend may have before its keys go elsewhere
    /// (`consistent-hash`); 1.25 where absent.
    pub load_factor: Option<f64>,
    /// With fewer requests in flight a backend keeps its keys (`consistent-hash`); 16 where absent.
    pub affinity_floor: Option<u32>,
    /// All backends get traffic while a smaller share than this is usable; requests fail fast
    /// where absent.
    pub panic: Option<f64>,
    /// How long a backend that recovered is warmed up; 30 s where absent, `"0s"` for not at all.
    pub slow_start: Option<String>,
    /// How much more than its share a tier can take before it overflows; 1.4 where absent.
    pub overprovisioning: Option<f64>,
    /// The backends.
    #[serde(default)]
    pub backends: Vec<BackendSettings>,
}

impl PoolSettings {
    /// Returns true if both choose a backend alike, however different their backends are.
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
    /// Its stable id.
    pub id: String,
    /// Its URL.
    pub url: String,
    /// Its share.
    pub weight: Option<u32>,
    /// Its tier.
    pub tier: Option<u8>,
    /// Where it stands.
    pub locality: Option<String>,
    /// Its cap of requests in flight.
    pub max_in_flight: Option<u32>,
    /// `auto`, `http1` or `http2`.
    pub protocol: Option<String>,
}

/// `[sticky]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StickySettings {
    /// The cookie's name.
    pub cookie: Option<String>,
    /// 64 hexadecimal digits each; the first signs, all verify.
    pub keys: Vec<String>,
    /// Whether the cookie is `Secure`; true where absent.
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
    /// For a connection to a backend.
    pub connect_timeout: Option<String>,
    /// Until the response head.
    pub response_timeout: Option<String>,
    /// For silence, and for idle connections.
    pub idle_timeout: Option<String>,
    /// The largest age of a connection to a backend.
    pub max_connection_age: Option<String>,
    /// Peers whose `X-Forwarded-*` are believed.
    pub trusted: Option<Vec<String>>,
    /// The field in which they name the client: `x-forwarded-for` or `forwarded`;
    /// `x-forwarded-for` where absent.
    pub client_field: Option<String>,
}

/// `[failover]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FailoverSettings {
    /// Tries in all, hedges included.
    pub attempts: Option<u32>,
    /// When a second try begins beside the first; after the 95th percentile where absent.
    pub hedge: Option<HedgeSettings>,
    /// The most that one try may take until its response head.
    pub per_try_timeout: Option<String>,
    /// The most that all tries may take until the response head.
    pub timeout: Option<String>,
    /// Statuses that are tried again.
    pub retry_statuses: Option<Vec<u16>>,
    /// The waits from the third try on.
    pub backoff: Option<BackoffSettings>,
}

/// `[failover] hedge`
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HedgeSettings {
    /// `false` for none.
    Switch(bool),
    /// After a percentile or a time.
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

/// `[failover] hedge`, where there is one
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HedgeRuleSettings {
    /// `p50` to `p99`, or a duration.
    pub after: Option<String>,
    /// The least that a percentile comes to.
    pub at_least: Option<String>,
    /// The most that a percentile comes to.
    pub at_most: Option<String>,
    /// Idempotent methods; GET and HEAD where absent.
    pub methods: Option<Vec<String>>,
}

/// `[failover] backoff`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BackoffSettings {
    /// The bound of the first wait.
    pub base: Option<String>,
    /// The most that doubling makes of it.
    pub max: Option<String>,
    /// Up to which `Retry-After` a client is made to wait.
    pub retry_after: Option<String>,
}

/// `[access_log]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessLogSettings {
    /// A path, or `stdout`.
    pub file: String,
    /// This instance's name.
    pub node: Option<String>,
    /// Whether backends get the request's id in `X-Request-Id`; true where absent.
    pub pass_request_id: Option<bool>,
}

/// `[admin]`
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminSettings {
    /// Its own address and port.
    pub address: SocketAddr,
}
