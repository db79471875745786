//! The same ends over HTTP/2 in front: where streams are part of the connection's task, and where each
//! has a task of its own.

use std::future::{Future, pending, poll_fn};

use evenkeel::{BoxError, respond::RespondLayer};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer};

use super::*;

/// Runs the scenario on both kinds of runtime.
fn both<F: Future<Output = ()>>(scenario: impl Fn() -> F) {
    let mut one = tokio::runtime::Builder::new_current_thread();
    let mut more = tokio::runtime::Builder::new_multi_thread();
    for builder in [&mut one, more.worker_threads(2)] {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let ran = tokio::time::timeout(4 * PATIENCE, scenario()).await;
            ran.expect("nothing may hang");
        });
    }
}

/// A client of one connection. Dropping it closes the socket.
struct Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            // A server that closes is a matter of the streams.
            let _ = connection.await;
        });
        Self { sender, connection }
    }

    /// Sends the head of a request; its body follows if it does not end here.
    async fn send(&mut self, method: &str, ends: bool) -> (ResponseFuture, SendStream<Bytes>) {
        poll_fn(|cx| self.sender.poll_ready(cx)).await.unwrap();
        let request = Request::builder().method(method).uri("http://a/it");
        let request = request.body(()).unwrap();
        self.sender.send_request(request, ends).unwrap()
    }

    /// Sends a request without a body; returns the status, and the body or why it ended.
    async fn ask(&mut self, method: &str) -> Result<(u16, Result<Vec<u8>, h2::Error>), h2::Error> {
        let (response, _) = self.send(method, true).await;
        let response = tokio::time::timeout(PATIENCE, response).await.unwrap()?;
        let status = response.status().as_u16();
        Ok((status, whole(response.into_body()).await))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn whole(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut got = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        got.extend_from_slice(&data);
    }
    Ok(got)
}

/// As [`Served::ends`], over HTTP/2; the response is whole.
async fn ends(served: &Served, outcome: &str, status: u16, detail: &str) -> Value {
    let mut client = Client::connect(served.address).await;
    let (got, body) = client.ask("GET").await.unwrap();
    assert_eq!(got, status, "{body:?}");
    body.unwrap_or_else(|error| panic!("{outcome}: {error}"));
    let line = served.log.next().await;
    check(&line, outcome, Some(status), detail);
    assert_eq!(line["protocol"], "HTTP/2", "{line}");
    line
}

/// As [`ends`], for a response that breaks off.
async fn breaks_off(served: &Served, outcome: &str, detail: &str) -> Value {
    let mut client = Client::connect(served.address).await;
    // A reset that follows at once takes the place of what was not sent yet, even of the head.
    let answered = client.ask("GET").await.and_then(|(status, body)| {
        assert_eq!(status, 200);
        body
    });
    let error = answered.expect_err("a part must not look whole");
    assert!(error.is_reset(), "{error}");
    let line = served.log.next().await;
    check(&line, outcome, Some(200), detail);
    line
}

/// How a client ends its request.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// It resets the stream.
    Resets,
    /// It closes the connection.
    Closes,
}

#[test]
fn a_response_has_its_phases() {
    both(async || {
        let origin = Origin::named("hello").await;
        let served = Served::new([backend(origin.address)]).await;
        for is_first in [true, false] {
            let line = ends(&served, "ok", 200, "").await;
            assert_eq!(line.get("connect_ms").is_some(), is_first, "{line}");
            for phase in ["queue_ms", "head_ms", "body_ms"] {
                assert!(ms(&line, phase) <= ms(&line, "duration_ms"), "{line}");
            }
            assert_eq!(line["sent"], 5, "{line}");
        }
    });
}

#[test]
fn a_client_that_goes_away_shows_when() {
    both(async || {
        for leaves in [Leaves::Resets, Leaves::Closes] {
            for (act, read, status, detail) in [
                (Act::Hang, None, None, "before the response"),
                (
                    Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
                    Some(0),
                    Some(200),
                    "after the head of the response",
                ),
                (
                    Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"),
                    Some(3),
                    Some(200),
                    "within the body of the response",
                ),
            ] {
                let origin = Scripted::play(vec![act]).await;
                let served = Served::new([backend(origin.address)]).await;
                let mut client = Client::connect(served.address).await;
                let (response, mut stream) = client.send("GET", true).await;
                while origin.heads.lock().unwrap().is_empty() {
                    tokio::task::yield_now().await;
                }
                let mut body = None;
                if let Some(read) = read {
                    let mut came = response.await.unwrap().into_body();
                    let mut got = 0;
                    while got < read {
                        got += came.data().await.unwrap().unwrap().len();
                    }
                    body = Some(came);
                }
                match leaves {
                    Leaves::Resets => stream.send_reset(Reason::CANCEL),
                    Leaves::Closes => drop(client),
                }
                let line = served.log.next().await;
                check(&line, "client_abort", status, detail);
                assert_eq!(line["protocol"], "HTTP/2", "{leaves:?}: {line}");
                drop((stream, body));
            }
        }
    });
}

#[test]
fn a_client_that_goes_away_within_its_body_shows_what_came() {
    both(async || {
        for leaves in [Leaves::Resets, Leaves::Closes] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let served = Served::new([backend(listener.local_addr().unwrap())]).await;
            let mut client = Client::connect(served.address).await;
            let (_response, mut upload) = client.send("POST", false).await;
            upload.send_data(Bytes::from("abc"), false).unwrap();
            // The head may come alone: the body has passed the log once the backend has it.
            let (mut origin, _) = listener.accept().await.unwrap();
            let mut came = Vec::new();
            while !came.windows(3).any(|part| part == b"abc") {
                assert_ne!(origin.read_buf(&mut came).await.unwrap(), 0);
            }
            match leaves {
                Leaves::Resets => upload.send_reset(Reason::CANCEL),
                Leaves::Closes => drop(client),
            }
            let line = served.log.next().await;
            assert!(
                ["client_abort", "client_body"].contains(&line["outcome"].as_str().unwrap()),
                "{leaves:?}: {line}"
            );
            assert_eq!(line["received"], 3, "{line}");
        }
    });
}

#[test]
fn each_stream_of_a_connection_that_closes_has_its_line() {
    both(async || {
        let origin = Scripted::play(vec![Act::Hang]).await;
        let served = Served::new([backend(origin.address)]).await;
        let mut client = Client::connect(served.address).await;
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(client.send("GET", true).await);
        }
        while origin.heads.lock().unwrap().len() < streams.len() {
            tokio::task::yield_now().await;
        }
        drop(client);
        let all = async {
            while served.log.memory.lines().len() < streams.len() {
                let written = served.log.memory.1.notified();
                let _ = tokio::time::timeout(SHORT, written).await;
            }
        };
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("a line each");
        assert!(served.log.sink.flush());
        let lines = served.log.memory.lines();
        served.log.memory.0.lock().unwrap().clear();
        assert_eq!(lines.len(), streams.len(), "{lines:?}");
        for line in &lines {
            check(line, "client_abort", None, "before the response");
        }
    });
}

#[test]
fn a_backend_that_cannot_be_reached_breaks_off_or_talks_nonsense_shows_how() {
    both(async || {
        let served = Served::new([backend(refused())]).await;
        ends(&served, "connect", 502, "Connection refused").await;
        for (bytes, outcome, detail) in [
            (&b""[..], "response_closed", "closed"),
            (
                b"HTTP/1.1 200 OK\r\ncontent-le",
                "response_closed",
                "closed",
            ),
            (
                b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "response_head",
                "ength",
            ),
        ] {
            let origin = Scripted::play(vec![Act::SendAndClose(bytes)]).await;
            let served = Served::new([backend(origin.address)]).await;
            ends(&served, outcome, 502, detail).await;
        }
        let cut = Act::SendAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
        let origin = Scripted::play(vec![cut]).await;
        let served = Served::new([backend(origin.address)]).await;
        let line = breaks_off(&served, "response_body", "before the end of the body").await;
        assert_eq!(line["sent"], 3, "{line}");
    });
}

#[test]
fn a_backend_that_resets_is_named() {
    both(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let resetting = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 10]).await.unwrap();
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        let served = Served::new([backend(address)]).await;
        ends(&served, "response_closed", 502, "Connection reset").await;
        resetting.abort();
    });
}

#[test]
fn each_time_out_names_its_phase_and_its_limit() {
    both(async || {
        let short = || {
            let proxy = Proxy::new().idle_timeout(SHORT).unwrap();
            proxy.response_timeout(SHORT).unwrap()
        };
        let limit = "the limit is 50ms";
        let origin = Scripted::play(vec![Act::Hang]).await;
        let served = Served::with([backend(origin.address)], short()).await;
        ends(&served, "response_head_timeout", 504, limit).await;

        let half = Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
        let halves = Scripted::play(vec![half]).await;
        let served = Served::with([backend(halves.address)], short()).await;
        breaks_off(&served, "response_body_timeout", limit).await;

        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", silent.local_addr().unwrap());
        let connector = Connector::new().timeout(SHORT).unwrap();
        let secure = Backend::new("a", &url).unwrap();
        let served = Served::with([secure], Proxy::new().connector(connector)).await;
        ends(&served, "connect_timeout", 504, limit).await;

        // The client sends a part of its body.
        let served = Served::with([backend(origin.address)], short()).await;
        let mut client = Client::connect(served.address).await;
        let (response, mut upload) = client.send("POST", false).await;
        upload.send_data(Bytes::from("abc"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
        let line = served.log.next().await;
        check(&line, "client_body_timeout", Some(408), limit);
        assert_eq!(line["received"], 3, "{line}");
        drop(client);

        // The backend takes no more of the body than the kernel does.
        let served = Served::with([backend(origin.address)], short()).await;
        let mut client = Client::connect(served.address).await;
        let (response, mut upload) = client.send("POST", false).await;
        let writing = tokio::spawn(async move {
            let piece = Bytes::from(vec![0; 65_536]);
            loop {
                upload.reserve_capacity(piece.len());
                let Some(Ok(room)) = poll_fn(|cx| upload.poll_capacity(cx)).await else {
                    return;
                };
                let piece = piece.slice(..room.min(piece.len()));
                if upload.send_data(piece, false).is_err() {
                    return;
                }
            }
        });
        assert_eq!(response.await.unwrap().status(), 504);
        let line = served.log.next().await;
        check(&line, "request_write_timeout", Some(504), limit);
        writing.abort();
        drop(client);

        let tries = [
            FailoverLayer::new().per_try_timeout(SHORT).unwrap(),
            FailoverLayer::new().timeout(SHORT).unwrap(),
        ];
        for (layer, detail) in tries.into_iter().zip([
            "the time for one try is up: the limit is 50ms",
            "the time for all tries is up: the limit is 50ms",
        ]) {
            let pool = Pool::new([backend(origin.address)]).unwrap();
            let served = Served::built(pool, |builder| builder.failover(layer)).await;
            ends(&served, "response_head_timeout", 504, detail).await;
        }
    });
}

#[test]
fn without_a_backend_and_with_a_full_queue_the_counts_are_shown() {
    both(async || {
        let backends = ["a", "b"].map(|id| Backend::new(id, "http://127.0.0.1:1").unwrap());
        let pool = Pool::new(backends).unwrap();
        pool.start_maintenance("a").unwrap();
        pool.start_maintenance("b").unwrap();
        let served = Served::built(pool, |builder| builder).await;
        let line = ends(&served, "no_backend", 503, "2 maintenance").await;
        assert_eq!(line["excluded"], serde_json::json!({ "maintenance": 2 }));

        for (size, outcome, detail) in [
            (0, "overloaded", "0 requests wait already"),
            (1, "queue_timeout", "the limit is 50ms"),
        ] {
            let (served, _origin, first) = busy(size).await;
            let line = ends(&served, outcome, 503, detail).await;
            assert_eq!(line["excluded"], serde_json::json!({ "full": 1 }), "{line}");
            drop(first);
            let line = served.log.next().await;
            check(&line, "client_abort", None, "before the response");
        }
    });
}

#[test]
fn what_the_server_refuses_has_a_line_with_the_reason() {
    both(async || {
        let served = Served::new([backend(refused())]).await;
        let mut crowded = http::HeaderMap::new();
        for _ in 0..101 {
            crowded.append("x", HeaderValue::from_static("1"));
        }
        let mut other = http::HeaderMap::new();
        other.insert("host", HeaderValue::from_static("b"));
        for (fields, status, outcome, detail) in [
            (crowded, 431, "head_too_large", "more than 100 fields"),
            (other, 400, "bad_request", "Host is not :authority"),
        ] {
            let mut client = Client::connect(served.address).await;
            poll_fn(|cx| client.sender.poll_ready(cx)).await.unwrap();
            let mut request = Request::get("http://a/it").body(()).unwrap();
            *request.headers_mut() = fields;
            let (response, _) = client.sender.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status(), status);
            let line = served.log.next().await;
            check(&line, outcome, Some(status), detail);
            assert_eq!(
                (&line["method"], &line["path"]),
                (&"GET".into(), &"/it".into())
            );
        }
        let mut client = Client::connect(served.address).await;
        let (status, _) = client.ask("TRACE").await.unwrap();
        assert_eq!(status, 405);
        let line = served.log.next().await;
        check(
            &line,
            "method_refused",
            Some(405),
            "the method is not forwarded",
        );
    });
}

/// PING of a wrong length, and DATA on no stream.
#[test]
fn a_client_that_breaks_the_protocol_has_a_line_beside_those_of_its_requests() {
    both(async || {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for frame in [&b"\0\0\x01\x06\0\0\0\0\0x"[..], b"\0\0\x01\0\0\0\0\0\0x"] {
            let served = Served::new([backend(refused())]).await;
            let answer = served.talk([PREFACE, frame].concat()).await;
            assert!(!answer.is_empty(), "GOAWAY");
            let line = served.log.next().await;
            check(&line, "protocol_error", None, "protocol error");
        }
        // One that ends in order has none.
        let served = Served::new([backend(refused())]).await;
        let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0";
        served.talk([PREFACE, goaway].concat()).await;
        served.log.none();
    });
}

#[test]
fn a_service_that_sheds_or_fails_has_its_line() {
    both(async || {
        let log = Log::new();
        let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
        let shedding = ServiceBuilder::new()
            .layer(log.layer())
            .layer(RespondLayer::new())
            .layer(LoadShedLayer::new())
            .layer(ConcurrencyLimitLayer::new(1))
            .service_fn(move |_: Request<_>| {
                called.send(()).unwrap();
                pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
        let (address, serving) = serve(shedding).await;
        let mut client = Client::connect(address).await;
        let (_response, mut first) = client.send("GET", true).await;
        calls.recv().await.unwrap();
        let (status, _) = client.ask("GET").await.unwrap();
        assert_eq!(status, 503);
        check(&log.next().await, "load_shed", Some(503), "overloaded");
        first.send_reset(Reason::CANCEL);
        check(
            &log.next().await,
            "client_abort",
            None,
            "before the response",
        );
        serving.abort();

        let failing = ServiceBuilder::new()
            .layer(log.layer())
            .service_fn(async |_: Request<_>| {
                Err::<Response<Empty<Bytes>>, BoxError>("the disk is on fire".into())
            });
        let (address, serving) = serve(failing).await;
        let mut client = Client::connect(address).await;
        let (response, _) = client.send("GET", true).await;
        assert!(response.await.unwrap_err().is_reset());
        check(&log.next().await, "service", None, "the disk is on fire");
        log.none();
        serving.abort();
    });
}

async fn serve<S, B>(service: S) -> (SocketAddr, JoinHandle<()>)
where
    S: Service<Request<evenkeel::server::Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let _ = evenkeel::serve(listener, service).await;
    });
    (address, serving)
}
