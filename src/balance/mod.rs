//! The pick: which backend a request goes to.
//!
//! [`BalanceLayer`] picks a backend when it is called, by the request and the pool's current
//! snapshot, and leaves a [`Selected`](crate::context::Selected) note for the service inside.
//! The request counts as in flight at the backend until its response body ends, fails or is
//! dropped, or its tunnel closes: [`LeastRequests`] and caps see slow downloads as what they are.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, balance::{BalanceLayer, LeastRequests}, context::Selected};
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let service = ServiceBuilder::new()
//!     .layer(BalanceLayer::new(pool).strategy(LeastRequests::new()))
//!     .service(service_fn(|request: Request<String>| async move {
//!         let Some(Selected(backend)) = request.extensions().get() else {
//!             return Err("balance selects");
//!         };
//!         Ok(Response::new(backend.id().to_owned()))
//!     }));
//! let response = service.oneshot(Request::new(String::new())).await?;
//! assert!(["a", "b"].contains(&response.into_body().into_inner().as_str()));
//! # Ok(())
//! # }
//! # tokio_test::block_on(example()).unwrap();
//! ```
//!
//! # Where it goes
//!
//! Inside `sticky` and `failover`, which it listens to through the
//! [`Exchange`](crate::context::Exchange): the backend asked for gets the request if it can, and
//! no backend gets the same request twice. Around `health`, `proxy`, or any service that reads
//! `Selected`. Above `sticky` it would pick before the cookie is read: `sticky` warns of that.
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
//! The strategies, all weight-aware, all skipping what is full or was tried:
//!
//! | strategy | picks |
//! |---|---|
//! | [`RoundRobin`] | each in turn, evenly spread |
//! | [`Random`] | by chance alone |
//! | [`LeastRequests`] | the fewest in flight; beyond 32 backends the best of four |
//! | [`PowerOfTwo`] | the better of two |
//! | [`PeakEwma`] | of two, the one that will answer sooner; failures count as slow |
//! | [`ConsistentHash`] | by a header, a cookie, the client or the path, loads bounded |
//!
//! Your own implements [`Strategy`].
//!
//! Where backends have a locality and a request failed at two of them, the next attempt goes as
//! far from both as it can: to another region, zone or rack, whichever there is. One failure says
//! that a backend is gone; two, that the place may be.
//!
//! A sticky session whose backend is out goes where its connection says: by weighted rendezvous
//! hashing of the connection's number among those that have room and are not over 1.25 times
//! their share of what is in flight. What a browser sends at once on one HTTP/2 connection so
//! moves to one backend, not to several of which the last cookie wins. Over several connections
//! nothing ties the requests together but a cookie that names the dead backend, as it does for
//! all its sessions: each connection moves on its own. A strategy may decline
//! ([`Strategy::yields_to_sessions`]): [`PeakEwma`] and [`ConsistentHash`] do, as they know better.
//!
//! # When it fails
//!
//! | kind | when |
//! |---|---|
//! | [`NoBackend`](crate::ErrorKind::NoBackend) | none is usable, or every one was tried for this request: at once |
//! | [`Overloaded`](crate::ErrorKind::Overloaded) | all usable ones are at their caps and the queue is full: at once |
//! | [`QueueTimeout`](crate::ErrorKind::QueueTimeout) | waited that long for room or a first check |
//!
//! Without a usable backend a request fails at once, unless the pool is told to route in a panic
//! ([`PanicRouting`](crate::pool::PanicRouting)): the decision in the exchange then says `panic`
//! in the strategy's place.
//!
//! Each says when to try again. An error of the inner service passes through; what a foreign
//! service fails with becomes the source of [`Service`](crate::ErrorKind::Service).
//!
//! A pick draws a tier (and with localities, a distance) by the share that its usable backends
//! leave it, see [`Routing`](crate::pool::Routing). Those without a share are fall-backs: while
//! their backends have room, a full tier overflows to them; a request waits only when no tier has
//! room, and then first come, first served: while requests are in line, one that comes
//! goes behind them. In a tier of more than 64 backends a pick looks at a bounded number of
//! them, so it may overflow while one of the many has room.
//!
//! A backend whose circuit is half open is offered one request at a time as a trial: one that is
//! idempotent, was not tried anywhere, and asks for no other backend. Where it fails, failover
//! tries another, as ever.
//!
//! # Cost
//!
//! A pick takes no lock, does not allocate and does not depend on how many backends there are.
//! `Selected` is one allocation, the `Exchange` two where no layer above inserted it. A request
//! that waits is boxed.
//!
//! About 240 ns and one allocation on a shared cloud core, the lease and
//! the attempt in the record included: produced by `benches/layers.rs`. The pick alone, 31 to
//! 46 ns with four backends, by `benches/pick.rs`: with 10,000 it is 60 to 150 ns, as their
//! counters are not in the core's cache.
//!
//! # Differences from `tower::balance`
//!
//! `tower::balance` picks in `poll_ready`, before the request is known: it cannot honour a
//! cookie, exclude what a retry has tried, or hash a header. It holds a service per endpoint and
//! counts until the response's head; here one service serves all backends, and the count lasts
//! until the last byte. Overload is decided when called, never by a `poll_ready` that does not
//! become ready.

mod affinity;
mod body;
mod consistent_hash;
#[cfg(any(feature = "proxy", test))]
mod direct;
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
mod state;
mod strategy;
#[cfg(test)]
mod tests;
mod waiting;
mod weighted_draw;
mod xxh64;

pub use body::ResponseBody;
pub use consistent_hash::{ConsistentHash, HashKey};
#[cfg(any(feature = "proxy", test))]
pub(crate) use direct::Direct;
pub use future::ResponseFuture;
pub use layer::{BalanceLayer, HELD_TIMEOUT, QUEUE_SIZE, QUEUE_TIMEOUT, RETRY_AFTER};
pub use least_requests::LeastRequests;
pub use peak_ewma::PeakEwma;
pub use pick::Pick;
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use service::Balance;
pub use strategy::{Ended, Strategy};
