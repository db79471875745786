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
//! use evenkeel::access_log::{AccessLogLayer, Lines};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Empty, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("access.jsonl");
//! let sink = Lines::file(&path)?;
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
//! # Sinks, formats and outputs
//!
//! | sink | does |
//! |---|---|
//! | [`Lines`] | writes lines in a [`Format`] (JSON, logfmt, Combined) to an [`Output`]: the standard output, a file, which it reopens or [rotates](Rotation), a Unix socket, UDP, TCP, or [`Syslog`] |
//! | [`TracingSink`] | makes events of `tracing` with a typed field for each field of the line |
//! | [`Tee`], `Vec<Box<dyn Sink>>` | hand each line to several sinks |
//! | [`Sampled`] | passes on a share of the lines, and all those of failed and slow requests |
//! | a [`Sink`] of your own | gets each line as an [`Entry`] |
//!
//! Each request of the last week as logfmt in a file a day, and a tenth of them, with each failure, as
//! JSON in the local syslog:
//!
//! ```
//! use std::time::Duration;
//!
//! use evenkeel::access_log::{AccessLogLayer, Format, Lines, Output, Rotation, Sampled, Syslog, Tee};
//!
//! # fn main() -> Result<(), evenkeel::BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("access.log");
//! let rotation = Rotation::new().every(Duration::from_secs(86_400))?.keep(7)?;
//! let file = Lines::new(Format::Logfmt, Output::rotated_file(path, rotation))?;
//! let syslog = Syslog::unix("/dev/log").app_name("shop")?.cee(true);
//! let sampled = Sampled::new(Lines::new(Format::Json, syslog.into())?).ratio(0.1)?;
//! let layer = AccessLogLayer::new(Tee::new(file.clone(), sampled));
//! # drop(layer);
//! // At SIGHUP:
//! file.reopen();
//! // For the metrics:
//! assert_eq!(file.written() + file.dropped(), 0);
//! # Ok(())
//! # }
//! ```
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
//! connection, the [`TraceContext`](crate::context::TraceContext), and the
//! [`Exchange`](crate::context::Exchange), which it inserts if there is none. The exchange holds what the
//! layers below record: backends, attempts and their phases, stickiness, the causes of failures. From the
//! extensions of request and response the layer reads the application's notes:
//! [`User`](crate::context::User), [`AuthFailure`](crate::context::AuthFailure) and
//! [`LogFields`](crate::context::LogFields). It works alone around any service; fields that no layer
//! fills in are absent.
//!
//! The layer is also a [`ConnectionEvents`](crate::context::ConnectionEvents). With
//! `evenkeel::serve(…).events(layer.clone())`, a connection that ends without a request, and a
//! request that the server refuses, have lines, too.
//!
//! # Fields of your own
//!
//! A handler adds fields to the line of its request through the `Exchange`, from any depth of the stack:
//!
//! ```
//! use axum::{Extension, Router, routing::get};
//! use evenkeel::{access_log::{AccessLogLayer, Lines}, context::Exchange};
//! use http::Request;
//! use http_body_util::BodyExt;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("access.jsonl");
//! async fn cart(Extension(exchange): Extension<Exchange>) -> &'static str {
//!     exchange.set_user("ada");
//!     exchange.add_log_field("tenant", "acme");
//!     exchange.add_log_field("items", 3);
//!     "a cart"
//! }
//!
//! let sink = Lines::file(&path)?;
//! let app = Router::new().route("/cart", get(cart)).layer(AccessLogLayer::new(sink.clone()));
//!
//! let response = app.oneshot(Request::get("/cart").body(axum::body::Body::empty())?).await?;
//! response.into_body().collect().await?;
//! assert!(sink.flush());
//! let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
//! assert_eq!(line["user"], "ada");
//! assert_eq!(line["fields"], serde_json::json!({ "tenant": "acme", "items": 3 }));
//! # Ok(())
//! # }
//! ```
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
//! | the server closes a connection of HTTP/2 whose client breaks the protocol or costs too much | at its end, beside the lines of its requests | `protocol_error` |
//!
//! Under HTTP/2, a request that the codec refuses (a field name in upper case, a pseudo-field twice, a body
//! of another length than announced) resets its stream and has no line.
//!
//! The kinds are those of [`ErrorKind`](crate::ErrorKind), as `ErrorKind::as_str` returns them. `detail`
//! says why: what the resolver, the operating system or the TLS library said of the backend, which field
//! or framing was refused, the limit that a time-out had, how full the queue was, which backends were left
//! out, and how far the response had come when the client went away.
//!
//! # Where the time went
//!
//! ```text
//!  arrival ── queue_ms ──▶ attempt begins ─ connect_ms ─ tls_ms ─ head_ms ─▶ head ── body_ms ──▶ end
//!  └──────────────────────────── ttfb_ms ──────────────────────────────────────┘                  │
//!  └──────────────────────────────── duration_ms ─────────────────────────────────────────────────┘
//! ```
//!
//! `queue_ms` holds all that happens inside this process before the first attempt at a backend: the
//! layers between log and balancer, such as a `ConcurrencyLimit` or a buffer, the wait for them to be
//! ready, and the balancer's own queue. Without an attempt there is no `queue_ms`: a request that waited in
//! vain has its wait in `duration_ms`. Where a layer above the log begins the record, such as
//! `MetricsLayer` or `TraceLayer`, time counts from that layer's call, and the wait to be ready does not
//! count. The four phases are of the attempt whose response the client got.
//! After an attempt that failed, they do not add up to the duration; `attempts` has the rest.
//!
//! # Tower's layers around and inside
//!
//! What a line shows of a layer of another crate depends on which of the two stands outside. From left to
//! right is from outside to inside; "balancer" stands for the layers of this crate with `RespondLayer` as
//! the outermost, where no other place of it is named.
//!
//! | order | what happens | the line |
//! |---|---|---|
//! | log, tower-http's `TimeoutLayer`, balancer | the layer answers 408 or 504 | `timeout`, with the status |
//! | log, `RespondLayer`, tower's `TimeoutLayer`, balancer | the layer fails, and `RespondLayer` answers 504 | `timeout`, with the status and the layer's message |
//! | `TimeoutLayer`, log, balancer under `evenkeel::serve` | the layer drops the log's future and answers | `timeout`, with the status |
//! | [`OutermostLayer`], `TimeoutLayer`, log, balancer under hyper or `axum::serve` | the same | `timeout`, with the status |
//! | `TimeoutLayer`, log, balancer under hyper or `axum::serve` | the log cannot distinguish it from a client that goes away | `client_abort`, without a status |
//! | log, `RespondLayer`, `LoadShedLayer`, `ConcurrencyLimitLayer`, balancer | the limit is reached, and `RespondLayer` answers 503 | `load_shed`, with the status |
//! | `LoadShedLayer`, log, balancer | the request never reaches the log | none |
//! | log, `ConcurrencyLimitLayer` or `BufferLayer`, balancer | the request waits | its wait is in `queue_ms` |
//! | `ConcurrencyLimitLayer`, log, balancer | the request waits before the log | its wait is not in the line |
//! | log, `CompressionLayer`, balancer | the body is compressed | `sent` counts compressed bytes |
//! | `CompressionLayer`, log, balancer | the same | `sent` counts the bytes before compression |
//! | log, a layer that answers itself (CORS, a body limit, authentication) | the balancer is not called | its status, without `backend`; `ok` |
//!
//! The kinds `timeout` and `load_shed` of tower's layers need the feature `tower`.
//!
//! # Fields
//!
#![doc = include_str!("schema.md")]
//!
//! [`field_names`](AccessLogLayer::field_names) chooses the vocabulary.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | node | no name |
//! | names of fields | those of this crate |
//! | query | off |
//! | referer | off |
//! | fingerprint of a client's certificate | off |
//! | longest host | 512 bytes |
//! | longest path, query | 8 KiB |
//! | longest user agent | 1 KiB |
//! | longest referer | 2 KiB |
//! | request id of the client | not trusted, and removed |
//! | request id to the client | not returned; [`return_request_id`](AccessLogLayer::return_request_id) |
//! | field of the request id | `x-request-id`; [`request_id_field`](AccessLogLayer::request_id_field) |
//! | request id to the backend | a trusted one; [`pass_request_id`](AccessLogLayer::pass_request_id) adds those made here |
//! | format of [`Lines::file`], [`Lines::stdout`], [`Lines::writer`] | JSON |
//! | lines queued by [`Lines`] | 8,192 a thread; more are dropped and counted |
//! | bytes queued by [`Lines`] | 4 MiB a thread; as above |
//! | written out | every 10 ms |
//! | wait for a stalled output at a shutdown | 2 s |
//!
//! [`Rotation`], [`Syslog`] and [`Sampled`] have tables of their own.
//!
//! # When it fails
//!
//! A request never waits for the log and never fails because of it. [`Lines`] drops a line that
//! finds the queue full, counts it ([`Lines::dropped`]), and logs a warning. If a file or a writer
//! fails, it logs an error, drops the lines of that batch, and tries again with the next. If a socket
//! fails or stalls, it logs an error, lines wait in the queue, and it connects again; [`Output`] says
//! when a line is lost. Both events are limited to one in 10 s, so that clients cannot flood the
//! program's own log.
//!
//! # Cost
//!
//! A line costs about 280 ns with all fields and 265 ns with the defaults, on a shared cloud core,
//! beside the `Exchange` that all layers share: produced by `benches/access_log.rs`. A failure costs
//! the text of its cause as well: one or two allocations.
//!
//! With [`Lines`] a request costs no allocation in a steady state. When the request arrives,
//! its fields are written as text into a buffer of an earlier request. When it ends, the text and
//! the rest of the line go to a buffer that the writer empties, under a lock that at most a few
//! threads share. So the log holds no header alive, but
//! `Authorization` until the response's head, as a refusal shows its scheme. The text for a backend is
//! formatted once and cached with the backend; the text for a connection is cached at the connection's second request,
//! and costs three allocations a connection. [`Format::Logfmt`] costs a request the same: the writer
//! makes it of the JSON. A line that finds the queue full, because the output stalls, costs a fifth less
//! than one that is written; a combined line costs 440 ns, where JSON costs 230: produced by
//! `benches/access_log_outputs.rs`.
//!
//! A [`Sink`] that implements [`record`](Sink::record) alone costs clones of the method, the target
//! and up to four header values. They keep the buffer of the request's head (4 KiB under
//! `evenkeel::serve`) alive until the request's end. A sink that is not [enabled](Sink::enabled)
//! costs that one call. [`Format::Combined`] and [`TracingSink`] are such sinks.

mod auth;
mod body;
mod closing;
mod entry;
mod field_limits;
mod field_names;
mod fields;
mod json;
mod layer;
mod line;
mod lines;
mod opening;
mod outcome;
mod outermost;
mod output;
mod progress;
mod request_id;
mod sampled;
mod service;
mod sink;
mod tee;
mod tracing_sink;
mod truncated;

pub use body::{RequestBody, ResponseBody};
pub use closing::Closing;
pub use entry::{Entry, RefusedEntry, RequestEntry, RequestId};
pub use field_limits::FieldLimits;
pub use field_names::FieldNames;
pub use layer::AccessLogLayer;
pub use lines::{Format, Lines};
pub use opening::Opening;
pub use outermost::{Outermost, OutermostFuture, OutermostLayer};
pub use output::{Facility, Output, Rotation, Syslog};
pub use sampled::Sampled;
pub use service::{AccessLog, ResponseFuture};
pub use sink::Sink;
pub use tee::Tee;
pub use tracing_sink::TracingSink;
pub use truncated::Truncated;
