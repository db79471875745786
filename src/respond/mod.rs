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
//! | `body_too_large` | 413 |
//! | `connect`, `connect_tls`, `request_write`, `response_body`, `response_closed`, `response_head`, `service`, `upgrade` | 502 |
//! | `load_shed`, `local`, `no_backend`, `overloaded`, `queue_timeout` | 503 |
//! | `connect_timeout`, `request_write_timeout`, `response_body_timeout`, `response_head_timeout`, `timeout` | 504 |
//! | `not_routed` | 500 |
//!
//! The body is the status and its reason, in plain text; [`body`](RespondLayer::body) changes it.
//! `Retry-After` is sent where it is known, `Cache-Control: no-store` always.
//!
//! # gRPC
//!
//! A POST of `application/grpc` gets 200 and trailers alone, whose `grpc-status` is
//! [`grpc_status`]; a time that the client is to wait is sent as `grpc-retry-pushback-ms`. The
//! access log has the kind as ever.
//!
//! | kind | `grpc-status` |
//! |---|---|
//! | `client_body` | 1 (CANCELLED) |
//! | others with 408 or 504 | 4 (DEADLINE_EXCEEDED) |
//! | `body_too_large`, `load_shed`, `overloaded`, `queue_timeout` | 8 (RESOURCE_EXHAUSTED) |
//! | `method_refused` | 12 (UNIMPLEMENTED) |
//! | others with 400 or 500 | 13 (INTERNAL) |
//! | `connect_timeout`, others with 502 or 503 | 14 (UNAVAILABLE) |
//!
//! # Layers of other crates
//!
//! Below `RespondLayer`, an error of another crate is `service`, but for these; it may be the
//! source of another error, as under `tower::buffer`. [`classify`](RespondLayer::classify) adds to
//! them.
//!
//! | error | of | kind |
//! |---|---|---|
//! | `tower::timeout::error::Elapsed` (feature `tower`) | `TimeoutLayer` | `timeout` |
//! | `tokio::time::error::Elapsed` | `tokio::time::timeout` | `timeout` |
//! | `tower::load_shed::error::Overloaded` (feature `tower`) | `LoadShedLayer`, alone or over `ConcurrencyLimitLayer`, which itself only waits | `load_shed` |
//! | `http_body_util::LengthLimitError` | tower-http's `RequestBodyLimitLayer`, axum's `DefaultBodyLimit` | `body_too_large` |
//! | the first two, of a request's body | | `client_body_timeout` |
//!
//! A layer that answers by itself (tower-http's `TimeoutLayer`, `RequestBodyLimitLayer` where the
//! length is declared) is not asked about: its response passes. The module of the access log says
//! where it stands best.
//!
//! # When it fails
//!
//! Never: its error is `Infallible`. What went wrong inside is not told to the client; it is in
//! the access log, and in an event under `evenkeel::respond`.
//!
//! # Cost
//!
//! A response: a match; of a POST, also a look at its `Content-Type`. An error: a few header fields.
//!
//! About 35 ns a response and no allocation on a shared cloud core:
//! produced by `benches/layers.rs`.

mod body;
mod classify;
mod grpc;
mod layer;
mod service;

pub use body::ResponseBody;
pub use grpc::grpc_status;
pub use layer::{RespondLayer, status};
pub use service::{Respond, ResponseFuture};
