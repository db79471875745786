//! Load balancing as tower middleware, for services that would otherwise stand behind HAProxy,
//! nginx or Envoy: health checks that keep traffic off dead backends, sticky sessions, retries that
//! clients do not notice, TLS termination, and one log line for each request.
//!
//! # Quick start
//!
//! ```sh
//! cargo add evenkeel
//! cargo add tokio --features full
//! ```
//!
//! ```
//! use evenkeel::{Backend, LoadBalancer, Pool};
//! use tokio::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), evenkeel::BoxError> {
//!     let pool = Pool::new([
//!         Backend::new("a", "http://127.0.0.1:9001")?,
//!         Backend::new("b", "http://127.0.0.1:9002")?,
//!     ])?;
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//!     println!("http://{}", listener.local_addr()?);
//! #   let pool = Pool::new([Backend::new("a", &backend().await?)?])?;
//! #   let client = client(listener.local_addr()?);
//!     let server = evenkeel::serve(listener, LoadBalancer::new(pool));
//! #   let server = server.shutdown(client);
//!     server.await?;
//!     Ok(())
//! }
//! # async fn backend() -> std::io::Result<String> {
//! #     let listener = TcpListener::bind("127.0.0.1:0").await?;
//! #     let url = format!("http://{}", listener.local_addr()?);
//! #     let app = axum::Router::new().fallback(async || "hello");
//! #     tokio::spawn(async { axum::serve(listener, app).await });
//! #     Ok(url)
//! # }
//! # async fn client(address: std::net::SocketAddr) {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
//! #     stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
//! #     let mut answer = String::new();
//! #     stream.read_to_string(&mut answer).await.unwrap();
//! #     assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("hello"), "{answer}");
//! # }
//! ```
//!
//! Requests take turns between the backends that answer `GET /health` with a status from 200 to
//! 299. A request that one backend fails is tried at the other. Without a healthy backend the
//! answer is 503 with `Retry-After`.
//!
//! In axum, the load balancer is a service beside routes of your own:
//!
//! ```
//! use axum::{Router, routing::get};
//! use evenkeel::{Backend, LoadBalancer, Pool};
//! use tokio::net::TcpListener;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), evenkeel::BoxError> {
//!     let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//!     let app = Router::new()
//!         .route("/hello", get(async || "hello"))
//!         .fallback_service(LoadBalancer::new(pool));
//!     let listener = TcpListener::bind("127.0.0.1:0").await?;
//! #   let client = client(listener.local_addr()?);
//!     let server = axum::serve(listener, app);
//! #   let server = server.with_graceful_shutdown(client);
//!     server.await?;
//!     Ok(())
//! }
//! # async fn client(address: std::net::SocketAddr) {
//! #     use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! #     for (path, status) in [("/hello", "HTTP/1.1 200 OK"), ("/other", "HTTP/1.1 503 ")] {
//! #         let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
//! #         let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
//! #         stream.write_all(request.as_bytes()).await.unwrap();
//! #         let mut answer = String::new();
//! #         stream.read_to_string(&mut answer).await.unwrap();
//! #         assert!(answer.starts_with(status), "{answer}");
//! #     }
//! # }
//! ```
//!
//! # What to use
//!
//! | I want to … | use |
//! |---|---|
//! | balance over some backends, with the defaults | [`LoadBalancer::new`] |
//! | set up the layers of that stack | [`LoadBalancer::builder`] |
//! | call backends from a program, without a server | [`LoadBalancer::send`] |
//! | serve HTTP/1.1 and HTTP/2 with limits, deadlines and a graceful shutdown | [`serve`], [`server::Http`] |
//! | add, remove, drain or pause backends while requests run | [`Pool`] |
//! | choose how a backend is picked, or write a strategy | [`balance::BalanceLayer`], [`balance::Strategy`] |
//! | check backends, or judge them by live traffic | [`health::HealthLayer`], [`health::Prober`] |
//! | retry on another backend, or hedge slow requests | [`failover::FailoverLayer`] |
//! | keep a session on its backend | [`sticky::StickyLayer`] |
//! | terminate TLS, for this server or for `axum::serve` | [`tls::TlsLayer`] |
//! | obtain and renew certificates automatically | `tls::acme::Acme` (feature `acme`) |
//! | be warned before a certificate expires | [`tls::ExpiryWatcher`], [`stats::CertificateRegistry`] |
//! | learn the client's address from a TCP balancer in front | `proxy_protocol::ProxyProtocolLayer` (feature `proxy-protocol`) |
//! | redirect to https, or send HSTS | [`tls::HttpsRedirectLayer`], [`tls::HstsLayer`] |
//! | write one log line for each request | [`access_log::AccessLogLayer`] |
//! | count and time requests for Prometheus | `metrics::MetricsLayer` (feature `metrics`), [`stats::Stats`] |
//! | continue W3C traces, and have spans of requests and attempts | [`trace::TraceLayer`] |
//! | find the client's address behind other balancers | [`forwarded::ForwardedLayer`] |
//! | choose the status and body of errors | [`respond::RespondLayer`] |
//! | answer `/live` and `/ready`, or a backend's `/health` | [`endpoints::EndpointsLayer`], [`endpoints::HealthService`] |
//! | see the state of the pool on a page, and drain a backend by a click | `admin::Admin` (feature `admin`) |
//! | let the instances of a fleet follow the same orders | `fleet::Fleet` (feature `redis`) |
//! | share certificates and other small values among instances | [`store::Store`] |
//! | know in a handler which backend was chosen, and what was tried | [`context::Exchange`] |
//! | configure all of that from a file | [`settings::Settings`] |
//! | replace the running binary without a failed request | `fleet::handover` (feature `fleet`) |
//! | inject faults in tests | `chaos::ChaosLayer` (feature `chaos`) |
//!
//! # How the parts fit together
//!
//! ```text
//!  connections    accept ─▶ [ProxyProtocolLayer] ─▶ TlsLayer ─▶ server::Http ─▶ requests
//!
//!  requests       Forwarded ─▶ Trace ─▶ Metrics ─▶ AccessLog ─▶ Respond ─▶
//!                 Sticky ─▶ Failover ─▶ Balance ─▶ Health ─▶ Proxy ─▶ backend
//!
//!  shared state   Pool: the backends, their health, requests in flight
//! ```
//!
//! Each box but [`Proxy`](proxy::Proxy) and [`server::Http`] is a `tower::Layer` that also works
//! alone around another service. [`LoadBalancer`] stacks them in this order. The layers do not call
//! one another: they share the [`pool`], and they exchange facts about a request in typed extensions
//! ([`context`]). Each module's docs say which extensions it reads and writes, and what their
//! absence means.
//!
//! The order follows from the tasks. The log stands outside of all that can answer, so that it sees
//! every answer. Stickiness stands outside of failover, so that the cookie names the backend of the
//! last attempt. Failover stands outside of the balancer, so that each attempt gets another backend.
//! Health stands next to the proxy, so that it judges single attempts.
//!
//! | swapped neighbours | what happens |
//! |---|---|
//! | forwarded below access log | the log names the last hop as the client |
//! | trace below access log | the log has no trace ids, and the span misses what the log does |
//! | access log below respond | the log sees failures without a status, and warns once |
//! | respond below sticky | no harm: the answer for a failure sets no cookie |
//! | sticky below failover | a retry finds the cookie taken out, and warns once; the session moves all the same |
//! | failover below balance | the second attempt goes to the same backend |
//! | balance below health | live traffic is not judged, as no backend is selected yet; checks go on |
//! | health below proxy | does not compile |
//!
//! ```compile_fail
//! use evenkeel::{Pool, health::HealthLayer, proxy::Proxy};
//! use tower::Layer;
//!
//! let health = HealthLayer::new(Pool::new([]).unwrap()).layer(tower::service_fn(|_: ()| async { Ok::<_, ()>(()) }));
//! Proxy::new().layer(health); // a service is no layer
//! ```
//!
//! # Features
//!
//! By default: `http1`, `http2`, `proxy`, `server`, `sticky` and `access-log`. To be asked for: `tls`
//! (or `ring`, with that provider), `acme` (automatic certificates; `acme-ring` with that provider),
//! `axum`, `serde` ([`settings`]), `tower` (statuses for the errors of tower's layers), `metrics`,
//! `admin`, `chaos`, `proxy-protocol`, `redis`, `fleet`, and `full` for all of them.
#![cfg_attr(
    not(feature = "full"),
    allow(
        dead_code,
        unused_imports,
        reason = "the shared modules serve all features; a build with all of them has no dead code"
    )
)]
#![forbid(unsafe_code)]
#![cfg_attr(evenkeel_docsrs, feature(doc_cfg))]

#[cfg(test)]
mod default_table;
pub mod error;
#[cfg(test)]
mod mutation;
mod slots;

pub mod pool;

#[cfg(any(feature = "__tls", feature = "access-log", feature = "admin"))]
mod calendar;
pub mod connect;
pub mod context;
mod local_fault;
mod log_limit;
pub mod stats;
pub mod store;
#[cfg(feature = "__sockets")]
mod tcp_listener;
#[cfg(feature = "__sockets")]
mod tcp_timeout;
mod timer;
mod wire;

#[cfg(feature = "access-log")]
pub mod access_log;
#[cfg(feature = "admin")]
pub mod admin;
pub mod balance;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod discover;
pub mod endpoints;
pub mod failover;
#[cfg(any(feature = "fleet", feature = "redis"))]
pub mod fleet;
pub mod forwarded;
pub mod health;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "proxy-protocol")]
pub mod proxy_protocol;
pub mod respond;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "sticky")]
pub mod sticky;
#[cfg(feature = "__tls")]
pub mod tls;
pub mod trace;

#[cfg(feature = "proxy")]
pub mod load_balancer;
#[cfg(feature = "serde")]
pub mod settings;
#[cfg(test)]
mod simulation;

#[doc(inline)]
pub use error::{BoxError, ConfigError, Error, ErrorKind};
#[doc(inline)]
#[cfg(feature = "proxy")]
#[doc(inline)]
pub use load_balancer::LoadBalancer;
#[doc(inline)]
pub use pool::{Backend, Pool};
#[cfg(feature = "server")]
#[doc(inline)]
pub use server::serve;

/// Compiles the code of the README.
#[cfg(all(
    doctest,
    feature = "proxy",
    feature = "server",
    feature = "sticky",
    feature = "access-log",
    feature = "metrics",
    feature = "admin"
))]
#[doc = include_str!("../README.md")]
struct Readme;
