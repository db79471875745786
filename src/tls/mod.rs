//! TLS termination: one layer around a connection service or around an axum listener.
//!
//! [`TlsLayer`] is a tower layer without a bound on what it wraps, so that one type serves
//! `evenkeel::serve`, a server of your own, and `axum::serve`. Each gets the same [`TlsStream`]. Its
//! handshake runs on the task of the connection, at the first read or write, so that a slow client
//! delays neither the accept loop nor another client. What the handshake negotiated reaches every
//! request as [`ConnInfo::tls`](crate::context::ConnInfo::tls).
//!
//! # Example
//!
//! Around a connection service. A client that speaks plaintext HTTP gets an answer that says so:
//!
//! ```
//! use evenkeel::{
//!     BoxError,
//!     context::{Conn, ConnInfo, Peer},
//!     tls::{Certificate, Certificates, TlsConfig, TlsLayer, TlsStream},
//! };
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // In production: `Certificate::files("cert.pem", "key.pem")`.
//! let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! let certificate = Certificate::pem(made.cert.pem(), made.signing_key.serialize_pem());
//! let tls = TlsLayer::new(TlsConfig::new(Certificates::new([certificate])?));
//! let service = tls.layer(service_fn(|mut conn: Conn<TlsStream<DuplexStream>>| async move {
//!     // The handshake has ended: `conn.info.tls()` says what it negotiated.
//!     conn.io.write_all(b"hello").await?;
//!     conn.io.shutdown().await
//! }));
//!
//! let (mut client, server) = duplex(4_096);
//! client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
//! client.shutdown().await?;
//! let conn = Conn::new(server, ConnInfo::new(Peer::Unknown, Peer::Unknown));
//! let error = service.oneshot(conn).await.unwrap_err();
//! assert_eq!(error.to_string(), "plaintext HTTP on the TLS port");
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).await?;
//! assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"));
//! # Ok(())
//! # }
//! ```
//!
//! Around an axum listener (feature `axum`), with certificates that follow their files:
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```text")]
//! use axum::{Router, routing::get, serve::ListenerExt};
//! use evenkeel::{
//!     context::ConnInfo,
//!     tls::{Certificate, Certificates, HstsLayer, TlsConfig, TlsLayer},
//! };
//! use tower::Layer;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let certificates = Certificates::new([Certificate::files("cert.pem", "key.pem")])?;
//! let _watcher = certificates.watch(Certificates::RELOAD_INTERVAL);
//! let tls = TlsLayer::new(TlsConfig::new(certificates));
//!
//! let version = async |conn: ConnInfo| match conn.tls() {
//!     Some(tls) => tls.version,
//!     None => "cleartext",
//! };
//! let app = Router::new().route("/", get(version)).layer(HstsLayer::new());
//! let tcp = tokio::net::TcpListener::bind("127.0.0.1:8443").await?;
//! let tcp = tcp.tap_io(|io| { let _ = io.set_nodelay(true); });
//! let app = app.into_make_service_with_connect_info::<ConnInfo>();
//! axum::serve(tls.layer(tcp), app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Around several hosts, one of which asks its clients for a certificate:
//!
//! ```no_run
//! use evenkeel::tls::{
//!     Certificate, Certificates, ClientAuth, ClientRoots, HostPolicy, TicketSecret, TlsConfig,
//!     TlsLayer,
//! };
//!
//! # async fn run(secret: &[u8]) -> Result<(), evenkeel::BoxError> {
//! let certificates = Certificates::new([
//!     Certificate::files("www.pem", "www-key.pem"),
//!     Certificate::files("api.pem", "api-key.pem").required_names(["api.example"]),
//! ])?;
//! let roots = ClientRoots::files(["clients.pem"]).crl_files(["revoked.pem"]);
//! let clients = ClientAuth::required(roots)?;
//! let _watchers = [
//!     certificates.watch(Certificates::RELOAD_INTERVAL),
//!     clients.watch(Certificates::RELOAD_INTERVAL),
//! ];
//! let config = TlsConfig::new(certificates)
//!     .host("api.example", HostPolicy::new().client_auth(clients))?
//!     .ticket_secret(TicketSecret::new(secret)?);
//! let tls = TlsLayer::new(config);
//! # let _ = tls;
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! [`TlsLayer`] stands in the connection stack: inside the layer that reads the PROXY protocol and
//! outside HTTP. It calls [`ConnInfo::set_tls`](crate::context::ConnInfo::set_tls) before the first
//! request. Around listeners the layers nest in reverse wire order: `tap_io` and the like go
//! inside. A handler that asks axum for `ConnectInfo<SocketAddr>` gets it from
//! `context::ConnectInfoLayer` on the router.
//!
//! Certificates come from files or memory, are looked up on demand, or are ordered from an authority and
//! renewed: see [`acme`] (feature `acme`).
//!
//! [`HstsLayer`] and [`HttpsRedirectLayer`] stand in the request stack, outside the layer that
//! answers errors. [`MisdirectedLayer`] stands outside all that act on requests; `evenkeel::serve` does
//! without it.
//!
//! `axum::serve` has no limit on the time for a request head, on the size and number of header
//! fields, or on the number of connections. It keeps a client that completes its handshake and then
//! sends nothing for as long as the client likes. `evenkeel::serve` limits all of these. A client
//! that vanishes is noticed under `axum::serve` as well if `server::bind` made its listener.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | versions | 1.2 and 1.3; rustls has none older |
//! | cipher suites | all that rustls has, which are forward secret and authenticated; the client's preference decides |
//! | ALPN | `h2`, `http/1.1` |
//! | certificate | exact name, wildcard of one label, on demand, else the first; [`strict_sni`](TlsConfig::strict_sni) refuses instead |
//! | key exchange | with aws-lc-rs, `X25519MLKEM768` is preferred, which keeps recorded sessions secret from quantum computers |
//! | certificates of clients | not asked for |
//! | policies | one for all hosts; with several, a request for a host of another one gets 421 |
//! | lookups on demand at once | 16, off until [`Certificates::on_demand`] |
//! | lookup time-out | 5 s |
//! | certificates kept on demand | 1000 |
//! | tickets | on, sent with the first write; never for hosts that ask for certificates of clients |
//! | ticket keys | change every 12 h and are forgotten 12 h later; made by the process ([`TicketKeys`]), or derived from a [`TicketSecret`] |
//! | 0-RTT | off, without a setting: a request that an attacker can replay is not worth the round trip |
//! | ClientHello, record headers included | 64 KiB less one byte; a longer one gets an alert |
//! | handshake time-out, from TCP accept | 10 s |
//! | handshakes at once | 512 |
//! | [`Certificates::watch`] | off until called; [`Certificates::RELOAD_INTERVAL`] is 5 s |
//! | [`ExpiryWatcher`] | off until started; [`ExpiryWatcher::INTERVAL`] is 60 s |
//! | HSTS `max-age` | 31536000 s |
//! | port that cleartext is sent to | 443 |
//!
//! The defaults comply with Mozilla's configuration `intermediate`, and with
//! [`min_version`](TlsConfig::min_version) 1.3 they comply with `modern`. The certificates have to
//! comply as well: ECDSA with P-256 (for `intermediate`, RSA with 2,048 bits too), valid for at most 366
//! days, or 90 for `modern`. To check a server from outside:
//!
//! ```sh
//! pip install sslyze
//! sslyze --mozilla_config=intermediate www.example
//! testssl -p -s -f -P -S -U -c https://www.example   # Debian: testssl.sh
//! ```
//!
//! testssl.sh remarks in `cipher_order` that the client's preference decides among the cipher suites,
//! as Mozilla recommends where all of them are strong.
//!
//! # When it fails
//!
//! If a handshake fails, the first read or write of the stream fails, and the client gets the alert
//! that TLS has for the failure. A client that speaks HTTP to the TLS port gets a plain 400. A header of
//! the PROXY protocol that this listener does not expect from the peer is named in the reason. The
//! layer reports the failure once to [`ConnectionEvents`](crate::context::ConnectionEvents) (those of
//! the connection, else those of [`TlsLayer::events`]) as `tls_handshake` or `tls_timeout`, with the
//! reason in words. It logs at DEBUG only: otherwise a client could fill the log. A client that
//! connects and sends no byte is not reported, whether it closes, as TCP checks do, or the time-out
//! closes a connection that a browser opened ahead.
//!
//! A handshake counts towards [`max_handshakes`](TlsLayer::max_handshakes) from its complete
//! ClientHello until the server has written its answer. A client that sends nothing, stops within
//! its ClientHello or does not reply to the server is disconnected by the time-out, and delays no
//! other client until then. A graceful shutdown disconnects clients that have sent nothing after its
//! grace, 2 s under `evenkeel::serve`.
//!
//! A certificate with a fault is refused when it is read: a key that does not belong to the chain, one
//! that is encrypted, a validity that is over or has not begun, a missing name. A reload that fails keeps
//! the previous certificate and logs an ERROR.
//!
//! A client whose certificate is missing, invalid or revoked gets the alert that TLS has for it, in TLS
//! 1.3 at its first read. The failure is reported as a `tls_handshake` that names the reason.
//!
//! **Deployment caveat.** A chain and a key that are written one after the other do not match for a
//! moment. Replace them together (a directory behind a symbolic link that is swapped), or expect one
//! ERROR that the next reading corrects. A certificate that expires while it is served is served on: an
//! [`ExpiryWatcher`] logs it weeks before, and [`Certificates::show_in`] shows its end to gauges and the
//! status page.
//!
//! The cause of a failure is one of [`HandshakeFailure`](crate::context::HandshakeFailure): a fixed set,
//! which the metrics count by and the access log names beside the server name.
//!
//! # Cost
//!
//! A read or a write costs two `match`es over tokio-rustls. A connection takes about 2 KiB until the
//! client has sent something, then about 7 KiB while it is idle, most of it rustls' own. A handshake
//! has one timer, an established session none. A change of one certificate among 10,000 takes
//! less than 0.1 ms, parsing included, beside the handshakes: the new index of names shares all but
//! one of its 1,024 parts with the previous one. To start with 10,000 certificates from files takes less than 2 s,
//! on as many threads as there are cores. [`Certificates::watch`] reads all files at each interval, which takes
//! about 0.1 s of a blocking thread for 10,000, and parses those that changed.
//! A certificate takes about 1 KiB and its chain. A policy by host costs a handshake a hash lookup, and a request another one. [`HstsLayer`] costs a reference count a response.

#[cfg(feature = "__acme")]
pub mod acme;
mod certificate;
mod certificate_entry;
mod certificate_reader;
mod certificate_source;
mod certificate_store;
mod certificate_table;
mod certificate_watcher;
mod certificates;
mod challenge;
mod client_auth;
mod client_hello;
mod client_identity;
mod config;
mod configs;
mod deferred_tickets;
mod expiry;
mod expiry_watcher;
mod failure_cause;
mod first_bytes;
mod handshake;
mod handshake_config;
mod host_policy;
pub mod hsts;
pub mod https_redirect;
mod layer;
#[cfg(feature = "axum")]
mod listener;
pub mod misdirected;
mod negotiated;
mod on_demand;
mod process_keys;
mod refusal;
mod response_body;
mod service;
mod stream;
#[cfg(test)]
mod tests;
mod ticket_keys;

pub use certificate::Certificate;
pub use certificate_source::{CertificateFuture, CertificateSource};
pub use certificate_watcher::CertificateWatcher;
pub use certificates::Certificates;
pub use client_auth::{ClientAuth, ClientRoots};
pub use config::{TlsConfig, TlsVersion};
pub use expiry_watcher::ExpiryWatcher;
pub use host_policy::HostPolicy;
pub use hsts::{Hsts, HstsLayer};
pub use https_redirect::{HttpsRedirect, HttpsRedirectLayer};
pub use layer::TlsLayer;
pub use misdirected::{Misdirected, MisdirectedLayer};
pub use on_demand::OnDemand;
pub use process_keys::TicketKeys;
pub use response_body::ResponseBody;
pub use service::{ResponseFuture, Tls};
pub use stream::TlsStream;
pub use ticket_keys::TicketSecret;
