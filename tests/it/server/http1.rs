//! HTTP/1.1 as bytes on a socket: what is served, what is refused, and what ends a connection.

use std::{
    collections::VecDeque,
    future::pending,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll},
};

use evenkeel::context::Interim;
use http::{HeaderMap, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;

use super::*;
use crate::support::bytes_of;

type BoxedBody = UnsyncBoxBody<Bytes, Infallible>;

fn text(text: impl Into<Bytes>) -> Response<BoxedBody> {
    Response::new(Full::new(text.into()).boxed_unsync())
}

/// What ended connections without a request's line.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<ConnectionEvent>>>);

impl ConnectionEvents for Events {
    fn connection_ended(&self, event: &ConnectionEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    events: Events,
    /// Requests that the service saw.
    calls: Arc<AtomicUsize>,
}

impl Server {
    async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Sends these bytes, and returns all that comes until the server closes.
    async fn ask(&self, bytes: &[u8]) -> String {
        let mut client = self.connect().await;
        let (mut read, mut write) = client.split();
        let (_, got) = tokio::join!(write.write_all(bytes), rest(&mut read));
        got
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

/// Serves `app` with short time-outs.
async fn serving<F>(app: impl Fn(Request<Body>) -> F + Clone + Send + Sync + 'static) -> Server
where
    F: Future<Output = Response<BoxedBody>> + Send + 'static,
{
    serving_with(app, |http| http).await
}

async fn serving_with<A, F>(
    app: A,
    configure: impl FnOnce(
        evenkeel::server::Http<
            tower::util::BoxCloneService<Request<Body>, Response<BoxedBody>, Infallible>,
        >,
    ) -> evenkeel::server::Http<
        tower::util::BoxCloneService<Request<Body>, Response<BoxedBody>, Infallible>,
    >,
) -> Server
where
    A: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<BoxedBody>> + Send + 'static,
{
    let (listener, address) = listener().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let events = Events::default();
    let counted = calls.clone();
    let service = service_fn(move |request: Request<Body>| {
        counted.fetch_add(1, SeqCst);
        let answer = app(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let serve = evenkeel::serve(listener, tower::util::BoxCloneService::new(service))
        .http(|http| {
            Ok(configure(
                http.head_timeout(HEAD)?
                    .idle_timeout(Duration::from_secs(5))?,
            ))
        })
        .unwrap()
        .events(events.clone());
    tokio::spawn(serve.into_future());
    Server {
        address,
        events,
        calls,
    }
}

async fn echo(request: Request<Body>) -> Response<BoxedBody> {
    match request.into_body().collect().await {
        Ok(body) => {
            let trailer = body.trailers().and_then(|all| all.get("etag").cloned());
            let mut response = text(body.to_bytes());
            if let Some(trailer) = trailer {
                response.headers_mut().insert("x-trailer", trailer);
            }
            response
        }
        Err(error) => {
            let mut response = text(error.to_string());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// Reads until the text is there.
async fn until(client: &mut (impl AsyncReadExt + Unpin), ends: &str) -> String {
    let mut got = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&got).ends_with(ends) {
            let n = client.read_buf(&mut got).await.unwrap();
            assert_ne!(n, 0, "closed after {:?}", String::from_utf8_lossy(&got));
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    assert!(
        read.is_ok(),
        "only {:?} came",
        String::from_utf8_lossy(&got)
    );
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test]
async fn malformed_requests_get_what_the_docs_say() {
    let server = serving(echo).await;
    let table = include_str!("../../../src/server/malformed_requests.md");
    let rows: Vec<_> = table.lines().skip(2).collect();
    assert!(rows.len() > 40, "the table is there");
    for row in rows {
        let cells: Vec<_> = row.split(" | ").collect();
        let shown = cells[0].trim_start_matches("| `").trim_end_matches('`');
        let status: u16 = cells[1].parse().unwrap();
        let before = server.calls();
        let mut client = server.connect().await;
        client.write_all(&bytes_of(shown)).await.unwrap();
        if status != 200 {
            // What follows is not executed, wherever the fault is.
            let _ = client
                .write_all(b"GET /after HTTP/1.1\r\nhost: a\r\n\r\n")
                .await;
        }
        let got = match status {
            200 => {
                let mut got = [0; 1_024];
                let n = client.read(&mut got).await.unwrap();
                String::from_utf8_lossy(&got[..n]).into_owned()
            }
            _ => rest(&mut client).await,
        };
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown}: {got:?}"
        );
        if status == 200 {
            continue;
        }
        assert!(got.contains("connection: close\r\n"), "{shown}: {got:?}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{shown}: {got:?}");
        let event = server.events.0.lock().unwrap().pop();
        match event {
            // Within a body, the request has its own line in the log.
            None => assert_eq!(server.calls(), before + 1, "{shown}"),
            Some(event) => {
                assert_eq!(server.calls(), before, "{shown}: no service sees it");
                assert_eq!(event.status.map(|s| s.as_u16()), Some(status), "{shown}");
                assert!(!event.detail.is_empty(), "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn a_refused_request_is_named_as_far_as_it_could_be_read() {
    let server = serving(echo).await;
    let many = "a: b\r\n".repeat(101);
    for (request, status, method, path) in [
        (
            "PUT /a?b HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
            400,
            Some("PUT"),
            Some("/a"),
        ),
        ("\u{16}\u{3}\u{1}".into(), 400, None, None),
        (
            format!("GET /d HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
            431,
            Some("GET"),
            Some("/d"),
        ),
        (
            format!(
                "GET /d HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "a".repeat(40_000)
            ),
            431,
            Some("GET"),
            Some("/d"),
        ),
        (
            format!(
                "GET /d HTTP/1.1\r\nhost: a\r\nconnection: {}\r\n\r\n",
                "a,".repeat(15_000)
            ),
            400,
            Some("GET"),
            Some("/d"),
        ),
        (
            format!("GET /d?{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(40_000)),
            414,
            Some("GET"),
            Some("/d"),
        ),
    ] {
        let shown = &request[..request.len().min(90)];
        let got = server.ask(request.as_bytes()).await;
        assert!(
            got.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown:?}: {got:?}"
        );
        let event = server.events.0.lock().unwrap().pop().expect("an event");
        assert_eq!(event.status.map(|s| s.as_u16()), Some(status), "{shown:?}");
        assert_eq!(
            event.method.as_ref().map(|m| m.as_str()),
            method,
            "{shown:?}"
        );
        assert_eq!(event.path.as_deref(), path, "{shown:?}");
    }
    assert_eq!(server.calls(), 0, "no service sees what is refused");
}

#[tokio::test]
async fn known_clients_may_be_allowed_what_they_send() {
    let head = "GET /?q=\u{e9} HTTP/1.1\r\nhost: \r\nconnection: close\r\n\r\n";
    let server = serving_with(echo, |http| {
        http.allow_empty_host(true).allow_raw_target(true)
    })
    .await;
    let got = server.ask(head.as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
}

#[tokio::test]
async fn what_comes_between_a_refusal_and_the_close_is_not_executed() {
    let server = serving(echo).await;
    let mut client = server.connect().await;
    // In two pieces: the line end that is refused comes first.
    client.write_all(b"GET /a HTTP/1.1\nho").await.unwrap();
    let got = until(&mut client, "\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 400 "), "{got:?}");
    let _ = client.write_all(b"st: a\n\n").await;
    let _ = client.write_all(GET).await;
    assert_eq!(rest(&mut client).await, "", "one response, and the end");
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_answered_once_and_never_executed() {
    let server = serving(echo).await;
    for before in [&b""[..], GET] {
        let mut client = server.connect().await;
        let began = tokio::time::Instant::now();
        let pipelined = [before, b"POST /late HTTP/1.1\r\nhost: a\r\n"].concat();
        client.write_all(&pipelined).await.unwrap();
        if !before.is_empty() {
            until(&mut client, "\r\n\r\n").await;
        }
        let got = until(&mut client, "\r\n\r\n").await;
        assert!(got.starts_with("HTTP/1.1 408 "), "{got:?}");
        assert!(
            began.elapsed() < 8 * HEAD,
            "behind a request, too, a head has its own time"
        );
        let _ = client.write_all(b"\r\n").await;
        assert_eq!(rest(&mut client).await, "");
        let event = server.events.0.lock().unwrap().pop().expect("an event");
        assert_eq!(event.kind, ConnectionEventKind::HeadTimeout);
        assert_eq!(event.status, Some(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(event.path.as_deref(), Some("/late"));
    }
    assert_eq!(server.calls(), 1, "the whole one alone");
}

#[tokio::test]
async fn blank_lines_before_a_request_are_skipped_and_hold_no_connection() {
    let server = serving(echo).await;
    let mut client = server.connect().await;
    let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx\r\n";
    for _ in 0..2 {
        client.write_all(post).await.unwrap();
        until(&mut client, "x").await;
    }
    tokio::time::sleep(3 * HEAD).await;
    client.write_all(post).await.unwrap();
    until(&mut client, "x").await;
    assert!(server.events.0.lock().unwrap().is_empty(), "no head began");
}

#[tokio::test]
async fn bodies_come_as_they_were_sent_however_they_are_cut() {
    let server = serving(echo).await;
    let length = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789";
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let bytes = [length, chunked, length, chunked, last].concat();
    for cut in [
        bytes.len(),
        1,
        40,
        47,
        48,
        52,
        57,
        60,
        110,
        120,
        125,
        130,
        140,
        200,
    ] {
        let mut client = server.connect().await;
        client.write_all(&bytes.as_bytes()[..cut]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&bytes.as_bytes()[cut..]).await.unwrap();
        let got = rest(&mut client).await;
        assert_eq!(
            got.matches("HTTP/1.1 200 OK").count(),
            5,
            "cut at {cut}: {got:?}"
        );
        assert_eq!(
            got.matches("0123456789").count(),
            4,
            "cut at {cut}: {got:?}"
        );
    }
}

#[tokio::test]
async fn a_body_byte_by_byte() {
    let server = serving(echo).await;
    let mut client = server.connect().await;
    let bytes = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nEtag: \"a\"\r\nHost: b\r\n\r\n";
    for byte in bytes {
        client.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let got = until(&mut client, "abc").await;
    assert!(got.contains("x-trailer: \"a\"\r\n"), "{got:?}");
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_body_and_the_connection() {
    let server = serving(echo).await;
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "5;\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "x\r\n",
        "5\r\nhelloo",
    ] {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let calls = server.calls();
        let got = server
            .ask(format!("{head}{chunks}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
            .await;
        assert!(got.starts_with("HTTP/1.1 400 "), "{chunks:?}: {got:?}");
        assert!(got.contains("connection: close\r\n"), "{chunks:?}: {got:?}");
        assert_eq!(got.matches("HTTP/1.1 ").count(), 1, "{chunks:?}: {got:?}");
        assert_eq!(server.calls(), calls + 1, "what follows is no request");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_when_its_body_is_read() {
    let server = serving(echo).await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    let mut client = server.connect().await;
    for _ in 0..2 {
        client.write_all(head).await.unwrap();
        let got = until(&mut client, "\r\n\r\n").await;
        assert_eq!(got, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"abc").await.unwrap();
        let got = until(&mut client, "abc").await;
        assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
    }
    // A client that did not wait needs none.
    client
        .write_all(&[&head[..], b"abc"].concat())
        .await
        .unwrap();
    let got = until(&mut client, "abc").await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
}

#[tokio::test]
async fn a_client_whose_body_is_not_wanted_gets_no_100_and_the_end() {
    let server = serving(|_| async { text("no") }).await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    let mut client = server.connect().await;
    client.write_all(head).await.unwrap();
    let got = rest(&mut client).await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
    assert!(got.contains("connection: close\r\n"), "{got:?}");
}

#[tokio::test]
async fn a_small_body_that_is_not_read_costs_no_connection() {
    let server = serving(|_| async { text("ok") }).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n")
            .await
            .unwrap();
        until(&mut client, "ok").await;
        client.write_all(&[b'x'; 5_000]).await.unwrap();
    }
    assert_eq!(server.calls(), 3);
}

#[tokio::test]
async fn a_client_that_uploads_without_end_reads_its_early_response() {
    let server = serving(|_| async { text("enough") }).await;
    let mut client = server.connect().await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let (mut read, mut write) = client.split();
    let upload = async { while write.write_all(&[b'x'; 16 * 1024]).await.is_ok() {} };
    let response = async {
        let mut got = Vec::new();
        while !got.ends_with(b"enough") {
            assert_ne!(read.read_buf(&mut got).await.unwrap(), 0);
        }
        String::from_utf8(got).unwrap()
    };
    let got = tokio::select! {
        got = response => got,
        () = upload => panic!("the response must be read before the connection is reset"),
    };
    assert!(got.contains("connection: close\r\n"), "{got:?}");
}

/// Notes when it is dropped.
struct Dropped(Arc<Notify>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A service that never answers, and what notes that its future is dropped.
async fn stuck(half_close: bool) -> (Server, Arc<Notify>, Arc<Notify>) {
    let (came, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arrived, dropped) = (came.clone(), gone.clone());
    let app = move |request: Request<Body>| {
        let (arrived, held) = (arrived.clone(), Dropped(dropped.clone()));
        async move {
            let _held = held;
            arrived.notify_one();
            if request.uri().path() == "/ends" {
                return text("late");
            }
            pending().await
        }
    };
    let server = serving_with(app, |http| http.half_close(half_close)).await;
    (server, came, gone)
}

#[tokio::test]
async fn a_hang_up_is_noticed_behind_what_was_sent_ahead_and_behind_a_body() {
    let (server, came, gone) = stuck(false).await;
    let ahead = GET.repeat(2_000);
    let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx".to_vec();
    for request in [GET.to_vec(), [GET, &ahead[..30_000]].concat(), post] {
        let mut client = server.connect().await;
        client.write_all(&request).await.unwrap();
        came.notified().await;
        drop(client);
        let noticed = tokio::time::timeout(Duration::from_secs(10), gone.notified()).await;
        assert!(noticed.is_ok(), "behind {} bytes", request.len());
    }
}

#[tokio::test]
async fn the_end_of_a_clients_side_cancels_unless_half_close_is_on() {
    for half_close in [false, true] {
        let (server, came, gone) = stuck(half_close).await;
        let mut client = server.connect().await;
        client.write_all(GET).await.unwrap();
        came.notified().await;
        client.shutdown().await.unwrap();
        let noticed = tokio::time::timeout(Duration::from_millis(300), gone.notified()).await;
        assert_eq!(noticed.is_ok(), !half_close, "half_close = {half_close}");
    }
    // With it, what was asked for is answered, and the connection ends.
    let (server, ..) = stuck(true).await;
    let mut client = server.connect().await;
    let ends = b"GET /ends HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(&ends.repeat(2)).await.unwrap();
    client.shutdown().await.unwrap();
    let got = rest(&mut client).await;
    assert_eq!(got.matches("late").count(), 2, "{got:?}");
}

#[tokio::test]
async fn interim_responses_come_before_the_final_one() {
    let server = serving(|request| async move {
        let interim = Interim::of(request.extensions())
            .expect("the server inserts it")
            .clone();
        let link = || HeaderMap::from_iter([(header::LINK, "</a.css>".parse().unwrap())]);
        let mut sent = 0;
        while interim.send(StatusCode::EARLY_HINTS, link()) {
            sent += 1;
        }
        // Those go out while the service still works.
        tokio::task::yield_now().await;
        text(sent.to_string())
    })
    .await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        client.write_all(GET).await.unwrap();
        let got = until(&mut client, "8").await;
        let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
        assert!(got.starts_with(&hint.repeat(8)), "{got:?}");
        assert!(
            got[hint.len() * 8..].starts_with("HTTP/1.1 200 OK\r\n"),
            "{got:?}"
        );
    }
    let old = server.ask(b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        old.starts_with("HTTP/1.1 200 OK\r\n"),
        "HTTP/1.0 knows none: {old:?}"
    );
}

#[tokio::test]
async fn an_interim_response_does_not_wait_for_the_final_one() {
    let go = Arc::new(Notify::new());
    let gone = go.clone();
    let server = serving(move |request| {
        let go = go.clone();
        async move {
            let interim = Interim::of(request.extensions()).unwrap().clone();
            // From another task.
            tokio::spawn(async move { interim.send(StatusCode::PROCESSING, HeaderMap::new()) });
            go.notified().await;
            text("done")
        }
    })
    .await;
    let mut client = server.connect().await;
    client.write_all(GET).await.unwrap();
    assert_eq!(
        until(&mut client, "\r\n\r\n").await,
        "HTTP/1.1 102 Processing\r\n\r\n"
    );
    gone.notify_one();
    until(&mut client, "done").await;
}

#[tokio::test]
async fn http_1_0_is_answered_as_it_asks() {
    let unknown =
        |_| async { Response::new(frames(["he", "llo"].map(|part| Frame::data(part.into())))) };
    let server = serving(unknown).await;
    let got = server
        .ask(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        .await;
    assert!(!got.contains("transfer-encoding"), "{got:?}");
    assert!(
        got.contains("connection: close\r\n") && got.ends_with("\r\n\r\nhello"),
        "{got:?}"
    );
    let server = serving(echo).await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        let post = b"POST / HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi";
        client.write_all(post).await.unwrap();
        let got = until(&mut client, "hi").await;
        assert!(got.contains("connection: keep-alive\r\n"), "{got:?}");
    }
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(rest(&mut client).await.contains("connection: close\r\n"));
}

/// A body of unknown length.
fn frames(frames: impl IntoIterator<Item = Frame<Bytes>>) -> BoxedBody {
    struct Frames(VecDeque<Frame<Bytes>>);
    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }
    Frames(frames.into_iter().collect()).boxed_unsync()
}

#[tokio::test]
async fn trailers_go_to_clients_that_take_them() {
    let trailing = |_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert(header::ETAG, "\"a\"".parse().unwrap());
        trailers.insert(header::CONTENT_LENGTH, "7".parse().unwrap());
        Response::new(frames([
            Frame::data("hi".into()),
            Frame::trailers(trailers),
        ]))
    };
    let server = serving(trailing).await;
    let ask = |te: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{te}connection: close\r\n\r\n");
    let got = server.ask(ask("te: trailers\r\n").as_bytes()).await;
    assert!(
        got.ends_with("2\r\nhi\r\n0\r\netag: \"a\"\r\n\r\n"),
        "{got:?}"
    );
    let got = server.ask(ask("").as_bytes()).await;
    assert!(got.ends_with("2\r\nhi\r\n0\r\n\r\n"), "{got:?}");
}

#[tokio::test]
async fn options_without_a_path_asks_for_the_server() {
    let server = serving(|request| async move { text(request.uri().path().to_owned()) }).await;
    for (target, path) in [("http://b", "*"), ("*", "*"), ("http://b/c", "/c")] {
        let head = format!("OPTIONS {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let got = server.ask(head.as_bytes()).await;
        assert!(
            got.ends_with(&format!("\r\n\r\n{path}")),
            "{target}: {got:?}"
        );
    }
}

#[tokio::test]
async fn an_upgrade_that_no_service_makes_is_a_plain_request() {
    let upgrade = |request: Request<Body>| async move {
        let upgrade = request.headers().contains_key(header::UPGRADE);
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(format!("{upgrade} {}", body.len()))
    };
    let server = serving(upgrade).await;
    let mut client = server.connect().await;
    // As curl and Java's HttpClient offer it with each first request.
    let h2c = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    for _ in 0..2 {
        let get = format!("GET / HTTP/1.1\r\nhost: a\r\n{h2c}\r\n");
        client.write_all(get.as_bytes()).await.unwrap();
        until(&mut client, "true 0").await;
    }
    // No service switches amid a body.
    let post = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\ncontent-length: 2\r\n\r\nhi";
    client.write_all(post).await.unwrap();
    until(&mut client, "false 2").await;
    let get = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    client.write_all(get).await.unwrap();
    let got = rest(&mut client).await;
    assert!(
        got.ends_with("true 0") && got.contains("connection: close\r\n"),
        "{got:?}"
    );
}

/// Answers with the request's body as it comes.
async fn streams(request: Request<Body>) -> Response<BoxedBody> {
    let body = request.into_body().map_err(|error| panic!("{error}"));
    Response::new(body.boxed_unsync())
}

#[tokio::test]
async fn a_body_that_goes_back_as_it_comes_is_asked_for_before_the_response() {
    let server = serving(streams).await;
    let mut client = server.connect().await;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    for _ in 0..2 {
        client.write_all(head).await.unwrap();
        let got = until(&mut client, "GMT\r\n\r\n").await;
        assert!(
            got.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
            "{got:?}"
        );
        client.write_all(b"abc").await.unwrap();
        let got = until(&mut client, "abc").await;
        assert!(
            !got.contains("HTTP/1.1"),
            "nothing within the body: {got:?}"
        );
    }
}

#[tokio::test]
async fn a_response_that_has_ended_does_not_wait_for_its_request() {
    let server = serving(streams).await;
    let mut client = server.connect().await;
    // The response to HEAD ends at once, whatever its body holds.
    client
        .write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n")
        .await
        .unwrap();
    until(&mut client, "\r\n\r\n").await;
    client.write_all(&[b"hello", GET].concat()).await.unwrap();
    let got = until(&mut client, "\r\n\r\n").await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
    client
        .write_all(b"HEAD / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n")
        .await
        .unwrap();
    until(&mut client, "\r\n\r\n").await;
    // Nothing more comes: the connection does not wait for ever.
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_body_that_another_task_reads_comes_whole_and_no_faster_than_it_is_read() {
    let read = Arc::new(Notify::new());
    let go = read.clone();
    let server = serving(move |request: Request<Body>| {
        let read = read.clone();
        async move {
            let body = tokio::spawn(async move {
                read.notified().await;
                request.into_body().collect().await.unwrap().to_bytes()
            });
            text(body.await.unwrap().len().to_string())
        }
    })
    .await;
    let mut client = server.connect().await;
    let (mut from, mut to) = client.split();
    to.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    // Chunks of a byte each, until the sockets are full.
    let chunks = b"1\r\nx\r\n".repeat(4_096);
    let mut sent = 0;
    let stall = Duration::from_millis(300);
    while let Ok(written) = tokio::time::timeout(stall, to.write(&chunks[sent % 6..])).await {
        sent += written.unwrap();
        assert!(
            sent < 64 << 20,
            "a body without a reader is read without end"
        );
    }
    go.notify_one();
    let finish = async {
        to.write_all(&b"1\r\nx\r\n"[sent % 6..]).await.unwrap();
        to.write_all(b"0\r\n\r\n").await.unwrap();
    };
    let whole = (sent / 6 + 1).to_string();
    let (_, got) = tokio::join!(finish, until(&mut from, &whole));
    assert!(got.ends_with(&format!("\r\n\r\n{whole}")), "{got:?}");
}

#[tokio::test]
async fn a_half_closed_client_gets_all_that_it_asked_for() {
    let slow = |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        text("late")
    };
    let server = serving_with(slow, |http| http.half_close(true)).await;
    let mut client = server.connect().await;
    client.write_all(&GET.repeat(3)).await.unwrap();
    client.shutdown().await.unwrap();
    let got = rest(&mut client).await;
    assert_eq!(got.matches("late").count(), 3, "{got:?}");
}

#[tokio::test]
async fn an_empty_line_may_be_cut_anywhere() {
    let server = serving(echo).await;
    let mut client = server.connect().await;
    let post = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    client
        .write_all(&[&post[..], b"\r"].concat())
        .await
        .unwrap();
    until(&mut client, "x").await;
    for part in [&b"\n\r"[..], b"\n", post, b"\r", b"\n", post] {
        client.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let got = until(&mut client, "x").await;
    assert!(got.starts_with("HTTP/1.1 200 "), "{got:?}");
    assert_eq!(server.events.0.lock().unwrap().len(), 0);
}
