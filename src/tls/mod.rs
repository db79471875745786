//! TLS termination: one layer around a connection service or around an axum listener.
//!
//! [`TlsLayer`] is an ordinary tower layer without a bound on what it wraps, so that the one type
//! serves both worlds; both see the same [`TlsStream`], whose handshake runs when it is first
//! read or written, on the connection's own task. What it settled reaches every request as
//! [`ConnInfo::tls`](crate::context::ConnInfo::tls).
//!
//! # Example
//!
//! Around a connection service, of `server` or of your own:
//!
//! ```no_run
//! use evenkeel::{
//!     context::Conn,
//!     tls::{Certificate, Certificates, RELOAD_INTERVAL, TlsConfig, TlsLayer, TlsStream},
//! };
//! use tokio::{io::AsyncWriteExt, net::TcpStream};
//! use tower::{Layer, service_fn};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let certificates = Certificates::new([Certificate::files("cert.pem", "key.pem")])?;
//! let _watch = certificates.watch(RELOAD_INTERVAL);
//! let tls = TlsLayer::new(TlsConfig::new(certificates));
//!
//! let service = tls.layer(service_fn(|mut conn: Conn<TlsStream<TcpStream>>| async move {
//!     // The handshake is over: `conn.info.tls()` says what it settled.
//!     conn.io.write_all(b"hello").await?;
//!     conn.io.shutdown().await
//! }));
//! # let _: evenkeel::tls::Tls<_> = service;
//! # Ok(())
//! # }
//! ```
//!
//! Around an axum listener (feature `axum`):
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```text")]
//! use axum::{Router, routing::get, serve::ListenerExt};
//! use evenkeel::{context::ConnInfo, tls::{HstsLayer, TlsLayer}};
//! use tower::Layer;
//!
//! # async fn run(tls: TlsLayer) -> std::io::Result<()> {
//! let version = async |conn: ConnInfo| match conn.tls() {
//!     Some(tls) => tls.version,
//!     None => "cleartext",
//! };
//! let app = Router::new().route("/", get(version)).layer(HstsLayer::new());
//! let tcp = tokio::net::TcpListener::bind("127.0.0.1:8443").await?;
//! let tcp = tcp.tap_io(|io| { let _ = io.set_nodelay(true); });
//! let app = app.into_make_service_with_connect_info::<ConnInfo>();
//! axum::serve(tls.layer(tcp), app).await
//! # }
//! ```
//!
//! # Where it goes
//!
//! [`TlsLayer`] stands in the connection stack, inside what reads the PROXY protocol and outside
//! HTTP. It fills in [`ConnInfo::set_tls`](crate::context::ConnInfo::set_tls) before the first
//! request. Around listeners the layers nest in reverse wire order: `tap_io` and the like go
//! inside. A handler that asks axum for `ConnectInfo<SocketAddr>` gets it by
//! `context::ConnectInfoLayer` on the router.
//!
//! [`HstsLayer`] and [`HttpsRedirectLayer`] stand in the request stack, outside the layer that
//! answers errors.
//!
//! What `axum::serve` cannot be told: how long a request head may take, how large and how many
//! headers may be, how many connections there may be. A client that ends its handshake and then
//! says nothing is kept as long as it likes. `evenkeel::serve` bounds all of them. A client that
//! vanishes is noticed under `axum::serve`, too, where its listener is made by `server::bind`.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | versions | 1.2 and 1.3; none older can be had |
//! | cipher suites | forward secret and authenticated, all that rustls has; the client's preference |
//! | ALPN | `h2`, `http/1.1` |
//! | certificate | exact name, wildcard of one label, else the first; [`strict_sni`](TlsConfig::strict_sni) refuses instead |
//! | tickets | on, sent with the first write; keys change every 6 h and are forgotten after 12 h |
//! | 0-RTT | off, and cannot be switched on: a request that anyone may replay is not worth the round trip |
//! | ClientHello, record headers included | 64 KiB less one byte; a longer one gets an alert |
//! | handshake time-out, from TCP accept | 10 s |
//! | handshakes at once | 512 |
//! | [`Certificates::watch`] | not on by itself; [`RELOAD_INTERVAL`] is 5 s |
//! | HSTS `max-age` | 31536000 s |
//! | port that cleartext is sent to | 443 |
//!
//! # When it fails
//!
//! The stream's first read or write fails, and the connection is closed: with the alert that TLS
//! has for it, or, where a client speaks HTTP to the TLS port, with a plain 400 that says so. It
//! is told once to [`ConnectionEvents`](crate::context::ConnectionEvents), those of the
//! connection or else those of [`TlsLayer::events`], as `tls_handshake` or `tls_timeout` with the
//! reason in words, and traced at debug level: to fill a log by failing must not be for free. A
//! client that comes and goes without a byte, as TCP checks do, is no event.
//!
//! A handshake counts among those [at once](TlsLayer::max_handshakes) from its complete
//! ClientHello until our answer is written. Clients that say nothing, stop in the middle of
//! their ClientHello or never answer ours are closed by the time-out and delay nobody until then.
//! A drain ends connections that have said nothing after its grace, 2 s under `evenkeel::serve`.
//!
//! A reload that fails leaves the certificates as they were, and is an error event.
//!
//! **Deployment caveat.** A chain and a key that are written one after the other do not belong to
//! each other for a moment: replace them together (a directory behind a symbolic link that is
//! swapped) or expect one error event that mends itself. Expiry is not checked here.
//!
//! # Cost
//!
//! A read or a write: two `match`es over tokio-rustls. A connection: about 2 KiB until the client
//! says something, then about 7 KiB, most of it rustls' own, while it is idle. One timer a
//! handshake, none after it. [`HstsLayer`]: a reference count a response.

mod certificate;
mod certificate_watcher;
mod certificates;
mod config;
mod deferred_tickets;
mod handshake;
pub mod hsts;
pub mod https_redirect;
mod layer;
#[cfg(feature = "axum")]
mod listener;
mod negotiated;
mod refusal;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub use certificate::Certificate;
pub use certificate_watcher::{CertificateWatcher, RELOAD_INTERVAL};
pub use certificates::Certificates;
pub use config::{TlsConfig, TlsVersion};
pub use hsts::{Hsts, HstsLayer};
pub use https_redirect::{HttpsRedirect, HttpsRedirectLayer};
pub use layer::TlsLayer;
pub use service::{ResponseFuture, Tls};
pub use stream::TlsStream;
