//! One structured line a request, at its true end.
//!
//! # Example
//!
//! ```no_run
//! use evenkeel::access_log::{AccessLogLayer, JsonLines};
//!
//! # fn main() -> std::io::Result<()> {
//! let sink = JsonLines::file("access.jsonl")?;
//! let log = AccessLogLayer::new(sink.clone()).node("lb-1");
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Outermost, above `respond`, so that it sees what the client sees. It reads the
//! [`ConnInfo`](crate::context::ConnInfo) of the connection, the
//! [`Exchange`](crate::context::Exchange) (which it inserts) for backends, attempts and
//! stickiness, and an [`AuthFailure`](crate::context::AuthFailure) that the application noted on
//! its response. Below `respond` it would see errors without their status, and warns once.
//!
//! The layer is also a [`ConnectionEvents`](crate::context::ConnectionEvents): given to
//! `evenkeel::serve(…).events(log.clone())`, what ends a connection before there is a request
//! gets its line, too.
//!
//! # When the line is written
//!
//! | what happened | when | `outcome` |
//! |---|---|---|
//! | a whole response | its last byte was handed to the connection | `ok`, or the kind of the error that was answered for |
//! | the body failed | at the failure | the kind of the error |
//! | the client went away | the future or the body was dropped | `client_abort` |
//! | a layer gave the request up, and answered itself: see below | as its response ended | `timeout` where it answered 408 or 504, else `superseded` |
//! | the time of `evenkeel::serve` for a request was over before the response began | it answered 504 | `timeout` |
//! | the service failed without a response | at the failure | the kind, or `service` |
//! | a tunnel (WebSocket) | it closed | `ok` |
//! | the server refused the request (400, 408, 414, 431, 501, 505) | it was answered; with `status`, and `method` and `path` where they could be read | `bad_request`, `head_timeout`, `head_too_large` |
//! | no request came of it | the connection ended | `io`, `tls_handshake` … |
//!
//! A time-out layer belongs between the log and `respond`, or below: the line then has what the
//! client saw. Outside the log, the layer drops the log's future as a client that goes away does.
//! Under `evenkeel::serve` the two are told apart, and the line has the status that the layer
//! answered with; under another server they are not, and the line says `client_abort` without a
//! status.
//!
//! # Fields
//!
//! Absent ones are left out; numbers are numbers.
//!
//! | field | what |
//! |---|---|
//! | `time` | when the request came, RFC 3339, UTC, milliseconds |
//! | `node`, `listener` | this balancer, and the address that the client connected to |
//! | `client`, `peer` | the client's address; the transport's peer where it is another |
//! | `request_id` | the `X-Request-Id` of a trusted client, else made; the backend gets no other |
//! | `method`, `scheme`, `host`, `path`, `query`, `protocol` | of the request; the path is the original one under `nest`; the query by choice |
//! | `status` | of the response |
//! | `duration_ms`, `ttfb_ms` | to the last byte; to the response head |
//! | `received`, `sent` | body bytes from and to the client; of a tunnel, its bytes |
//! | `backend`, `backend_address` | whose answer the client got, or who failed last |
//! | `attempts` | each `{backend, outcome, duration_ms}`, where there was more than one |
//! | `strategy`, `candidates`, `sticky` | how the backend was chosen |
//! | `tls_version`, `tls_cipher`, `tls_key_exchange`, `tls_resumed`, `alpn`, `sni` | of the client's connection |
//! | `auth_scheme`, `auth_user`, `auth_reason` | of a failed authentication; never credentials |
//! | `user_agent`, `referer` | as sent; the referer by choice |
//! | `outcome`, `detail` | see above |
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | query | off |
//! | referer | off |
//! | request id of the client | not trusted, and removed |
//! | request id to the backend | a trusted one; one that was made by choice |
//! | lines queued by [`JsonLines`] | 8,192 a thread; more are dropped and counted |
//! | written out | every 10 ms |
//!
//! # When it fails
//!
//! A request never waits for the log, nor fails for it. Lines that find the queue full are
//! counted ([`JsonLines::dropped`]) and warned about; a file that cannot be written is an error
//! event, and tried again.
//!
//! # Cost
//!
//! With [`JsonLines`], what a line says of the request is written when it comes, into a buffer
//! that was another request's; the rest, when it ends, behind a copy of that in a buffer of the
//! thread's own. The words for the connection and for the backend are made once and kept with
//! them. No allocation in steady state but the `Exchange` that all layers share. For another
//! sink, the request's fields are kept as they came, and under `serve` the block with them that
//! their head shares with others (4 KiB) until the end. With one that is
//! [not enabled](Sink::enabled), nothing at all.
//!
//! About 280 ns with all fields on, 230 ns with the defaults, and no allocation on a shared cloud
//! core, once the record that all layers share is there: produced by `benches/access_log.rs`.

mod auth;
mod body;
mod closing;
mod entry;
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

pub use body::{RequestBody, ResponseBody};
pub use closing::Closing;
pub use entry::{Entry, RefusedEntry, RequestEntry, RequestId};
pub use json_lines::JsonLines;
pub use layer::AccessLogLayer;
pub use opening::Opening;
pub use service::{AccessLog, ResponseFuture};
pub use sink::{Sink, Tee, TracingSink};
