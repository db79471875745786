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
//! | body of the answer, read up to | 64 KiB |
//! | interval | 5 s |
//! | interval while the last results disagree with the state | 1 s |
//! | time-out | 2 s |
//! | fall, rise | 2, 2; the first pass admits a backend that was never checked |
//! | jitter | 10 % |
//! | flapping | 4 changes within 120 s: logged, and held down for 5 s, doubling up to 60 s |
//! | ejection | after 5 failures in a row: no connection, no or a malformed response head, 502, 503, 504 |
//! | ejection lasts | 30 s times how often, up to 300 s; less once `rise` checks begun after it pass |
//! | ejected at most | 50 % of the pool; one always may be, the last usable one never |
//!
//! # When it fails
//!
//! Errors and responses pass through as they are. A backend that dies is out within
//! interval × (1 + jitter) + (fall − 1) × max(changing interval × (1 + jitter), time-out) +
//! time-out, or after five failed requests. Whatever the client did is never charged to a
//! backend: its hang-up, its broken body, its bad request. An error of a foreign service is not
//! either, for nobody knows whose it is: let it answer with an [`Error`](crate::Error) of a kind
//! that says so, or with a gateway's status. A response body that breaks off is not judged.
//!
//! Two layers or probers on one pool overwrite one another's measurements; use one.
//!
//! # Cost
//!
//! A request: one look-up of the backend's record, one atomic load. No lock, no allocation, no
//! clock. Only a failure writes.

mod check;
mod combine;
#[cfg(all(feature = "proxy", feature = "http2"))]
mod grpc;
#[cfg(all(feature = "proxy", feature = "http2"))]
mod h2;
mod http;
mod layer;
mod outlier;
mod owner;
mod prober;
mod reach;
mod report;
mod service;
mod tcp;
#[cfg(test)]
mod tests;
mod transition;

pub use check::{CheckFuture, Checks, HealthCheck, Target};
pub use combine::{All, Any};
#[cfg(all(feature = "proxy", feature = "http2"))]
pub use grpc::GrpcCheck;
pub use http::HttpCheck;
pub use layer::HealthLayer;
pub use outlier::Outliers;
pub use prober::Prober;
pub use report::Report;
pub use service::{Health, ResponseFuture};
pub use tcp::TcpCheck;
