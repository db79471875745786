//! Retries and hedges on another backend, so that a client does not see a backend that died.
//!
//! [`FailoverLayer`] wraps a service that picks a backend for each call, such as
//! [`Balance`](crate::balance::Balance). When an attempt fails and repeating the request is safe,
//! the layer calls that service again with the same request; the pick leaves out the backends that
//! were tried.
//!
//! # Example
//!
//! A backend that refuses the connection costs the client nothing, not even a copy of the head:
//!
//! ```
//! use bytes::Bytes;
//! use evenkeel::{Error, ErrorKind, failover::{Budget, FailoverLayer, ReplayBody}};
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! static CALLS: AtomicUsize = AtomicUsize::new(0);
//!
//! let failover = FailoverLayer::new()
//!     .max_attempts(3)?
//!     .budget(Budget::new(0.1, 1.0)?)
//!     .replay_limit(16 * 1024);
//!
//! // A client of your own: what it could not send, it gives back with the error.
//! let service = failover.layer(service_fn(|request: Request<ReplayBody<Full<Bytes>>>| async {
//!     let (head, _body) = request.into_parts();
//!     match CALLS.fetch_add(1, Relaxed) {
//!         0 => Err(Error::new(ErrorKind::Connect).with_unsent(head)),
//!         _ => Ok(Response::new(head.uri.path().to_owned())),
//!     }
//! }));
//!
//! let request = Request::post("/orders").body(Full::from("an order"))?;
//! let response = service.oneshot(request).await?;
//! assert_eq!(response.body(), "/orders");
//! assert_eq!(CALLS.load(Relaxed), 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above `Balance`, below `Sticky` and `Respond`. The service inside must pick again at each call:
//! placed below balance, the layer would send every attempt to the same backend.
//!
//! The [`Exchange`](crate::context::Exchange) travels with the request, and balance finds in it the
//! backends that were tried. The layer writes the outcomes there that no other layer knows: a hedge
//! won ([`Outcome::Hedged`]), the time of an attempt is up, a held response was replaced by a better
//! one ([`Outcome::Discarded`](crate::context::Outcome)). It writes them before it drops the
//! attempt, because the health layer, whose future is dropped without a result, reads there whether
//! to charge the backend.
//!
//! # What a retry costs
//!
//! [`max_attempts`](FailoverLayer::max_attempts) bounds the cost of one request; the [`Budget`]
//! bounds the load that all requests together add to a pool. An attempt that follows one that may
//! have reached a backend is paid from the budget. An attempt that follows one that reached no
//! backend is free:
//!
//! | the attempt before | the next attempt |
//! |---|---|
//! | was refused, found the host unreachable or the name unknown ([`ErrorKind::Connect`](crate::ErrorKind::Connect)); nothing was sent | is free |
//! | was not sent for a cause on this side ([`ErrorKind::Local`](crate::ErrorKind::Local)) | is free |
//! | was not connected in time | is paid: the SYN may have arrived, and a full accept queue is overload |
//! | failed in the TLS handshake | is paid: a handshake is load |
//! | was closed, reset, malformed, late, or answered with a status that is retried | is paid |
//! | found no backend: none was left, or all were full | does not take place; the payment comes back |
//! | still runs, and the next is a hedge | is paid; the payment comes back if the hedge is refused |
//!
//! So a dead backend, rack or region costs the budget nothing, and the budget is there for backends
//! that are slow or failing.
//!
//! # Hedging
//!
//! With [`hedge`](FailoverLayer::hedge), a request that waits longer than most is sent to a second
//! backend beside the first:
//!
//! | what happens | the client gets | the other attempt ends as |
//! |---|---|---|
//! | the hedge answers while the first waits | the hedge's response | `hedged`: its backend is charged |
//! | the first answers while the hedge waits | the first's response | `cancelled`: no backend is charged |
//! | one of them fails | the other's response, when it comes | its failure |
//! | both fail | the response of a third attempt, if one is left, else the last error | its failure |
//! | one answers with a status that is retried | the other's response, or this one if the other fails | `discarded` |
//! | the client goes away | nothing | `cancelled`, both |
//!
//! A hedge counts as one of the attempts and is paid from the budget; at most two attempts run side
//! by side. A hedge needs an untried backend with room and never waits in a queue. Requests that
//! belong to a connection (an upgrade, NTLM) are not hedged, nor are those that the policy refuses
//! ([`Policy::may_hedge`]). A request that a sticky cookie binds to
//! a backend is hedged only once that backend is out: a session does not move because its backend
//! is slow.
//!
//! The layer does not copy the head in advance. The proxy offers a copy when a hedge begins
//! ([`Exchange::offer_head_copy`]); a request to a service that offers none is not hedged.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | attempts, the first included | 2 |
//! | retried before a byte was sent | any method, if none of its body was read |
//! | retried where a backend says that it did not process it (HTTP/2) | any method, if the part of the body that was read is kept |
//! | retried after that | idempotent methods (RFC 9110 §9.2.2), if the part of the body that was read fits the replay buffer |
//! | replay buffer | 64 KiB a request |
//! | budget | 20 % of the requests and 3 a second, saved up for 10 s |
//! | paid from it | every retry and hedge, except after a connection that was refused or failed |
//! | hedging | off; with [`Hedge::new`], GET and HEAD after the 95th percentile, 50 ms at least, 2000 ms at most |
//! | the delay of a hedge, over that percentile in the better part of five minutes | 2 times at most |
//! | timeout of one attempt, of all together | none |
//! | statuses that are retried | none |
//! | wait before the second attempt | none |
//! | wait before the third, and doubling | up to 25 ms, up to 250 ms |
//! | `Retry-After` honoured | up to 1 s; a response that asks for more goes to the client |
//!
//! # When it fails
//!
//! The error of the last attempt is returned; the error of the first, if the retry found no other
//! backend. The layer does not retry when
//!
//! - the client is the cause;
//! - no backend could be picked, because an immediate retry would find none either;
//! - the response head is there already;
//! - the attempts or the budget are used up;
//! - the [`Policy`] keeps the error or the response;
//! - a gRPC call fails in its trailers (`grpc-status`): the status of its response is 200, and the
//!   client has the response head by then;
//! - the inner service does not give the head of the request back
//!   ([`Error::take_unsent`](crate::Error::take_unsent)). The proxy of this crate does; a service of
//!   your own uses [`Error::with_unsent`](crate::Error::with_unsent).
//!
//! Each retry and each hedge is an event at debug level under `evenkeel::failover`.
//!
//! # Cost
//!
//! | a request | costs |
//! |---|---|
//! | without a body | two atomic additions, no allocation, no copy of the head |
//! | with a body | two allocations, and a handle (not a copy) of each chunk that is kept for replay |
//! | that is retried | one allocation more |
//! | with hedging or a timeout, if it has to wait | an entry in the thread's timer wheel for up to 100 ms, without an allocation once the wheel has grown; one addition for its time to the head (above 800 requests a second, only for a sample) |
//! | that is hedged | a copy of the head, and two boxed values |
//! | with statuses to retry, if its method is idempotent | a copy of the head |
//!
//! That is about 40 ns on a shared cloud core, 60 ns with hedging, and 100 ns with hedging if the
//! request waits: produced by `benches/layers.rs`.
//!
//! [`Outcome::Hedged`]: crate::context::Outcome::Hedged
//! [`Exchange::offer_head_copy`]: crate::context::Exchange::offer_head_copy

mod attempts;
mod backoff;
mod budget;
mod future;
mod hedge;
mod latency;
mod layer;
mod percentile_history;
mod policy;
mod replay;
mod service;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use budget::Budget;
pub use future::ResponseFuture;
pub use hedge::Hedge;
pub use layer::FailoverLayer;
pub use policy::{Answered, Decision, Failed, Policy, Standard};
pub use replay::ReplayBody;
pub use service::Failover;
