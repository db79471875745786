//! The reverse proxy: sends a request to its [`Selected`](crate::context::Selected) backend and
//! returns the backend's response.
//!
//! ```text
//!  client                      Proxy                                           backend
//!    │ ── request ────────────▶ │ (1) scan the head: framing, hop-by-hop fields   │
//!    │                          │ (2) take an idle connection, or dial ─────────▶ │
//!    │                          │ (3) write the head and the first body frame ──▶ │
//!    │ ── rest of the body ───▶ │ (4) ──────────────────────────────────────────▶ │
//!    │ ◀── 102, 103 ─────────── │ (5) ◀──────────────────────── interim responses │
//!    │ ◀── response head ────── │ (6) ◀────────────────────────── response head   │
//!    │ ◀── response body ────── │ (7) the body reads from the connection itself ◀ │
//!    │                          │ (8) keep the connection, or close it            │
//! ```
//!
//! Steps 1 to 3 run inside `call` if an idle connection is there. No task stands between the caller
//! and the socket: over HTTP/1.1 the caller's own task writes the request and reads the response.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, context::Selected, proxy::Proxy};
//! use http_body_util::BodyExt;
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::TcpListener};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A backend that answers one request.
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let backend = Backend::new("a", &format!("http://{}", listener.local_addr()?))?;
//! tokio::spawn(async move {
//!     let (mut stream, _) = listener.accept().await.unwrap();
//!     let mut head = Vec::new();
//!     while !head.ends_with(b"\r\n\r\n") {
//!         head.push(stream.read_u8().await.unwrap());
//!     }
//!     stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.unwrap();
//! });
//!
//! let mut request = http::Request::get("http://app.example/").body(String::new())?;
//! request.extensions_mut().insert(Selected(backend));
//! let response = Proxy::new().oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.into_body().collect().await?.to_bytes(), "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Why not a shared HTTP client
//!
//! A general client keeps the idle connections of all hosts behind one lock, spawns a task for each
//! connection and passes each message over channels. Here each backend has its own stack of idle
//! connections, and the response body is the reader of the connection: measured over the same proxy
//! on `hyper::client::conn`, that takes 0.85 to 0.90 of the CPU time. Both directions are read by one
//! strict parser of RFC 9112, which `evenkeel::serve` shares, so that no two readers of one message
//! can disagree about its end (request smuggling).
//!
//! # Where it goes
//!
//! At the end of the request stack. It reads and writes these extensions:
//!
//! | extension | use | when absent |
//! |---|---|---|
//! | [`Selected`](crate::context::Selected) | the backend | [`ErrorKind::NotRouted`](crate::ErrorKind::NotRouted) |
//! | [`ConnInfo`](crate::context::ConnInfo) | the client's address and TLS session, for `X-Forwarded-*` | only `X-Forwarded-Host` is sent, and with axum's `ConnectInfo<SocketAddr>` also `X-Forwarded-For` |
//! | [`Interim`](crate::context::Interim) | takes 102 and 103 of the backend | they are dropped |
//! | hyper's `OnUpgrade` | the client's side of an upgrade | an upgrade fails with [`Upgrade`](crate::ErrorKind::Upgrade) |
//! | [`Tunnel`](crate::context::Tunnel) (response) | written with 101 | |
//! | [`LocalReply`](crate::context::LocalReply) (response) | written if the proxy answers itself | |
//!
//! Under axum's `nest("/api", …)` the backend gets the path without the prefix; the access log shows
//! the original path. If the backend needs the prefix, add it to the base path of the backend's URL.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | connect, TLS included | 2 s |
//! | response head, once the request is sent | 15 s |
//! | a side sends nothing in the middle of a message | 60 s |
//! | an idle connection is kept | 60 s |
//! | a tunnel is silent | 1 h |
//! | idle connections for each backend | 1,024 |
//! | largest age of a connection | none |
//! | response head | 100 fields, 32 KiB |
//! | `Host` | the client's |
//! | fields about the client | `X-Forwarded-For`, `-Proto`, `-Host`; those of untrusted peers are removed or replaced |
//! | trusted peers | none |
//! | fields of the client's certificate | none; `Client-Cert` and `Client-Cert-Chain` of a request never pass |
//! | `Via` | `evenkeel` |
//! | TRACE, CONNECT | refused: 405 |
//! | `Max-Forwards` | counted for OPTIONS and TRACE; at 0 the proxy answers itself |
//!
//! # When it fails
//!
//! The future returns an [`Error`](crate::Error) whose kind names phase and side. The error gives the
//! head of the request back ([`take_unsent`](crate::Error::take_unsent)), so that another attempt
//! needs no copy. A message that RFC 9112 leaves ambiguous is refused in both directions, and the
//! connection to the backend is closed:
//!
//! | what | in a request | in a response |
//! |---|---|---|
//! | `Content-Length` twice, or as a list | refused | equal ones count as one, others are refused |
//! | `Content-Length` that is not a number | refused | refused |
//! | `Transfer-Encoding` beside it, in HTTP/1.0, twice, or other than `chunked` | refused | refused |
//! | more than 64 options in `Connection` | refused | refused |
//! | two `Host` fields, one that is not a host, none or an empty one in HTTP/1.1 | refused | |
//! | a line without CR, a folded line, a bad name, a control character in a value | | refused |
//! | blanks before a colon, or after the size of a chunk | | removed |
//! | a bad chunk size, extension or end | | refused |
//! | more than 100 fields or 32 KiB of head | | refused |
//! | more than 8 interim responses | | not passed on; refused from the 101st on |
//! | 101 that was not asked for, to another protocol, or before the request's end | | refused |
//!
//! Examples of what a backend may send, and what the client then gets:
//!
#![doc = include_str!("malformed_responses.md")]
//!
//! An empty `Host` is accepted if the backend gets [a host of its own](HostField::Backend). Fields
//! that frame, route or authenticate a message, and those that describe the client, never pass as
//! trailers.
//!
//! **Closed idle connections.** The proxy checks an idle connection before use and replaces one that
//! the backend has closed. If the backend closes it while the request goes out, or answers 408 and
//! closes, the request is sent once more on a new connection, provided that the method is idempotent
//! and there is no body; otherwise it fails. An [`idle_timeout`](Proxy::idle_timeout) below the
//! backends' own avoids these failures.
//!
//! **HTTP/2.** A request that waits longer than [`response_timeout`](Proxy::response_timeout) for a
//! free stream fails with [`QueueTimeout`](crate::ErrorKind::QueueTimeout); nothing was sent, and the
//! backend is not charged. A stream that breaks leaves the other streams of the connection intact. A
//! request is sent once more if its connection was closed before the request went out, or if a
//! graceful GOAWAY leaves it out and no byte of its body was taken.
//!
//! **Methods and upgrades.** CONNECT is refused, and so is TRACE unless it is
//! [allowed](Proxy::allow_trace). `Upgrade: h2c` is not passed on. An upgrade needs HTTP/1.1 on both
//! sides.
//!
//! **NTLM and Negotiate** authenticate a connection and not a request. A connection that carried them
//! serves only the client connection that authenticated it, and is closed if that is not known.
//!
//! # Cost
//!
//! | what | cost |
//! |---|---|
//! | an HTTP/1.1 exchange on an idle connection | no task, no channel, no allocation in steady state; one lock, of the backend's idle stack |
//! | a request body | no allocation in steady state: a thread reuses the memory of its last body of the type |
//! | a request that cannot be repeated | one system call to check the idle connection |
//! | a new connection | a few allocations, beside those of [`connect`](crate::connect) |
//! | an HTTP/2 exchange | a box for the future and one for the response body; a task only if the response begins before the request body has ended |
//!
//! The first frame of a request body leaves with the head: up to 4 KiB are copied behind the head, a
//! larger frame goes out in the same vectored write. Further frames pass without a copy.
//!
//! Responses over HTTP/1.1 are read into blocks of 16 KiB that the connections of a thread share. The
//! values of header fields and small bodies point into these blocks, so a caller that keeps one keeps
//! up to 16 KiB alive: copy what must last. Large bodies are read 32 KiB at a time, the most that a
//! slow client makes a connection hold. A tunnel holds only what its other side has not taken.
//!
//! A response over HTTP/2 holds up to 256 KiB if its client does not read, and does not stop the other
//! streams of the connection. A request body sends at most 256 KiB in one round trip to the backend.

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
pub use config::{ClientCertFields, HostField, Proxy};
pub use forwarded_fields::ForwardedFields;
pub use service::ResponseFuture;
