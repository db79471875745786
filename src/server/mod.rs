//! A server for the stack: listeners, HTTP/1.1 and HTTP/2 on their connections, and a graceful
//! shutdown.
//!
//! [`serve`] runs any tower service of requests: a stack of this crate's layers, or an axum
//! `Router`. It exists beside `axum::serve` because a server that faces clients directly needs
//! limits that `axum::serve` has no settings for: on the number of connections, on the time for a
//! request head, on clients that stall, and on the time for a shutdown.
//!
//! # Example
//!
//! A server that answers one request and shuts down:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use evenkeel::server::Body;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tokio::{
//!     io::{AsyncReadExt, AsyncWriteExt},
//!     net::{TcpListener, TcpStream},
//! };
//! use tower::service_fn;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let app = service_fn(|_: Request<Body>| async {
//!     Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello\n"))))
//! });
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr()?;
//! // In production: `tokio::signal::ctrl_c()`, or a future that waits for SIGTERM.
//! let (stop, stopped) = tokio::sync::oneshot::channel();
//! let server = evenkeel::serve(listener, app)
//!     .max_connections(1_000)?
//!     .shutdown(async { stopped.await.unwrap_or(()) });
//! let server = tokio::spawn(server.into_future());
//!
//! let mut client = TcpStream::connect(address).await?;
//! client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
//! let _ = stop.send(());
//! let mut response = String::new();
//! client.read_to_string(&mut response).await?;
//! assert!(response.starts_with("HTTP/1.1 200 OK\r\n"));
//! assert!(response.ends_with("\r\n\r\nhello\n"));
//! server.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! At the outer end of the connection stack and of the request stack:
//!
//! ```text
//!  Listener ─▶ Serve ─▶ TlsLayer ─▶ Http ─▶ RespondLayer ─▶ … ─▶ Proxy or application
//!              accepts   decrypts    parses  └───────── request stack ─────────────┘
//!              └──── connection stack ────┘
//! ```
//!
//! [`Serve`] accepts connections and calls the connection service for each. [`Http`] is that
//! service; layers such as `TlsLayer` wrap it. `Http` calls the request service and writes
//! [`ConnInfo`](crate::context::ConnInfo) and [`Interim`](crate::context::Interim) to the
//! extensions of each request.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | connections at once, tunnels included | 10,000; others wait in the kernel's queue |
//! | time for a request head, protocol detection included | 10 s |
//! | idle between requests, or blocked on a client that reads or sends nothing | 60 s |
//! | least rate of a client that the server waits for | 240 bytes a second, with the idle time in advance |
//! | a request and its response in all | no limit |
//! | a client that acknowledges nothing, or whose window stays shut (TCP on Linux, Android, Fuchsia) | as idle, 10 s at the least |
//! | request head | 100 fields, 32 KiB |
//! | an HTTP/1.1 client that closes its write side behind a request | the request is cancelled |
//! | a request body that the service does not read | up to 64 KiB is read and discarded within 2 s, so that the connection can be reused |
//! | interim responses (102, 103) of a request | 8, and 16 KiB of fields |
//! | HTTP/2 streams at once | 256 |
//! | HTTP/2 streams that a client resets | 500, and one more for each that is answered, and 10 a second |
//! | HTTP/2 flow control | 1 MiB a stream, 4 MiB a connection |
//! | lame duck | 0 s: the listener closes when the shutdown begins |
//! | a connection that waits for a request when the shutdown begins | 2 s, or the lame duck if that is longer |
//! | graceful end | 30 s, then the server closes the connections |
//!
//! # When it fails
//!
//! **A request that two parsers could read differently** is answered here, and the service does not
//! see it: with 400, 501 (a transfer coding), 505 (a version), 414 (a first line over 32 KiB), 431
//! (more than 100 fields, or 32 KiB of them) or 408 (a head that takes too long). The server then
//! closes the connection and executes nothing that comes before the close. [`events`](Serve::events)
//! gets one event for each, with the status, and with method and path if they could be parsed. A
//! fault within a body reaches the service as an error of the body
//! ([`ErrorKind::ClientBody`](crate::ErrorKind::ClientBody)); the response to it closes the
//! connection. The tests send every row of this table over a socket:
//!
#![doc = include_str!("malformed_requests.md")]
//!
//! **A client that sends nothing**, before its first request or between two, is disconnected without
//! a response.
//!
//! **Accepting** does not end on an error. The server logs the error and tries again after 100 ms.
//! If the process or the machine is out of descriptors or memory, it logs one ERROR in 10 s at most,
//! under `evenkeel::local_fault`.
//!
//! **A service that is not ready** delays its own request only. A service that returns an error
//! closes the connection, or resets the stream under HTTP/2. Put `RespondLayer` around a service
//! that can fail.
//!
//! **A client that disconnects** during a request cancels it. By default the end of the client's
//! write side counts as a disconnect; [`half_close`](Http::half_close) changes that. The server
//! notices the end if at most 64 KiB precede it and the service reads the request body; else it
//! notices at its next write.
//!
//! **A client that reads a response too slowly** is disconnected under HTTP/1.1; under HTTP/2 its
//! stream is reset. Only bytes of the response count, and not the answers to PING frames; see
//! [`min_rate`](Http::min_rate). [`request_timeout`](Http::request_timeout) limits a request in all.
//!
//! **A client that sends a request body too slowly** fails the body with
//! [`ClientBodyTimeout`](crate::ErrorKind::ClientBodyTimeout). The server reads a body as fast as the
//! service polls it. The client's time runs while the service waits for the body, until the
//! response begins, and also while the client waits for 100 (Continue), which the server sends when
//! the service polls the body for the first time. Under HTTP/1.1 it runs again once the response is
//! complete. The service has to time out a body that continues beside its response, and the body of a
//! gRPC call.
//!
//! **A response that is complete before its request** waits for the rest of the body while the
//! service holds the body. If the service has dropped the body, the server reads a small rest to
//! its end; otherwise the response says `connection: close`, and the server closes the connection
//! after up to 2 s (RFC 9112 §9.6), so that the client can read the response.
//!
//! **An upgrade** (101) or CONNECT hands the connection to the service through
//! `hyper::upgrade::on`. hyper's codec serves that one request, and the connection closes afterwards
//! unless the service takes it. An upgrade with a body, or to `h2c`, is served as a plain request.
//! Tunnels have no time-out here. Under HTTP/2, the tunnel of a CONNECT is the request body in one
//! direction and the response body in the other.
//!
//! **HTTP/2 header blocks** that trickle in have the idle time and not the time for a head, since
//! the `h2` crate does not show incomplete frames.
//!
//! **A client that resets more HTTP/2 streams** than the table allows gets GOAWAY with
//! ENHANCE_YOUR_CALM, and all its streams end (CVE-2023-44487). The server logs this at WARN, once in
//! 10 s at most. The `h2` crate logs odd frames at WARN as well, at any rate that a client chooses:
//! filter them out (`h2=error`), as the examples do.
//!
//! # Graceful shutdown
//!
//! A shutdown loses no request that the client sent before it could know of the shutdown:
//!
//! 1. The [shutdown](Serve::shutdown) future completes. From now on each HTTP/1.1 response says
//!    `connection: close` and is the last of its connection (RFC 9112 §9.6). HTTP/2 clients get
//!    GOAWAY; a new one gets it behind its first request.
//! 2. The listener stays open for the time of the [lame duck](Serve::lame_duck), unless its socket was
//!    [handed over](Serve::handed_over) to another process. Then the server
//!    accepts the connections that wait in the kernel's queue, and closes the listener.
//! 3. A connection that waits for a request (its first one or a ClientHello included) is closed after
//!    the grace of the table; where the socket was handed over, after its idle time-out. Closed at once, it would cross a request that is on its way (RFC 9112
//!    §9.5). A head that has begun may complete.
//! 4. Requests and tunnels have until [`drain_timeout`](Serve::drain_timeout); then the server
//!    closes their connections and logs how many there were.
//!
//! **Deployment caveat.** A client that sends a request at the moment when its idle connection is
//! closed, after the grace, gets no response, as with any idle time-out of HTTP/1.1.
//!
//! # Cost
//!
//! A connection costs one task, one box, and about 4 KiB while it is idle (12 KiB under TLS),
//! whatever it carried before. A request costs the `ConnInfo` and `Interim` extensions, often in
//! memory that an earlier request left (see [`context`](crate::context)). Its deadlines are plain
//! stores that a sweep checks ten times a second, so they fire up to 0.2 s late.
//!
//! An HTTP/1.1 head of up to 1 KiB is copied into a block of 4 KiB that it shares with other heads. A
//! service that keeps a header value keeps the whole block alive. A body that arrives together with
//! its head is one frame without shared state. Other bodies are read into a block of the thread and
//! handed over without a copy.
//!
//! The HTTP/2 frames of one poll are written with one system call. On a `current_thread` runtime the
//! task of the connection polls its streams itself. On a `multi_thread` runtime each stream is a
//! task, which costs more but spreads the streams of one client over several cores. An idle
//! connection keeps the memory of at most eight streams, about 4 KiB.
//!
//! The codec of HTTP/2 opens `tracing` spans. If anything in the program enables the feature `log`
//! of `tracing`, as the default features of axum do, each span is built although no subscriber wants
//! it: 1,900 instructions a request. The feature `release_max_level_debug` saves another 900, and
//! removes events at trace level. The examples are built without the former and with the latter.
//!
//! A `current_thread` runtime on each core ([`Workers`]) is the cheapest way to serve: a
//! `multi_thread` runtime costs over 2 µs more a request, since tasks move between cores. Choose
//! `multi_thread` if handlers compute for long or block now and then, or if the application has such
//! a runtime anyway. Choose one thread a core for a proxy, whose requests all cost about the same.

mod app;
mod body;
pub(crate) mod connection_limit;
mod date;
mod http;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod last_look;
mod listener;
mod min_rate;
mod open_connections;
mod recycled;
mod request_timeout;
mod serve;
mod shutdown;
mod sniff;
mod state;
mod stream;
mod workers;

pub use body::Body;
pub use http::{ConnectionFuture, Http};
pub use listener::{Listener, bind};
pub use serve::{Serve, serve};
pub use workers::Workers;

#[cfg(all(test, feature = "http2"))]
mod tests;
