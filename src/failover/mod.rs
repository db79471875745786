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
//! Above `Balance`, below `Sticky` and `Respond`. The [`Exchange`](crate::context::Exchange)
//! travels with the request, and balance finds in it the backends that were tried. The layer
//! writes into it what only it can know: that a hedge won ([`Outcome::Hedged`]), that the time for
//! one try is up, that an answer was bettered. It does so before it drops the attempt, so that
//! health, whose future is dropped without a result, reads who is to be charged. What is called
//! must pick anew at each call; placed below balance, the layer would knock at the same door
//! again.
//!
//! # What a retry costs
//!
//! Attempts bound what one request may cost, the [`Budget`] what all of them may add to the load
//! of a pool. Each attempt that comes on top of one that may have reached a backend is paid from
//! it; one that takes the place of an attempt that reached none is free:
//!
//! | what became of the attempt before | the next |
//! |---|---|
//! | refused, unreachable, name unknown ([`ErrorKind::Connect`](crate::ErrorKind::Connect)), nothing sent | is free |
//! | not sent for a cause on this side ([`ErrorKind::Local`](crate::ErrorKind::Local)) | is free |
//! | not connected in time | is paid: no proof that nothing arrived, and a full queue is overload |
//! | TLS handshake failed | is paid: a handshake is load |
//! | closed, reset, malformed, late, or a status that is tried again | is paid |
//! | none was found: no backend was left, all were full | what was paid comes back |
//! | it still runs, and the next is a hedge | is paid; it comes back if the hedge is refused |
//!
//! So a backend, a rack or a region that is dead costs the budget nothing, and what the budget
//! has is there for what is ill.
//!
//! # Hedging
//!
//! With [`hedge`](FailoverLayer::hedge), a request that waits for longer than most is sent to a
//! second backend beside the first:
//!
//! | what happens | who answers | the other attempt ends as |
//! |---|---|---|
//! | the hedge answers while the first waits | the hedge | `hedged`: charged to its backend |
//! | the first answers while the hedge waits | the first | `cancelled`: charged to nobody |
//! | one of them fails | the other, whenever it does | its failure |
//! | both fail | a third, if the attempts allow it, else the last error stands | its failure |
//! | one answers with a status that is tried again | the other; the status where that fails | `discarded` |
//! | the client goes away | nobody | `cancelled`, both |
//!
//! A hedge is one of the attempts, paid from the budget; two run side by side at most. It needs a
//! backend that was not tried and has room: it never waits in a queue. What belongs to a
//! connection (an upgrade, NTLM) is not hedged; a request that a sticky cookie binds to a backend
//! is, but only once that backend is out: a session is not moved for being slow.
//!
//! The head is not copied ahead: the proxy lends one when a hedge begins
//! ([`Exchange::lend_head`]), and a foreign service that does not is not hedged.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | attempts, the first included | 2 |
//! | retried before a byte was sent | any method, while none of its body was read |
//! | retried where a backend says that it did not process it (HTTP/2) | any method, while what was read of the body is kept |
//! | retried after that | idempotent methods (RFC 9110 §9.2.2), while what was read of the body fits the replay buffer |
//! | replay buffer | 64 KiB a request |
//! | budget | 20 % of the requests and 3 a second, saved up for 10 s |
//! | paid from it | every retry and hedge, but those after a connection that was refused or failed |
//! | hedging | off; with [`Hedge::new`], GET and HEAD after the 95th percentile, 50 ms at least, 2000 ms at most |
//! | the delay of a hedge, over that percentile in the better part of five minutes | 2 times at most |
//! | time for one try, for all | none |
//! | statuses tried again | none |
//! | wait before the second try | none |
//! | wait before the third, and doubling | up to 25 ms, up to 250 ms |
//! | `Retry-After` honoured | up to 1 s; where it is more, the client gets it |
//!
//! # When it fails
//!
//! The error of the last attempt is returned; that of the first where the retry found no other
//! backend. Nothing is retried when the client is the cause, when no backend could be picked
//! (retrying at once is pointless), when the response head is there already, when the attempts
//! or the budget are used up, or when the inner service does not give the request's head back
//! ([`Error::take_unsent`](crate::Error::take_unsent)): the proxy of this crate does, a foreign
//! service must use [`Error::with_unsent`](crate::Error::with_unsent). Each retry and each hedge
//! is an event at debug level under `evenkeel::failover`.
//!
//! # Cost
//!
//! Two atomic additions a request, no copy of the head and, without a body, no allocation. A
//! request with a body costs two allocations, and a handle (not a copy) of each chunk that is
//! kept for replay. A retry allocates once. With hedging or a deadline, a request that has to wait
//! takes a place in its thread's timer wheel (no allocation once it runs) for up to 100 ms, and
//! its time to the head is counted: one addition; over some 800 requests a second, of a share of
//! them. A hedge copies the head and boxes its future. With statuses to try again, each idempotent
//! request's head is copied.
//!
//! About 40 ns and no allocation on a shared cloud core; with hedging
//! about 60 ns, and 100 ns where the request waits: produced by `benches/layers.rs`.
//!
//! [`Outcome::Hedged`]: crate::context::Outcome::Hedged
//! [`Exchange::lend_head`]: crate::context::Exchange::lend_head

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
pub use policy::{Decision, Failed, Policy, Standard};
pub use replay::ReplayBody;
pub use service::Failover;
