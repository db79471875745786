//! Load balancing as composable tower middleware.
//!
//! ```text
//!  connection stack   accept ─▶ TlsLayer ─▶ server::Http
//!                                   └─ ConnInfo ─┘  a request extension from here on
//!  request stack      Forwarded ─▶ AccessLog ─▶ Respond ─▶ Sticky ─▶ Failover ─▶ Balance ─▶ Health ─▶ Proxy ─▶ backend
//!                                       └────────── Exchange, one shared record a request ──────────┘
//!  shared state       membership ─▶ POOL ◀── health (active checks, outliers of live traffic)
//! ```
//!
//! Each box but `Proxy` and `server::Http` is a `tower::Layer` that works alone around somebody
//! else's service; [`LoadBalancer`] stacks them. Rooms never call one another: they pass typed
//! notes ([`context`]) and share the [`pool`].
//!
//! # The map
//!
//! | room | what |
//! |---|---|
//! | [`pool`] | who the backends are, how they are, who may be picked |
//! | [`context`] | the notes that layers pass |
//! | [`connect`] | dial backends, TLS to them |
//! | [`server`] | connections in |
//! | [`tls`] | TLS termination, HSTS, redirect |
//! | [`forwarded`] | the client behind trusted hops |
//! | [`access_log`] | one line a request |
//! | [`respond`] | errors out |
//! | [`sticky`] | sessions by cookie |
//! | [`failover`] | another try |
//! | [`balance`] | the pick |
//! | [`health`] | checks and outliers |
//! | [`proxy`] | forwarding |
//! | [`discover`] | membership |
//! | `chaos` | faults on purpose, for tests |
//! | [`endpoints`] | `/live` and `/ready` |
//! | [`settings`] | all of that from a file |
//! | [`load_balancer`] | the canonical stack |
//!
//! # Wrong orders
//!
//! Of two neighbours that are swapped:
//!
//! | swap | what happens |
//! |---|---|
//! | forwarded below access log | the log names the last hop as the client |
//! | access log below respond | it sees failures without a status; warned about once |
//! | respond below sticky | harmless: an answer for a failure sets no cookie |
//! | sticky below failover | a retry finds the cookie taken out, and warns once; the session moves all the same |
//! | failover below balance | its second try goes to the same backend |
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

pub mod error;
#[cfg(test)]
mod sabotage;
mod slots;

pub mod pool;

pub mod connect;
pub mod context;
mod local_fault;
mod log_limit;
#[cfg(feature = "__sockets")]
mod tcp_timeout;
mod timer;
mod wire;

#[cfg(feature = "access-log")]
pub mod access_log;
pub mod balance;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod discover;
pub mod endpoints;
pub mod failover;
pub mod forwarded;
pub mod health;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod respond;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "sticky")]
pub mod sticky;
#[cfg(feature = "__tls")]
pub mod tls;

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

/// README's code compiles and its words are checked with the docs.
#[cfg(all(
    doctest,
    feature = "proxy",
    feature = "server",
    feature = "sticky",
    feature = "access-log"
))]
#[doc = include_str!("../README.md")]
struct Readme;
