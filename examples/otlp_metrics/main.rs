//! Metrics exported by OTLP: every series of this library, through an OpenTelemetry meter.
//!
//! ```sh
//! docker run --rm -p 4318:4318 otel/opentelemetry-collector     # any OTLP/HTTP collector
//! cargo run --features full --example otlp_metrics
//! curl -i http://127.0.0.1:3000/
//! ```
//!
//! The collector's address is read from `OTEL_EXPORTER_OTLP_ENDPOINT`, the interval in milliseconds from
//! `OTEL_METRIC_EXPORT_INTERVAL` (60,000 without it). An argument replaces the address to listen on.
#![expect(clippy::print_stdout, reason = "an example talks to people")]

mod bridge;

use std::{env, time::Duration};

use bridge::Bridge;
use evenkeel::{
    Backend, BoxError, LoadBalancer, Pool,
    metrics::{MetricsLayer, MetricsService},
    stats::Stats,
};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::MetricExporter;
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let backend = backend().await?;
    let pool = Pool::new([Backend::new("a", &backend)?])?;
    let stats = Stats::new(pool.clone());
    let metrics = MetricsLayer::new(stats.clone());
    let balancer = LoadBalancer::builder(pool)
        .metrics(metrics.clone())?
        .build();

    // The exporter's client blocks; the reader has a thread of its own for it.
    let exporter = MetricExporter::builder().with_http().build()?;
    let provider = SdkMeterProvider::builder()
        .with_resource(Resource::builder().with_service_name("evenkeel").build())
        .with_reader(PeriodicReader::builder(exporter).build())
        .build();
    // After the balancer is built, so that its series are there.
    let bridge = Bridge::new(MetricsService::new(stats), provider.meter("evenkeel"));
    tokio::spawn(async move {
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        loop {
            minute.tick().await;
            bridge.register();
        }
    });

    let address = env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    println!("curl -i http://{}/", listener.local_addr()?);
    evenkeel::serve(listener, balancer)
        .events(metrics)
        .shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    // Blocks until the last values are out.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    Ok(())
}

/// Starts a backend, and returns its URL.
async fn backend() -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = axum::Router::new().fallback(|| async { "hello\n" });
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}
