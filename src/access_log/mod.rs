//! An access log: one structured line for each request, written when the request has really ended.
//!
//! A log that writes its line with the head of the response cannot know how many bytes the client
//! got, how long they took, or that the body broke off. This layer writes the line with the last
//! byte, with the failure, or when the client goes away; each request has exactly one line.
//!
//! # Example
//!
//! Log the requests to a service as JSON:
//!
//! ```
//! use std::{convert::Infallible, fs};
//!
//! use evenkeel::access_log::{AccessLogLayer, JsonLines};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Empty, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("access.jsonl");
//! let sink = JsonLines::file(&path)?;
//! let layer = AccessLogLayer::new(sink.clone()).node("lb-1");
//!
//! let service = layer.layer(service_fn(|_: Request<_>| async {
//!     Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
//! }));
//! let request = Request::get("/cart?token=secret").body(Empty::<&[u8]>::new())?;
//! let response = service.oneshot(request).await?;
//! assert!(sink.flush());
//! assert_eq!(fs::read_to_string(&path)?, "", "the response has not ended yet");
//!
//! response.into_body().collect().await?;
//! assert!(sink.flush());
//! let line: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
//! assert_eq!(line["node"], "lb-1");
//! assert_eq!(line["path"], "/cart", "without the query, which is off by default");
//! assert_eq!((&line["status"], &line["sent"]), (&200.into(), &5.into()));
//! assert_eq!(line["outcome"], "ok");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Sink`] of your own gets each line as an [`Entry`]; [`TracingSink`] makes events of lines, and
//! [`Tee`] hands them to two sinks.
//!
//! # Where it goes
//!
//! ```text
//!  client ─▶ AccessLogLayer ─▶ time-out, CORS, … ─▶ RespondLayer ─▶ sticky … proxy ─▶ backend
//! ```
//!
//! Outermost, above [`RespondLayer`](crate::respond::RespondLayer), so that the log sees the status
//! that the client sees. Below it, the log sees errors without a status, and warns once.
//!
//! The layer reads from the request's extensions the [`ConnInfo`](crate::context::ConnInfo) of the
//! connection, and the [`Exchange`](crate::context::Exchange) for backend, attempts and stickiness,
//! which it inserts if there is none. From the response's extensions it reads an
//! [`AuthFailure`](crate::context::AuthFailure) of the application. It works alone around any
//! service; fields that no layer fills in are absent.
//!
//! A time-out layer belongs between the log and `RespondLayer`, or below: the line then has the
//! status that the client got. A time-out layer above the log drops the log's future, as a server
//! does when a client goes away. Under `evenkeel::serve` the log knows the difference, and the line
//! has the status that the layer answered with. Under another server the line says `client_abort`,
//! without a status.
//!
//! The layer is also a [`ConnectionEvents`](crate::context::ConnectionEvents). With
//! `evenkeel::serve(…).events(layer.clone())`, a connection that ends without a request, and a
//! request that the server refuses, have lines, too.
//!
//! # When the line is written
//!
//! | event | when | `outcome` |
//! |---|---|---|
//! | the response is complete | its last byte was handed to the connection | `ok`, or the kind of the error that the response is for |
//! | the body fails | at the failure | the kind of the error |
//! | the client goes away | the future or the body is dropped | `client_abort` |
//! | a layer gives the request up and answers it | its response ended | `timeout` if it answered 408 or 504, else `superseded` |
//! | the time that `evenkeel::serve` gives a request ends before the response begins | it answered 504 | `timeout` |
//! | the service fails without a response | at the failure | the kind of the error, or `service` |
//! | a tunnel (WebSocket) | it closed | `ok` |
//! | the server refuses the request (400, 408, 414, 431, 501, 505) | it answered; with `status`, and with `method` and `path` if they could be read | `bad_request`, `head_timeout`, `head_too_large` |
//! | a connection ends without a request | at its end | `io`, `tls_handshake` and the like |
//!
//! The kinds are those of [`ErrorKind`](crate::ErrorKind), as `ErrorKind::as_str` returns them.
//!
//! # Fields
//!
//! A field without a value is absent. Numbers are JSON numbers.
//!
//! | field | meaning |
//! |---|---|
//! | `time` | when the request arrived: RFC 3339, UTC, milliseconds |
//! | `node`, `listener` | the name of this balancer, and the address that the client connected to |
//! | `client`, `peer` | the client's address; the address of the transport's peer if that is another |
//! | `request_id` | the `X-Request-Id` of a trusted client, else a random id of 32 hexadecimal digits |
//! | `method`, `scheme`, `host`, `path`, `query`, `protocol` | of the request. The path is the original one under axum's `nest`; the query is [optional](AccessLogLayer::query) |
//! | `status` | of the response |
//! | `duration_ms`, `ttfb_ms` | time from arrival to the end, and to the response's head |
//! | `received`, `sent` | body bytes from and to the client; of a tunnel, all its bytes |
//! | `backend`, `backend_address` | the backend whose response the client got, or the last one that failed |
//! | `attempts` | a list of `{backend, outcome, duration_ms}`, if there was more than one attempt |
//! | `strategy`, `candidates` | how the backend was chosen, and from how many |
//! | `sticky` | what became of the client's affinity |
//! | `tls_version`, `tls_cipher`, `tls_key_exchange`, `tls_resumed`, `alpn`, `sni` | of the client's TLS connection |
//! | `auth_scheme`, `auth_user`, `auth_reason` | of a failed authentication; never credentials |
//! | `user_agent`, `referer` | as the client sent them; the referer is [optional](AccessLogLayer::referer) |
//! | `outcome`, `detail` | see above |
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | node | no name |
//! | query | off |
//! | referer | off |
//! | request id of the client | not trusted, and removed |
//! | request id to the backend | a trusted one; [`pass_request_id`](AccessLogLayer::pass_request_id) adds those made here |
//! | lines queued by [`JsonLines`] | 8,192 a thread; more are dropped and counted |
//! | written out | every 10 ms |
//!
//! # When it fails
//!
//! A request never waits for the log and never fails because of it. [`JsonLines`] drops a line that
//! finds the queue full, counts it ([`JsonLines::dropped`]), and logs a warning. If the output
//! fails, it logs an error, drops the lines of that batch, and tries again with the next. Both
//! events are limited, so that clients cannot flood the program's own log.
//!
//! # Cost
//!
//! A line costs about 280 ns with all fields and 230 ns with the defaults, on a shared cloud core,
//! beside the `Exchange` that all layers share: produced by `benches/access_log.rs`.
//!
//! With [`JsonLines`] a request costs no allocation in a steady state. When the request arrives,
//! its fields are written as text into a buffer of an earlier request. When it ends, the text and
//! the rest of the line go to a buffer that the writer empties, under a lock that at most a few
//! threads share. So the log holds no header alive. The text for a backend is formatted once and
//! cached with the backend; the text for a connection is cached at the connection's second request,
//! and costs three allocations a connection.
//!
//! A [`Sink`] that implements [`record`](Sink::record) alone costs clones of the method, the target
//! and up to four header values. They keep the buffer of the request's head (4 KiB under
//! `evenkeel::serve`) alive until the request's end. A sink that is not [enabled](Sink::enabled)
//! costs that one call.

mod auth;
mod body;
mod closing;
mod entry;
mod field_limits;
mod field_names;
mod fields;
mod json;
mod json_lines;
mod layer;
mod line;
mod opening;
mod outcome;
mod request_id;
mod service;
mod sink;
mod truncated;

pub use body::{RequestBody, ResponseBody};
pub use closing::Closing;
pub use entry::{Entry, RefusedEntry, RequestEntry, RequestId};
pub use field_limits::FieldLimits;
pub use field_names::FieldNames;
pub use json_lines::JsonLines;
pub use layer::AccessLogLayer;
pub use opening::Opening;
pub use service::{AccessLog, ResponseFuture};
pub use sink::{Sink, Tee, TracingSink};
pub use truncated::Truncated;
