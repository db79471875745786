mod ends;
mod formats;
mod notes;
mod outer_layers;
mod outputs;
mod request_ids;
mod rsyslog;
mod sinks;
mod superseded;

use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{
    Backend, ErrorKind,
    access_log::{AccessLogLayer, Entry, Lines, Sink, Tee},
    context::{
        AuthFailure, ConnInfo, ConnectionEvent, ConnectionEventKind, ConnectionEvents, Exchange,
        Outcome, Peer, Tunnel,
    },
};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use serde_json::Value;
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt, service_fn};

/// An output that keeps the bytes that were written.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>, Arc<Notify>);

impl Write for Memory {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        self.1.notify_one();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).expect("a line is UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect()
    }
}

struct Log {
    memory: Memory,
    sink: Lines,
}

impl Log {
    fn new() -> Self {
        let memory = Memory::default();
        let sink = Lines::writer(memory.clone()).unwrap();
        Self { memory, sink }
    }

    fn layer(&self) -> AccessLogLayer {
        AccessLogLayer::new(self.sink.clone()).node("lb-1")
    }

    fn one(&self) -> Value {
        assert!(self.sink.flush());
        let lines = self.memory.lines();
        assert_eq!(lines.len(), 1, "exactly one line: {lines:?}");
        lines[0].clone()
    }

    /// Waits for a line, and takes it.
    async fn next(&self) -> Value {
        while self.memory.0.lock().unwrap().is_empty() {
            let written = self.memory.1.notified();
            tokio::time::timeout(PATIENCE, written)
                .await
                .expect("a line");
        }
        let line = self.one();
        self.memory.0.lock().unwrap().clear();
        line
    }

    fn none(&self) {
        assert!(self.sink.flush());
        assert!(self.memory.lines().is_empty());
    }
}

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(30);

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path)
        .header("host", "shop.example")
        .body(Empty::new())
        .unwrap()
}

#[tokio::test]
async fn a_log_alone_around_a_service_writes_every_field() {
    let log = Log::new();
    let service = log
        .layer()
        .trust_request_id(true)
        .referer(true)
        .query(|q| q.replace("secret", "…"))
        .layer(service_fn(|mut request: Request<_>| async move {
            let exchange = Exchange::of(request.extensions_mut());
            let backend = |id: &str| Backend::new(id, "http://127.0.0.1:9001").unwrap();
            let first = exchange.begin_attempt(backend("a"));
            exchange.end_attempt(first, Outcome::Failed(ErrorKind::Connect));
            exchange.begin_attempt(backend("b"));
            exchange.set_decision("round-robin", 2);
            let body: evenkeel::access_log::RequestBody<Full<Bytes>> = request.into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes().len(), 5);
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("answer"))))
        }));
    let mut request = Request::post("/p%20q?token=secret")
        .body(Full::from("hello"))
        .unwrap();
    for (name, value) in [
        ("host", "shop.example"),
        ("user-agent", "a\"b\\c"),
        ("referer", "https://x/"),
        ("x-request-id", "abc-1"),
        ("authorization", "Bearer very-secret"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let peer = Peer::Tcp("192.0.2.9:1234".parse().unwrap());
    let local = Peer::Tcp("[::1]:443".parse().unwrap());
    request.extensions_mut().insert(ConnInfo::new(peer, local));
    let response = service.oneshot(request).await.unwrap();
    log.none();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "answer"
    );
    let line = log.one();
    for (field, wanted) in [
        ("node", "lb-1"),
        ("listener", "[::1]:443"),
        ("client", "192.0.2.9"),
        ("request_id", "abc-1"),
        ("method", "POST"),
        ("scheme", "http"),
        ("host", "shop.example"),
        ("path", "/p%20q"),
        ("query", "token=…"),
        ("protocol", "HTTP/1.1"),
        ("backend", "b"),
        ("backend_address", "127.0.0.1:9001"),
        ("strategy", "round-robin"),
        ("user_agent", "a\"b\\c"),
        ("referer", "https://x/"),
        ("outcome", "ok"),
    ] {
        assert_eq!(line[field], wanted, "{field} in {line}");
    }
    for (field, wanted) in [
        ("status", 200),
        ("received", 5),
        ("sent", 6),
        ("candidates", 2),
    ] {
        assert_eq!(line[field], wanted, "{field} in {line}");
    }
    assert_eq!(line["attempts"][0]["outcome"], "connect");
    assert!(line["duration_ms"].as_f64() >= line["ttfb_ms"].as_f64());
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    assert!(
        !line.to_string().contains("secret"),
        "nothing secret may be logged"
    );
    assert!(line.get("auth_scheme").is_none() && line.get("tls_version").is_none());
}

/// A body that yields one frame and then `then`.
fn body(
    then: Option<&'static str>,
) -> impl http_body::Body<Data = Bytes, Error = io::Error> + Unpin {
    let first = Some(Ok(http_body::Frame::data(Bytes::from("abc"))));
    let frames = [first, then.map(|why| Err(io::Error::other(why)))];
    StreamBody::new(Frames(frames.into_iter().flatten().collect()))
}

struct Frames<T>(std::collections::VecDeque<T>);

impl<T: Unpin> futures_core::Stream for Frames<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test]
async fn each_end_of_a_request_writes_one_line() {
    // A response without a body ends with its head.
    let log = Log::new();
    let empty = service_fn(|_: Request<_>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let response = log.layer().layer(empty).oneshot(get("/")).await.unwrap();
    assert_eq!(log.one()["outcome"], "ok");
    drop(response);
    log.one();

    // The body fails: the kind is the one that balance recorded for the attempt.
    let log = Log::new();
    let broken = service_fn(
        |mut request: Request<evenkeel::access_log::RequestBody<Empty<Bytes>>>| async move {
            let exchange = Exchange::of(request.extensions_mut());
            let backend = |id: &str| Backend::new(id, "http://127.0.0.1:1").unwrap();
            let number = exchange.begin_attempt(backend("a"));
            // A hedge that was not needed began later and ended earlier.
            let hedge = exchange.begin_attempt(backend("b"));
            exchange.end_attempt(hedge, Outcome::Cancelled);
            exchange.end_attempt(number, Outcome::Failed(ErrorKind::ResponseBody));
            Ok::<_, Infallible>(Response::new(body(Some("cut"))))
        },
    );
    let response = log.layer().layer(broken).oneshot(get("/")).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    let line = log.one();
    assert_eq!(
        (&line["outcome"], &line["sent"]),
        (&"response_body".into(), &3.into())
    );

    // The service fails with an error of another crate.
    let log = Log::new();
    let failing = service_fn(|_: Request<_>| async {
        Err::<Response<Empty<Bytes>>, _>(io::Error::other("boom"))
    });
    assert!(log.layer().layer(failing).oneshot(get("/")).await.is_err());
    let line = log.one();
    assert_eq!(line["outcome"], "service");
    assert!(line.get("status").is_none());

    // The client goes away before the head.
    let log = Log::new();
    let hanging = service_fn(|_: Request<_>| {
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    });
    let mut service = log.layer().layer(hanging);
    drop(service.call(get("/")));
    assert_eq!(log.one()["outcome"], "client_abort");

    // The client goes away within the body.
    let log = Log::new();
    let long = service_fn(|_: Request<_>| async {
        Ok::<_, Infallible>(Response::new(body(Some("later"))))
    });
    let response = log.layer().layer(long).oneshot(get("/")).await.unwrap();
    let mut rest = response.into_body();
    rest.frame().await.unwrap().unwrap();
    drop(rest);
    let line = log.one();
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"client_abort".into(), &200.into())
    );

    // A failure that was answered with a status keeps its kind.
    let log = Log::new();
    let answered = service_fn(
        |mut request: Request<evenkeel::access_log::RequestBody<Empty<Bytes>>>| async move {
            Exchange::of(request.extensions_mut()).fail(ErrorKind::NoBackend);
            let mut response = Response::new(Full::new(Bytes::from("503")));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok::<_, Infallible>(response)
        },
    );
    let response = log.layer().layer(answered).oneshot(get("/")).await.unwrap();
    response.into_body().collect().await.unwrap();
    assert_eq!(log.one()["outcome"], "no_backend");
}

#[tokio::test]
async fn a_custom_sink_gets_what_json_lines_writes() {
    /// Forwards each line, as the sink of the quickstart example does.
    struct Forward(Lines);
    impl Sink for Forward {
        fn record(&self, entry: &Entry<'_>) {
            assert_eq!(entry.request.unwrap().user_agent, Some(b"b\"1" as &[u8]));
            self.0.record(entry);
        }
    }
    let tls = || {
        let conn = ConnInfo::new(
            Peer::Tcp("192.0.2.9:1234".parse().unwrap()),
            Peer::Tcp("[::1]:443".parse().unwrap()),
        );
        conn.set_client("198.51.100.7:1".parse().unwrap());
        let mut tls = evenkeel::context::TlsInfo::default();
        (tls.version, tls.cipher) = ("TLSv1.3", "TLS_AES_128_GCM_SHA256");
        (tls.alpn, tls.sni) = (Some(Bytes::from_static(b"h2")), Some("shop.example".into()));
        conn.set_tls(tls);
        conn
    };
    for conn in [None, Some(tls())] {
        let mut lines = Vec::new();
        for forward in [false, true] {
            let log = Log::new();
            let layer = match forward {
                false => log.layer(),
                true => AccessLogLayer::new(Forward(log.sink.clone())).node("lb-1"),
            };
            let layer = layer
                .trust_request_id(true)
                .referer(true)
                .query(|q| q.replace("secret", "…"));
            let service = layer.layer(service_fn(|mut request: Request<_>| async move {
                let exchange = Exchange::of(request.extensions_mut());
                let backend = Backend::new("a\"1", "http://127.0.0.1:9001");
                exchange.begin_attempt(backend.unwrap().unix_socket("/run/a.sock"));
                exchange.set_decision("round-robin", 12_345);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("answer"))))
            }));
            let mut request = get("/p\\q?token=secret");
            for (name, value) in [
                ("user-agent", "b\"1"),
                ("referer", "https://shop.example/"),
                ("x-request-id", "abc-1"),
            ] {
                let value = HeaderValue::from_static(value);
                request.headers_mut().insert(name, value);
            }
            if let Some(conn) = conn.clone() {
                request.extensions_mut().insert(conn);
            }
            let response = service.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
            let mut line = log.one();
            for measured in ["time", "duration_ms", "ttfb_ms", "queue_ms"] {
                assert!(line.as_object_mut().unwrap().remove(measured).is_some());
            }
            lines.push(line);
        }
        assert_eq!(lines[0], lines[1]);
        assert_eq!(lines[0]["backend_address"], "/run/a.sock");
        assert_eq!(lines[0]["path"], "/p\\q");
        let scheme = if conn.is_some() { "https" } else { "http" };
        assert_eq!(lines[0]["scheme"], scheme);
    }
}

#[tokio::test]
async fn facts_learnt_between_two_requests_of_a_connection_are_logged() {
    let log = Log::new();
    let conn = ConnInfo::new(Peer::Tcp("192.0.2.9:1".parse().unwrap()), Peer::Unknown);
    let service = log.layer().layer(service_fn(|_: Request<_>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    }));
    for client in ["192.0.2.9", "198.51.100.7"] {
        let mut request = get("/");
        request.extensions_mut().insert(conn.clone());
        service.clone().oneshot(request).await.unwrap();
        assert!(log.sink.flush());
        let lines = log.memory.lines();
        assert_eq!(lines.last().unwrap()["client"], client);
        conn.set_client("198.51.100.7:1".parse().unwrap());
    }
}

#[tokio::test]
async fn the_line_of_a_tunnel_is_written_at_its_close() {
    let log = Log::new();
    let tunnel = Tunnel::new();
    let t = tunnel.clone();
    let service = service_fn(move |_: Request<_>| {
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(t.clone());
        async move { Ok::<_, Infallible>(response) }
    });
    let response = log
        .layer()
        .layer(service)
        .oneshot(get("/ws"))
        .await
        .unwrap();
    drop(response);
    log.none();
    tunnel.add_to_backend(11);
    tunnel.add_to_client(22);
    tunnel.close();
    let line = log.one();
    assert_eq!(
        (&line["status"], &line["outcome"]),
        (&101.into(), &"ok".into())
    );
    assert_eq!((&line["received"], &line["sent"]), (&11.into(), &22.into()));
}

#[tokio::test]
async fn failed_authentications_show_the_scheme_and_no_credentials() {
    for (noted, challenge, authorization, scheme, reason) in [
        (
            Some("expired"),
            None,
            Some("Bearer zyxw"),
            "Bearer",
            "expired",
        ),
        (
            None,
            Some("Basic realm=\"x\""),
            None,
            "Basic",
            "unauthorized",
        ),
        (
            None,
            Some("Basic realm=\"x\""),
            Some("Digest username=\"bob\""),
            "Digest",
            "unauthorized",
        ),
    ] {
        let log = Log::new();
        let service = service_fn(move |_: Request<_>| async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            if let Some(reason) = noted {
                response
                    .extensions_mut()
                    .insert(AuthFailure::new("Bearer", reason).user("ann"));
            }
            if let Some(challenge) = challenge {
                response
                    .headers_mut()
                    .insert("www-authenticate", HeaderValue::from_static(challenge));
            }
            Ok::<_, Infallible>(response)
        });
        let mut request = get("/");
        if let Some(value) = authorization {
            request
                .headers_mut()
                .insert("authorization", HeaderValue::from_static(value));
        }
        log.layer().layer(service).oneshot(request).await.unwrap();
        let line = log.one();
        assert_eq!(
            (&line["auth_scheme"], &line["auth_reason"]),
            (&scheme.into(), &reason.into())
        );
        assert_eq!(line.get("auth_user").is_some(), noted.is_some());
        assert!(!line.to_string().contains("zyxw") && !line.to_string().contains("bob"));
    }
}

/// A request's head in memory that shows whether anything holds it.
struct Head(Arc<[u8]>);

impl AsRef<[u8]> for Head {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[tokio::test]
async fn a_download_keeps_neither_credentials_nor_the_head_alive() {
    for status in [StatusCode::OK, StatusCode::UNAUTHORIZED] {
        let log = Log::new();
        let service = service_fn(move |request: Request<_>| {
            drop(request);
            let mut response = Response::new(body(None));
            *response.status_mut() = status;
            async { Ok::<_, Infallible>(response) }
        });
        let memory: Arc<[u8]> = Arc::from(*b"Bearer very-secret");
        let head = Bytes::from_owner(Head(memory.clone()));
        let mut request = get("/");
        for name in ["authorization", "user-agent", "referer"] {
            let value = HeaderValue::from_maybe_shared(head.clone()).unwrap();
            request.headers_mut().insert(name, value);
        }
        drop(head);
        assert_eq!(Arc::strong_count(&memory), 2, "the request holds it");
        let mut service = log.layer().referer(true).layer(service);
        let response = service.call(request).await.unwrap();
        assert_eq!(Arc::strong_count(&memory), 1, "{status}: it is freed");
        response.into_body().collect().await.unwrap();
        let scheme = log.one()["auth_scheme"].clone();
        assert_eq!(scheme == "Bearer", status == StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_a_layer_holds_back_counts_until_its_own_end() {
    let log = Log::new();
    let service = service_fn(
        |mut request: Request<evenkeel::access_log::RequestBody<Empty<Bytes>>>| async move {
            let exchange = Exchange::of(request.extensions_mut());
            let attempt = exchange.begin_attempt(Backend::new("a", "http://127.0.0.1:1").unwrap());
            exchange.end_attempt(attempt, Outcome::Ok);
            Ok::<_, Infallible>(Response::new(body(None)))
        },
    );
    let response = log.layer().layer(service).oneshot(get("/")).await.unwrap();
    tokio::time::advance(Duration::from_millis(70)).await;
    response.into_body().collect().await.unwrap();
    let line = log.one();
    assert_eq!(line["duration_ms"], 70.0, "{line}");
    assert_eq!(line["ttfb_ms"], 0.0, "{line}");
}

#[tokio::test]
async fn a_connection_without_a_request_has_a_line() {
    let log = Log::new();
    let conn = ConnInfo::new(Peer::Tcp("192.0.2.9:1".parse().unwrap()), Peer::Unknown);
    let event = ConnectionEvent::new(
        conn,
        ConnectionEventKind::HeadTimeout,
        "no \"head\"",
        Duration::from_millis(1_500),
    );
    log.layer().connection_ended(&event);
    let line = log.one();
    assert_eq!(line["outcome"], "head_timeout");
    assert_eq!(line["detail"], "no \"head\"");
    assert_eq!(line["client"], "192.0.2.9");
    assert_eq!(line["duration_ms"], 1_500.0);
    assert!(line.get("method").is_none());
}

#[tokio::test]
async fn a_disabled_sink_costs_nothing() {
    #[derive(Clone, Default)]
    struct Disabled(Arc<AtomicBool>);
    impl Sink for Disabled {
        fn enabled(&self) -> bool {
            false
        }
        fn record(&self, _: &Entry<'_>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let sink = Disabled::default();
    let inner = service_fn(|request: Request<_>| async move {
        assert!(
            request.extensions().get::<Exchange>().is_none(),
            "a disabled log must not insert an Exchange"
        );
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = AccessLogLayer::new(sink.clone()).layer(inner);
    service.oneshot(get("/")).await.unwrap();
    assert!(!sink.0.load(Ordering::Relaxed));
}

#[test]
fn a_stalled_output_costs_lines_and_no_time() {
    struct Stalled(std::sync::mpsc::Receiver<()>);
    impl Write for Stalled {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (release, stalled) = std::sync::mpsc::channel();
    let sink = Lines::writer(Stalled(stalled)).unwrap();
    let layer = AccessLogLayer::new(sink.clone());
    let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "", Duration::ZERO);
    for _ in 0..40_000 {
        layer.connection_ended(&event);
    }
    assert!(sink.dropped() > 20_000, "{} dropped", sink.dropped());
    drop(release);
    assert!(sink.flush(), "the rest must go out once the reader is back");
}

#[test]
fn reopen_writes_to_a_new_file_after_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.jsonl");
    let sink = Lines::file(&path).unwrap();
    let layer = AccessLogLayer::new(sink.clone());
    let conn = ConnInfo::new(Peer::Unknown, Peer::Unknown);
    let event = ConnectionEvent::new(conn, ConnectionEventKind::Io, "", Duration::ZERO);
    layer.connection_ended(&event);
    assert!(sink.flush());
    let moved = folder.path().join("access.jsonl.1");
    std::fs::rename(&path, &moved).unwrap();
    sink.reopen();
    assert!(sink.flush());
    layer.connection_ended(&event);
    drop(layer);
    drop(sink);
    for file in [moved, path] {
        assert_eq!(
            std::fs::read_to_string(&file).unwrap().lines().count(),
            1,
            "{file:?}"
        );
    }
}

#[test]
fn a_line_costs_no_allocation_in_steady_state() {
    let sink = Lines::writer(io::sink()).unwrap();
    assert_eq!(fewest_allocations(sink.clone()), 0);
    assert_eq!(fewest_allocations(Arc::new(sink.clone())), 0);
    assert_eq!(fewest_allocations(Tee::new(sink.clone(), sink)), 0);
}

/// Returns how many allocations a request and its line cost once buffers are warm.
fn fewest_allocations(sink: impl Sink) -> u64 {
    let layer = AccessLogLayer::new(sink).node("lb-1");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let inner = service_fn(
        |request: Request<evenkeel::access_log::RequestBody<Empty<Bytes>>>| {
            drop(request);
            std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
        },
    );
    let mut service = layer.layer(inner);
    let prepared = || {
        // A server's header values share bytes; static ones clone as cheaply.
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = http::Uri::from_static("/path?x=1");
        let host = HeaderValue::from_static("shop.example");
        request.headers_mut().insert("host", host);
        Exchange::of(request.extensions_mut());
        let peer = Peer::Tcp("192.0.2.9:1234".parse().unwrap());
        request
            .extensions_mut()
            .insert(ConnInfo::new(peer, Peer::Unknown));
        request
    };
    for _ in 0..100 {
        let _ = runtime.block_on(service.call(prepared()));
    }
    // The writer may swap in its other buffer meanwhile, so the least of 20 tries counts.
    (0..20)
        .map(|_| {
            let request = prepared();
            let counted = allocation_counter::measure(|| {
                let _ = runtime.block_on(service.call(request));
            });
            counted.count_total
        })
        .min()
        .unwrap()
}
