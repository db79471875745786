//! Settings: what the `edge` example reads, for programs of your own, too.
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
//! [[pool.backends]]
//! id = "a"
//! url = "http://127.0.0.1:9001"
//! [health]
//! path = "/health"
//! "#,
//! )?;
//! let pool = settings.pool()?;
//! let balancer = settings.load_balancer(&pool)?.build();
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above everything: it knows each room's configuration, and no room knows it.
//!
//! # Defaults
//!
//! Each key that is left out has the default of the room that it configures. A section that is
//! absent leaves its layer out: no `[health]`, no checks; no `[sticky]`, no cookie; no
//! `[failover]`, no second try; no `[access_log]`, no lines. Two defaults are not the
//! room's: with `[failover]`, GET and HEAD are hedged after the pool's own 95th percentile, 50 ms at
//! least; with `[access_log]`, backends get the request's id in `X-Request-Id`, and the id that a
//! peer of `[proxy] trusted` sends is kept.
//!
//! | section | keys |
//! |---|---|
//! | `[server]` | `threads`, `locality`, `shutdown = { lame_duck, drain }` |
//! | `[[listen]]` | `address`, `ready`, `live`, `half_close`, `allow_empty_host`, `allow_raw_target`, `min_rate`, `request_timeout`, `proxy_protocol` |
//! | `[listen.tls]` | `certificates = [{ chain, key }]`, `min_version`, `alpn`, `hsts` |
//! | `[pool]` | `strategy`, `hash`, `load_factor`, `affinity_floor`, `panic`, `slow_start`, `overprovisioning` |
//! | `[[pool.backends]]` | `id`, `url`, `weight`, `tier`, `locality`, `max_in_flight`, `protocol` |
//! | `[health]` | `type` (`http`, `tcp`, `grpc`), `interval`, `changing_interval`, `down_interval`, `timeout`, `jitter`, `fall`, `rise`, `concurrency`, `shared_fate`, `state_file`, `port`, `address`, `tls`, `server_name` |
//! | `[health]`, `http` | `path`, `method`, `host`, `headers`, `statuses`, `draining_statuses`, `body_contains`, `identity = { header, value }`, `pooled` |
//! | `[health]`, `tcp` | `send`, `expect` |
//! | `[health]`, `grpc` | `service`, `host`, `pooled` |
//! | `[health.outliers]` | `enabled`, `consecutive`, `failure_rate`, `volume`, `window`, `slower_than`, `statuses`, `immediate_fail`, `ejection`, `max_ejection`, `max_share` |
//! | `[sticky]` | `cookie`, `keys`, `secure` |
//! | `[proxy]` | `connect_timeout`, `response_timeout`, `idle_timeout`, `max_connection_age`, `trusted`, `client_field` |
//! | `[failover]` | `attempts`, `hedge = { after, at_least, at_most, methods }` or `false`, `per_try_timeout`, `timeout`, `retry_statuses`, `backoff = { base, max, retry_after }` |
//! | `[access_log]` | `file`, `node`, `pass_request_id` |
//! | `[admin]` | `address` |
//!
//! `[admin]` answers `/live` and `/ready`; a listener does where it is told the paths, before any
//! other layer sees the request (`ready = "/ready"`).
//!
//! Durations are strings: `"250ms"`, `"5s"`, `"1m"`, `"12h"`; `hsts` has days and years, too:
//! `"30d"`, `"1y"`.
//!
//! # When it fails
//!
//! With a [`SettingsError`] that names the line, the section and the key, and says what is
//! accepted. Unknown keys are refused: a misspelt one would silently do nothing. That is the first
//! mistake; [`Settings::mistakes`] finds all of them, those of the files that are named too.
//!
//! # Cost
//!
//! At start and reload only.

mod build;
mod check;
mod duration;
mod error;
mod failover;
mod health;
mod mistakes;
mod model;
mod parser_messages;

pub use error::SettingsError;
pub use health::{HealthSettings, IdentitySettings, OutlierSettings};
pub use model::{
    AccessLogSettings, AdminSettings, BackendSettings, BackoffSettings, CertificateSettings,
    FailoverSettings, HedgeRuleSettings, HedgeSettings, ListenSettings, PoolSettings,
    ProxySettings, ServerSettings, Settings, ShutdownSettings, StickySettings, TlsSettings,
};
