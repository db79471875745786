//! The numbers of requests, backends and listeners, for Prometheus and others.
//!
//! [`MetricsLayer`] counts and times requests in a [`Stats`](crate::stats::Stats). [`MetricsService`]
//! answers scrapes with them, and with the state of the pool.
//!
//! # Example
//!
//! ```
//! use std::convert::Infallible;
//!
//! use evenkeel::{Pool, metrics::{MetricsLayer, MetricsService}, stats::Stats};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Empty, Full};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! let stats = Stats::new(Pool::new([])?);
//! let layer = MetricsLayer::new(stats.clone()).listener("inside");
//! let service = layer.layer(service_fn(|_: Request<Empty<&[u8]>>| async {
//!     Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
//! }));
//!
//! let response = service.oneshot(Request::new(Empty::new())).await?;
//! let metrics = MetricsService::new(stats);
//! assert!(metrics.text().contains("evenkeel_requests_in_flight{listener=\"inside\"} 1\n"));
//!
//! response.into_body().collect().await?;
//! let text = metrics.text();
//! assert!(text.contains("evenkeel_requests_in_flight{listener=\"inside\"} 0\n"));
//! assert!(text.contains("evenkeel_requests_total{listener=\"inside\",status=\"2xx\"} 1\n"));
//! # Ok(())
//! # }
//! ```
//!
//! # Where it goes
//!
//! ```text
//!  client ─▶ MetricsLayer ─▶ AccessLogLayer ─▶ … ─▶ backend
//! ```
//!
//! Outermost, beside the access log, so that it counts every response. In a
//! [`LoadBalancer`](crate::LoadBalancer): `builder(pool).metrics(layer)?`. It works alone around any
//! service; the series of backends then stay at 0. It reads the
//! [`ConnInfo`](crate::context::ConnInfo) of the connection and the
//! [`Exchange`](crate::context::Exchange) of the request, which it inserts if there is none.
//!
//! With `evenkeel::serve(…).events(layer.clone())` it counts connections and TLS handshakes, too; for
//! the access log beside it, `events((metrics, access_log))`.
//!
//! Mount [`MetricsService`] at `/metrics` of a listener that clients do not reach. Prometheus'
//! configuration:
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: evenkeel
//!     static_configs: [{ targets: ["127.0.0.1:9900"] }]
//! ```
//!
//! # Series
//!
//! The names are those of Prometheus' text format. A dash is no unit, or no label.
//!
//! | name | type | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `evenkeel_build_info` | gauge | – | `version` | 1; the version of this library |
//! | `evenkeel_requests_accepted_total` | counter | – | `listener` | requests that arrived |
//! | `evenkeel_requests_in_flight` | gauge | – | `listener` | requests that arrived and have not ended |
//! | `evenkeel_requests_total` | counter | – | `listener`, `status` | requests that ended |
//! | `evenkeel_request_outcomes_total` | counter | – | `listener`, `outcome` | the same requests by how they ended |
//! | `evenkeel_request_duration_seconds` | histogram | seconds | `listener` | from arrival to end |
//! | `evenkeel_connections_opened_total` | counter | – | `listener` | connections of clients |
//! | `evenkeel_connections_open` | gauge | – | `listener` | those that are open |
//! | `evenkeel_connection_failures_total` | counter | – | `listener`, `reason` | connections that ended without a request, failed TLS handshakes, and requests that the server refused |
//! | `evenkeel_tls_handshakes_total` | counter | – | `listener`, `version`, `cipher`, `key_exchange`, `resumed` | TLS handshakes that succeeded |
//! | `evenkeel_tls_handshake_failures_total` | counter | – | `listener`, `cause` | TLS handshakes that failed; clients that send no byte do not count |
//! | `evenkeel_tls_certificates` | gauge | – | `listener` | certificates in force |
//! | `evenkeel_tls_certificate_expiry_timestamp_seconds` | gauge | seconds | `listener`, `name`, `key`, `serial` | when each one expires, in seconds since 1970; the 1,000 that expire first. A placeholder of `tls::acme` has expired since it was made |
//! | `evenkeel_tls_certificate_not_before_timestamp_seconds` | gauge | seconds | `listener`, `name`, `key`, `serial` | from when on each of these is valid: the difference is its lifetime |
//! | `evenkeel_backend_requests_total` | counter | – | `backend`, `status` | requests that ended here |
//! | `evenkeel_backend_request_outcomes_total` | counter | – | `backend`, `outcome` | the same requests by how they ended |
//! | `evenkeel_backend_attempts_total` | counter | – | `backend`, `outcome` | attempts here, retries and hedges included |
//! | `evenkeel_backend_retries_total` | counter | – | `backend` | attempts that began after another had ended |
//! | `evenkeel_backend_hedges_total` | counter | – | `backend` | attempts that began while another ran |
//! | `evenkeel_backend_request_duration_seconds` | histogram | seconds | `backend` | from the attempt's beginning to the request's end |
//! | `evenkeel_backend_time_to_first_byte_seconds` | histogram | seconds | `backend` | from the attempt's beginning to the response's head |
//! | `evenkeel_backend_connections_opened_total` | counter | – | `backend` | connections made, without those of checks |
//! | `evenkeel_backend_connections_open` | gauge | – | `backend` | those that are open |
//! | `evenkeel_backend_connections_idle` | gauge | – | `backend` | those of HTTP/1.1 that carry no request |
//! | `evenkeel_backend_requests_in_flight` | gauge | – | `backend` | attempts that have not ended |
//! | `evenkeel_backend_usable` | gauge | – | `backend` | 1 if new requests can go there |
//! | `evenkeel_backend_weight` | gauge | – | `backend` | the configured weight |
//! | `evenkeel_backend_capacity_ratio` | gauge | – | `backend` | the capacity that checks measured, 0 to 1 |
//! | `evenkeel_backend_mode` | gauge | – | `backend`, `mode` | 1 for the mode that an operator ordered, 0 for the others |
//! | `evenkeel_backend_health` | gauge | – | `backend`, `health` | 1 for the measured health, 0 for the others |
//! | `evenkeel_backend_circuit` | gauge | – | `backend`, `circuit` | 1 for the state of outlier detection, 0 for the others |
//! | `evenkeel_backend_flapping` | gauge | – | `backend` | 1 while checks damp changes |
//! | `evenkeel_backend_health_transitions_total` | counter | – | `backend` | changes of measured health |
//! | `evenkeel_backend_ejections_total` | counter | – | `backend` | ejections by outlier detection |
//! | `evenkeel_backend_checks_total` | counter | – | `backend`, `result` | active checks: `passed` and `failed` |
//! | `evenkeel_backend_check_duration_seconds` | summary | seconds | `backend` | how long they took |
//! | `evenkeel_backend_sticky_requests_total` | counter | – | `backend`, `verdict` | requests by what became of their cookie |
//! | `evenkeel_backend_sticky_sessions_total` | counter | – | `backend` | sessions that began here or moved here |
//! | `evenkeel_pool_backends` | gauge | – | – | backends in the pool |
//! | `evenkeel_pool_backends_usable` | gauge | – | – | those that new requests can go to |
//! | `evenkeel_sticky_skew` | gauge | – | – | most requests of sticky sessions at a backend for its weight, over the mean, of the last minute or two; absent without any |
//! | `evenkeel_retry_budget_left` | gauge | – | – | retries that the budget would pay for (of a `LoadBalancer`; the sum of several) |
//! | `evenkeel_fleet_store_up` | gauge | – | – | 1 if the store of the fleet answered when it was last asked (of a `fleet::FleetHandle`) |
//! | `evenkeel_requests_waiting` | gauge | – | – | requests that wait for a backend (of a `LoadBalancer`; the sum of several) |
//! | `evenkeel_process_resident_memory_bytes` | gauge | bytes | – | memory of the process (Linux) |
//! | `evenkeel_process_open_fds` | gauge | – | – | its open file descriptors (Linux) |
//! | `evenkeel_process_max_fds` | gauge | – | – | those that it may open (Linux) |
//!
//! | label | values |
//! |---|---|
//! | `listener` | the address that a listener is bound to or the layer's [name](MetricsLayer::listener), `unix`, `unknown`, and `other` beyond 15 of them; of a certificate, the name in the [registry](crate::stats::CertificateRegistry), and `backends` for one that backends see |
//! | `name`, `key`, `serial` | of a certificate: its first name, the kind of its key, its serial number; all those that were looked up on demand share the name `on demand` |
//! | `backend` | the ids of the pool's members; a backend that leaves takes its series along |
//! | `status` | `1xx` to `5xx`, and `none` for a request without a response |
//! | `outcome` | of a request as in the [access log](crate::access_log#when-the-line-is-written), of an attempt as [`Outcome::as_str`](crate::context::Outcome::as_str); those that occurred |
//! | `reason` | [`ConnectionEventKind::as_str`](crate::context::ConnectionEventKind::as_str); those that occurred |
//! | `version`, `resumed` | `TLSv1.3`, `TLSv1.2` or `other`; `true` or `false` |
//! | `cipher`, `key_exchange` | the IANA names of the suites and groups of rustls, or `other`; those that occurred |
//! | `cause` | [`HandshakeFailure::as_str`](crate::context::HandshakeFailure::as_str); those that occurred |
//! | `verdict` | [`StickyVerdict::as_str`](crate::context::StickyVerdict::as_str); those that occurred |
//! | `health`, `circuit`, `mode` | the states that [`pool`](crate::pool) names |
//!
//! No label comes from a client: method, path, host and user agent are not among them, so that clients
//! cannot make series.
//!
//! Some sums to rely on, and to alert on:
//!
//! - accepted = sum of `requests_total` over `status` + in flight, at each listener and in each scrape. A
//!   node that loses requests has an in-flight number that only grows.
//! - Reused connections: attempts − connections opened, as
//!   `rate(evenkeel_backend_attempts_total[5m])` summed over `outcome`, minus
//!   `rate(evenkeel_backend_connections_opened_total[5m])`. A series of its own would count an attempt
//!   before its connection and so fall back, which Prometheus takes for a restart.
//!
//! The example `edge` adds `evenkeel_log_lines_total`, the lines of its log (`LogOutputs::visit` of the
//! module `settings`). Series of your own, such as the lines of a log, are added with
//! [`MetricsService::source`], and single values with [`Stats::gauge`](crate::stats::Stats::gauge).
//!
//! # A bridge to another library
//!
//! A [`Visitor`] gets every series with its labels and value. This one feeds whatever recorder the
//! program installed for the `metrics` crate; run it at intervals. Counters are set to their absolute
//! values, and a histogram becomes counters of its buckets.
//!
//! ```
//! use evenkeel::{Backend, Pool, metrics::{Family, MetricsService, Value, Visitor}, stats::Stats};
//! use metrics::Label;
//! # use std::{collections::BTreeMap, sync::{Arc, Mutex, atomic::{AtomicU64, Ordering::Relaxed}}};
//! # use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
//! # #[derive(Default)]
//! # struct Recorded(Mutex<BTreeMap<String, Arc<AtomicU64>>>);
//! # impl Recorded {
//! #     fn cell(&self, key: &Key) -> Arc<AtomicU64> {
//! #         let mut cells = self.0.lock().unwrap();
//! #         cells.entry(key.name().to_owned()).or_default().clone()
//! #     }
//! #     fn read(&self, name: &str) -> u64 { self.0.lock().unwrap()[name].load(Relaxed) }
//! # }
//! # impl Recorder for Recorded {
//! #     fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
//! #     fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
//! #     fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
//! #     fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter { Counter::from_arc(self.cell(key)) }
//! #     fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge { Gauge::from_arc(self.cell(key)) }
//! #     fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram { Histogram::noop() }
//! # }
//!
//! #[derive(Default)]
//! struct Bridge {
//!     name: String,
//! }
//!
//! impl Visitor for Bridge {
//!     fn family(&mut self, family: &Family<'_>) {
//!         self.name = format!("{}{}", family.name, family.ending());
//!     }
//!
//!     fn sample(&mut self, labels: &[(&str, &str)], value: &Value<'_>) {
//!         let name = &self.name;
//!         let own = |(name, value): &(&str, &str)| Label::new(name.to_string(), value.to_string());
//!         let labels: Vec<Label> = labels.iter().map(own).collect();
//!         let counter = |name: String, labels, count| metrics::counter!(name, labels).absolute(count);
//!         match value {
//!             Value::Counter(count) => counter(name.clone(), labels, *count),
//!             Value::Gauge(value) => metrics::gauge!(name.clone(), labels).set(*value),
//!             Value::Histogram(histogram) => {
//!                 for (bound, count) in histogram.buckets() {
//!                     let bound = bound.map_or("+Inf".to_owned(), |b| b.as_secs_f64().to_string());
//!                     let labels = [&labels[..], &[Label::new("le", bound)]].concat();
//!                     counter(format!("{name}_bucket"), labels, count);
//!                 }
//!                 metrics::gauge!(format!("{name}_sum"), labels).set(histogram.sum().as_secs_f64());
//!             }
//!             Value::Summary { count, sum } => {
//!                 counter(format!("{name}_count"), labels.clone(), *count);
//!                 metrics::gauge!(format!("{name}_sum"), labels).set(sum.as_secs_f64());
//!             }
//!             _ => {}
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), evenkeel::ConfigError> {
//! let pool = Pool::new([Backend::new("a", "http://127.0.0.1:9001")?])?;
//! let service = MetricsService::new(Stats::new(pool));
//! # service.stats().pool().snapshot().backends()[0].count_check(true, std::time::Duration::from_millis(3));
//! # let recorder = Recorded::default();
//! # metrics::with_local_recorder(&recorder, || {
//! service.visit(&mut Bridge::default());
//! # });
//! # assert_eq!(f64::from_bits(recorder.read("evenkeel_pool_backends")), 1.0);
//! # assert_eq!(recorder.read("evenkeel_backend_checks_total"), 1);
//! # assert_eq!(recorder.read("evenkeel_backend_check_duration_seconds_count"), 1);
//! # assert_eq!(recorder.read("evenkeel_backend_request_duration_seconds_bucket"), 0);
//! # Ok(())
//! # }
//! ```
//!
//! A backend that leaves takes its series along here, but a recorder of the `metrics` crate keeps what
//! it was given once.
//!
//! An OpenTelemetry meter takes the values in the callbacks of observable instruments, and drops a series
//! that they no longer report. The example `otlp_metrics` has the visitor for it, and exports by OTLP. The
//! SDK has no observable histogram, so the buckets are counters with their bounds in `le`, there too.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | name of the listener | the address that it is bound to |
//! | format | Prometheus' text format 0.0.4; OpenMetrics 1.0 if `Accept` prefers it |
//!
//! # When it fails
//!
//! A request never fails or waits because of its record. [`MetricsService`] answers other methods than
//! GET and HEAD with 405.
//!
//! # Cost
//!
//! A request costs about 100 ns if its response has no body, and about 140 ns with a body, for whose head
//! the clock is read; measured by `benches/metrics.rs` on a shared cloud core, where one reading of the
//! clock takes 20 ns. An access log below has read it already. For the end of a body the clock is read
//! only if no attempt ended in the poll of the last frame. No shared lock is taken, no counter is an
//! atomic read-modify-write, and nothing is allocated after a thread's first requests at a backend: at the
//! first the counters, and after a few a cache of the counters that the thread wrote last. The `Exchange`
//! costs two allocations if no other layer needs it. A scrape sums the counters on its own thread, in
//! less than 10 µs for each backend. What is not scraped costs no memory.

mod backend_series;
mod body;
mod certificate_series;
mod endpoint;
mod layer;
mod process;
mod series;
mod service;
mod text;
mod visitor;

pub use body::ResponseBody;
pub use endpoint::{Body, MetricsService};
pub use layer::MetricsLayer;
pub use service::{Metrics, ResponseFuture};
pub use visitor::{Family, Kind, Value, Visitor};
