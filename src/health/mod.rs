//! Keeping traffic off backends that do not serve.
//!
//! Two sources, combined in the pool: *active* checks ask each backend at intervals, *passive*
//! outlier detection judges what live traffic shows. [`HealthLayer`] does both around the
//! service that talks to backends; [`Prober`] makes the checks without a layer.
//!
//! # Example
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use evenkeel::{
//!     Backend, Pool,
//!     health::{Checks, HealthLayer, HttpCheck, Outliers},
//! };
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let checks = Checks::new()
//!     .with_check(HttpCheck::new().path("/ready")?)
//!     .interval(Duration::from_secs(2))
//!     .timeout(Duration::from_secs(1));
//! let health = HealthLayer::new(pool)
//!     .checks(checks)?
//!     .outliers(Outliers::new().consecutive(3))?;
//! # drop(health);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! Below `Balance`, directly around the service that talks to backends. It reads
//! [`Selected`](crate::context::Selected); a request without one passes through unjudged. It
//! writes to the [`Pool`](crate::Pool), whose events tell each change.
//!
//! The checks run in one task, which starts when the first service is made inside a tokio
//! runtime, or else when one is first asked for readiness; starts again if its runtime ended;
//! and stops with the last layer and service. While it runs, a backend that was never checked
//! gets no traffic until its first check passes.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | check | `GET /health`, 200 to 299 healthy, no redirects, a fresh connection each time |
//! | body of the answer, where it decides, read up to | 64 KiB |
//! | interval | 5 s |
//! | interval while the last results disagree with the state | 1 s |
//! | interval while it is down | as the interval |
//! | time-out | 2 s |
//! | fall, rise | 2, 2; the first pass admits a backend that was never checked |
//! | jitter | 10 % |
//! | asked to wait | up to 60 s |
//! | flapping | 4 changes within 120 s: logged, and held down for 5 s, doubling up to 60 s |
//! | shared failure | 100 % of those that answer |
//! | ejection | after 5 failures in a row: no connection, no or a malformed response head, 502, 503, 504, a hedge that won |
//! | or after | 50 % of at least 20 requests within 10 s failed; a response body that breaks off counts, too |
//! | or after | a response with `x-evenkeel-health: fail` or `x-envoy-immediate-health-check-fail` |
//! | latency outliers | off |
//! | ejection lasts | 30 s times how often, up to 300 s, and up to 10 % more; `rise` checks that pass end it early: with a trial, or at once where a check failed meanwhile |
//! | after it | one request at a time tries the backend, for 30 s at most |
//! | ejected at most | 50 % of the pool; one always may be, the last usable one never |
//!
//! # Shared failures
//!
//! A check may prove the whole way through what a backend depends on. When that fails, each
//! backend looks dead, and none of them is at fault: to take all of them out would turn a part
//! that fails into a whole that does. So a failure that names a dependency ([`CheckReport::because_of`];
//! [`HttpCheck`] reads it from the answer) is not acted upon before others were asked anew. When
//! all that answer fail for the same one, they stay as they were, an error is logged, and
//! [`EventKind::SharedFailure`](crate::pool::EventKind::SharedFailure) tells it. It ends when the first
//! passes or gives another reason; who fails then still is taken out. A backend that was never
//! up, or was down before, is not lifted by it.
//!
//! # When it fails
//!
//! Errors and responses pass through as they are. A backend that dies is out within
//! interval × (1 + jitter) + (fall − 1) × max(changing interval × (1 + jitter), time-out) +
//! time-out, or after five failed requests; one whose answer names a dependency by two time-outs
//! later at most. Whatever the client did is never charged to a backend: its hang-up, its broken
//! body, its bad request. Nor is what this side lacks: a check or a request that fails as the
//! process is out of descriptors, ports or memory, or as the resolver does not answer, counts as
//! none ([`CheckReport::local`]), so that a backend is what it was until one can be made again. An error of a foreign service is not either, for nobody knows whose it
//! is: let it answer with an [`Error`](crate::Error) of a kind that says so, or with a gateway's
//! status. A response body that breaks off is told by `Balance`; without it, only heads are
//! judged.
//!
//! # Several on one pool
//!
//! One of them makes the checks: the newest whose checks were [given](HealthLayer::checks) (a
//! [`Prober`]'s always are), else the newest. The others leave the checks to it, and the newest of
//! these takes over when it is gone; both are logged. So a reload's settings hold at once, and a
//! second `LoadBalancer` on a pool neither checks twice nor replaces the first one's checks by the
//! default ones. Each layer judges its own live traffic by its own rules.
//!
//! # Cost
//!
//! A request: one look for the backend's record, which a service remembers for the backends that
//! it used last, two atomic loads, one addition, and a pass over the names of the response's
//! fields. No lock, no allocation; no clock, unless [`slower_than`](Outliers::slower_than) asks
//! for it. Only a failure does more.
//!
//! About 55 ns on a shared cloud core: produced by `benches/layers.rs`.

mod body;
mod check;
mod check_connection;
mod check_report;
mod circuit;
mod combined_checks;
#[cfg(all(feature = "proxy", feature = "http2"))]
mod grpc;
mod http;
#[cfg(all(feature = "proxy", feature = "http2"))]
mod http2;
mod layer;
mod outlier;
mod prober;
mod service;
mod shared;
mod shared_failure;
mod tcp;
#[cfg(test)]
mod tests;
mod transition;

pub use body::ResponseBody;
pub use check::{CheckFuture, Checks, HealthCheck, Target};
pub use check_report::CheckReport;
pub use combined_checks::{All, Any};
#[cfg(all(feature = "proxy", feature = "http2"))]
pub use grpc::GrpcCheck;
pub use http::HttpCheck;
pub use layer::HealthLayer;
pub use outlier::Outliers;
#[cfg(feature = "serde")]
pub(crate) use outlier::{EJECTION, MAX_EJECTION};
pub use prober::Prober;
pub use service::{Health, ResponseFuture};
pub use tcp::TcpCheck;
