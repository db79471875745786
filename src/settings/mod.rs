//! Settings from a TOML file: the configuration of every module in one text.
//!
//! The examples `edge` and `axum` read this format, and a program of your own can do the same. The
//! file holds what an operator changes; what only a programmer changes has a setter and no key.
//!
//! # Example
//!
//! ```
//! use evenkeel::settings::Settings;
//!
//! # fn main() -> Result<(), evenkeel::settings::SettingsError> {
//! let settings = Settings::from_toml(
//!     r#"
//! [[listen]]
//! address = "127.0.0.1:8080"
//! [pool]
//! strategy = "least-requests"
//! [[pool.backends]]
//! id = "a"
//! url = "http://127.0.0.1:9001"
//! [health]
//! path = "/health"
//! "#,
//! )?;
//! let pool = settings.pool();
//! let balancer = settings.load_balancer(&pool).build();
//! assert_eq!(pool.snapshot().backends()[0].id(), "a");
//! assert_eq!(settings.strategy().name(), "least-requests");
//!
//! // A mistake is named by its line, its section and its key.
//! let error = Settings::from_toml("[server]\nthreads = 0\n[[listen]]\naddress = \"[::]:80\"\n[pool]");
//! let error = error.unwrap_err().to_string();
//! assert_eq!(error, "line 2: [server] threads: 0: 1 to 1024 is accepted");
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above all other modules: [`Settings`] has a method for each layer and service that it
//! configures, and no other module imports it. A program calls
//! [`load_balancer`](Settings::load_balancer) for the whole stack, or single methods such as
//! [`health_layer`](Settings::health_layer) for a stack of its own. To apply a changed file to a
//! running pool, it calls [`backends`](Settings::backends) and [`routing`](Settings::routing); the
//! example `edge` shows a reload on SIGHUP.
//!
//! Some keys are shorter than the setters that they stand for, because their section says the rest:
//!
//! | key | setter |
//! |---|---|
//! | `[failover] attempts` | [`FailoverLayer::max_attempts`](crate::failover::FailoverLayer::max_attempts) |
//! | `[proxy] trusted` | [`Proxy::trusted_peers`](crate::proxy::Proxy::trusted_peers) |
//! | `[proxy] connect_timeout` | [`Connector::timeout`](crate::connect::Connector::timeout) |
//! | `[proxy] send_proxy_protocol` | [`Connector::proxy_protocol`](crate::connect::Connector::proxy_protocol) |
//! | `[sticky] cookie` | [`StickyLayer::cookie_name`](crate::sticky::StickyLayer::cookie_name) |
//! | `[sticky] secure = false` | [`StickyLayer::insecure`](crate::sticky::StickyLayer::insecure) |
//! | `[trace] trusted` | [`TraceLayer::trusted_peers`](crate::trace::TraceLayer::trusted_peers) |
//! | `[access_log] query = true` | [`AccessLogLayer::query`](crate::access_log::AccessLogLayer::query), without a change |
//! | `[access_log] fields` | [`AccessLogLayer::field_names`](crate::access_log::AccessLogLayer::field_names) |
//! | `[access_log] rotate` | [`Output::rotated_file`](crate::access_log::Output::rotated_file) |
//! | `[access_log] sample` | [`Sampled`](crate::access_log::Sampled) |
//! | `[health] statuses` | [`HttpCheck::healthy`](crate::health::HttpCheck::healthy) |
//! | `[health] draining_statuses` | [`HttpCheck::draining`](crate::health::HttpCheck::draining) |
//!
//! # Defaults
//!
//! The [reference](#every-key) below lists every key with its type, its default and an example.
//!
//! A key that is absent has the default of the module that it configures. A section that is absent
//! leaves its layer out: without `[health]` there are no checks, without `[sticky]` no cookie,
//! without `[failover]` no second attempt, without `[access_log]` no lines.
//!
//! Two defaults differ from those of the modules:
//!
//! - With `[failover]`, GET and HEAD are hedged after the pool's own 95th percentile, 50 ms at
//!   least. The library does not hedge unless it is asked to.
//! - With `[access_log]`, a backend gets the request's id in `X-Request-Id`, and an id that a peer
//!   of `[proxy] trusted` sends is kept.
//!
//! # When it fails
//!
//! [`Settings::from_toml`] returns the first mistake as a [`SettingsError`]: the line, the section,
//! the key, and what is accepted. It reads the files of `[proxy.tls]`. [`Settings::mistakes`] returns all mistakes, and checks the files
//! that the settings name. Unknown keys are refused, because a misspelt key would otherwise be
//! ignored without a message. An error never shows a key of `[sticky]`, the token of `[admin]` or the
//! URL of `[fleet]`.
//!
//! What was accepted stays so: the methods of [`Settings`] return the layers and cannot fail, but
//! for [`tls`](Settings::tls), `acme`, [`access_log`](Settings::access_log),
//! [`admin_token`](Settings::admin_token) and `fleet`, which open files.
//!
//! # Cost
//!
//! Settings are read at start and at a reload. A request costs nothing more than with setters.
//!
#![doc = include_str!("reference.md")]

// To add a key:
//
// 1. Add a field to the struct of its section (`health/outliers.rs` for `[health.outliers]`). Its
//    type is the value, not its text: `#[serde(default, deserialize_with = "value::optional")]`
//    reads each type that implements `Value` in `value/mod.rs`. Numbers, switches and free texts
//    need no attribute.
// 2. Where the value has a setter, call it in the same file. The module that has the setter decides
//    which values it accepts; `Draft::at` gives its error a line.
// 3. Add a row to `reference.md`. `tests/it/settings/reference.rs` fails until there is one, and
//    tries its example and its default.
// 4. Add a refused value to the table in `tests/it/settings.rs`. If the key is checked together
//    with another, add both to `checked_together` in `mistakes/blank.rs`.
//
// To add a section: a file with its struct, a field in `Sections`, and, if a module may refuse it,
// a part in `draft::Parts` that an accessor of `Settings` clones.

mod access_log;
mod acme;
mod admin;
mod client_auth_mode;
mod draft;
mod entry;
mod error;
mod failover;
mod fleet;
mod health;
mod listen;
mod mistakes;
mod parser_messages;
mod pool;
mod proxy;
mod proxy_protocol;
mod proxy_tls;
mod sections;
mod server;
mod sticky;
mod strategy;
mod tls;
mod trace;
mod value;

pub use access_log::{
    AccessLogFile, AccessLogSettings, LogOutputs, OutputSettings, RotateSettings, SampleSettings,
    SyslogSettings,
};
pub use acme::{AcmeSettings, EabSettings};
pub use admin::{AdminSettings, AdminToken};
pub use client_auth_mode::ClientAuthMode;
pub use error::SettingsError;
pub use failover::{
    BackoffSettings, FailoverSettings, HedgeAfter, HedgeRuleSettings, HedgeSettings,
};
pub use fleet::{FleetSettings, FleetUrl};
pub use health::{CheckKind, HealthSettings, IdentitySettings, OutlierSettings};
pub use listen::ListenSettings;
pub use pool::{BackendSettings, PoolSettings};
pub use proxy::ProxySettings;
pub use proxy_protocol::{ProxyProtocolRule, ProxyProtocolSettings};
pub use proxy_tls::ProxyTlsSettings;
pub use sections::{Sections, Settings};
pub use server::{CertificateExpirySettings, ServerSettings, ShutdownSettings};
pub use sticky::StickySettings;
pub use strategy::StrategySettings;
pub use tls::{CertificateSettings, TlsHostSettings, TlsSettings};
pub use trace::TraceSettings;
