//! Errors become responses: [`RespondLayer`] maps each [`Error`](crate::Error) to a status.
//!
//! The layers below return errors instead of responses, so that failover can retry them and health
//! can count them. This is the only place in the crate where an error becomes a status. The client
//! sees the status and its reason; details stay inside, where an attacker cannot read them.
//!
//! # Example
//!
//! A service that fails, behind the layer:
//!
//! ```
//! use evenkeel::{Error, ErrorKind, respond::{self, RespondLayer}};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let fails = service_fn(|_: Request<()>| async {
//!     let error = Error::new(ErrorKind::ConnectTimeout).with_source("10.0.0.7:80");
//!     Err::<Response<Full<bytes::Bytes>>, _>(error)
//! });
//! let response = RespondLayer::new().layer(fails).oneshot(Request::new(())).await?;
//! assert_eq!(response.status(), 504);
//! assert_eq!(response.headers()["cache-control"], "no-store");
//! let body = response.into_body().collect().await?.to_bytes();
//! assert_eq!(body, "504 Gateway Timeout\n");
//!
//! // The same table, for a layer of your own:
//! assert_eq!(respond::status(ErrorKind::ConnectTimeout), 504);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above everything that fails with an `Error`, below the access log and the layers of the
//! application (compression, tracing), which then see an ordinary response. The layer writes the
//! kind of the error to the [`Exchange`](crate::context::Exchange), where the access log reads it.
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
//! The body is the status and its reason in plain text; [`body`](RespondLayer::body) sets another.
//! The response has `Cache-Control: no-store`, and `Retry-After` if the error knows a time.
//!
//! # gRPC
//!
//! A POST of `application/grpc` gets 200 and trailers only, since clients of gRPC read any other body
//! as a broken frame. The `grpc-status` is that of [`grpc_status`]. The time of `Retry-After` is sent
//! as `grpc-retry-pushback-ms`. The access log has the kind as for other requests.
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
//! Below `RespondLayer`, an error of another crate has the kind `service`, except for the errors of
//! this table. The layer also looks at the sources of an error, for layers such as `tower::buffer`
//! that wrap it. [`classify`](RespondLayer::classify) adds to the table.
//!
//! | error | of | kind |
//! |---|---|---|
//! | `tower::timeout::error::Elapsed` (feature `tower`) | `TimeoutLayer` | `timeout` |
//! | `tokio::time::error::Elapsed` | `tokio::time::timeout` | `timeout` |
//! | `tower::load_shed::error::Overloaded` (feature `tower`) | `LoadShedLayer`, alone or over `ConcurrencyLimitLayer`, which itself only waits | `load_shed` |
//! | `http_body_util::LengthLimitError` | tower-http's `RequestBodyLimitLayer`, axum's `DefaultBodyLimit` | `body_too_large` |
//! | the first two, of a request's body | | `client_body_timeout` |
//!
//! A response that another layer makes itself passes unchanged: that of tower-http's `TimeoutLayer`,
//! or of `RequestBodyLimitLayer` if the length is declared. The module of the access log says where
//! such a layer stands best.
//!
//! # When it fails
//!
//! The layer does not fail: its error type is `Infallible`. The cause of an error is in the access
//! log and in a DEBUG event under `evenkeel::respond`, and not in the response.
//!
//! # Cost
//!
//! A response costs a `match`, and a POST also a look at its `Content-Type`: about 35 ns and no
//! allocation on a shared cloud core, produced by `benches/layers.rs`. An error costs a few header
//! fields.

mod body;
mod classify;
mod grpc;
mod layer;
mod service;
mod status;

pub use body::ResponseBody;
pub use grpc::grpc_status;
pub use layer::RespondLayer;
pub use service::{Respond, ResponseFuture};
pub use status::status;
