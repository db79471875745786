//! The operator's API and the status page: what the pool does, and one click that drains a backend.
//!
//! [`Admin`] is a service that shows the state of a [`Pool`](crate::Pool) as a page, as JSON and as live
//! updates, and that takes orders: drain, maintenance, ready and weight. Nothing is exposed unless a
//! program mounts the service, and nothing can be changed unless the program configures a token or an
//! authorizer.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, Pool, admin::Admin, pool::Mode};
//! use http::Request;
//! use http_body_util::Empty;
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([
//!     Backend::new("a", "http://127.0.0.1:9001")?,
//!     Backend::new("b", "http://127.0.0.1:9002")?,
//! ])?;
//! let admin = Admin::new(pool.clone()).token("ops", "a-token-from-a-secret-store")?;
//!
//! let page = Request::get("/status").body(Empty::<&[u8]>::new())?;
//! assert_eq!(admin.clone().oneshot(page).await?.status(), 200);
//!
//! let order = Request::post("/backends/a/maintenance")
//!     .header("authorization", "Bearer a-token-from-a-secret-store")
//!     .body(Empty::<&[u8]>::new())?;
//! assert_eq!(admin.oneshot(order).await?.status(), 200);
//! assert_eq!(pool.snapshot().get("a").unwrap().mode(), Mode::Maintenance);
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! On a listener of its own, which clients cannot reach. Every client that reaches it can read the
//! addresses of the backends and their errors; a layer outside may restrict that. With
//! [`endpoints`](crate::endpoints) in front, the listener also answers the checks of another balancer,
//! and with a metrics service inside, the scrapes of Prometheus:
//!
//! ```
//! use evenkeel::{Pool, admin::Admin, endpoints::{EndpointsLayer, Readiness}};
//! use tower::Layer;
//!
//! # fn main() -> Result<(), evenkeel::BoxError> {
//! let pool = Pool::new([])?;
//! let admin = Admin::new(pool.clone()).name("lb-1").token("ops", "a-token-from-a-secret-store")?;
//! // … .stats(stats.clone())?.metrics(MetricsService::new(stats))
//! let operators = EndpointsLayer::new(Readiness::new(pool)).layer(admin);
//! // evenkeel::serve(TcpListener::bind("127.0.0.1:9900").await?, operators).await?;
//! # drop(operators);
//! # Ok(())
//! # }
//! ```
//!
//! In axum, `Router::new().nest_service("/lb", admin)` mounts it under a path: the page has relative
//! links alone. In front of the listener, a reverse proxy must pass `Authorization`, and must not gather
//! responses of the type `text/event-stream`.
//!
//! At a shutdown, call [`Admin::close`]: live updates would hold the server until its drain time-out.
//!
//! ## Paths
//!
//! | path | response |
//! |---|---|
//! | `GET /status` | the page; complete without JavaScript, live with it |
//! | `GET /status.json` | the same as JSON |
//! | `GET /status/events` | server-sent events `status`, each with that JSON but for `certificates` and `certificates_total`: one a second, and one within 100 ms of a change. At the beginning, and whenever a certificate has changed, an event `certificates` with these two comes before it |
//! | `GET /metrics` | that of [`Admin::metrics`]; 404 without |
//! | `POST /backends/{id}/drain` | no new traffic; sessions stay until the field `deadline`: seconds, or as in `90s`, `5m`, `1h` |
//! | `POST /backends/{id}/maintenance` | no traffic; sessions move |
//! | `POST /backends/{id}/ready` | traffic as health allows; ends a drain or maintenance |
//! | `POST /backends/{id}/weight` | the field `weight`: 0 to 1,000. A reload of the settings brings theirs back |
//!
//! The fields of an order are a JSON object or a form. The `id` is percent-encoded. The response of an
//! order is `{"backend": …}` with the state after it:
//!
//! ```text
//! curl -H 'authorization: Bearer TOKEN' -d deadline=10m http://127.0.0.1:9900/backends/a/drain
//! ```
//!
//! ## JSON
//!
//! Names are stable; fields may be added. Times are RFC 3339 in UTC. `null` stands for a value that is
//! not known: latency, errors and sessions need [`Admin::stats`].
//!
//! | field | what |
//! |---|---|
//! | `time`, `name`, `writable` | when; the name of the balancer; whether orders are accepted at all |
//! | `pool`, `backends`, `changes` | the whole; each backend in the pool's order; the latest 40 changes, the latest first |
//! | `certificates`, `certificates_total` | the 100 certificates in force that expire first, of the [registry](crate::stats::Stats::certificates) of [`Admin::stats`]; how many there are |
//! | `pool.backends`, `pool.usable`, `pool.held` | how many there are, get new traffic, and wait for their first check |
//! | `pool.panic_mode`, `pool.sticky_skew` | too few are usable, and all get traffic; most requests of sessions for a weight, over the mean |
//! | `pool.in_flight`, `pool.requests` | requests in flight, and so far, retries and hedges included |
//! | `pool.window_seconds`, `pool.requests_per_second`, `pool.error_share` | the time that rates are of; their values; 5xx among the responses |
//! | `pool.p50_ms`, `pool.p99_ms` | latency until the last byte |
//! | `backends[].id`, `backends[].address`, `backends[].tier`, `backends[].locality` | as configured |
//! | `backends[].usable` | it gets new requests |
//! | `backends[].state` | one word: `up`, `degraded`, `flapping`, `unchecked`, `weightless`, `draining`, `maintenance`, `evacuated`, `ejected` or `down` |
//! | `backends[].health`, `backends[].since`, `backends[].reason` | `healthy`, `unhealthy` or `unknown`; since when; `code`, `detail` and `source` (`checks` or `traffic`) of the last change |
//! | `backends[].circuit`, `backends[].ejections` | `closed`, `open` or `half_open`; how often it opened |
//! | `backends[].flapping`, `backends[].flaps` | changes are damped; their number of late |
//! | `backends[].capacity`, `backends[].asks_to_drain`, `backends[].evacuated` | what the backend says of itself; its locality is evacuated |
//! | `backends[].last_check` | `time`, `passed`, `code`, `detail`, `status` and `ms` of the last active check |
//! | `backends[].mode`, `backends[].deadline` | `ready`, `draining` or `maintenance`; when sessions of a drain move |
//! | `backends[].weight`, `backends[].weight_in_force`, `backends[].share` | as configured; after slow start and capacity; the share of new requests, 0 to 1 |
//! | `backends[].in_flight`, `backends[].max_in_flight`, `backends[].requests` | now, at most, and so far |
//! | `backends[].window_seconds`, `backends[].requests_per_second`, `backends[].error_share`, `backends[].p50_ms`, `backends[].p99_ms` | as for the pool |
//! | `backends[].latency_of`, `backends[].latency_ms` | of `requests` or `checks`; a mean each second for up to a minute, the oldest first, `null` where there was none |
//! | `backends[].sessions`, `backends[].session_share` | sticky sessions that began here; their share |
//! | `certificates[].name`, `certificates[].names`, `certificates[].name_count` | the first name; the first 20; how many there are |
//! | `certificates[].listener`, `certificates[].source`, `certificates[].on_demand` | the listener that shows it, `backends` for one that backends see; its file or identifier; whether it was looked up when a client asked for it |
//! | `certificates[].issuer`, `certificates[].key`, `certificates[].serial`, `certificates[].fingerprint` | as the certificate says; `RSA`, `ECDSA` or `Ed25519`; hexadecimal; SHA-256 |
//! | `certificates[].not_before`, `certificates[].not_after`, `certificates[].days_left`, `certificates[].expiry` | its validity; whole days, below 0 once it has expired; `valid`, `warn`, `error` or `expired`, by the thresholds of the registry |
//!
//! A change has `time`, `backend`, `kind` (`health`, `mode`, `membership`, `evacuation` or
//! `shared_failure`), `from`, `to` and `reason`.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | orders | none are accepted: read-only |
//! | a token has at least | 16 characters |
//! | deadline of a drain | 300 s |
//! | viewers of live updates | 64 |
//! | the body of an order has at most | 4096 bytes |
//!
//! # When it fails
//!
//! The service returns no error. A response that is none of success is JSON, `{"error": "code",
//! "message": "…"}`:
//!
//! | status | code | when |
//! |---|---|---|
//! | 400 | `bad_field` | a field is missing, unknown or out of range; `field` names it |
//! | 400 | `bad_body` | the body is malformed |
//! | 401 | `unauthenticated` | no token, or another one |
//! | 403 | `read_only` | neither a token nor an authorizer is configured |
//! | 403 | `forbidden` | the authorizer refuses the user |
//! | 403 | `cross_origin` | a page of another origin sent the order |
//! | 404 | `unknown_backend` | no member has the id |
//! | 404 | `not_found` | another path |
//! | 405 | `method_not_allowed` | with `Allow` |
//! | 413 | `body_too_large` | the body is too long |
//! | 415 | `bad_media_type` | the body is neither JSON nor a form |
//! | 503 | `too_many_viewers`, `closed` | no more live updates; with `Retry-After` |
//!
//! Orders are safe against forged requests: credentials come in a header that no page of another origin
//! can set, no cookie is read or set, and a request that a browser marks as cross-site, or whose
//! `Origin` is not its host, is refused whatever credentials it has. The page runs its own script alone
//! (`Content-Security-Policy` with digests, Trusted Types), loads nothing from elsewhere, cannot be
//! framed, and keeps the token in its memory until it is closed. A token is readable on the way: use TLS
//! where the network is not your own.
//!
//! Each order is logged at INFO under `evenkeel::admin` with user, peer, backend and order; refused ones
//! at WARN, at most one in ten seconds.
//!
//! An order does not survive the process: a drain or a weight is gone after a restart.
//!
//! # Cost
//!
//! Nothing on the request path. While there is a viewer, one task reads all counters and writes the JSON
//! once a second for all viewers, about 1 KiB for each backend, and about 1 KiB for each certificate that it
//! shows when one of them has changed, on a thread of the runtime that serves the
//! page. Serve a pool of thousands of backends from a runtime of its own. A viewer that reads slowly
//! misses updates and holds up nothing. Without a viewer, a request for the page or the JSON costs one
//! such reading.

mod authorize;
mod body;
mod certificates;
mod change;
mod cross_origin;
mod event_stream;
mod fields;
mod future;
mod order;
mod page;
mod response;
mod route;
mod samples;
mod service;
mod status;
#[cfg(test)]
mod tests;
mod time;

pub use authorize::{Denied, User};
pub use body::Body;
pub use future::ResponseFuture;
pub use service::Admin;
