//! Fault injection: tests prove what failover, health checks and time-outs do.
//!
//! A balancer earns its keep on the days when backends fail, and those days are rare.
//! [`ChaosLayer`] makes chosen requests fail, hang, slow down or break off in a test or a staging
//! environment, while the real layers above it react. [`Invariants`] then say whether a request was
//! lost, answered twice, or a lease was never returned.
//!
//! # Example
//!
//! A test of your stack: half of the requests to backend `a` are refused, and no client sees
//! it.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use evenkeel::{
//!     Backend, ErrorKind, Pool,
//!     balance::BalanceLayer, chaos::{ChaosLayer, Fault, Invariants}, failover::FailoverLayer,
//!     respond::RespondLayer,
//! };
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let chaos = ChaosLayer::new(7)
//!     .with_fault(Fault::abort(ErrorKind::Connect).backend("a").share(0.5)?);
//! // In a real test, `evenkeel::proxy::Proxy` instead of this closure.
//! let backends = chaos.layer(service_fn(|_: Request<_>| async {
//!     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
//! }));
//! let balance = BalanceLayer::new(pool.clone()).layer(backends);
//! let stack = RespondLayer::new().layer(FailoverLayer::new().layer(balance));
//! let invariants = Invariants::new(&pool);
//! let stack = invariants.layer(stack);
//!
//! for _ in 0..20 {
//!     let request = Request::new(Full::<Bytes>::default());
//!     let response = stack.clone().oneshot(request).await?;
//!     assert_eq!(response.status(), 200, "the failover hides the fault");
//!     response.into_body().collect().await?;
//! }
//! assert_eq!(invariants.check(&pool), Ok(()));
//!
//! let handle = chaos.handle();
//! handle.clear(); // the faults end while the services go on
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Directly around the service that talks to backends, below the health layer: its faults then look
//! like faults of a backend, and the health layer counts them.
//!
//! ```text
//! Invariants ─▶ Respond ─▶ Sticky ─▶ Failover ─▶ Balance ─▶ Health ─▶ Chaos ─▶ Proxy ─▶ backend
//! ```
//!
//! A fault for one backend reads [`Selected`](crate::context::Selected), which the balancer writes.
//! [`LoadBalancer`](crate::LoadBalancer) has a fixed stack: to inject faults below the balancer,
//! stack the layers by hand. Active checks do not pass through the layer.
//!
//! [`Invariants`] observe requests from outside: as a layer around the whole stack, or one request
//! at a time.
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
//! The seed of the layer and the number of a call decide which requests a fault meets. A single
//! task therefore meets the same faults in each run; concurrent tasks share the numbers and differ.
//!
//! # When it fails
//!
//! On purpose. An aborted request is not passed to the inner service; the error gives its head
//! back, so that another attempt is possible. Error kinds that a proxy reports after sending say
//! [after sending](crate::Error::is_after_sending), so that the failover treats them as it treats
//! the real ones. Errors of the inner service pass unchanged.
//!
//! # Cost
//!
//! Without faults: one atomic load a request. With faults: an addition to a counter that all
//! requests share, a random number for each fault, and a timer for each delay. [`Invariants`] take
//! a lock that all requests share and keep every request in memory.

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
