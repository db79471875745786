//! Traces exported by OTLP: a span for each request, and one for each attempt below it.
//!
//! ```sh
//! docker run --rm -p 16686:16686 -p 4318:4318 jaegertracing/jaeger     # any OTLP/HTTP collector
//! cargo run --example trace
//! curl -i http://127.0.0.1:3000/
//! ```
//!
//! Of the two backends one refuses connections, so every second trace has a retry. The collector's
//! address is read from `OTEL_EXPORTER_OTLP_ENDPOINT`. An argument replaces the address to listen on.
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::env;

use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    access_log::{AccessLogLayer, Lines},
    context::TraceContext,
    health::HealthLayer,
    trace::TraceLayer,
};
use http::HeaderMap;
use opentelemetry::{
    Context,
    trace::{
        SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
    },
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::net::TcpListener;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let tracer = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name("evenkeel").build())
        .with_batch_exporter(SpanExporter::builder().with_http().build()?)
        .build();
    // The spans of the exporter's own requests are not to be exported.
    let spans = Targets::new().with_target("evenkeel::trace", Level::INFO);
    tracing_subscriber::registry()
        .with(spans)
        .with(tracing_opentelemetry::layer().with_tracer(tracer.tracer("evenkeel")))
        .init();

    let pool = Pool::new([
        Backend::new("alive", &backend().await?)?,
        Backend::new("refuses", "http://127.0.0.1:1")?,
    ])?;
    // No checks: they would keep requests off the backend that refuses.
    let health = HealthLayer::new(pool.clone()).no_checks().no_outliers();
    let balancer = LoadBalancer::builder(pool)
        .trace(TraceLayer::new().span_context(span_context))
        .access_log(AccessLogLayer::new(Lines::stdout()?))
        .health(health)?
        .build();

    let address = env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    println!("curl -i http://{}/", listener.local_addr()?);
    println!("the answer, the backend's `parent` and `trace_id` in the log lines name one trace;");
    println!(
        "at the collector it has a span `GET` with one or two attempts, http://127.0.0.1:16686/"
    );
    evenkeel::serve(listener, balancer)
        .shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    // Blocks until the last spans are out.
    tokio::task::spawn_blocking(move || tracer.shutdown()).await??;
    Ok(())
}

/// Lets the tracer know the parent of a request's span, and returns the ids that it exports.
fn span_context(span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
    if let Some(parent) = parent {
        let flags = TraceFlags::default().with_sampled(parent.sampled);
        let trace_id = TraceId::from_bytes(parent.trace_id);
        let span_id = SpanId::from_bytes(parent.span_id);
        let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
        // It fails if the tracer does not know the span; then there is no context either.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    context
        .is_valid()
        .then(|| TraceContext::new(trace_id, span_id, context.is_sampled()))
}

/// Starts a backend that answers with the trace context which it gets, and returns its URL.
async fn backend() -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = axum::Router::new().fallback(async |headers: HeaderMap| {
        let parent = headers.get("traceparent").and_then(|p| p.to_str().ok());
        format!("parent: {}\n", parent.unwrap_or("none"))
    });
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}
