//! For those who check us: `/live` and `/ready` of a balancer, `/health` of a backend.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, endpoints::{Endpoints, Readiness}};
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let readiness = Readiness::new(pool);
//! let admin = Endpoints::new(readiness.clone()); // a service: serve it on a port of its own
//! assert!(readiness.check().is_ready());
//! readiness.fail("shutting down"); // first thing at the end: traffic goes elsewhere
//! assert!(!readiness.check().is_ready());
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! On a listener of its own ([`Endpoints`] is a service), or as [`EndpointsLayer`] in front of
//! the request stack of a public listener, above the access log if checks shall not be logged.
//!
//! keepalived gives up the address when the process or all its backends are gone; `-f` makes
//! 503 a failure, `-m` a hang:
//!
//! ```text
//! vrrp_script evenkeel {
//!     script "/usr/bin/curl -fs -m 1 -o /dev/null http://127.0.0.1:9900/ready"
//!     interval 1
//!     fall 2
//!     rise 2
//! }
//! ```
//!
//! Kubernetes restarts what does not live, and sends traffic to what is ready; readiness must
//! not be its liveness probe, or it restarts a balancer because backends are down:
//!
//! ```text
//! livenessProbe:
//!   httpGet: { path: /live, port: 9900 }
//! readinessProbe:
//!   httpGet: { path: /ready, port: 9900 }
//!   periodSeconds: 1
//!   failureThreshold: 2
//! ```
//!
//! Route 53 asks from outside, so `/ready` has to be a path of the public listener; type HTTP or
//! HTTPS, and it takes any 2xx for good (a search string, if one is set, is `"ready":true`). A
//! load balancer in front of this one (HAProxy's `option httpchk GET /ready`) does the same.
//!
//! The time between the first failing answer and the end of the listeners (`lame_duck` in the
//! settings) must be longer than interval times failures of whoever checks.
//!
//! ## For a backend
//!
//! [`HealthService`] is what an application mounts as its own `/health`: it runs the checks of
//! what the application depends on, side by side and within a deadline, so that a balancer's
//! check goes the whole way that a request goes.
//!
//! ```
//! use axum::{Router, routing::get};
//! use evenkeel::endpoints::{Dependency, HealthService};
//!
//! # async fn query(_sql: &str) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn noop() -> Result<(), std::io::Error> { Ok(()) }
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let health = HealthService::new([
//!     Dependency::new("postgres", || query("SELECT 1"))?,
//!     Dependency::new("mail", noop)?.soft(1.0)?, // goes on without it
//! ])?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .route_service("/health", health.clone());
//! health.drain(); // before it ends: balancers send no new traffic
//! # Ok(())
//! # }
//! ```
//!
//! # Defaults
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 while the process can answer at all |
//! | `/ready` | 200 while it can route: a backend is usable, and nobody called [`fail`](Readiness::fail); else 503 |
//!
//! The answer is JSON: `{"ready":false,"usable":0,"backends":3,"reasons":["no usable backend"]}`.
//! GET and HEAD are answered, other methods get 405; other paths 404, or the inner service.
//!
//! | of a backend's health | default |
//! |---|---|
//! | deadline for all checks | 1.5 s |
//! | time-out of one | 1 s |
//! | a result is good for | 1 s |
//! | a dependency is | hard |
//!
//! | a backend's health | status | `x-evenkeel-health` | `x-evenkeel-failed-dependency` |
//! |---|---|---|---|
//! | all well | 200 | `pass` | |
//! | a soft dependency failed | 200 | `degraded=0.5`, the share that it bears | its name |
//! | a hard one failed | 503, `Retry-After` | | the names, hard ones first |
//! | told to drain | 503 | `drain` | |
//!
//! The answer is JSON: `{"status":"degraded","dependencies":{"postgres":{"status":"pass","ms":3},
//! "mail":{"status":"fail","ms":0,"critical":false,"error":"refused"}}}`.
//!
//! # When it fails
//!
//! It does not. Readiness says nothing of the backends but how many there are; health tells what
//! a dependency's error says, unless [told not to](HealthService::no_error_texts). Who may ask is
//! the listener's business.
//!
//! A dependency that all backends share takes all of them out at once when it fails. The check
//! of [`health`](crate::health) compares the names that backends give and keeps serving; other
//! balancers do not, and such a dependency is better soft.
//!
//! # Cost
//!
//! For a request to another path, two comparisons. A run of health checks: a task for each, at
//! most one run at a time, however many ask.

mod body;
mod check_run;
mod dependency;
mod health_service;
mod json_response;
mod layer;
mod overall;
mod readiness;
mod service;
#[cfg(test)]
mod tests;

pub use body::{Body, ResponseBody};
pub use dependency::Dependency;
pub use health_service::{HealthFuture, HealthService};
pub use layer::EndpointsLayer;
pub use readiness::{Readiness, ReadinessReport};
pub use service::{Endpoints, ResponseFuture, WithEndpoints};
