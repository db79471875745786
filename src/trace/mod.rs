//! Traces: W3C trace context, and a span for each request and each attempt.
//!
//! [`TraceLayer`] continues the trace that a request came with in `traceparent` and `tracestate`
//! ([W3C Trace Context](https://www.w3.org/TR/trace-context/)), or begins one. The request gets a span
//! id of its own, which the backend sees as its parent, and the access log shows as `span_id`.
//!
//! If a `tracing` subscriber wants them, each request has a span, and each attempt at a backend a span
//! below it, with OpenTelemetry's names. Each attempt then sends an id of its own to its backend, so
//! that a retry and a hedge differ in the backends' traces as well.
//!
//! # Example
//!
//! ```
//! use evenkeel::{Backend, LoadBalancer, Pool, health::HealthLayer, trace::TraceLayer};
//! use http::Request;
//! use http_body_util::{BodyExt, Empty};
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), evenkeel::BoxError> {
//! // A backend that answers with the trace context that it got.
//! let backend = TcpListener::bind("127.0.0.1:0").await?;
//! let url = format!("http://{}", backend.local_addr()?);
//! let echo = async |headers: http::HeaderMap| headers["traceparent"].to_str().unwrap().to_owned();
//! let app = axum::Router::new().fallback(echo);
//! tokio::spawn(async { axum::serve(backend, app).await });
//!
//! let pool = Pool::new([Backend::new("a", &url)?])?;
//! let health = HealthLayer::new(pool.clone()).no_checks();
//! let builder = LoadBalancer::builder(pool).health(health)?;
//! let mut balancer = builder.trace(TraceLayer::new()).build();
//!
//! let request = Request::get("http://shop.example/")
//!     .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
//!     .body(Empty::new())?;
//! let body = balancer.send(request).await.into_body().collect().await?.to_bytes();
//! // The trace goes on, sampled as before; the backend's parent is the span of this hop.
//! assert!(body.starts_with(b"00-4bf92f3577b34da6a3ce929d0e0e4736-") && body.ends_with(b"-01"));
//! assert_ne!(&body[36..52], b"00f067aa0ba902b7");
//! # Ok(())
//! # }
//! ```
//!
//! # OpenTelemetry
//!
//! The crate depends on `tracing` alone, and the spans have the names and the `otel.` fields that
//! `tracing-opentelemetry` exports. A tracer gives ids to the spans itself, so it must learn of the
//! request's parent, and this layer of its ids: [`TraceLayer::span_context`] is the bridge.
//! `examples/trace.rs` is a whole program that exports by OTLP.
//!
//! ```
//! use evenkeel::{context::TraceContext, trace::TraceLayer};
//! use opentelemetry::{
//!     Context,
//!     trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
//! };
//! use tracing::Span;
//! use tracing_opentelemetry::OpenTelemetrySpanExt;
//!
//! fn span_context(span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
//!     if let Some(parent) = parent {
//!         let flags = TraceFlags::default().with_sampled(parent.sampled);
//!         let (trace, id) = (TraceId::from_bytes(parent.trace_id), SpanId::from_bytes(parent.span_id));
//!         let remote = SpanContext::new(trace, id, flags, true, TraceState::default());
//!         let _ = span.set_parent(Context::new().with_remote_span_context(remote));
//!     }
//!     let context = span.context();
//!     let context = context.span().span_context().clone();
//!     let (trace, id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
//!     context.is_valid().then(|| TraceContext::new(trace, id, context.is_sampled()))
//! }
//!
//! let layer = TraceLayer::new().span_context(span_context);
//! # // Without a tracer, the ids are made here.
//! # assert!(span_context(&Span::none(), None).is_none());
//! # drop(layer);
//! ```
//!
//! # Spans
//!
//! Both have the target `evenkeel::trace` and the level INFO. The names are those of OpenTelemetry's
//! conventions for HTTP spans; those under `evenkeel` are own.
//!
//! | field | `request` | `attempt` |
//! |---|---|---|
//! | `otel.kind` | `server` | `client` |
//! | `otel.name` | the method; `HTTP` for an unknown one | the id of the backend |
//! | `otel.status_code` | `ERROR` for 5xx and failures | `ERROR` for 4xx, 5xx and failures |
//! | `otel.status_description` | | why it failed, in words |
//! | `http.request.method` | one of nine, or `_OTHER` with `http.request.method_original` | |
//! | `http.request.resend_count` | | 1 for the second attempt, and so on |
//! | `http.response.status_code` | as sent | as received |
//! | `error.type` | the [`ErrorKind`](crate::ErrorKind), the status, `cancelled` or `_OTHER` | the `ErrorKind` or the status |
//! | `url.scheme`, `url.path` | without the query, which may hold secrets | |
//! | `server.address`, `server.port` | as the client asked for it | the backend's |
//! | `client.address` | the client's, behind trusted hops | |
//! | `network.protocol.version` | `1.1`, `2` | |
//! | `user_agent.original` | at most 1 KiB | |
//! | `evenkeel.backend.id` | | the id of the backend |
//! | `evenkeel.attempt.outcome` | | as in the access log: `ok`, `hedged`, `cancelled`, … |
//! | `trace_id`, `span_id` | unless a tracer has ids of its own | likewise |
//!
//! A request's span begins with the request and ends with the last byte of the response, its failure or
//! its drop; that of a tunnel with the tunnel. It is entered while the layers inside are polled, so
//! that their events belong to it. An attempt's span ends as the attempt does in the
//! [`Exchange`](crate::context::Exchange).
//!
//! # Why attempts have no layer
//!
//! A layer between balance and health would wrap the future and the body of each attempt, of those
//! without a span as well, and it would not see why failover gave an attempt up. The balancer records
//! when each attempt begins and ends; the spans follow that record. For a request without a span that
//! costs a load at three moments.
//!
//! # Whose traces
//!
//! By default every sender's trace is continued. That is what users of a proxy expect (Envoy and
//! Traefik do it, and so do OpenTelemetry's libraries): a trace that begins in a browser or in a gateway
//! must not break in the middle. Trace context grants nothing; a forged one puts spans into a wrong
//! trace, or has them recorded. Where anyone may send requests and recording costs money, name the senders:
//! [`TraceLayer::trusted_peers`].
//!
//! # Where it goes
//!
//! Around the access log, which then shows `trace_id` and `span_id`, and below
//! [`forwarded`](crate::forwarded), which finds the client. `LoadBalancer` has it there:
//! [`trace`](crate::load_balancer::Builder::trace). It reads [`ConnInfo`](crate::context::ConnInfo),
//! continues a [`TraceContext`](crate::context::TraceContext) that a layer above inserted, and inserts
//! its own. If the span has a subscriber it also reads and observes the `Exchange`. Alone around any
//! service it makes the request's span; attempts are those of a `BalanceLayer` inside.
//!
//! # Defaults
//!
//! | what | default |
//! |---|---|
//! | traces continued | from every sender |
//! | sampled share of the traces begun here | 100 % |
//! | ids of spans | made here |
//! | `tracestate` that passes | at most 512 bytes and 32 members |
//!
//! # When it fails
//!
//! It does not fail. A malformed `traceparent`, two of them, or one of an untrusted sender begin a new
//! trace, and the `tracestate` that belonged to it is removed. A malformed `tracestate` is removed, and
//! the trace is continued. Of one that is too long, members of more than 128 bytes are left out first,
//! then the last ones. The members pass, but a tracer does not get them.
//!
//! **Deployment caveat.** Without a subscriber no span is exported, and the parent that backends see is
//! a span which only the access log shows. If neither exists, leave the layer out: trace context then
//! passes unchanged.
//!
//! # Cost
//!
//! Without a subscriber: the span costs a load and no allocation. The context costs an allocation for its
//! extension, 55 bytes in the request, and an allocation of 4 KiB for every 74th request. With a
//! subscriber: what the subscriber takes, a box and the record of the attempts, and the causes of
//! failures as text. `benches/layers.rs` measures it in the rows `trace` and `a span`.
//!
//! A `LoadBalancer` without the layer has its place in the stack all the same, which costs about 400
//! instructions a request, or 1.8 %, by `benches/instructions.sh`.

mod attempt_spans;
mod body;
mod layer;
mod propagate;
mod request_span;
mod service;
mod traceparent;
mod tracestate;

pub use body::ResponseBody;
pub use layer::TraceLayer;
pub use service::{ResponseFuture, Trace};
