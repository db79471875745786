//! One request in every format, as events of `tracing`, and as a sample.

use std::{collections::BTreeMap, future::IntoFuture};

use evenkeel::access_log::{Format, Lines, Output, Sampled, TracingSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;

type Body = evenkeel::access_log::RequestBody<evenkeel::server::Body>;

/// Sends requests for these paths through `evenkeel::serve`; the path `/500` is answered with 500, and
/// so on.
async fn serve_paths(layer: AccessLogLayer, paths: &[&str]) {
    let service = service_fn(|mut request: Request<Body>| async move {
        let exchange = Exchange::of(request.extensions_mut());
        let number = exchange.begin_attempt(Backend::new("a", "http://127.0.0.1:9001").unwrap());
        exchange.end_attempt(number, Outcome::Ok);
        exchange.set_decision("round-robin", 2);
        let mut response = Response::new(Full::new(Bytes::from("hello")));
        let path = request.uri().path().trim_start_matches('/');
        if let Ok(status) = path.parse() {
            *response.status_mut() = status;
        }
        response
            .extensions_mut()
            .insert(AuthFailure::new("Basic", "no").user("ada"));
        drop(request);
        Ok::<_, Infallible>(response)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(evenkeel::serve(listener, layer.layer(service)).into_future());
    for path in paths {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: shop.example\r\nuser-agent: a \"b\"\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
    serving.abort();
}

fn lines(format: Format) -> (Memory, Lines) {
    let memory = Memory::default();
    let lines = Lines::new(format, Output::writer(memory.clone())).unwrap();
    (memory, lines)
}

fn text(memory: &Memory) -> String {
    String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn one_request_in_every_format() {
    let outputs = ["json", "logfmt", "combined"].map(|name| lines(name.parse().unwrap()));
    let sinks: Vec<Box<dyn Sink>> = outputs
        .iter()
        .map(|(_, lines)| Box::new(lines.clone()) as Box<dyn Sink>)
        .collect();
    let layer = AccessLogLayer::new(sinks).query(str::to_owned);
    serve_paths(layer, &["/cart?x=1%202"]).await;
    for (_, lines) in &outputs {
        assert!(lines.flush());
        assert_eq!((lines.written(), lines.dropped()), (1, 0));
    }
    let [json, logfmt, combined] = outputs.map(|(memory, _)| text(&memory));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["user_agent"], "a \"b\"");
    for field in [
        " path=/cart ",
        " query=\"x=1%202\" ",
        " status=200 ",
        " user_agent=\"a \\\"b\\\"\" ",
        " outcome=ok\n",
    ] {
        assert!(logfmt.contains(field), "{field} in {logfmt}");
    }
    let duration = format!("duration_ms={:.3} ", json["duration_ms"].as_f64().unwrap());
    assert!(logfmt.contains(&duration), "{logfmt}");
    assert!(combined.starts_with("127.0.0.1 - ada ["), "{combined}");
    let rest = "+0000] \"GET /cart?x=1%202 HTTP/1.1\" 200 5 \"-\" \"a \\x22b\\x22\"\n";
    assert!(combined.ends_with(rest), "{combined}");
    let (_, time) = combined.split_once('[').unwrap();
    let json_time = json["time"].as_str().unwrap();
    assert_eq!(time[..2], json_time[8..10], "the day");
    assert_eq!(time[12..20], json_time[11..19], "the time of day");
    assert_eq!(
        logfmt.split(' ').next(),
        Some(&*format!("time={json_time}"))
    );
}

#[test]
fn a_combined_line_costs_no_allocation_of_its_own() {
    let (_, lines) = lines(Format::Combined);
    struct Fields;
    impl Sink for Fields {
        fn record(&self, _: &Entry<'_>) {}
    }
    // A sink of one's own makes the clones that a combined line needs.
    assert_eq!(fewest_allocations(lines), fewest_allocations(Fields));
    let (_, logfmt) = self::lines(Format::Logfmt);
    assert_eq!(fewest_allocations(logfmt), 0);
}

/// Keeps the fields of events with their types.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<BTreeMap<String, Value>>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "evenkeel::access_log" {
            let mut fields = Fields::default();
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        panic!("{field} must have a type: {value:?}");
    }
}

#[tokio::test]
async fn events_have_the_fields_of_the_line_with_their_types() {
    let events = Events::default();
    let subscriber = tracing_subscriber::registry().with(events.clone());
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let log = Log::new();
    let tee = Tee::new(TracingSink::new(), log.sink.clone());
    let layer = AccessLogLayer::new(tee).node("lb-1").query(str::to_owned);
    serve_paths(layer, &["/cart?x=1"]).await;
    let mut line = log.one();
    let seen = events.0.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    // The subscriber has a time of its own, and the schema is of the JSON.
    for left_out in ["time", "schema"] {
        line.as_object_mut().unwrap().remove(left_out).unwrap();
    }
    let event: Value = seen[0]
        .clone()
        .into_iter()
        .collect::<serde_json::Map<_, _>>()
        .into();
    assert_eq!(event, line);
    assert!(event["status"].is_u64() && event["duration_ms"].is_f64());
}

#[tokio::test]
async fn a_sample_has_each_failure_and_the_rate_of_the_others() {
    let (memory, lines) = lines(Format::Json);
    let sampled = Sampled::new(lines.clone())
        .ratio(0.0)
        .unwrap()
        .slow(Duration::from_secs(3_600));
    let paths = ["/200", "/500", "/404", "/503", "/200"];
    serve_paths(AccessLogLayer::new(sampled), &paths).await;
    let layer = AccessLogLayer::new(sampled_errors(&lines));
    serve_paths(layer, &paths).await;
    let slow = Sampled::new(lines.clone())
        .ratio(0.0)
        .unwrap()
        .slow(Duration::ZERO);
    serve_paths(AccessLogLayer::new(slow), &["/200"]).await;
    assert!(lines.flush());
    let seen: Vec<_> = memory
        .lines()
        .iter()
        .map(|line| line["status"].clone())
        .collect();
    assert_eq!(seen, [500, 503, 500, 404, 503, 200].map(Value::from));
    assert!(
        memory
            .lines()
            .iter()
            .all(|line| line.get("sample_rate").is_none())
    );

    // A ratio just below 1 keeps nearly every line, by chance.
    let (memory, lines) = self::lines(Format::Json);
    let rate = 1.0 - 1e-12;
    let sampled = Sampled::new(lines.clone())
        .ratio(rate)
        .unwrap()
        .slow(Duration::from_secs(3_600));
    serve_paths(AccessLogLayer::new(sampled), &["/200", "/500"]).await;
    assert!(lines.flush());
    let seen = memory.lines();
    assert_eq!(seen[0]["sample_rate"], rate);
    assert!(seen[1].get("sample_rate").is_none());
}

fn sampled_errors(lines: &Lines) -> impl Sink + use<> {
    let sampled = Sampled::new(lines.clone()).ratio(0.0).unwrap();
    sampled.slow(Duration::from_secs(3_600)).client_errors(true)
}
