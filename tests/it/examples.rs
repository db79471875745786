//! The examples as people run them: built binaries, real processes, real signals.
#![cfg(all(unix, feature = "full"))]

mod acme;
mod admin;
pub(crate) mod client;
pub(crate) mod edge;
mod failure;
mod fleet;
mod handover;
mod hostile;
mod load;
mod operator;
mod operators;
mod others;
pub(crate) mod process;
mod proxy_protocol;
mod quickstart;
mod stalled_logs;
mod upgrade;
