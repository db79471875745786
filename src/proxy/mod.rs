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
//! address and TLS; without it, nothing is told to the backend about the client) and hyper's
//! `OnUpgrade`; writes `Tunnel` into a 101 response.
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
//! | response head | 100 fields, 32 KiB |
//! | Host | the client's |
//! | told about the client | `X-Forwarded-For`, `-Proto`, `-Host`; those of untrusted peers removed or replaced |
//! | trusted peers | none |
//! | `Via` | `evenkeel` |
//!
//! # When it fails
//!
//! With an [`Error`](crate::Error) whose kind names phase and side, and which gives the request's
//! head back (`take_unsent`), so that another attempt needs no copy. A message that RFC 9112
//! leaves ambiguous is refused in both directions, and the backend's connection dropped: repeated
//! or malformed `Content-Length`, `Transfer-Encoding` beside it or other than `chunked`, folded
//! lines, lines without CR, bad chunks, two `Host` fields, an interim response more than 16 times.
//!
//! An idle connection that the backend closed is noticed before use and replaced. One that closes
//! while the request goes out, or answers it with 408 and closes, is replaced once if the method is
//! idempotent and there is no body; otherwise that is an error: [`idle_timeout`](Proxy::idle_timeout) shorter than the backend's
//! avoids it.
//!
//! Over HTTP/2, 102 and 103 go to the client by [`Interim`](crate::context::Interim); more than 100
//! interim responses are an error. A stream that breaks leaves the connection to the others. A
//! request is sent once more where its connection was closed before it went out, or where a
//! graceful GOAWAY leaves it out and none of its body was taken.
//!
//! CONNECT is refused; `Upgrade: h2c` is not passed on. Upgrades need a client on HTTP/1.1 and a
//! backend on HTTP/1.1. Connections that carried NTLM or Negotiate are kept for the client's
//! connection that authenticated them, and closed where that is not known.
//!
//! # Cost
//!
//! No task, no channel, no lock but the backend's own idle stack; no allocation for the exchange
//! itself in steady state. A request that cannot be sent again costs a system call before it uses an
//! idle connection. A request body costs one box, a new connection a few. A request over HTTP/2 costs
//! one box for its future and one for a response body; a task only where the response begins before
//! the request body has ended.
//!
//! What HTTP/1.1 backends answer is read into blocks of 16 KiB that the connections of a thread
//! share, and passed on without a copy where its head comes in one read. A field's value or a small
//! body that is kept for long keeps up to a block: copy what is to stay.

mod body;
mod config;
mod emit;
mod forwarded;
mod h1;
#[cfg(feature = "http2")]
mod h2;
mod headers;
mod idle;
mod service;
mod upgrade;

pub use body::Body;
pub use config::{HostField, Proxy};
pub use forwarded::{ForwardedFields, TrustedPeers};
pub use service::ResponseFuture;
