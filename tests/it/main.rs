//! The whole crate over real sockets, one file a room.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code
)]

mod support;

mod access_log;
mod architecture;
mod balance;
#[cfg(feature = "chaos")]
mod chaos;
mod connect;
mod endpoints;
mod error;
mod examples;
mod failover;
mod health;
mod load_balancer;
mod proxy;
mod respond;
mod server;
mod settings;
mod sticky;
mod tls;
