//! Load balancing: which backend a request goes to.
//!
//! [`BalanceLayer`] picks a backend for each call, by the request and the current snapshot of the
//! pool, and inserts a [`Selected`](crate::context::Selected) extension for the service inside. The
//! request counts as in flight at the backend until its response body ends, fails or is dropped, or
//! until its tunnel closes, so that [`LeastRequests`] and in-flight caps take slow downloads into
//! account.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, balance::{BalanceLayer, LeastRequests}, context::Selected};
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let service = ServiceBuilder::new()
//!     .layer(BalanceLayer::new(pool).strategy(LeastRequests::new()))
//!     .service(service_fn(|request: Request<String>| async move {
//!         let Some(Selected(backend)) = request.extensions().get() else {
//!             return Err("no backend was selected");
//!         };
//!         Ok(Response::new(backend.id().to_owned()))
//!     }));
//!
//! // While the response of the first request is in flight, the second goes to the other backend.
//! let first = service.clone().oneshot(Request::new(String::new())).await?;
//! let second = service.oneshot(Request::new(String::new())).await?;
//! let (first, second) = (first.into_body().into_inner(), second.into_body().into_inner());
//! assert_eq!(first.len() + second.len(), 2);
//! assert_ne!(first, second);
//! # Ok(())
//! # }
//! ```
//!
//! # Why the pick is made in `call`
//!
//! `tower::balance` picks in `poll_ready`, before the request is known: it cannot honour a cookie,
//! leave out the backends that a retry has tried, or hash a header. It holds one service for each
//! endpoint and counts a request until the response head. Here one service serves all backends, and
//! a request counts until the last byte. Overload is decided in `call` as well: `poll_ready`
//! reserves nothing and stays ready.
//!
//! # Where it goes
//!
//! Inside `sticky` and `failover`, and around `health`, `proxy`, or any service that reads
//! `Selected`. The layer reads the [`Exchange`](crate::context::Exchange) of the request: a backend
//! that `sticky` asks for gets the request if it can take it, and no backend gets the same request
//! twice. Above `sticky` the pick would come before the cookie is read; `sticky` logs a warning.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | strategy | round-robin |
//! | requests waiting at once | 1024 |
//! | wait for a backend with room | 5 s |
//! | wait for a first check | 10 s |
//! | `Retry-After` when there is no backend | 1 s |
//! | load factor of `ConsistentHash` | 1.25 |
//! | requests in flight below which a backend keeps its keys | 16 |
//!
//! Each strategy honours weights, and passes over backends that are full or were tried:
//!
//! | strategy | picks |
//! |---|---|
//! | [`RoundRobin`] | each in turn, evenly spread |
//! | [`Random`] | at random |
//! | [`LeastRequests`] | the fewest in flight; beyond 32 backends the best of four |
//! | [`PowerOfTwo`] | the better of two |
//! | [`PeakEwma`] | of two, the one with the lower expected latency; failures count as slow |
//! | [`ConsistentHash`] | by a header, a cookie, the client or the path, with bounded loads |
//!
//! A strategy of your own implements [`Strategy`].
//!
//! # Retries, sessions and trials
//!
//! After failures at two backends, the next attempt goes as far from both as their localities
//! allow: to another region, else another zone, else another rack. One failure says that a backend
//! is gone; two say that their locality may be.
//!
//! A sticky session whose backend is out moves by its connection: weighted rendezvous hashing of the
//! connection's number picks among the backends that have room and carry at most 1.25 times their
//! share of the requests in flight. The requests that a browser sends at once on one HTTP/2
//! connection so move to one backend, and not to several of which the last cookie wins. Several
//! connections of one client have nothing in common but the cookie of the dead backend, which all
//! its sessions share, so each connection moves on its own. A strategy may decline this
//! ([`Strategy::yields_to_sessions`]): [`PeakEwma`] and [`ConsistentHash`] do, as their own choice is
//! better.
//!
//! A backend whose circuit is half open gets one request at a time as a trial: a request that is
//! idempotent, was not tried before, and asks for no other backend. If the trial fails, failover
//! tries another backend.
//!
//! # When it fails
//!
//! | kind | when |
//! |---|---|
//! | [`NoBackend`](crate::ErrorKind::NoBackend) | no backend is usable, or every one was tried for this request: at once |
//! | [`Overloaded`](crate::ErrorKind::Overloaded) | all usable backends are at their caps and the queue is full: at once |
//! | [`QueueTimeout`](crate::ErrorKind::QueueTimeout) | the request waited that long for room or for a first check |
//!
//! Each of them carries a `Retry-After`. An error of the inner service passes through; an error of
//! a foreign type becomes the source of [`Service`](crate::ErrorKind::Service).
//!
//! Without a usable backend a request fails at once, unless the pool has panic routing
//! ([`PanicRouting`](crate::pool::PanicRouting)): the decision in the exchange then has `panic` in
//! place of the strategy.
//!
//! A pick draws a tier (and with localities, a distance) by the share that its usable backends give
//! it; see [`Routing`](crate::pool::Routing). Groups without a share are fallbacks: while they have
//! room, a full tier overflows to them. A request waits only if no tier has room, in the order of
//! arrival: while requests wait in line, a new request goes behind them. In a tier of more than 64
//! backends a pick looks at a bounded number of them, so it may overflow although one of the many
//! has room.
//!
//! # Cost
//!
//! A pick takes no lock and allocates nothing. The number of backends that it looks at is bounded:
//! one or two in most strategies, all of up to 32 in [`LeastRequests`], up to 64 if those drawn are
//! full. The `Selected` extension costs one allocation, and the `Exchange` two if no layer above
//! inserted it. A request that waits is boxed.
//!
//! The layer costs about 240 ns and one allocation on a shared cloud core, the lease and the entry
//! in the record included: produced by `benches/layers.rs`. The pick alone costs 31 to 46 ns with
//! four backends, produced by `benches/pick.rs`; with 10,000 it costs 60 to 150 ns, as their
//! counters are not in the core's cache.

mod affinity;
mod body;
mod consistent_hash;
mod future;
mod layer;
mod least_requests;
mod peak_ewma;
mod pick;
mod power_of_two;
mod queue;
mod random;
mod ring;
mod round_robin;
mod running;
mod service;
#[cfg(any(feature = "proxy", test))]
mod stack_balance;
mod state;
mod strategy;
#[cfg(test)]
mod tests;
mod waiting;
mod weighted_draw;
mod xxh64;

pub use body::ResponseBody;
pub use consistent_hash::{ConsistentHash, HashKey};
pub use future::ResponseFuture;
pub use layer::BalanceLayer;
pub use least_requests::LeastRequests;
pub use peak_ewma::PeakEwma;
pub use pick::Pick;
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use service::Balance;
#[cfg(any(feature = "proxy", test))]
pub(crate) use stack_balance::StackBalance;
pub use strategy::{Ended, Strategy};
