//! What an application adds to its lines: the user, fields of its own, the trace; and what is cut.

use evenkeel::{
    access_log::{FieldLimits, FieldNames, Opening, RequestBody},
    context::{LogFields, TraceContext, User},
};
use proptest::prelude::*;

use super::*;

type Incoming = Request<RequestBody<Empty<Bytes>>>;

/// Sends a request to a log around `service`, and returns its line.
async fn line_of<F>(
    layer: impl Fn(AccessLogLayer) -> AccessLogLayer,
    request: Request<Empty<Bytes>>,
    respond: impl Fn(Incoming) -> F + Clone,
) -> Value
where
    F: Future<Output = Result<Response<Empty<Bytes>>, Infallible>>,
{
    let log = Log::new();
    let service = layer(log.layer()).layer(service_fn(respond));
    service.oneshot(request).await.unwrap();
    log.one()
}

#[tokio::test]
async fn notes_of_the_request_of_a_handler_and_of_the_response_are_all_shown() {
    let mut request = get("/");
    let above = LogFields::new().field("from", "above").field("kept", 1.5);
    request.extensions_mut().insert(above);
    request.extensions_mut().insert(User::new("guest"));
    let trace = TraceContext::new([0xab; 16], [0xcd; 8], true);
    request.extensions_mut().insert(trace);
    let line = line_of(
        |layer| layer,
        request,
        async |mut request: Incoming| {
            let exchange = Exchange::of(request.extensions_mut());
            assert!(exchange.add_log_field("from", "handler"));
            assert!(exchange.add_log_field("count", 7_u64));
            let mut response = Response::new(Empty::new());
            let fields = LogFields::new().field("vip", true);
            response.extensions_mut().insert(fields);
            response.extensions_mut().insert(User::new("ada"));
            Ok(response)
        },
    )
    .await;
    assert_eq!(line["user"], "ada", "{line}");
    let wanted = serde_json::json!({ "from": "handler", "kept": 1.5, "count": 7, "vip": true });
    assert_eq!(line["fields"], wanted, "{line}");
    assert_eq!(line["trace_id"], "ab".repeat(16), "{line}");
    assert_eq!(line["span_id"], "cd".repeat(8), "{line}");
    assert!(line.get("truncated").is_none(), "{line}");
}

#[tokio::test]
async fn a_field_that_is_left_out_is_said() {
    let line = line_of(
        |layer| layer,
        get("/"),
        async |mut request: Incoming| {
            let exchange = Exchange::of(request.extensions_mut());
            for number in 0..20 {
                exchange.add_log_field(format!("f{number}"), number);
            }
            Ok(Response::new(Empty::new()))
        },
    )
    .await;
    assert_eq!(line["fields"].as_object().unwrap().len(), 16, "{line}");
    assert_eq!(line["truncated"], serde_json::json!(["fields"]), "{line}");
}

#[tokio::test]
async fn what_is_too_long_is_cut_and_said() {
    let fine = async |_: Incoming| Ok(Response::new(Empty::new()));
    let path = format!("/{}", "p".repeat(99));
    let mut request = get(&format!("{path}?{}", "q".repeat(99)));
    for name in ["host", "user-agent", "referer"] {
        let value = HeaderValue::from_str(&format!("{}é", "v".repeat(38))).unwrap();
        request.headers_mut().insert(name, value);
    }
    let limits = FieldLimits::new()
        .path(40)
        .and_then(|l| l.query(40))
        .unwrap();
    let limits = limits.host(39).and_then(|l| l.user_agent(39)).unwrap();
    let limits = limits.referer(40).unwrap();
    let layer = |layer: AccessLogLayer| {
        layer
            .field_limits(limits)
            .referer(true)
            .query(str::to_owned)
    };
    let line = line_of(layer, request, fine).await;
    assert_eq!(line["path"], path[..40], "{line}");
    assert_eq!(line["query"], "q".repeat(40), "{line}");
    assert_eq!(line["host"], "v".repeat(38), "a whole character: {line}");
    assert_eq!(line["user_agent"], "v".repeat(38), "{line}");
    assert_eq!(line["referer"], format!("{}é", "v".repeat(38)), "{line}");
    let cut = serde_json::json!(["host", "path", "query", "user_agent"]);
    assert_eq!(line["truncated"], cut, "{line}");

    // By default, what a usual server accepts passes whole.
    let line = line_of(|layer| layer, get(&format!("/{}", "p".repeat(8_191))), fine).await;
    assert!(line.get("truncated").is_none());
    let line = line_of(|layer| layer, get(&format!("/{}", "p".repeat(8_192))), fine).await;
    assert_eq!(line["truncated"], serde_json::json!(["path"]));
}

#[tokio::test]
async fn a_sink_of_ones_own_sees_the_extensions_of_the_response() {
    #[derive(Clone, Debug, PartialEq)]
    struct Shard(u32);
    #[derive(Clone, Default)]
    struct Own(Arc<Mutex<Vec<Option<Shard>>>>, bool);
    impl Sink for Own {
        fn open(&self, opening: &mut Opening<'_>) {
            if self.1 {
                opening.keep_response_extensions();
            }
            opening.keep_fields();
        }
        fn record(&self, entry: &Entry<'_>) {
            let shard = entry.extensions.and_then(|kept| kept.get::<Shard>());
            self.0.lock().unwrap().push(shard.cloned());
        }
    }
    for keeps in [true, false] {
        let sink = Own(Arc::default(), keeps);
        let service = AccessLogLayer::new(sink.clone()).layer(service_fn(async |_: Incoming| {
            let mut response = Response::new(Empty::<Bytes>::new());
            response.extensions_mut().insert(Shard(7));
            Ok::<_, Infallible>(response)
        }));
        service.clone().oneshot(get("/")).await.unwrap();
        let seen = sink.0.lock().unwrap().clone();
        assert_eq!(seen, [keeps.then_some(Shard(7))]);
    }
}

#[tokio::test]
async fn a_request_and_a_connection_have_the_chosen_names() {
    let fine = async |_: Incoming| Ok(Response::new(Empty::new()));
    for (names, path, node, status) in [
        (FieldNames::Own, "path", "node", "status"),
        (
            FieldNames::OpenTelemetry,
            "url.path",
            "service.instance.id",
            "http.response.status_code",
        ),
        (
            FieldNames::Ecs,
            "url.path",
            "observer.name",
            "http.response.status_code",
        ),
    ] {
        let line = line_of(|layer| layer.field_names(names), get("/p"), fine).await;
        assert_eq!(line[path], "/p", "{line}");
        assert_eq!(line[node], "lb-1", "{line}");
        assert_eq!(line[status], 200, "{line}");
        let log = Log::new();
        let conn = ConnInfo::new(Peer::Tcp("192.0.2.9:1".parse().unwrap()), Peer::Unknown);
        let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "gone", Duration::ZERO);
        log.layer().field_names(names).connection_ended(&event);
        assert_eq!(log.one()[node], "lb-1");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_of_a_request_make_lines_of_json(
        path in "/[!-~&&[^#?]]{0,60}",
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let Ok(uri) = path.parse::<http::Uri>() else {
            return Ok(());
        };
        for names in [FieldNames::Own, FieldNames::OpenTelemetry, FieldNames::Ecs] {
            let mut request = get("/");
            *request.uri_mut() = uri.clone();
            for (name, value) in ["host", "user-agent", "referer", "x-request-id"].into_iter().zip(&values) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    request.headers_mut().insert(name, value);
                }
            }
            let agent = request.headers().get("user-agent").cloned();
            let fine = async |_: Incoming| Ok(Response::new(Empty::new()));
            let layer = |layer: AccessLogLayer| {
                layer.field_names(names).referer(true).trust_request_id(true)
            };
            let line = runtime.block_on(line_of(layer, request, fine));
            let is_own = names == FieldNames::Own;
            let shown = &line[if is_own { "path" } else { "url.path" }];
            prop_assert_eq!(shown, uri.path());
            if let Some(agent) = agent {
                let shown = &line[if is_own { "user_agent" } else { "user_agent.original" }];
                prop_assert_eq!(shown, &*String::from_utf8_lossy(agent.as_bytes()));
            }
        }
    }
}
