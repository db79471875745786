//! Forwarding: a request with a [`Selected`](crate::context::Selected) backend becomes that
//! backend's response.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, context::Selected, proxy::Proxy};
//! use tower_service::Service;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let backend = Backend::new("a", "http://127.0.0.1:9001")?;
//! let mut request = http::Request::get("/").body(String::new())?;
//! request.extensions_mut().insert(Selected(backend));
//! let response = Proxy::new().call(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! At the foot of the request stack. Reads `Selected` (required), `ConnInfo` (the client's
//! address and TLS; without it, the backend learns nothing about the client), `Interim` (where 102
//! and 103 of a backend go; without it, they are dropped) and hyper's `OnUpgrade`; writes `Tunnel`
//! into a 101 response, and `LocalReply` into one that it makes itself.
//!
//! Under axum's `nest("/api", …)`, the stripped path goes to the backend; the access log shows
//! the original one. A backend that wants the prefix back has it in its URL's base path.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | connect, TLS included | 2 s |
//! | response head, once the request is sent | 15 s |
//! | silence in the middle of a message; an idle connection is kept | 60 s |
//! | silence of a tunnel | 1 h |
//! | idle connections a backend | 1,024 |
//! | largest age of a connection | none |
//! | response head | 100 fields, 32 KiB |
//! | Host | the client's |
//! | fields about the client | `X-Forwarded-For`, `-Proto`, `-Host`; those of untrusted peers removed or replaced |
//! | trusted peers | none |
//! | `Via` | `evenkeel` |
//! | TRACE, CONNECT | refused: 405 |
//! | `Max-Forwards` | counts for OPTIONS and TRACE; at 0 the proxy itself answers |
//!
//! # When it fails
//!
//! With an [`Error`](crate::Error) whose kind names phase and side, and which gives the request's
//! head back (`take_unsent`), so that another attempt needs no copy. A message that RFC 9112
//! leaves ambiguous is refused in both directions, and the backend's connection dropped:
//!
//! | what | in a request | in a response |
//! |---|---|---|
//! | `Content-Length` twice, or as a list | refused | equal ones count as one, others are refused |
//! | `Content-Length` that is no number | refused | refused |
//! | `Transfer-Encoding` beside it, in HTTP/1.0, twice, or other than `chunked` | refused | refused |
//! | more than 64 options in `Connection` | refused | refused |
//! | two `Host` fields, one that is no host, none or an empty one in HTTP/1.1 | refused | |
//! | a line without CR, a folded line, a bad name, a control character in a value | | refused |
//! | blanks before a colon, or behind a chunk's size | | removed |
//! | a bad chunk size, extension or end | | refused |
//! | more than 100 fields or 32 KiB of head | | refused |
//! | more than 8 interim responses | | not passed on; refused from the 101st on |
//! | 101 that was not asked for, to another protocol, or before the request's end | | refused |
//!
//! In the bytes of a backend:
//!
#![doc = include_str!("malformed.md")]
//!
//! An empty `Host` is accepted where the backend gets [one of its own](HostField::Backend). The
//! names that frame, route or authenticate a message, and those that describe the client, never
//! pass as trailers.
//!
//! An idle connection that the backend closed is noticed before use and replaced. One that closes
//! while the request goes out, or answers it with 408 and closes, is replaced once if the method is
//! idempotent and there is no body; otherwise that is an error: [`idle_timeout`](Proxy::idle_timeout) shorter than the backend's
//! avoids it.
//!
//! A request that waits for a free stream of an HTTP/2 backend longer than
//! [`response_timeout`](Proxy::response_timeout) fails with
//! [`QueueTimeout`](crate::ErrorKind::QueueTimeout), as nothing was sent: health does not charge
//! the backend.
//!
//! Over HTTP/2, 102 and 103 go to the client by [`Interim`](crate::context::Interim); more than 100
//! interim responses are an error. A stream that breaks leaves the connection to the others. A
//! request is sent once more where its connection was closed before it went out, or where a
//! graceful GOAWAY leaves it out and none of its body was taken.
//!
//! CONNECT is refused, and TRACE unless [allowed](Proxy::allow_trace); `Upgrade: h2c` is not passed
//! on. Upgrades need a client on HTTP/1.1 and a
//! backend on HTTP/1.1. Connections that in_flight NTLM or Negotiate are kept for the client's
//! connection that authenticated them, and closed where that is not known.
//!
//! # Cost
//!
//! No task, no channel, no lock but the backend's own idle stack; no allocation for the exchange
//! itself in steady state, nor for a request body: bodies of one type lie in one place after the
//! other. A request that cannot be sent again costs a system call before it uses an idle
//! connection. A new connection costs a few allocations. A request over HTTP/2 costs one box for its
//! future and one for a response body; a task only where the response begins before the request
//! body has ended.
//!
//! The first frame of a request body leaves with the head: up to 4 KiB are copied behind it, more
//! goes out in the same vectored write. Further frames pass without a copy.
//!
//! What HTTP/1.1 backends answer is read into blocks of 16 KiB that the connections of a thread
//! share, and passed on without a copy where its head comes in one read. A caller that keeps a
//! field's value or a small body keeps up to a block alive: copy what is to stay. Large bodies are
//! read 32 KiB at a time, which is the most that a slow client makes a connection hold. A tunnel
//! holds only what its other side does not take. A response over HTTP/2 that its client does not
//! read holds up to 256 KiB, and stops no other of the connection; nor does a stream carry more than
//! that in a round trip to the backend.

mod body;
mod config;
mod connection_pool;
mod forwarded_fields;
mod header_sink;
mod headers;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod in_flight;
mod local_answer;
mod service;
#[cfg(test)]
mod tests;
mod upgrade;

pub use body::Body;
pub use config::{HostField, Proxy};
pub use forwarded_fields::ForwardedFields;
pub use service::ResponseFuture;
