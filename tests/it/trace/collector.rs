//! A collector that takes spans by OTLP over HTTP, and a tracer that exports to it.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{AnyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prost::Message;
use tokio::sync::Notify;
use tracing::{Level, subscriber::DefaultGuard};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt};

use crate::support::Origin;

/// A collector over a socket, and the spans that it got.
pub(crate) struct Collector {
    origin: Origin,
    got: Arc<Got>,
}

#[derive(Default)]
struct Got {
    spans: Mutex<Vec<Exported>>,
    changed: Notify,
}

/// A span as it was exported.
#[derive(Clone, Debug)]
pub(crate) struct Exported(Span);

impl Collector {
    pub(crate) async fn start() -> Self {
        let got = Arc::<Got>::default();
        let takes = got.clone();
        let origin = Origin::serve(move |request| take(takes.clone(), request)).await;
        Self { origin, got }
    }

    /// Returns what `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub(crate) fn url(&self) -> String {
        self.origin.url()
    }

    /// Returns the spans that have come.
    pub(crate) fn all(&self) -> Vec<Exported> {
        self.got.spans.lock().unwrap().clone()
    }

    /// Waits until there are as many spans; returns them in the order of their beginnings.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Exported> {
        loop {
            let changed = self.got.changed.notified();
            let mut spans = self.got.spans.lock().unwrap().clone();
            if spans.len() >= count {
                spans.sort_by_key(|span| span.0.start_time_unix_nano);
                assert_eq!(spans.len(), count, "{spans:#?}");
                return spans;
            }
            changed.await;
        }
    }
}

async fn take(got: Arc<Got>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    assert_eq!(request.uri().path(), "/v1/traces");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let export = ExportTraceServiceRequest::decode(body).unwrap();
    let scopes = export
        .resource_spans
        .into_iter()
        .flat_map(|r| r.scope_spans);
    let spans = scopes.flat_map(|scope| scope.spans).map(Exported);
    got.spans.lock().unwrap().extend(spans);
    got.changed.notify_waiters();
    let taken = ExportTraceServiceResponse::default().encode_to_vec();
    let response = Response::builder().header("content-type", "application/x-protobuf");
    response.body(Full::from(taken)).unwrap()
}

impl Exported {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns "server" or "client".
    pub(crate) fn kind(&self) -> String {
        self.0
            .kind()
            .as_str_name()
            .replace("SPAN_KIND_", "")
            .to_lowercase()
    }

    pub(crate) fn trace_id(&self) -> String {
        hexadecimal(&self.0.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hexadecimal(&self.0.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hexadecimal(&self.0.parent_span_id)
    }

    pub(crate) fn nanos(&self) -> u64 {
        self.0.end_time_unix_nano - self.0.start_time_unix_nano
    }

    pub(crate) fn is_error(&self) -> bool {
        let status = self.0.status.as_ref();
        status.is_some_and(|status| status.code() == StatusCode::Error)
    }

    pub(crate) fn why(&self) -> &str {
        self.0.status.as_ref().map_or("", |status| &status.message)
    }

    /// Returns an attribute as text; empty if there is none.
    pub(crate) fn get(&self, name: &str) -> String {
        let mut found = self.0.attributes.iter().filter(|found| found.key == name);
        let value = found.next().and_then(|found| found.value.clone());
        assert!(found.next().is_none(), "{name} twice: {self:#?}");
        match value {
            Some(AnyValue {
                value: Some(Value::StringValue(text)),
            }) => text,
            Some(AnyValue {
                value: Some(Value::IntValue(number)),
            }) => number.to_string(),
            Some(other) => panic!("{name} is {other:?}"),
            None => String::new(),
        }
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exports the spans of this thread until it is dropped.
pub(super) struct Tracer {
    provider: SdkTracerProvider,
    _subscriber: DefaultGuard,
}

impl Tracer {
    pub(super) fn start(collector: &Collector, sampler: Sampler) -> Self {
        super::register_callsites();
        let exporter = SpanExporter::builder().with_http();
        let exporter = exporter.with_endpoint(format!("{}/v1/traces", collector.url()));
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler)
            .with_batch_exporter(exporter.build().unwrap())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("it"));
        let spans = Targets::new().with_target("evenkeel::trace", Level::INFO);
        let registry = tracing_subscriber::registry().with(spans).with(layer);
        Self {
            provider,
            _subscriber: tracing::subscriber::set_default(registry),
        }
    }

    /// Exports what has ended, and returns the spans once there are as many.
    pub(super) async fn spans(&self, collector: &Collector, count: usize) -> Vec<Exported> {
        self.flush().await;
        collector.spans(count).await
    }

    pub(super) async fn flush(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
        flushed.await.unwrap().unwrap();
    }
}
