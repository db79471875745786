//! Connections in: listeners, HTTP on them, and a graceful end.
//!
//! # Example
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello\n" }));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! evenkeel::serve(listener, app)
//!     .max_connections(1_000)?
//!     .shutdown(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! At the outer end of both stacks: [`Serve`] accepts, the connection stack (`TlsLayer`) stands
//! around [`Http`], and `Http` calls the request stack. Each request finds its
//! [`ConnInfo`](crate::context::ConnInfo) in the extensions.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | connections at once, tunnels included | 10,000; others wait in the kernel's queue |
//! | time for a request head, telling the protocol apart included | 10 s |
//! | idle between requests; a client that takes no more of its response | 60 s |
//! | least rate of a client that is waited for | 240 bytes a second, with the idle time in advance |
//! | a request and its response in all | no limit |
//! | a client that acknowledges nothing, or whose window stays shut (TCP on Linux, Android, Fuchsia) | as idle, 10 s at the least |
//! | request head | 100 fields, 32 KiB |
//! | an HTTP/1.1 client that ends its side behind a request | the request is cancelled |
//! | a small request body that the service does not read | up to 64 KiB is read and thrown away within 2 s, so that the connection can go on |
//! | interim responses (102, 103) a request | 8, and 16 KiB of fields |
//! | HTTP/2 streams at once | 256 |
//! | HTTP/2 streams that a client resets | 500, and one more for each that is answered, and 10 a second |
//! | HTTP/2 flow control | 1 MiB a stream, 4 MiB a connection |
//! | lame duck | 0 s: the listener closes when the shutdown begins |
//! | a connection that waits for a request when the shutdown begins | 2 s for one, or the lame duck if that is longer |
//! | graceful end | 30 s, then connections are cut |
//!
//! # What is refused
//!
//! A request that two readers could take for different ones is answered here, and no service sees
//! it: with 400, 501 (a transfer coding), 505 (a version), 414 (a first line over 32 KiB), 431
//! (more than 100 fields, or 32 KiB of them), or 408 (a head that does not come in time). Then the
//! connection is closed, and nothing that comes before the close is executed. Each is reported
//! once to [`events`](Serve::events), with its status, and with method and path where they could
//! be read. A fault within a body reaches the service as an error of the body
//! ([`ErrorKind::ClientBody`](crate::ErrorKind::ClientBody)); the response that it makes of that
//! closes the connection.
//!
#![doc = include_str!("malformed.md")]
//!
//! The tests send every row of this table over a socket.
//!
//! # When it fails
//!
//! A client that is silent, before its first request or between two, is closed without a response.
//! Accepting never fails for good: the error is logged, and accepting goes on after 100 ms. Where this
//! side is out of descriptors or memory, that is one ERROR in 10 s under `evenkeel::local_fault`.
//!
//! A service that is not ready holds its own request back, and nothing else. A service that
//! returns an error closes the connection, or under HTTP/2 resets its stream: put `RespondLayer`
//! around a service that may fail.
//!
//! While a request is answered, the end of the client's side of the connection cancels it, as its
//! sender has gone; [`half_close`](Http::half_close) lets it only end reading. Up to 64 KiB that a
//! client sends ahead is read meanwhile: behind more of it, and behind a body that the service
//! does not read, the end is noticed at the next write.
//!
//! A client that takes none of a response, or too little of it, is cut: the connection of
//! HTTP/1.1, or the stream of HTTP/2. Only bytes of the response count, not what answers a PING;
//! see [`min_rate`](Http::min_rate). [`request_timeout`](Http::request_timeout) limits what a
//! request takes in all.
//!
//! A request body is read as fast as the service reads it. A client that stalls in the middle of
//! one, or trickles, fails it with [`ClientBodyTimeout`](crate::ErrorKind::ClientBodyTimeout); the
//! client's time runs while the service waits for the body, and until the response begins. So it
//! is for a client that waits for 100 (Continue), which is sent when the service polls the body for
//! the first time. A body that goes on beside its response, and one of gRPC, is the service's to
//! time out. A response that is complete before its
//! request waits for what is left of the body while the service holds it. A body that the service
//! has dropped is read to its end if it is small; otherwise the response says `connection: close`,
//! and the connection is closed after a while (RFC 9112 §9.6), so that the client can read the
//! response.
//!
//! An upgrade (101) or CONNECT gives the connection to the service by `hyper::upgrade::on`: hyper
//! serves that one request, and closes the connection unless the service takes it. An upgrade with
//! a body is served as a plain request, and so is one to HTTP/2 (`h2c`). A tunnel has no time-out
//! here. Under HTTP/2, a tunnel of CONNECT is the request's body one way and the response's body
//! the other way.
//!
//! HTTP/2 frames are not looked into here, so a header block that trickles in has the idle time,
//! not the time for a head.
//!
//! A client of HTTP/2 that opens streams and resets them, more than the table says, gets a GOAWAY
//! with ENHANCE_YOUR_CALM, and its connection ends with all its streams. A WARN event says so,
//! once in 10 s at most. The `h2` crate has events of its own at WARN for odd frames, which a client
//! can send at any rate: a subscriber should leave them out (`h2=error`), as the examples do.
//!
//! A graceful end loses no request that the client sent before it could know. From the
//! [shutdown](Serve::shutdown) on, each HTTP/1.1 response says `connection: close` and is the last
//! of its connection (RFC 9112 §9.6), and HTTP/2 clients get a GOAWAY, new ones behind their first
//! request. The listener stays open for the time of the [lame duck](Serve::lame_duck), and what
//! waits in the kernel's queue then is accepted. A connection that waits for a request, its first
//! one or a ClientHello included, is closed only after the grace above: closed at once, it would
//! cross the request of a client that sends one after the other (RFC 9112 §9.5). A head that has
//! begun may end, and tunnels have until the deadline.
//!
//! **Deployment caveat.** A client that sends a request just as an idle connection is closed, after
//! the grace, sees it closed without a response, as with any time-out of HTTP/1.1.
//!
//! # Cost
//!
//! A connection: one task, one box, about 4 KiB while it is idle, 12 KiB under TLS, whatever it
//! carried before. A request: the `ConnInfo` and `Interim` extensions, often in places that an
//! earlier request left (see [`context`](crate::context)); its deadlines are plain stores, swept
//! ten times a second, so they fire up to 0.2 s late.
//!
//! An HTTP/1.1 head of up to a KiB is copied into a block of 4 KiB that it shares with others: a
//! service that keeps one of its fields keeps the block. A body that came with its head is one
//! frame, and costs no shared state. Other bodies are read into blocks of the thread and handed
//! over without a copy, through a slot that body and connection share.
//!
//! HTTP/2 frames of one poll go out in one write. On a runtime of one thread the connection's task
//! answers its streams itself; on one of several, each stream has a task of its own, which costs
//! more and puts one client's streams on several cores. An idle connection keeps the
//! memory of eight streams at most, some 4 KiB.
//!
//! HTTP/2's codec opens `tracing` spans. Where anything in the program switches on the feature
//! `log` of `tracing`, as axum's default features do, each span is made although no subscriber
//! wants it: 1,900 instructions a request. The feature `release_max_level_debug` takes another 900
//! out, and events at trace level with them. The examples are built without the one and with the
//! other.
//!
//! A runtime of tokio's `current_thread` kind on each core ([`Workers`]) is the cheapest way to
//! serve: a `multi_thread` runtime costs over 2 µs more a request, as tasks are handed from core
//! to core and back. Choose `multi_thread` where handlers compute for long or block now and then,
//! so that others go on meanwhile, or where the application has such a runtime anyway; choose
//! a thread a core for a proxy, whose requests all cost about the same.

mod app;
mod body;
mod date;
mod http;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod listener;
mod min_rate;
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
