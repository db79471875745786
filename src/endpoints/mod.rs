//! Health endpoints: `/live` and `/ready` of a balancer, `/health` of a backend.
//!
//! A balancer is itself checked, by keepalived, Kubernetes or another load balancer. [`Endpoints`]
//! and [`EndpointsLayer`] answer those checks. They keep two questions apart: does the process
//! live, and can it route requests? A backend is checked by balancers; [`HealthService`] answers
//! with the state of what the application depends on.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, endpoints::{Endpoints, Readiness}};
//! use http::Request;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let readiness = Readiness::new(pool);
//! let endpoints = Endpoints::new(readiness.clone()); // a service: serve it on a port of its own
//!
//! let response = endpoints.clone().oneshot(Request::get("/ready").body(())?).await?;
//! assert_eq!(response.status(), 200);
//!
//! readiness.fail("shutting down"); // the first step of a shutdown: traffic goes elsewhere
//! let response = endpoints.clone().oneshot(Request::get("/ready").body(())?).await?;
//! assert_eq!(response.status(), 503);
//! let response = endpoints.oneshot(Request::get("/live").body(())?).await?;
//! assert_eq!(response.status(), 200, "the process still lives");
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! [`Endpoints`] is a service for a listener of its own, which clients cannot reach.
//! [`EndpointsLayer`] goes in front of the request stack of a public listener: above the access log
//! if checks should not be logged, below it otherwise.
//!
//! **keepalived** moves the address to another host when the process is gone, hangs or shuts down.
//! Its script gives `/ready` a deadline of its own, since keepalived's are whole seconds. If all
//! backends are down at both hosts, a move helps no client: the script asks the peer, too. The folder
//! `examples/deploy/keepalived` has that script and configurations for one and for two addresses.
//!
//! **Kubernetes** restarts a pod whose liveness probe fails, and sends traffic to a pod whose
//! readiness probe passes; any status from 200 to 399 is a pass. Do not use `/ready` as the liveness
//! probe: Kubernetes would restart the balancer because its backends are down. A manifest is in
//! `examples/deploy/kubernetes`.
//!
//! ```text
//! livenessProbe:
//!   httpGet: { path: /live, port: 9900 }
//! readinessProbe:
//!   httpGet: { path: /ready, port: 9900 }
//!   periodSeconds: 2
//!   failureThreshold: 2
//! ```
//!
//! **Route 53** checks from outside, so `/ready` must be a path of the public listener. Its types
//! HTTP and HTTPS accept any 2xx or 3xx; a search string, which the types with `STR_MATCH` want, is
//! `"ready":true`. `examples/deploy/dns` has a health check, and says how fast DNS can be. A load
//! balancer in front of this one asks the same (in HAProxy, `option httpchk GET /ready`).
//!
//! At a shutdown, the time between the first failing `/ready` and the end of the listeners
//! (`lame_duck` in the settings) must be longer than the interval of the checks times the number of
//! failures that they wait for.
//!
//! ## For a backend
//!
//! An application mounts [`HealthService`] as its own `/health`. The service runs the checks of all
//! dependencies side by side and within a deadline, so that a balancer's check takes the same path
//! as a request.
//!
//! ```
//! use axum::{Router, routing::get};
//! use evenkeel::endpoints::{Dependency, HealthService};
//! use http::Request;
//! use tower::ServiceExt;
//!
//! # async fn query(_sql: &str) -> Result<(), std::io::Error> { Ok(()) }
//! # async fn connect() -> Result<(), std::io::Error> { Err(std::io::Error::other("refused")) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let health = HealthService::new([
//!     Dependency::new("postgres", || query("SELECT 1"))?,
//!     Dependency::new("mail", connect)?.soft(0.5)?, // without it, half of the load can be served
//! ])?;
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .route_service("/health", health.clone());
//!
//! let check = || Request::get("/health").body(axum::body::Body::empty());
//! let response = app.clone().oneshot(check()?).await?;
//! assert_eq!(response.status(), 200);
//! assert_eq!(response.headers()["x-evenkeel-health"], "degraded=0.5");
//!
//! health.drain(); // before the application ends: balancers send no new traffic
//! let response = app.oneshot(check()?).await?;
//! assert_eq!(response.headers()["x-evenkeel-health"], "drain");
//! # Ok(())
//! # }
//! ```
//!
//! # Defaults
//!
//! | path | response |
//! |---|---|
//! | `/live` | 200 while the process can respond at all |
//! | `/ready` | 200 while a backend is usable and [`fail`](Readiness::fail) was not called; else 503 |
//!
//! With [`Readiness::certificates`], `/ready` is 503 as well while a certificate has expired.
//!
//! The body is JSON: `{"ready":false,"usable":0,"backends":3,"reasons":["no usable backend"]}`.
//! Methods other than GET and HEAD get 405. Other paths get 404, or the response of the inner
//! service.
//!
//! | setting of a backend's health | default |
//! |---|---|
//! | deadline for all checks | 1.5 s |
//! | time-out of one check | 1 s |
//! | a result is reused for | 1 s |
//! | a dependency is | hard |
//!
//! | a backend's health | status | `x-evenkeel-health` | `x-evenkeel-failed-dependency` |
//! |---|---|---|---|
//! | every check passed | 200 | `pass` | |
//! | a soft dependency failed | 200 | `degraded=0.5`: the share of the load that it can bear | its name |
//! | a hard dependency failed | 503, `Retry-After` | | the names, hard ones first |
//! | [`drain`](HealthService::drain) was called | 503 | `drain` | |
//!
//! The body is JSON: `{"status":"degraded","dependencies":{"postgres":{"status":"pass","ms":3},
//! "mail":{"status":"fail","ms":0,"critical":false,"error":"refused"}}}`.
//!
//! # When it fails
//!
//! The services never return an error. `/ready` reveals only the number of backends; `/health`
//! reveals the text of a dependency's error, unless
//! [`no_error_texts`](HealthService::no_error_texts) removes it. Neither authenticates its callers:
//! use a listener that only the checks can reach where that matters.
//!
//! A dependency that all backends share takes all of them out at once when it fails. The HTTP check
//! of [`health`](crate::health) compares the names of failed dependencies between backends and
//! keeps them in service. Other balancers do not: declare such a dependency
//! [soft](Dependency::soft) for them.
//!
//! # Cost
//!
//! A request for another path costs two comparisons of strings. A run of health checks costs a task
//! for each dependency. At most one run is in flight, however many requests ask for it.

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
