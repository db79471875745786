//! The bridge to an OpenTelemetry meter that the example `otlp_metrics` has, and what a collector gets
//! from it by OTLP over HTTP.

#[path = "../../../examples/otlp_metrics/bridge.rs"]
mod bridge;

use std::sync::{Arc, Mutex};

use bridge::Bridge;
use evenkeel::metrics::{Family, Value};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_otlp::{MetricExporter, WithExportConfig};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::any_value,
    metrics::v1::{AggregationTemporality, Metric, NumberDataPoint, metric, number_data_point},
};
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use prost::Message;

use super::*;

/// A collector over a socket, and the metrics that it got.
pub(crate) struct Collector {
    origin: Origin,
    exports: Arc<Mutex<Vec<Vec<Metric>>>>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let exports = Arc::<Mutex<Vec<_>>>::default();
        let takes = exports.clone();
        let origin = Origin::serve(move |request| take(takes.clone(), request)).await;
        Self { origin, exports }
    }

    /// Returns what `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub(crate) fn url(&self) -> String {
        self.origin.url()
    }

    /// Returns the values of the last export.
    pub(crate) fn last(&self) -> Exported {
        let exports = self.exports.lock().unwrap();
        Exported(exports.last().expect("an export").clone())
    }
}

async fn take(
    exports: Arc<Mutex<Vec<Vec<Metric>>>>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    assert_eq!(request.uri().path(), "/v1/metrics");
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let export = ExportMetricsServiceRequest::decode(body).unwrap();
    let resources = export.resource_metrics.into_iter();
    let scopes = resources.flat_map(|resource| resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| scope.metrics).collect();
    exports.lock().unwrap().push(metrics);
    let taken = ExportMetricsServiceResponse::default().encode_to_vec();
    let response = Response::builder().header("content-type", "application/x-protobuf");
    response.body(Full::from(taken)).unwrap()
}

/// What one export had.
pub(crate) struct Exported(Vec<Metric>);

impl Exported {
    /// Returns the value of one series, with its labels in alphabetical order; 0 if it is not there.
    pub(crate) fn get(&self, name: &str, labels: &str) -> f64 {
        self.series().get(name, labels)
    }

    /// Returns all values under the names that Prometheus' text format gives them.
    fn series(&self) -> Series {
        let mut series = BTreeMap::new();
        for metric in &self.0 {
            for point in points(metric) {
                let mut labels: Vec<_> = point.attributes.iter().map(label).collect();
                labels.sort_unstable();
                let name = match labels[..] {
                    [] => metric.name.clone(),
                    _ => format!("{}{{{}}}", metric.name, labels.join(",")),
                };
                let value = match point.value.unwrap() {
                    number_data_point::Value::AsDouble(value) => value,
                    number_data_point::Value::AsInt(value) => value as f64,
                };
                let twice = series.insert(name, value);
                assert_eq!(twice, None, "{metric:?}");
            }
        }
        Series(series)
    }

    fn metric(&self, name: &str) -> &Metric {
        let mut named = self.0.iter().filter(|metric| metric.name == name);
        let metric = named
            .next()
            .unwrap_or_else(|| panic!("{name} in {:?}", self.0));
        assert_eq!(named.next(), None, "an instrument is registered once");
        metric
    }
}

fn points(metric: &Metric) -> &[NumberDataPoint] {
    match metric.data.as_ref().unwrap() {
        metric::Data::Sum(sum) => {
            // The values are absolute: a collector that misses an export misses nothing.
            let cumulative = AggregationTemporality::Cumulative as i32;
            assert_eq!(sum.aggregation_temporality, cumulative, "{metric:?}");
            &sum.data_points
        }
        other => panic!("{other:?}"),
    }
}

fn label(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> String {
    match attribute
        .value
        .as_ref()
        .and_then(|value| value.value.as_ref())
    {
        Some(any_value::Value::StringValue(value)) => format!("{}=\"{value}\"", attribute.key),
        other => panic!("{other:?}"),
    }
}

/// A meter whose values go to a collector when the test says so.
struct Exporting {
    collector: Collector,
    provider: SdkMeterProvider,
}

impl Exporting {
    async fn start() -> Self {
        let collector = Collector::start().await;
        let exporter = MetricExporter::builder().with_http();
        let exporter = exporter.with_endpoint(format!("{}/v1/metrics", collector.url()));
        let hour = Duration::from_secs(3_600);
        let reader = PeriodicReader::builder(exporter.build().unwrap()).with_interval(hour);
        let provider = SdkMeterProvider::builder()
            .with_reader(reader.build())
            .build();
        Self {
            collector,
            provider,
        }
    }

    async fn export(&self) -> Exported {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
        flushed.await.unwrap().unwrap();
        self.collector.last()
    }
}

/// The samples of a scrape under the names that the meter's instruments have.
fn without_totals(series: &Series) -> BTreeMap<String, f64> {
    let renamed = series.0.iter().map(|(name, value)| {
        let (name, labels) = name.split_once('{').map_or((&**name, ""), |(n, l)| (n, l));
        let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        labels.sort_unstable();
        let name = name.strip_suffix("_total").unwrap_or(name);
        (format!("{name}{{{}", labels.join(",")), *value)
    });
    // They change by themselves.
    let moving = ["evenkeel_process_", "evenkeel_retry_budget_left"];
    let still = renamed.filter(|(name, _)| !moving.iter().any(|one| name.starts_with(one)));
    // Prometheus wants a float there, OpenTelemetry has text.
    still
        .map(|(name, value)| (name.replace(".0\"", "\""), value))
        .collect()
}

#[tokio::test]
async fn a_collector_gets_every_series_with_its_absolute_value() {
    let origin = Origin::named("a").await;
    let dead = format!("http://{}", refused());
    let world = World::new(&[("a", origin.url()), ("b", dead)], keep).await;
    let exporting = Exporting::start().await;
    let meter = exporting.provider.meter("it");
    let bridge = Bridge::new(world.service.clone(), meter);
    for total in [5.0, 10.0] {
        for _ in 0..5 {
            world.get("/").await;
        }
        let closed = |series: &Series| {
            let at_rest = series.sum("evenkeel_requests_in_flight", &[]) == 0.0;
            at_rest && series.sum("evenkeel_connections_open", &[]) == 0.0
        };
        let scraped = without_totals(&world.until("clients leave", closed).await);
        let exported = without_totals(&exporting.export().await.series());
        assert_eq!(exported, scraped);
        let again = exporting.export().await;
        assert_eq!(without_totals(&again.series()), scraped, "nothing adds up");
        let labels = format!("listener=\"{}\",status=\"2xx\"", world.address);
        assert_eq!(again.get("evenkeel_requests", &labels), total);
    }
    let last = exporting.collector.last();
    let bounds = points(last.metric("evenkeel_backend_request_duration_seconds_bucket"));
    assert_eq!(bounds.len(), 2 * 17, "of two backends");
    for (name, unit) in [
        ("evenkeel_backend_request_duration_seconds_sum", "s"),
        ("evenkeel_backend_request_duration_seconds_count", ""),
        ("evenkeel_process_resident_memory_bytes", "By"),
        ("evenkeel_requests", ""),
    ] {
        assert_eq!(last.metric(name).unit, unit, "{name}");
    }
    for (name, grows) in [
        ("evenkeel_requests", true),
        ("evenkeel_backend_request_duration_seconds_sum", true),
        ("evenkeel_requests_in_flight", false),
        ("evenkeel_backend_usable", false),
    ] {
        let Some(metric::Data::Sum(sum)) = &last.metric(name).data else {
            panic!("{name} is no sum");
        };
        assert_eq!(sum.is_monotonic, grows, "{name}");
    }
    let described = &last.metric("evenkeel_requests_in_flight").description;
    assert_eq!(described, "Requests that arrived and have not ended.");
    drop(bridge);
}

#[tokio::test]
async fn a_backend_that_leaves_takes_its_series_along_and_a_new_family_comes() {
    let origin = Origin::named("a").await;
    let world = World::new(&[("a", origin.url()), ("b", origin.url())], keep).await;
    let exporting = Exporting::start().await;
    let begun = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let has_begun = begun.clone();
    let service = world.service.clone().source(move |visitor| {
        if has_begun.load(std::sync::atomic::Ordering::Relaxed) {
            visitor.family(&Family::counter("own_things", "Things."));
            visitor.sample(&[], &Value::Counter(7));
        }
    });
    let bridge = Bridge::new(service, exporting.provider.meter("it"));
    world.get("/").await;
    world.at_rest().await;
    let before = exporting.export().await.series();
    assert_eq!(before.get("evenkeel_backend_usable", "backend=\"b\""), 1.0);
    assert_eq!(before.get("own_things", ""), 0.0);

    world.pool.remove("b").unwrap();
    begun.store(true, std::sync::atomic::Ordering::Relaxed);
    bridge.register();
    let after = exporting.export().await.series();
    let of_b: Vec<_> = after
        .names()
        .into_iter()
        .filter(|name| name.contains("\"b\""))
        .collect();
    assert_eq!(of_b, [""; 0]);
    assert_eq!(after.get("own_things", ""), 7.0);
    assert_eq!(after.get("evenkeel_pool_backends", ""), 1.0);
    let names = |series: &Series| {
        let names = series.names().into_iter();
        let of_a = names.filter(|name| !name.contains("\"b\"") && *name != "own_things");
        of_a.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
}
