//! Every way in which a request can end, over real sockets: one line, with the outcome and its cause.

mod http2;

use std::{future::IntoFuture, net::SocketAddr};

use evenkeel::{
    LoadBalancer, Pool,
    balance::BalanceLayer,
    connect::{ClientTls, Connector, Resolve, ResolveError, ResolveFuture},
    failover::FailoverLayer,
    health::HealthLayer,
    proxy::Proxy,
};
use http_body_util::combinators::BoxBody;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::support::{
    Act, Origin, Scripted,
    pki::{self, Authority},
    refused,
};

const SHORT: Duration = Duration::from_millis(50);
const GET: &str = "GET /it HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A load balancer with a log, under `evenkeel::serve`.
struct Served {
    log: Log,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Served {
    async fn new(backends: impl IntoIterator<Item = Backend>) -> Self {
        Self::with(backends, Proxy::new()).await
    }

    async fn with(backends: impl IntoIterator<Item = Backend>, proxy: Proxy) -> Self {
        let pool = Pool::new(backends).unwrap();
        Self::built(pool, |builder| builder.proxy(proxy)).await
    }

    async fn built(
        pool: Pool,
        build: impl FnOnce(evenkeel::load_balancer::Builder) -> evenkeel::load_balancer::Builder,
    ) -> Self {
        let log = Log::new();
        let health = HealthLayer::new(pool.clone()).no_checks().no_outliers();
        let builder = LoadBalancer::builder(pool).health(health).unwrap();
        let balancer = build(builder).access_log(log.layer()).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = evenkeel::serve(listener, balancer).events(log.layer());
        let serve = serve.http(|http| http.head_timeout(Duration::from_millis(200)));
        let serving = tokio::spawn(async move {
            let _ = serve.unwrap().into_future().await;
        });
        Self {
            log,
            address,
            serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes, and reads until the server closes.
    async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, reading).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends a GET; its line must have this outcome, this status and this cause.
    async fn ends(&self, outcome: &str, status: u16, detail: &str) -> Value {
        let answer = self.talk(GET).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let line = self.log.next().await;
        check(&line, outcome, Some(status), detail);
        line
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            self.log.none();
        }
    }
}

#[track_caller]
fn check(line: &Value, outcome: &str, status: Option<u16>, detail: &str) {
    assert_eq!(line["outcome"], outcome, "{line}");
    assert_eq!(
        line.get("status"),
        status.map(Value::from).as_ref(),
        "{line}"
    );
    let said = line
        .get("detail")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match detail {
        "" => assert_eq!(said, "", "{line}"),
        _ => assert!(said.contains(detail), "{detail:?} in {line}"),
    }
}

fn backend(address: SocketAddr) -> Backend {
    Backend::new("a", &format!("http://{address}")).unwrap()
}

fn ms(line: &Value, field: &str) -> f64 {
    let value = line.get(field).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{field} in {line}"))
}

#[tokio::test]
async fn a_response_has_its_phases_and_no_detail() {
    let origin = Origin::named("hello").await;
    let served = Served::new([backend(origin.address)]).await;
    for is_first in [true, false] {
        let line = served.ends("ok", 200, "").await;
        assert_eq!(line.get("connect_ms").is_some(), is_first, "{line}");
        assert!(line.get("tls_ms").is_none(), "cleartext: {line}");
        let phases = ["queue_ms", "head_ms", "body_ms"].map(|phase| ms(&line, phase));
        let connect = if is_first {
            ms(&line, "connect_ms")
        } else {
            0.0
        };
        let sum = phases.iter().sum::<f64>() + connect;
        // Each is cut to whole microseconds.
        assert!(sum <= ms(&line, "duration_ms") + 0.005, "{line}");
        assert!(ms(&line, "ttfb_ms") <= ms(&line, "duration_ms"), "{line}");
        assert!(line.get("excluded").is_none(), "{line}");
    }
}

#[tokio::test]
async fn a_slow_backend_shows_in_the_phase_that_is_slow() {
    let origin = Origin::serve(|_| async {
        tokio::time::sleep(SHORT).await;
        Response::new(Full::new(Bytes::from("late")))
    })
    .await;
    let served = Served::new([backend(origin.address)]).await;
    let line = served.ends("ok", 200, "").await;
    assert!(ms(&line, "head_ms") >= 50.0, "{line}");
    assert!(
        ms(&line, "queue_ms") < 50.0 && ms(&line, "body_ms") < 50.0,
        "{line}"
    );
}

#[tokio::test]
async fn a_client_that_goes_away_shows_when() {
    for (act, reads, status, detail) in [
        (Act::Hang, "", None, "before the response"),
        (
            Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
            "\r\n\r\n",
            Some(200),
            "after the head of the response",
        ),
        (
            Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"),
            "abc",
            Some(200),
            "within the body of the response",
        ),
    ] {
        let origin = Scripted::play(vec![act]).await;
        let served = Served::new([backend(origin.address)]).await;
        let mut client = served.connect().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).ends_with(reads) {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0);
        }
        while origin.heads.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(client);
        check(&served.log.next().await, "client_abort", status, detail);
    }
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_shows_why() {
    let served = Served::new([backend(refused())]).await;
    let line = served.ends("connect", 502, "Connection refused").await;
    assert!(line.get("connect_ms").is_none() && line.get("head_ms").is_none());
    assert!(line.get("queue_ms").is_some(), "{line}");

    let backends = ["a", "b"].map(|id| Backend::new(id, &format!("http://{}", refused())).unwrap());
    let served = Served::new(backends).await;
    let line = served.ends("connect", 502, "Connection refused").await;
    let attempts = line["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{line}");
    for attempt in attempts {
        let detail = attempt["detail"].as_str().unwrap();
        assert!(detail.contains("Connection refused"), "{line}");
    }
    assert_eq!(line["excluded"]["tried"], 1, "{line}");
}

#[derive(Debug)]
struct Says(fn() -> ResolveError);

impl Resolve for Says {
    fn resolve<'a>(&'a self, _host: &'a str) -> ResolveFuture<'a> {
        let error = (self.0)();
        Box::pin(async move { Err(error) })
    }
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named_with_the_answer_of_the_resolver() {
    let denied: fn() -> ResolveError = || ResolveError::NotFound;
    let failed: fn() -> ResolveError = || ResolveError::Failed("SERVFAIL of 192.0.2.53".into());
    for (says, outcome, status, detail) in [
        (denied, "connect", 502, "app.test has no address"),
        (failed, "local", 503, "SERVFAIL of 192.0.2.53"),
    ] {
        let connector = Connector::new().resolver(Says(says));
        let named = Backend::new("a", "http://app.test:80").unwrap();
        let served = Served::with([named], Proxy::new().connector(connector)).await;
        let line = served.ends(outcome, status, detail).await;
        assert!(
            line["detail"].as_str().unwrap().contains("app.test"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_is_refused_is_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (names, roots, detail) in [
        (
            ["localhost"],
            &other,
            "invalid peer certificate: BadSignature",
        ),
        (["other.example"], &authority, "other.example"),
    ] {
        let issued = authority.issue(&names);
        let config = rustls::ServerConfig::builder_with_provider(pki::test_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.certificate()], issued.key())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = acceptor.accept(stream).await;
            }
        });
        let tls = ClientTls::roots_pem(roots.pem().as_bytes()).unwrap();
        let proxy = Proxy::new().connector(Connector::new().tls(tls));
        let secure = Backend::new("a", &format!("https://localhost:{port}")).unwrap();
        let served = Served::with([secure], proxy).await;
        served.ends("connect_tls", 502, detail).await;
        accepting.abort();
    }
}

#[tokio::test]
async fn a_backend_that_breaks_off_or_talks_nonsense_shows_how() {
    for (bytes, outcome, status, detail) in [
        (&b""[..], "response_closed", 502, "closed"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-le",
            "response_closed",
            502,
            "closed",
        ),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "response_head", 502, ""),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "response_head",
            502,
            "length",
        ),
    ] {
        let origin = Scripted::play(vec![Act::SendAndClose(bytes)]).await;
        let served = Served::new([backend(origin.address)]).await;
        let answer = served.talk(GET).await;
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin), "{answer} for {bytes:?}");
        let line = served.log.next().await;
        assert_eq!(line["outcome"], outcome, "{line}");
        let said = line["detail"].as_str().unwrap_or_default().to_lowercase();
        assert!(!said.is_empty() && said.contains(detail), "{line}");
    }
    let cut = Act::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    let origin = Scripted::play(vec![cut]).await;
    let served = Served::new([backend(origin.address)]).await;
    // The server closes the connection, so that the client does not take the part for the whole.
    served.talk(GET).await;
    let line = served.log.next().await;
    check(
        &line,
        "response_body",
        Some(200),
        "before the end of the body",
    );
    assert_eq!(line["sent"], 3, "{line}");
}

#[tokio::test]
async fn a_backend_that_resets_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let resetting = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 10];
            stream.read_exact(&mut head).await.unwrap();
            // With the rest unread, or with this option, a close is a reset.
            socket2::SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    });
    let served = Served::new([backend(address)]).await;
    served
        .ends("response_closed", 502, "Connection reset")
        .await;
    resetting.abort();
}

#[tokio::test]
async fn each_time_out_names_its_phase_and_its_limit() {
    let short = || {
        Proxy::new()
            .idle_timeout(SHORT)
            .unwrap()
            .response_timeout(SHORT)
            .unwrap()
    };
    let hang = || Scripted::play(vec![Act::Hang]);

    let origin = hang().await;
    let served = Served::with([backend(origin.address)], short()).await;
    served
        .ends("response_head_timeout", 504, "the limit is 50ms")
        .await;

    let half = Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    let origin = Scripted::play(vec![half]).await;
    let served = Served::with([backend(origin.address)], short()).await;
    served
        .ends("response_body_timeout", 200, "the limit is 50ms")
        .await;

    // The handshake belongs to the connection: the backend accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let connector = Connector::new().timeout(SHORT).unwrap();
    let secure = Backend::new("a", &url).unwrap();
    let served = Served::with([secure], Proxy::new().connector(connector)).await;
    served
        .ends("connect_timeout", 504, "the limit is 50ms")
        .await;

    // The client sends a part of its body.
    let origin = hang().await;
    let served = Served::with([backend(origin.address)], short()).await;
    let part = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc";
    let answer = served.talk(part).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let line = served.log.next().await;
    check(&line, "client_body_timeout", Some(408), "the limit is 50ms");
    assert_eq!(line["received"], 3, "{line}");

    // The backend takes no more of the body than the kernel does.
    let served = Served::with([backend(origin.address)], short()).await;
    let client = served.connect().await;
    let (mut reads, mut writes) = client.into_split();
    let writing = tokio::spawn(async move {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999\r\n\r\n";
        writes.write_all(head).await.unwrap();
        while writes.write_all(&[0; 65_536]).await.is_ok() {}
    });
    check(
        &served.log.next().await,
        "request_write_timeout",
        Some(504),
        "the limit is 50ms",
    );
    let _ = reads.read_u8().await;
    writing.abort();
}

#[tokio::test]
async fn the_time_outs_of_failover_name_their_limits() {
    for (layer, detail) in [
        (
            FailoverLayer::new().per_try_timeout(SHORT).unwrap(),
            "the time for one try is up: the limit is 50ms",
        ),
        (
            FailoverLayer::new().timeout(SHORT).unwrap(),
            "the time for all tries is up: the limit is 50ms",
        ),
    ] {
        let origin = Scripted::play(vec![Act::Hang]).await;
        let pool = Pool::new([backend(origin.address)]).unwrap();
        let served = Served::built(pool, |builder| builder.failover(layer)).await;
        served.ends("response_head_timeout", 504, detail).await;
    }
}

#[tokio::test]
async fn without_a_backend_the_counts_of_those_left_out_are_shown() {
    let backends = ["a", "b", "c"].map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap());
    let pool = Pool::new(backends).unwrap();
    pool.start_maintenance("a").unwrap();
    pool.start_maintenance("b").unwrap();
    let draining = pool.drain("c", PATIENCE).unwrap();
    let served = Served::built(pool, |builder| builder).await;
    let line = served
        .ends("no_backend", 503, "2 maintenance, 1 draining")
        .await;
    let wanted = serde_json::json!({ "maintenance": 2, "draining": 1 });
    assert_eq!(line["excluded"], wanted, "{line}");
    assert!(line.get("queue_ms").is_none() && line.get("backend").is_none());
    drop(draining);
}

#[tokio::test]
async fn what_a_pick_leaves_out_is_shown_although_it_finds_a_backend() {
    let origin = Origin::named("hello").await;
    let away = Backend::new("away", "http://127.0.0.1:1").unwrap();
    let pool = Pool::new([backend(origin.address), away]).unwrap();
    pool.start_maintenance("away").unwrap();
    let served = Served::built(pool, |builder| builder).await;
    let line = served.ends("ok", 200, "").await;
    assert_eq!(
        line["excluded"],
        serde_json::json!({ "maintenance": 1 }),
        "{line}"
    );
    assert_eq!(line["candidates"], 1, "{line}");
}

/// A backend of one request at a time that hangs, a queue of this size, and a request that has the
/// backend.
async fn busy(queue_size: usize) -> (Served, Scripted, TcpStream) {
    let origin = Scripted::play(vec![Act::Hang]).await;
    let pool = Pool::new([backend(origin.address).max_in_flight(1).unwrap()]).unwrap();
    let balance = BalanceLayer::new(pool.clone());
    let balance = balance.queue_size(queue_size).queue_timeout(SHORT);
    let served = Served::built(pool, |builder| builder.balance(balance).unwrap()).await;
    let mut first = served.connect().await;
    first.write_all(GET.as_bytes()).await.unwrap();
    while origin.heads.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    (served, origin, first)
}

#[tokio::test]
async fn a_queue_that_is_full_or_too_slow_is_named() {
    for (size, outcome, detail) in [
        (0, "overloaded", "0 requests wait already"),
        (1, "queue_timeout", "the limit is 50ms"),
    ] {
        let (served, _origin, first) = busy(size).await;
        let line = served.ends(outcome, 503, detail).await;
        assert_eq!(line["excluded"], serde_json::json!({ "full": 1 }), "{line}");
        drop(first);
        check(
            &served.log.next().await,
            "client_abort",
            None,
            "before the response",
        );
    }
}

#[tokio::test]
async fn the_wait_in_the_queue_is_in_the_line() {
    let origin = Origin::serve(|_| async {
        tokio::time::sleep(SHORT).await;
        Response::new(Full::new(Bytes::from("late")))
    })
    .await;
    let pool = Pool::new([backend(origin.address).max_in_flight(1).unwrap()]).unwrap();
    let served = Served::built(pool, |builder| builder).await;
    let (first, second) = tokio::join!(served.talk(GET), served.talk(GET));
    assert!(first.starts_with("HTTP/1.1 200 ") && second.starts_with("HTTP/1.1 200 "));
    assert!(served.log.sink.flush());
    let lines = served.log.memory.lines();
    served.log.memory.0.lock().unwrap().clear();
    let mut waits: Vec<_> = lines.iter().map(|line| ms(line, "queue_ms")).collect();
    waits.sort_by(f64::total_cmp);
    assert!(waits[0] < 40.0 && waits[1] >= 40.0, "{lines:?}");
}

#[tokio::test]
async fn an_upgrade_has_its_line_at_the_close() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let echoing = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut head).await.unwrap();
        }
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let (mut from, mut to) = stream.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let served = Served::new([backend(address)]).await;
    let mut client = served.connect().await;
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    client.write_all(head).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        client.read_buf(&mut got).await.unwrap();
    }
    client.write_all(b"hello").await.unwrap();
    client.read_exact(&mut [0; 5]).await.unwrap();
    served.log.none();
    drop(client);
    let line = served.log.next().await;
    check(&line, "ok", Some(101), "");
    assert_eq!((&line["received"], &line["sent"]), (&5.into(), &5.into()));
    assert!(line.get("body_ms").is_some(), "the tunnel's time: {line}");
    echoing.await.unwrap();
}

#[tokio::test]
async fn what_the_server_refuses_has_a_line_with_the_reason() {
    let served = Served::new([backend(refused())]).await;
    for (request, status, outcome, detail) in [
        (
            "GET / HTTP/1.1\r\nfoo bar: x\r\nhost: a\r\n\r\n",
            400,
            "bad_request",
            "name",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "bad_request",
            "ength",
        ),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request", "ost"),
        ("GET / HTTP/1.1\r\nhost", 408, "head_timeout", ""),
    ] {
        let answer = served.talk(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let line = served.log.next().await;
        check(&line, outcome, Some(status), detail);
    }
    let long = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    let _ = served.talk(long).await;
    let line = served.log.next().await;
    assert_eq!(
        (&line["outcome"], &line["status"]),
        (&"head_too_large".into(), &431.into())
    );
}

#[tokio::test]
async fn a_method_that_is_not_forwarded_has_its_line() {
    let served = Served::new([backend(refused())]).await;
    let answer = served
        .talk("TRACE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let line = served.log.next().await;
    check(
        &line,
        "method_refused",
        Some(405),
        "the method is not forwarded",
    );
    assert_eq!(line["method"], "TRACE");
}

#[tokio::test]
async fn a_handshake_that_fails_has_a_line() {
    let authority = Authority::new();
    let issued = authority.issue(&["localhost"]);
    let config = rustls::ServerConfig::builder_with_provider(pki::test_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.certificate()], issued.key())
        .unwrap();
    let log = Log::new();
    let layer = evenkeel::tls::TlsLayer::from_rustls(config).events(log.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fine = service_fn(async |_: Request<evenkeel::server::Body>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
    });
    let serve = evenkeel::serve(listener, fine).layer(layer);
    let serving = tokio::spawn(serve.into_future());
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = client.read_to_end(&mut Vec::new()).await;
    let line = log.next().await;
    assert_eq!(line["outcome"], "tls_handshake", "{line}");
    assert!(!line["detail"].as_str().unwrap().is_empty(), "{line}");
    serving.abort();
}

/// Erases the type of a body, so that stacks of different layers have one type.
pub(super) fn boxed<B>(body: B) -> BoxBody<Bytes, evenkeel::BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<evenkeel::BoxError>,
{
    body.map_err(Into::into).boxed()
}
