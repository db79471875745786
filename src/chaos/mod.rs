//! Faults on purpose, so that one's own tests prove what failover, health checks and time-outs do.
//!
//! # Example
//!
//! Half of the requests to backend `a` find nobody there; the answers of `b` come slowly.
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//!
//! use evenkeel::{ErrorKind, chaos::{ChaosLayer, Fault}};
//! use http::{Request, Response};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let chaos = ChaosLayer::new(7)
//!     .with_fault(Fault::abort(ErrorKind::Connect).backend("a").share(0.5)?)
//!     .with_fault(Fault::latency(Duration::from_millis(300)).backend("b"));
//! let switch = chaos.handle();
//! let service = chaos.layer(service_fn(|_: Request<String>| async {
//!     Ok::<_, Infallible>(Response::new(String::from("hello")))
//! }));
//!
//! // All is well again, while the service runs on.
//! switch.clear();
//! let response = service.oneshot(Request::new(String::new())).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Directly around the service that talks to backends, below `Health`: then its faults look like
//! a backend's. It reads [`Selected`](crate::context::Selected) where a fault is one backend's.
//! Active checks do not pass through it. [`Invariants`] watch the requests from outside: as a layer
//! around the whole stack, or request by request.
//!
//! ```
//! use std::time::Duration;
//!
//! use evenkeel::{
//!     Backend, ErrorKind, Pool,
//!     balance::BalanceLayer, chaos::{ChaosLayer, Fault, Invariants}, failover::FailoverLayer,
//!     proxy::Proxy, respond::RespondLayer,
//! };
//! use tower::Layer;
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! # let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let invariants = Invariants::new(&pool);
//! let chaos = ChaosLayer::new(7).with_fault(Fault::abort(ErrorKind::Connect).share(0.1)?);
//! let balance = BalanceLayer::new(pool.clone()).layer(chaos.layer(Proxy::new()));
//! let stack = invariants.layer(RespondLayer::new().layer(FailoverLayer::new().layer(balance)));
//! // Serve the stack, send it requests; once all are answered:
//! assert_eq!(invariants.check(&pool), Ok(()));
//! # Ok(())
//! # }
//! ```
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | faults | none |
//! | share of the requests that a fault meets | 1.0 |
//! | jitter | none |
//! | backend, header | any |
//!
//! The seed and a request's place in the order of calls decide what it meets; a single task meets
//! the same each time.
//!
//! # When it fails
//!
//! As it is told to. An aborted request is not sent on, and its head is given back, so that
//! another attempt is possible; kinds that stand for a backend's late failure say that it may
//! have been seen. The inner service's own errors pass through.
//!
//! # Cost
//!
//! Without faults: one atomic load a request. With faults: a counter that all requests share, and
//! a look at each fault.

mod body;
mod fault;
mod invariants;
mod layer;
mod observe;
mod service;

pub use body::ResponseBody;
pub use fault::Fault;
pub use invariants::{Invariants, Violation};
pub use layer::{ChaosLayer, Handle};
pub use observe::{Observe, ObserveBody, ObserveFuture};
pub use service::{Chaos, ResponseFuture};
