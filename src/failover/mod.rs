//! Another try on another backend, so that a client never sees one that died.
//!
//! [`FailoverLayer`] wraps the service that picks a backend for each call. When an attempt
//! fails and sending the request again can do no harm, it calls that service once more with the
//! very same request, and the pick leaves out the backends that were tried.
//!
//! # Example
//!
//! ```
//! use evenkeel::failover::{Budget, FailoverLayer};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let failover = FailoverLayer::new()
//!     .max_attempts(3)?
//!     .budget(Budget::new(0.1, 1.0)?)
//!     .replay_limit(16 * 1024);
//! # drop(failover);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Above `Balance`, below `Sticky` and `Respond`. It reads no note and writes none: the
//! [`Exchange`](crate::context::Exchange) travels with the request, and balance finds in it the
//! backends that were tried. What is called must pick anew at each call; placed below balance,
//! the layer would knock at the same door again.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | attempts, the first included | 2 |
//! | retried before a byte was sent | any method, while none of its body was read |
//! | retried after that | idempotent methods (RFC 9110 §9.2.2), while what was read of the body fits the replay buffer |
//! | replay buffer | 64 KiB a request |
//! | budget | 20 % of the requests and 3 a second, saved up for 10 s |
//!
//! # When it fails
//!
//! The error of the last attempt is returned; that of the first where the retry found no other
//! backend. Nothing is retried when the client is the cause, when no backend could be picked
//! (retrying at once is pointless), when the response head is there already, when the attempts
//! or the budget are used up, or when the inner service does not give the request's head back
//! ([`Error::take_unsent`](crate::Error::take_unsent)): the proxy of this crate does, a foreign
//! service must use [`Error::with_unsent`](crate::Error::with_unsent). Each retry is an event at
//! debug level under `evenkeel::failover`.
//!
//! # Cost
//!
//! Two atomic additions a request, no copy of the head and, without a body, no allocation. A
//! request with a body costs two allocations, and a handle (not a copy) of each chunk that is
//! kept for replay. A retry allocates once.

mod budget;
mod layer;
mod policy;
mod replay;
mod service;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use layer::FailoverLayer;
pub use policy::{Decision, Failed, Policy, Standard};
pub use replay::ReplayBody;
pub use service::{Failover, ResponseFuture};
