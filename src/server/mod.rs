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
//! | a client that acknowledges nothing, or whose window stays shut (TCP on Linux, Android, Fuchsia) | as idle, 10 s at the least |
//! | request head | 100 fields, 32 KiB |
//! | HTTP/2 streams at once | 256 |
//! | HTTP/2 flow control | 1 MiB a stream, 4 MiB a connection |
//! | graceful end | 30 s, then connections are cut |
//!
//! # When it fails
//!
//! A head that is no HTTP is answered with 400, one over the limits with 431, one that began and
//! does not come in time with 408; then the connection is closed, and told to
//! [`events`](Serve::events). A client that says nothing, or no more, is closed without a word.
//! Accepting never fails for good: what goes wrong is logged, and tried again after 100 ms.
//!
//! A service that is not ready holds its own request back, and nothing else. A service that
//! fails closes the connection, or under HTTP/2 resets its stream: put `RespondLayer` around what
//! may fail.
//!
//! A client that stalls in the middle of its request body is the business of whoever reads the
//! body, and a tunnel (101, CONNECT) that of whoever holds it. Under HTTP/2, a tunnel of CONNECT is
//! the request's body one way and the response's the other; under HTTP/1.1, `hyper::upgrade::on`
//! of the request gives it. HTTP/2 frames are not looked into here, so a header block that trickles
//! in has the idle time, not the time for a head.
//!
//! A graceful end answers what has arrived, in the kernel's queue, too: a head that has begun
//! may end, a connection of the last half second may bring its first request. Idle ones are
//! closed, HTTP/2 clients told to go (GOAWAY), tunnels waited for until the deadline.
//!
//! # Cost
//!
//! A connection: one task, one box, about 4 KiB while it is idle, 12 KiB under TLS. A request: the
//! `ConnInfo` note, often in the place that an earlier one left (see [`context`](crate::context));
//! its deadlines are plain stores, swept ten times a second, so they fire up to 0.2 s late.
//!
//! HTTP/2 frames of one poll go out in one write. On a `current_thread` runtime the connection's
//! task answers its streams itself, on a `multi_thread` one each has a task of its own: that costs
//! more, and puts one client's streams on as many cores as there are. A connection that is idle
//! keeps the memory of eight streams at most, some 4 KiB.
//!
//! HTTP/2's codec opens `tracing` spans. Where anything in the program switches on the feature `log`
//! of `tracing`, as axum's default features do, each is made though nobody hears it: 1,900
//! instructions a request. The feature `release_max_level_debug` takes another 900 out, and events
//! at trace level with them. The examples are built without the one and with the other.
//!
//! An HTTP/1.1 request without a body is read and answered through two buffers of the thread. Its
//! head, up to a KiB, is copied into a block of 4 KiB that it shares with others: who keeps one of
//! its fields keeps the block. From the first other one on (a body, `Expect`, an upgrade, anything
//! that is not quite as RFC 9112 has it) hyper's codec has the connection, and decides about all
//! that is odd: about 15 KiB while it is idle, and about a seventh more CPU a request.
//!
//! A runtime of tokio's `current_thread` kind on each core ([`Workers`]) is the cheapest way to
//! serve: a `multi_thread` runtime costs over 2 µs more a request, as tasks are handed from core
//! to core and back. Choose `multi_thread` where handlers compute for long or block now and then,
//! so that others go on meanwhile, or where the application has such a runtime anyway; choose
//! a thread a core for a proxy, whose requests all cost about the same.

mod app;
mod body;
mod date;
mod draining;
#[cfg(feature = "http2")]
mod gather;
mod http;
mod http1;
#[cfg(feature = "http2")]
mod http2;
mod listener;
mod serve;
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
