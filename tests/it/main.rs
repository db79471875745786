//! The whole crate over real sockets, one file a room.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

mod support;

mod access_log;
#[cfg(feature = "full")]
mod admin;
mod architecture;
mod balance;
#[cfg(feature = "chaos")]
mod chaos;
mod connect;
#[cfg(feature = "axum")]
mod context;
mod docs;
mod endpoints;
mod error;
mod examples;
mod failover;
#[cfg(all(unix, feature = "full"))]
mod fleet;
mod forwarded;
mod health;
mod load_balancer;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(target_os = "linux")]
mod network;
mod observability;
mod proxy;
mod proxy_protocol;
mod public_types;
mod respond;
mod server;
mod settings;
mod sticky;
#[cfg(feature = "acme")]
mod store;
mod tls;
mod trace;
