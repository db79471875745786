//! Health: keeping traffic off backends that do not serve.
//!
//! Two sources say how a backend does, and the pool combines them. *Active checks* send each backend
//! a request of their own at intervals. *Passive outlier detection* judges the responses to live
//! traffic. [`HealthLayer`] does both around the service that talks to backends; [`Prober`] makes
//! active checks without a layer.
//!
//! # Example
//!
//! A backend that answers 503 to three requests in a row is taken out of service:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use evenkeel::{Backend, Pool, context::Selected, health::{HealthLayer, Outliers}};
//! use http::{Request, Response};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let health = HealthLayer::new(pool.clone())
//!     .no_checks()
//!     .outliers(Outliers::new().consecutive(3))?;
//! let service = health.layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, Infallible>(Response::builder().status(503).body(String::new()).unwrap())
//! }));
//!
//! for _ in 0..3 {
//!     // `Balance` does this for each request.
//!     let mut request = Request::new(());
//!     let a = pool.snapshot().get("a").unwrap().clone();
//!     request.extensions_mut().insert(Selected(a));
//!     service.clone().oneshot(request).await?;
//! }
//! assert!(pool.snapshot().get("a").unwrap().is_ejected());
//! assert_eq!(pool.snapshot().usable(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Active checks are configured with [`Checks`]:
//!
//! ```
//! use std::time::Duration;
//!
//! use evenkeel::{Backend, Pool, health::{Checks, HealthLayer, HttpCheck}};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let checks = Checks::new()
//!     .with_check(HttpCheck::new().path("/ready")?)
//!     .interval(Duration::from_secs(2));
//! // The time-out, 2 s by default, must be shorter than the interval.
//! assert!(HealthLayer::new(pool.clone()).checks(checks.clone()).is_err());
//! let health = HealthLayer::new(pool.clone()).checks(checks.timeout(Duration::from_secs(1)))?;
//! assert!(health.pool().is_same(&pool));
//! # Ok(())
//! # }
//! ```
//!
//! # Why two sources
//!
//! A check tests what it asks for, every few seconds; it notices a dead backend that gets no
//! traffic, and it notices when the backend is back. Live traffic tests what clients ask for,
//! hundreds of times a second; it notices within a few requests that a backend fails although its
//! health endpoint answers 200. Each source has a state of its own: a backend serves if its checks
//! pass *and* its circuit is closed.
//!
//! ```text
//!  active checks        Unknown ──1 pass──▶ Healthy ──`fall` failures──▶ Unhealthy ──`rise` passes──▶ Healthy
//!  outlier detection    Closed ──failures──▶ Open ──time──▶ HalfOpen ──a request succeeds──▶ Closed
//! ```
//!
//! Neither source empties a pool unnoticed: the last usable backend is never ejected, and when too
//! few backends are left, the pool's [`PanicRouting`](crate::pool::PanicRouting) decides. By default,
//! traffic follows health, and a request that finds no backend is answered with 503.
//!
//! # Where it goes
//!
//! Below `Balance`, directly around the service that talks to backends. The layer reads
//! [`Selected`](crate::context::Selected) from the request's extensions; a request without it passes
//! through and is not judged. The layer writes to the [`Pool`](crate::Pool), which announces each
//! change as an event.
//!
//! The checks run in one task. It starts when a service is made, or first polled for readiness,
//! inside a tokio runtime; it starts again if its runtime ends; and it stops when the last layer and
//! service are dropped. While the task runs, a backend that was never checked gets no traffic until
//! its first check passes.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | check | `GET /health`, 200 to 299 healthy, no redirects, a fresh connection each time |
//! | body of an answer, if the check needs it, read up to | 64 KiB |
//! | interval | 5 s |
//! | interval while the last results disagree with the state | 1 s |
//! | interval while the backend is down | as the interval |
//! | time-out | 2 s |
//! | fall, rise | 2, 2; the first pass admits a backend that was never checked |
//! | jitter | 10 % |
//! | asked to wait | up to 60 s |
//! | flapping | 4 changes within 120 s: logged, and held down for 5 s, doubling up to 60 s |
//! | shared failure | 100 % of those that answer |
//! | ejection | after 5 failures in a row: no connection, no or a malformed response head, 502, 503, 504, a hedge that won |
//! | or after | 50 % of at least 20 requests within 10 s failed; a response body that breaks off counts too |
//! | or after | a response with `x-evenkeel-health: fail` or `x-envoy-immediate-health-check-fail` |
//! | latency outliers | off |
//! | ejection lasts | 30 s times how often, up to 300 s, and up to 10 % more; `rise` checks that pass end it early: with a trial, or at once if a check failed meanwhile |
//! | after an ejection | one request at a time tries the backend, for 30 s at most |
//! | ejected at most | 50 % of the pool; one backend always may be, the last usable one never |
//!
//! # Shared failures
//!
//! A health endpoint often tests what the backend depends on, such as a database. When the database
//! fails, every backend fails its checks, and none is at fault: taking all of them out would turn a
//! partial failure into a total one. A failure that names a dependency
//! ([`CheckReport::with_dependency`]; [`HttpCheck`] reads the name from the answer) therefore takes no
//! backend out before up to 32 other backends were checked again. If all backends that answer fail
//! for the same dependency, they stay in service, an error is logged, and the pool announces
//! [`EventKind::SharedFailure`](crate::pool::EventKind::SharedFailure). The shared failure ends when
//! the first check passes or gives another reason; the backends are then checked again, and those
//! that still fail are taken out. A backend that was already down, or was never up, stays so.
//!
//! # Checks and judgements of your own
//!
//! A check is any [`HealthCheck`]; [`Checks::with_check`] takes it. Judgements that come from elsewhere,
//! such as an alert or a log, go to the pool itself, with or without a layer:
//! [`Pool::measure`](crate::Pool::measure) does what a check does,
//! [`Pool::eject`](crate::Pool::eject) what live traffic does, and
//! [`Pool::readmit`](crate::Pool::readmit) ends an ejection.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use evenkeel::{
//!     Backend, Pool,
//!     health::{CheckFuture, CheckReport, Checks, HealthCheck, HealthLayer, Target},
//!     pool::{Ejection, HealthStatus, Measurement, Reason},
//! };
//!
//! /// Passes if the backend's id was written to a file of leases within the last minute.
//! #[derive(Debug)]
//! struct HoldsLease;
//!
//! impl HealthCheck for HoldsLease {
//!     fn check<'a>(&'a self, target: &'a Target) -> CheckFuture<'a> {
//!         Box::pin(async move {
//!             let lease = format!("/run/leases/{}", target.backend().id());
//!             let written = tokio::fs::metadata(lease).await.and_then(|file| file.modified());
//!             match written.map(|time| SystemTime::now().duration_since(time)) {
//!                 Ok(Ok(age)) if age > Duration::from_secs(60) => CheckReport::fail("LEASE", "old"),
//!                 Ok(_) => CheckReport::pass("LEASE", "held"),
//!                 Err(error) => CheckReport::fail("LEASE", error.to_string()),
//!             }
//!         })
//!     }
//! }
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let _health = HealthLayer::new(pool.clone()).checks(Checks::new().with_check(HoldsLease))?;
//!
//! let [a, b] = ["a", "b"].map(|id| pool.snapshot().get(id).unwrap().clone());
//! let alert = Reason::new("ALERT", "wrong results");
//! assert_eq!(pool.eject(&a, alert.clone(), 1, 0.5), Ejection::Ejected);
//! assert!(!a.is_usable());
//! assert!(pool.readmit(&a, Reason::new("ALERT", "resolved")) && a.is_usable());
//! pool.measure(&b, Measurement::new(HealthStatus::Unhealthy, alert));
//! assert_eq!((b.is_usable(), pool.snapshot().usable()), (false, 1));
//! # Ok(())
//! # }
//! ```
//!
//! # When it fails
//!
//! Errors and responses pass through unchanged.
//!
//! A backend that dies is out of service after five failed requests, or after interval ×
//! (1 + jitter) + (fall − 1) × max(changing interval × (1 + jitter), time-out) + time-out,
//! whichever is first. If its answer names a dependency, up to two time-outs more.
//!
//! These are never charged to a backend:
//!
//! - What the client does: it hangs up, its body breaks off, its request is malformed.
//! - What this process lacks ([`CheckReport::local`]): a check or a request that fails because the
//!   process is out of file descriptors, ports or memory, or because the resolver does not answer.
//! - An error of a service that is not this crate's, because it does not say which side failed. Such
//!   a service can return an [`Error`](crate::Error) of a fitting kind, or answer 502 to 504.
//! - A response that is dropped before its end, because the client went away or the failover layer
//!   discarded it. A request that lost to a hedge before its response head does count.
//!
//! # Several on one pool
//!
//! Of several layers and probers on one pool, one makes the checks: the newest whose checks were
//! [given](HealthLayer::checks) (those of a [`Prober`] always are), else the newest. When it is
//! dropped, the next newest takes over; each change is logged. The settings of a reload therefore
//! hold at once, and a second `LoadBalancer` on a pool neither doubles the checks nor replaces them
//! by the default ones. Each layer judges its own live traffic by its own rules.
//!
//! # Cost
//!
//! A request costs one look-up of the backend's record, which a service caches for the backends that
//! it used last, two atomic loads, one atomic addition, a clone each of the record and of the
//! [`Exchange`](crate::context::Exchange) (two atomic operations each), and a pass over the names of
//! the response's fields. It takes no lock, allocates nothing, and reads no clock unless
//! [`slower_than`](Outliers::slower_than) is set. Only a failure costs more.
//!
//! About 55 ns on a shared cloud core, produced by `benches/layers.rs`.

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
mod http2_exchange;
mod layer;
mod layer_state;
mod outlier;
mod prober;
mod service;
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
