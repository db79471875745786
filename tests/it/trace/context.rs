//! Trace context without a tracer: what backends, logs and other layers see.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use evenkeel::{
    context::{ConnInfo, Peer, TraceContext, TrustedPeers},
    trace::TraceLayer,
};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};
use tracing_subscriber::fmt::format::FmtSpan;

use super::{register_callsites, send, stack};
use crate::support::Origin;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn with_fields(fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// Returns what a service below the layer sees.
async fn seen(layer: &TraceLayer, request: Request<()>) -> (HeaderMap, TraceContext) {
    register_callsites();
    let service = layer.layer(service_fn(async |request: Request<()>| {
        let context = *request.extensions().get::<TraceContext>().unwrap();
        let mut response = Response::new(Empty::<Bytes>::new());
        response.extensions_mut().insert(context);
        *response.headers_mut() = request.headers().clone();
        Ok::<_, Infallible>(response)
    }));
    let (head, _) = service.oneshot(request).await.unwrap().into_parts();
    (head.headers, *head.extensions.get().unwrap())
}

#[tokio::test]
async fn a_trace_is_continued_if_its_context_is_well_formed() {
    let layer = TraceLayer::new();
    let sampled = parent("01");
    for (fields, is_continued, is_sampled, state) in [
        (&[("traceparent", &*sampled)][..], true, true, ""),
        (&[("traceparent", &*parent("00"))], true, false, ""),
        (
            &[("traceparent", &*sampled), ("tracestate", "a=1")],
            true,
            true,
            "a=1",
        ),
        (
            &[
                ("traceparent", &*sampled),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            ],
            true,
            true,
            "a=1,b=2",
        ),
        (
            &[("traceparent", &*sampled), ("tracestate", "bad")],
            true,
            true,
            "",
        ),
        (&[], false, true, ""),
        (&[("tracestate", "a=1")], false, true, ""),
        (
            &[("traceparent", "bad"), ("tracestate", "a=1")],
            false,
            true,
            "",
        ),
        (
            &[("traceparent", &*sampled), ("traceparent", &*sampled)],
            false,
            true,
            "",
        ),
    ] {
        let (headers, context) = seen(&layer, with_fields(fields)).await;
        let written: Vec<_> = headers.get_all("traceparent").iter().collect();
        assert_eq!(written, [context.to_string().as_str()], "{fields:?}");
        assert_eq!(context.trace_id_hex().to_string() == TRACE, is_continued);
        assert_ne!(
            context.span_id_hex().to_string(),
            SPAN,
            "the span is this hop's"
        );
        assert_eq!(context.sampled, is_sampled, "{fields:?}");
        let states: Vec<_> = headers.get_all("tracestate").iter().collect();
        let expected: Vec<_> = Some(state).into_iter().filter(|s| !s.is_empty()).collect();
        assert_eq!(states, expected, "{fields:?}");
    }
}

#[tokio::test]
async fn only_trusted_senders_choose_the_trace() {
    let trusted = TrustedPeers::new(["10.0.0.0/8"]).unwrap();
    let layer = TraceLayer::new().trusted_peers(trusted);
    let none_is = TraceLayer::new().trusted_peers(TrustedPeers::default());
    for (layer, sender, is_continued) in [
        (&layer, Some([10, 0, 0, 1]), true),
        (&layer, Some([203, 0, 113, 7]), false),
        (&layer, None, false),
        (&none_is, Some([10, 0, 0, 1]), false),
    ] {
        let mut request = with_fields(&[("traceparent", &parent("01")), ("tracestate", "a=1")]);
        if let Some(sender) = sender {
            let peer = Peer::Tcp((sender, 50_000).into());
            let mut conn = ConnInfo::new(peer, Peer::Unknown);
            // Whatever client it forwards for.
            conn.set_forwarded_client([10, 9, 9, 9].into());
            request.extensions_mut().insert(conn);
        }
        let (headers, context) = seen(layer, request).await;
        assert_eq!(context.trace_id_hex().to_string() == TRACE, is_continued);
        assert_eq!(headers.contains_key("tracestate"), is_continued);
    }
}

#[tokio::test]
async fn a_layer_above_has_begun_the_trace() {
    let layer = TraceLayer::new().trusted_peers(TrustedPeers::default());
    let above = TraceContext::new([7; 16], [8; 8], false);
    for sent in ["of a client", &parent("01")] {
        let mut request = with_fields(&[("traceparent", sent), ("tracestate", "a=1")]);
        request.extensions_mut().insert(above);
        let (headers, context) = seen(&layer, request).await;
        assert_eq!(context.trace_id, above.trace_id);
        assert_ne!(context.span_id, above.span_id);
        assert!(!context.sampled);
        assert!(!headers.contains_key("tracestate"), "it belongs to {sent}");
    }
}

#[tokio::test]
async fn the_ratio_decides_for_traces_that_begin_here() {
    let none = TraceLayer::new().sampling_ratio(0.0).unwrap();
    let (headers, context) = seen(&none, with_fields(&[])).await;
    assert!(!context.sampled);
    assert!(headers["traceparent"].to_str().unwrap().ends_with("-00"));
    let (_, context) = seen(&none, with_fields(&[("traceparent", &parent("01"))])).await;
    assert!(context.sampled, "a trace that is continued keeps its flag");
}

#[tokio::test]
async fn a_backend_gets_the_context_under_serve_and_without_the_layer_the_clients() {
    let origin = Origin::serve(|request| async move {
        let headers = request.headers();
        let field = |name| headers.get(name).map_or("none", |v| v.to_str().unwrap());
        let text = format!("{} {}", field("traceparent"), field("tracestate"));
        Response::new(Full::from(text))
    })
    .await;
    let ask = async |balancer| {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", front.local_addr().unwrap());
        tokio::spawn(async move { evenkeel::serve(front, balancer).await });
        let client = stack(&[url]).build();
        let request = Request::get("http://a/")
            .header("traceparent", parent("01"))
            .header("tracestate", "a=1");
        let response = send(&client, request.body(Empty::new()).unwrap()).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let passes = ask(stack(&[origin.url()]).build()).await;
    assert_eq!(passes, format!("{} a=1", parent("01")));
    let own = ask(stack(&[origin.url()]).trace(TraceLayer::new()).build()).await;
    assert!(own.starts_with(&format!("00-{TRACE}-")), "{own}");
    assert!(own.ends_with("-01 a=1") && !own.contains(SPAN), "{own}");
}

/// What a subscriber writes, line by line.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn without_a_tracer_the_spans_have_the_ids_as_fields() {
    register_callsites();
    let written = Written::default();
    let writes = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_env_filter("evenkeel::trace=info")
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(move || writes.clone())
        .finish();
    let _subscriber = tracing::subscriber::set_default(subscriber);
    let origin = Origin::serve(|request| async move {
        let parent = request.headers()["traceparent"].as_bytes().to_vec();
        Response::new(Full::from(parent))
    })
    .await;
    let balancer = stack(&[origin.url()]).trace(TraceLayer::new()).build();
    let request = Request::get("http://a/").header("traceparent", parent("01"));
    let response = send(&balancer, request.body(Empty::new()).unwrap()).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let closed: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [attempt, request] = &closed[..] else {
        panic!("two spans: {text}")
    };
    let field =
        |span: &serde_json::Value, name: &str| span["span"][name].as_str().unwrap().to_owned();
    assert_eq!(field(attempt, "name"), "attempt");
    assert_eq!(field(request, "name"), "request");
    assert_eq!(field(request, "trace_id"), TRACE);
    let answered = format!("00-{TRACE}-{}-01", field(attempt, "span_id"));
    assert_eq!(body, answered, "the backend's parent is the attempt");
    assert_ne!(field(request, "span_id"), field(attempt, "span_id"));
}
