//! Load balancing as composable tower middleware.
#![forbid(unsafe_code)]
#![allow(clippy::allow_attributes, dead_code, unused_imports)]
#![cfg_attr(evenkeel_docsrs, feature(doc_cfg))]

pub mod error;

pub mod pool;

pub mod connect;
pub mod context;
#[cfg_attr(
    not(any(feature = "proxy", feature = "server")),
    allow(dead_code, reason = "the hot rooms use it")
)]
mod deadline;

#[cfg(feature = "access-log")]
pub mod access_log;
pub mod balance;
pub mod discover;
pub mod endpoints;
pub mod failover;
pub mod health;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod respond;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "sticky")]
pub mod sticky;
#[cfg(feature = "__tls")]
pub mod tls;

#[cfg(feature = "proxy")]
pub mod load_balancer;
#[cfg(feature = "serde")]
pub mod settings;

#[doc(inline)]
pub use error::{BoxError, ConfigError, Error, ErrorKind};
#[doc(inline)]
#[cfg(feature = "proxy")]
#[doc(inline)]
pub use load_balancer::LoadBalancer;
#[doc(inline)]
pub use pool::{Backend, Pool};
#[cfg(feature = "server")]
#[doc(inline)]
pub use server::serve;
