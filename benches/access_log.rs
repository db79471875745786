//! What a line costs on the request's thread: written, switched off, and as a tracing event.
//!
//! ```sh
//! cargo bench --features full --bench access_log
//! ```

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use evenkeel::{
    access_log::{AccessLogLayer, Entry, JsonLines, Sink, TracingSink},
    context::{ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Exchange, Peer},
};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};

type Body = Empty<bytes::Bytes>;

struct Off;

impl Sink for Off {
    fn enabled(&self) -> bool {
        false
    }

    fn record(&self, _entry: &Entry<'_>) {}
}

fn request(conn: &ConnInfo) -> Request<Body> {
    let mut request = Request::new(Body::new());
    *request.uri_mut() = Uri::from_static("/path/to/something?query=1");
    let headers = request.headers_mut();
    headers.insert("host", HeaderValue::from_static("shop.example"));
    headers.insert(
        "user-agent",
        HeaderValue::from_static("Mozilla/5.0 (X11; Linux x86_64)"),
    );
    request.extensions_mut().insert(conn.clone());
    // It is there anyway in a stack: what is measured is the log.
    Exchange::of(request.extensions_mut());
    request
}

fn lines(c: &mut Criterion) {
    let Ok(sink) = JsonLines::writer(std::io::sink()) else {
        return;
    };
    let conn = ConnInfo::new(
        Peer::Tcp(([192, 0, 2, 9], 1234).into()),
        Peer::Tcp(([192, 0, 2, 1], 443).into()),
    );
    let mut one = |name: &str, layer: &AccessLogLayer| {
        let inner = service_fn(|request: Request<_>| {
            drop::<Request<evenkeel::access_log::RequestBody<Body>>>(request);
            std::future::ready(Ok::<_, std::convert::Infallible>(
                Response::new(Body::new()),
            ))
        });
        let mut service = layer.layer(inner);
        let waker = std::task::Waker::noop();
        let mut cx = std::task::Context::from_waker(waker);
        c.bench_function(&format!("access_log/{name}"), |b| {
            b.iter_batched(
                || request(&conn),
                |request| {
                    let mut call = std::pin::pin!(service.call(request));
                    let _ = Future::poll(call.as_mut(), &mut cx);
                },
                criterion::BatchSize::SmallInput,
            );
        });
    };
    one(
        "json_lines",
        &AccessLogLayer::new(sink.clone()).node("lb-1"),
    );
    one("off", &AccessLogLayer::new(Off));
    one(
        "tracing_nobody_listens",
        &AccessLogLayer::new(TracingSink::new()),
    );
    // Formatting alone: a line without a request.
    let layer = AccessLogLayer::new(sink);
    let event = ConnectionEvent::new(conn.clone(), ConnectionEventKind::Io, "", Duration::ZERO);
    c.bench_function("access_log/connection_event", |b| {
        b.iter(|| layer.connection_ended(&event))
    });
}

criterion_group!(benches, lines);
criterion_main!(benches);
