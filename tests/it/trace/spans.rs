//! The spans of requests and attempts, as a tracer exports them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    access_log::{AccessLogLayer, Lines},
    context::{Exchange, TraceContext},
    failover::{FailoverLayer, Hedge},
    trace::TraceLayer,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::Sampler;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{
    collector::{Collector, Exported, Tracer},
    send, stack,
};
use crate::support::{Origin, refused};

/// As `examples/trace.rs` has it.
fn span_context(span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
    if let Some(parent) = parent {
        let flags = TraceFlags::default().with_sampled(parent.sampled);
        let trace_id = TraceId::from_bytes(parent.trace_id);
        let span_id = SpanId::from_bytes(parent.span_id);
        let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
        span.set_parent(Context::new().with_remote_span_context(remote))
            .unwrap();
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
    context
        .is_valid()
        .then(|| TraceContext::new(trace_id, span_id, context.is_sampled()))
}

fn traced() -> TraceLayer {
    TraceLayer::new().span_context(span_context)
}

/// The `traceparent` of each request that a backend got.
type Parents = Arc<Mutex<Vec<String>>>;

/// A backend that keeps the `traceparent` of each request, and answers with `status`.
async fn backend(status: u16) -> (Origin, Parents) {
    let parents = Parents::default();
    let keeps = parents.clone();
    let origin = Origin::serve(move |request| {
        let mut fields = request.headers().get_all("traceparent").iter();
        let parent = fields.next().unwrap().to_str().unwrap().to_owned();
        assert!(fields.next().is_none());
        keeps.lock().unwrap().push(parent);
        async move {
            let response = Response::builder().status(status);
            response.body(Full::from("answer")).unwrap()
        }
    });
    (origin.await, parents)
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://shop.example:8080{path}"));
    request.body(Empty::new()).unwrap()
}

/// Divides spans into the request's and those of its attempts.
fn by_request(spans: Vec<Exported>) -> Vec<(Exported, Vec<Exported>)> {
    let (requests, attempts): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| span.kind() == "server");
    let of = |request: &Exported| {
        let own = attempts.iter().filter(|a| a.parent() == request.id());
        own.cloned().collect::<Vec<_>>()
    };
    let divided: Vec<_> = requests.into_iter().map(|r| (r.clone(), of(&r))).collect();
    let found: usize = divided.iter().map(|(_, own)| own.len()).sum();
    assert_eq!(found, attempts.len(), "each attempt has its request");
    divided
}

#[tokio::test]
async fn a_retried_request_has_a_span_for_each_attempt() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let (alive, parents) = backend(200).await;
    let dead = refused();
    let log = tempfile::NamedTempFile::new().unwrap();
    let sink = Lines::file(log.path()).unwrap();
    let balancer = stack(&[alive.url(), format!("http://{dead}")])
        .trace(traced())
        .access_log(AccessLogLayer::new(sink.clone()))
        .build();
    // The backends take turns: one of two requests has the dead one first.
    for (trace, path) in [("1", "/one"), ("2", "/two?token=secret")] {
        let mut request = get(path);
        let parent = format!("00-{}-00f067aa0ba902b7-01", trace.repeat(32));
        let headers = request.headers_mut();
        headers.insert("traceparent", parent.parse().unwrap());
        headers.insert("user-agent", "it".parse().unwrap());
        let response = send(&balancer, request).await;
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    let requests = by_request(tracer.spans(&collector, 5).await);
    assert_eq!(requests.len(), 2);
    assert!(sink.flush());
    let lines = std::fs::read_to_string(log.path()).unwrap();
    let parents = parents.lock().unwrap().clone();
    for (number, (request, attempts)) in requests.iter().enumerate() {
        assert_eq!(request.trace_id(), ["1", "2"][number].repeat(32));
        assert_eq!(request.parent(), "00f067aa0ba902b7");
        assert_eq!((request.name(), request.is_error()), ("GET", false));
        for (name, value) in [
            ("http.request.method", "GET"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("url.path", ["/one", "/two"][number]),
            ("server.address", "shop.example"),
            ("server.port", "8080"),
            ("network.protocol.version", "1.1"),
            ("user_agent.original", "it"),
            ("error.type", ""),
            ("trace_id", ""),
        ] {
            assert_eq!(request.get(name), value, "{name}");
        }
        let line = lines.lines().nth(number).unwrap();
        for id in [request.trace_id(), request.id()] {
            assert!(line.contains(&format!("\"{id}\"")), "{id}: {line}");
        }
        // The backend's parent is the attempt that it answered.
        let last = attempts.last().unwrap();
        let parent = format!("00-{}-{}-01", request.trace_id(), last.id());
        assert_eq!(parents[number], parent);
        assert_ne!(last.id(), request.id());
        for attempt in attempts {
            assert_eq!(attempt.trace_id(), request.trace_id());
            assert_eq!(attempt.kind(), "client");
            assert!(attempt.nanos() <= request.nanos());
            assert_eq!(attempt.name(), attempt.get("evenkeel.backend.id"));
            assert_eq!(attempt.get("server.address"), "127.0.0.1");
        }
        let port = |at: usize| attempts[at].get("server.port");
        assert_eq!(port(attempts.len() - 1), alive.address.port().to_string());
        assert_eq!(last.get("http.response.status_code"), "200");
        assert_eq!(last.get("evenkeel.attempt.outcome"), "ok");
        assert!(!last.is_error());
    }
    let (_, attempts) = requests.iter().find(|(_, all)| all.len() == 2).unwrap();
    let (first, second) = (&attempts[0], &attempts[1]);
    assert!(
        first.is_error() && first.why().contains("refused"),
        "{first:?}"
    );
    assert_eq!(first.get("error.type"), "connect");
    assert_eq!(first.get("evenkeel.attempt.outcome"), "connect");
    assert_eq!(first.get("http.response.status_code"), "");
    assert_eq!(first.get("http.request.resend_count"), "");
    assert_eq!(first.get("server.port"), dead.port().to_string());
    assert_eq!(second.get("http.request.resend_count"), "1");
}

#[tokio::test]
async fn a_status_is_an_error_by_the_side_that_sees_it() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let mut count = 0;
    for (status, request_fails, attempt_fails) in [
        (204, false, false),
        (302, false, false),
        (404, false, true),
        (500, true, true),
    ] {
        let (origin, _) = backend(status).await;
        let balancer = stack(&[origin.url()]).trace(traced()).build();
        drop(send(&balancer, get("/")).await.into_body().collect().await);
        count += 2;
        let spans = tracer.spans(&collector, count).await;
        let (request, attempts) = by_request(spans).pop().unwrap();
        let kind = |fails: bool| {
            if fails {
                status.to_string()
            } else {
                String::new()
            }
        };
        for (span, fails) in [(&request, request_fails), (&attempts[0], attempt_fails)] {
            assert_eq!(span.get("http.response.status_code"), status.to_string());
            assert_eq!(span.is_error(), fails, "{status}: {span:?}");
            assert_eq!(span.get("error.type"), kind(fails));
        }
        assert!(request.parent().is_empty(), "the trace begins here");
    }
}

#[tokio::test]
async fn a_failure_is_named_by_its_kind() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let balancer = stack(&[]).trace(traced()).build();
    let response = send(&balancer, get("/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(response);
    let mut request = Request::new(Empty::new());
    *request.method_mut() = "BREW".parse().unwrap();
    *request.uri_mut() = "http://[2001:db8::1]/".parse().unwrap();
    drop(send(&balancer, request).await.into_body().collect().await);
    let spans = tracer.spans(&collector, 2).await;
    for span in &spans {
        assert!(span.is_error());
        assert_eq!(span.get("error.type"), "no_backend");
        assert_eq!(span.get("http.response.status_code"), "503");
    }
    assert_eq!(spans[1].name(), "HTTP");
    assert_eq!(spans[1].get("http.request.method"), "_OTHER");
    assert_eq!(spans[1].get("http.request.method_original"), "BREW");
    assert_eq!(spans[1].get("server.address"), "2001:db8::1");
}

/// A backend that sends a head with this length, and `body`; then it waits for the client's end.
async fn partial(body: &'static str, closes: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                let _ = stream.read(&mut head).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{body}");
                stream.write_all(head.as_bytes()).await.unwrap();
                if !closes {
                    let _ = stream.read(&mut [0; 1]).await;
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn a_span_lasts_until_the_body_ends_breaks_or_is_dropped() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let closes = stack(&[partial("half", true).await])
        .trace(traced())
        .build();
    let holds = stack(&[partial("half", false).await])
        .trace(traced())
        .build();

    let response = send(&closes, get("/broken")).await;
    tracer.flush().await;
    assert!(response.into_body().collect().await.is_err());
    let spans = tracer.spans(&collector, 2).await;
    let (request, attempts) = by_request(spans).pop().unwrap();
    assert!(request.is_error() && attempts[0].is_error());
    let kind = attempts[0].get("evenkeel.attempt.outcome");
    assert_eq!(request.get("error.type"), kind);
    assert_eq!(attempts[0].get("error.type"), kind);
    assert_ne!(kind, "ok");

    let mut body = send(&holds, get("/dropped")).await.into_body();
    body.frame().await.unwrap().unwrap();
    tracer.flush().await;
    assert_eq!(collector.spans(2).await.len(), 2, "both spans still run");
    drop(body);
    let (request, attempts) = by_request(tracer.spans(&collector, 4).await).pop().unwrap();
    assert_eq!(request.get("error.type"), "cancelled");
    assert_eq!(attempts[0].get("evenkeel.attempt.outcome"), "cancelled");
    assert!(!request.is_error() && !attempts[0].is_error());
}

#[tokio::test]
async fn a_hedge_and_the_attempt_that_it_beats_have_spans_side_by_side() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let hangs = Origin::serve(|_| std::future::pending()).await;
    let (answers, parents) = backend(200).await;
    let failover =
        FailoverLayer::new().hedge(Hedge::new().after(Duration::from_millis(5)).unwrap());
    let balancer = stack(&[hangs.url(), answers.url()])
        .trace(traced())
        .failover(failover)
        .build();
    // The first or the second request goes to the backend that hangs.
    let mut count = 0;
    for _ in 0..2 {
        let mut request = get("/");
        let exchange = Exchange::of(request.extensions_mut());
        drop(send(&balancer, request).await.into_body().collect().await);
        count += 1 + exchange.attempts(<[_]>::len);
    }
    let requests = by_request(tracer.spans(&collector, count).await);
    let (_, attempts) = requests.iter().find(|(_, all)| all.len() == 2).unwrap();
    assert_eq!(attempts[0].get("evenkeel.attempt.outcome"), "hedged");
    assert_eq!(attempts[1].get("evenkeel.attempt.outcome"), "ok");
    assert_eq!(attempts[1].get("http.request.resend_count"), "1");
    let parents = parents.lock().unwrap();
    assert!(
        parents
            .iter()
            .any(|parent| parent.contains(&attempts[1].id()))
    );
}

#[tokio::test]
async fn the_tracer_decides_what_is_sampled() {
    let collector = Collector::start().await;
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
    let tracer = Tracer::start(&collector, sampler);
    let (origin, parents) = backend(200).await;
    let balancer = stack(&[origin.url()]).trace(traced()).build();
    drop(send(&balancer, get("/begun")).await);
    let mut request = get("/continued");
    let parent = format!("00-{}-00f067aa0ba902b7-01", "a".repeat(32));
    request
        .headers_mut()
        .insert("traceparent", parent.parse().unwrap());
    drop(send(&balancer, request).await);
    let spans = tracer.spans(&collector, 2).await;
    assert_eq!(spans[0].get("url.path"), "/continued");
    let parents = parents.lock().unwrap();
    assert!(parents[0].ends_with("-00"), "{parents:?}");
    assert!(parents[1].ends_with("-01"), "{parents:?}");
}

#[tokio::test]
async fn the_span_of_a_tunnel_ends_with_the_tunnel() {
    let collector = Collector::start().await;
    let tracer = Tracer::start(&collector, Sampler::AlwaysOn);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4_096]).await;
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let balancer = stack(&[url]).trace(traced()).build();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move { evenkeel::serve(front, balancer).await });
    let mut client = TcpStream::connect(address).await.unwrap();
    let asks = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello";
    client.write_all(asks.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"hello") {
        assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
    }
    tracer.flush().await;
    assert!(collector.spans(0).await.is_empty(), "the tunnel is open");
    drop(client);
    // The tunnel's task lets go of the span a moment later: the batch goes out by itself, too.
    let spans = loop {
        tracer.flush().await;
        tokio::task::yield_now().await;
        let all = collector.all();
        if all.len() == 2 {
            break all;
        }
    };
    let (request, attempts) = by_request(spans).pop().unwrap();
    assert_eq!(request.get("http.response.status_code"), "101");
    assert_eq!(request.get("client.address"), "127.0.0.1");
    assert_eq!(attempts[0].get("evenkeel.attempt.outcome"), "ok");
    assert!(!request.is_error() && request.get("error.type").is_empty());
}
