//! Errors out: the only place where an [`Error`](crate::Error) becomes a status.
//!
//! # Example
//!
//! ```
//! use evenkeel::{ErrorKind, respond};
//!
//! assert_eq!(respond::status(ErrorKind::ConnectTimeout), 504);
//! ```
//!
//! # Where it goes
//!
//! Above everything that fails with an `Error`, below the access log and the application's own
//! layers (compression, tracing), which then see a response like any other. It notes the kind in
//! the [`Exchange`](crate::context::Exchange), where the access log finds it.
//!
//! # Defaults
//!
//! | kind | status |
//! |---|---|
//! | `bad_request`, `client_body` | 400 |
//! | `method_refused` | 405 |
//! | `client_body_timeout` | 408 |
//! | `connect`, `connect_tls`, `request_write`, `response_body`, `response_closed`, `response_head`, `service`, `upgrade` | 502 |
//! | `local`, `no_backend`, `overloaded`, `queue_timeout` | 503 |
//! | `connect_timeout`, `request_write_timeout`, `response_body_timeout`, `response_head_timeout` | 504 |
//! | `not_routed` | 500 |
//!
//! The body is the status and its reason, in plain text; [`body`](RespondLayer::body) changes it.
//! `Retry-After` is sent where it is known, `Cache-Control: no-store` always.
//!
//! # When it fails
//!
//! Never: its error is `Infallible`. What went wrong inside is not told to the client; it is in
//! the access log, and in an event under `evenkeel::respond`.
//!
//! # Cost
//!
//! A response: a match. An error: a few header fields.
//!
//! About 35 ns a response and no allocation on a shared cloud core:
//! produced by `benches/layers.rs`.

mod body;
mod layer;
mod service;

pub use body::ResponseBody;
pub use layer::{RespondLayer, status};
pub use service::{Respond, ResponseFuture};
