//! Clients that keep the server waiting: what counts as progress, and how long a request may take.

use std::{
    future::{pending, poll_fn},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use evenkeel::{
    Backend, BoxError, ErrorKind, LoadBalancer, Pool,
    context::{Conn, Peer},
    server::Http,
};
use http_body_util::{Either, channel::Channel, combinators::UnsyncBoxBody};
use tokio::time::{Instant, sleep, timeout};

use super::{http2_streams::both, *};
use crate::support::Origin;

const IDLE: Duration = Duration::from_millis(500);
/// Long after what takes `IDLE` should be over, on a machine that has a lot to do.
const LATE: Duration = Duration::from_secs(20);

type Any = UnsyncBoxBody<Bytes, BoxError>;

fn any(body: impl http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static) -> Any {
    body.map_err(Into::into).boxed_unsync()
}

/// Counts what is alive of its kind.
#[derive(Clone)]
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LATE, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// HTTP/2 by hand: a window of this size for each stream.
async fn raw(address: SocketAddr, window: u32) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04".to_vec();
    frames.extend_from_slice(&window.to_be_bytes());
    client.write_all(&frames).await.unwrap();
    client
}

/// GET `/` of `a` on this stream.
async fn ask(client: &mut TcpStream, stream: u32) {
    let mut frame = b"\0\0\x06\x01\x05".to_vec();
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(b"\x82\x86\x84\x41\x01a");
    client.write_all(&frame).await.unwrap();
}

/// Sends these frames every now and then, and reads what comes, until the connection is over.
fn keep_sending(client: TcpStream, frames: Vec<u8>) -> JoinHandle<()> {
    let (mut read, mut write) = client.into_split();
    tokio::spawn(async move {
        let mut came = [0; 4_096];
        loop {
            tokio::select! {
                n = read.read(&mut came) => if n.is_err() || n.is_ok_and(|n| n == 0) { return },
                () = sleep(IDLE / 5) => if write.write_all(&frames).await.is_err() { return },
            }
        }
    })
}

fn pings() -> Vec<u8> {
    b"\0\0\x08\x06\0\0\0\0\0evenkeel".repeat(4)
}

/// Answers with a body of 1 MiB that is counted while it is there.
fn large(
    alive: &Arc<AtomicUsize>,
) -> impl Service<Request<Body>, Response = Response<Any>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ use<> {
    let alive = alive.clone();
    service_fn(move |_: Request<Body>| {
        let held = Alive::new(&alive);
        async move {
            let body = App::from(vec![b'x'; 1 << 20]).map_frame(move |frame| {
                let _held = &held;
                frame
            });
            Ok(Response::new(any(body)))
        }
    })
}

async fn serving<S, F>(app: S, configure: impl FnOnce(Http<S>) -> Http<S>) -> SocketAddr
where
    S: Service<Request<Body>, Response = Response<Any>, Error = F> + Clone + Send + 'static,
    S::Future: Send,
    F: Into<BoxError>,
{
    let (listener, address) = listener().await;
    let serve = evenkeel::serve(listener, app)
        .http(|http| Ok(configure(http.idle_timeout(IDLE)?)))
        .unwrap();
    tokio::spawn(serve.into_future());
    address
}

#[test]
fn pings_are_no_progress() {
    both(async || {
        let alive = Arc::default();
        let address = serving(large(&alive), |http| http).await;
        let mut client = raw(address, 0).await;
        ask(&mut client, 1).await;
        until("the response waits", || alive.load(SeqCst) == 1).await;
        let client = keep_sending(client, pings());
        until("the response is cut", || alive.load(SeqCst) == 0).await;
        let closed = timeout(LATE, client).await;
        closed
            .expect("nor do pings keep an idle connection")
            .unwrap();
    });
}

#[test]
fn a_window_that_opens_byte_by_byte_is_too_slow() {
    both(async || {
        let alive = Arc::default();
        let address = serving(large(&alive), |http| http).await;
        let mut client = raw(address, 0).await;
        ask(&mut client, 1).await;
        until("the response waits", || alive.load(SeqCst) == 1).await;
        // WINDOW_UPDATE: a byte for the stream.
        let _client = keep_sending(client, b"\0\0\x04\x08\0\0\0\0\x01\0\0\0\x01".to_vec());
        until("the response is cut", || alive.load(SeqCst) == 0).await;
    });
}

#[test]
fn one_stream_that_moves_does_not_hold_another_that_does_not() {
    both(async || {
        let alive = Arc::default();
        let address = serving(large(&alive), |http| http).await;
        let mut client = raw(address, 0).await;
        ask(&mut client, 1).await;
        ask(&mut client, 3).await;
        until("both wait", || alive.load(SeqCst) == 2).await;
        // WINDOW_UPDATE: 1,000 bytes each tenth of a second, for one of them.
        let _client = keep_sending(client, b"\0\0\x04\x08\0\0\0\0\x03\0\0\x03\xe8".to_vec());
        until("the one is cut", || alive.load(SeqCst) == 1).await;
        sleep(3 * IDLE).await;
        assert_eq!(alive.load(SeqCst), 1, "and the other is not");
    });
}

#[tokio::test]
async fn two_streams_that_take_nothing_do_not_hold_a_pool() {
    let origin = Origin::serve(|_| async { Response::new(App::from(vec![b'x'; 8 << 20])) }).await;
    let backend = Backend::new("a", &format!("http://{}", origin.address))
        .unwrap()
        .max_in_flight(2)
        .unwrap();
    let balancer = LoadBalancer::builder(Pool::new([backend]).unwrap()).build();
    let (listener, address) = listener().await;
    let serve = evenkeel::serve(listener, balancer)
        .http(|http| http.idle_timeout(IDLE))
        .unwrap();
    tokio::spawn(serve.into_future());
    let mut client = raw(address, 0).await;
    ask(&mut client, 1).await;
    ask(&mut client, 3).await;
    until("both are with the backend", || origin.requests() >= 2).await;
    let _client = keep_sending(client, pings());
    let began = Instant::now();
    loop {
        let mut other = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let head = exchange_head(&mut other, request).await;
        if head.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        assert!(began.elapsed() < LATE, "the pool is held: {head}");
    }
}

/// Sends a request, and returns the head that comes.
async fn exchange_head(client: &mut TcpStream, request: &[u8]) -> String {
    client.write_all(request).await.unwrap();
    let mut got = Vec::new();
    while !got.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut got).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_takes_a_response_byte_by_byte_is_cut() {
    // A second each: 10 bytes are too few, 500 are enough.
    for (bytes, passes) in [(10, false), (500, true)] {
        let (mut near, far) = tokio::io::duplex(64);
        let app = service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(App::from(vec![b'x'; 100_000])))
        });
        let info = ConnInfo::new(Peer::Unknown, Peer::Unknown);
        let serving = tokio::spawn(Http::new(app).call(Conn::new(far, info)));
        near.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let (mut got, began) = (0, Instant::now());
        loop {
            let mut piece = vec![0; bytes];
            if near.read_exact(&mut piece).await.is_err() {
                break;
            }
            got += bytes;
            sleep(Duration::from_secs(1)).await;
            if got >= 100_000 {
                break;
            }
        }
        assert_eq!(got >= 100_000, passes, "{bytes} bytes a second: {got}");
        if !passes {
            let took = began.elapsed().as_secs();
            assert!((60..90).contains(&took), "after {took} s");
            serving.await.unwrap().unwrap_err();
        }
    }
}

/// Reads the request body; answers with how many bytes came, or why not.
fn reading()
-> impl Service<Request<Body>, Response = Response<Any>, Error = Infallible, Future: Send> + Clone + Send
{
    service_fn(|request: Request<Body>| async move {
        let answer = match request.into_body().collect().await {
            Ok(body) => body.to_bytes().len().to_string(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ClientBodyTimeout);
                "late".to_owned()
            }
        };
        Ok(Response::new(any(App::from(answer))))
    })
}

#[test]
fn an_upload_that_trickles_fails() {
    both(async || {
        for (bytes, answer) in [(1, "late"), (60, "900")] {
            let address = serving(reading(), |http| http).await;
            // HTTP/1.1.
            let mut client = TcpStream::connect(address).await.unwrap();
            let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900\r\n\r\n";
            client.write_all(head).await.unwrap();
            let (mut read, mut write) = client.split();
            let sent = async {
                for _ in 0..900 / bytes {
                    sleep(IDLE / 5).await;
                    if write.write_all(&vec![b'x'; bytes]).await.is_err() {
                        break;
                    }
                }
                pending::<()>().await;
            };
            let mut got = Vec::new();
            let answered = async {
                while !got.ends_with(answer.as_bytes()) {
                    assert_ne!(read.read_buf(&mut got).await.unwrap(), 0, "{got:?}");
                }
            };
            tokio::select! {
                () = sent => {}
                answered = timeout(LATE, answered) => {
                    answered.unwrap_or_else(|_| panic!("{bytes} bytes at a time"));
                }
            }
            // HTTP/2.
            let io = TcpStream::connect(address).await.unwrap();
            let (mut sender, conn) = h2::client::handshake(io).await.unwrap();
            tokio::spawn(conn);
            poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            let request = Request::post("http://a/").body(()).unwrap();
            let (response, mut upload) = sender.send_request(request, false).unwrap();
            let sending = tokio::spawn(async move {
                for nth in 1..=900 / bytes {
                    sleep(IDLE / 5).await;
                    let data = Bytes::from(vec![b'x'; bytes]);
                    if upload.send_data(data, nth == 900 / bytes).is_err() {
                        break;
                    }
                }
            });
            let answered = timeout(LATE, response).await;
            let mut body = answered.expect("an answer").unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), answer);
            sending.abort();
        }
    });
}

/// Answers at once, and reads the request body on a task of its own, which holds the body until the end
/// of the test.
fn reading_later(
    outcome: tokio::sync::mpsc::UnboundedSender<Result<usize, ErrorKind>>,
) -> impl Service<Request<Body>, Response = Response<Any>, Error = Infallible, Future: Send> + Clone + Send
{
    service_fn(move |request: Request<Body>| {
        let outcome = outcome.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut came = 0;
            let ended = loop {
                match body.frame().await {
                    Some(Ok(frame)) => came += frame.into_data().unwrap().len(),
                    Some(Err(error)) => break Err(error.kind()),
                    None => break Ok(came),
                }
            };
            let _ = outcome.send(ended);
            pending::<()>().await;
        });
        async { Ok(Response::new(any(App::from("early")))) }
    })
}

#[test]
fn an_upload_that_trickles_behind_its_response_fails_and_is_closed() {
    both(async || {
        for (piece, content_type, fails) in [
            (1, "text/plain", true),
            (0, "text/plain", true),
            (1_000, "text/plain", false),
            (1, "application/grpc", false),
        ] {
            let (send, mut outcome) = tokio::sync::mpsc::unbounded_channel();
            let address = serving(reading_later(send), |http| http).await;
            let mut client = TcpStream::connect(address).await.unwrap();
            let length = 20 * piece.max(1);
            let head = format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\
                 content-type: {content_type}\r\n\r\n"
            );
            exchange(&mut client, head.as_bytes(), b"early").await;
            let (mut read, mut write) = client.into_split();
            // Four times the credit in all.
            let sending = tokio::spawn(async move {
                for _ in 0..20 {
                    sleep(IDLE / 5).await;
                    if write.write_all(&vec![b'x'; piece]).await.is_err() {
                        break;
                    }
                }
                write
            });
            let ended = timeout(LATE, outcome.recv()).await;
            let ended = ended.unwrap_or_else(|_| panic!("{piece} {content_type}: it ends"));
            let wanted = match fails {
                true => Err(ErrorKind::ClientBodyTimeout),
                false => Ok(length),
            };
            assert_eq!(ended, Some(wanted), "{piece} {content_type}");
            if fails {
                // Although the reader holds the body.
                let mut rest = Vec::new();
                let closed = timeout(LATE, read.read_to_end(&mut rest)).await;
                let closed = closed.unwrap_or_else(|_| panic!("{piece}: the connection is closed"));
                assert!(closed.is_err() || rest.is_empty(), "{rest:?}");
            }
            sending.await.unwrap();
        }
    });
}

#[test]
fn a_conversation_has_no_pace_once_it_is_answered_nor_a_call_of_grpc() {
    both(async || {
        let echo = service_fn(|request: Request<Body>| async move {
            if request.uri().path() == "/at-the-end" {
                let body = request.into_body().collect().await?;
                return Ok(Response::new(any(App::from(body.to_bytes()))));
            }
            Ok::<_, BoxError>(Response::new(any(request.into_body())))
        });
        let address = serving(echo, |http| http).await;
        for (path, content_type) in [
            ("/", "text/plain"),
            ("/at-the-end", "application/grpc+proto"),
        ] {
            let io = TcpStream::connect(address).await.unwrap();
            let (mut sender, conn) = h2::client::handshake(io).await.unwrap();
            tokio::spawn(conn);
            poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            let request = Request::post(format!("http://a{path}"))
                .header("content-type", content_type)
                .body(())
                .unwrap();
            let (response, mut upload) = sender.send_request(request, false).unwrap();
            for nth in 1..=4 {
                sleep(IDLE).await;
                upload.send_data(Bytes::from("x"), nth == 4).unwrap();
            }
            let mut body = timeout(LATE, response).await.unwrap().unwrap().into_body();
            let mut got = Vec::new();
            while let Some(data) = body.data().await {
                got.extend_from_slice(&data.unwrap_or_else(|error| panic!("{path}: {error}")));
            }
            assert_eq!(got, b"xxxx", "{path}");
        }
    });
}

#[test]
fn a_request_may_take_so_long_in_all_and_no_longer() {
    both(async || {
        let alive = Arc::<AtomicUsize>::default();
        let counted = alive.clone();
        let slow = service_fn(move |request: Request<Body>| {
            let held = Alive::new(&counted);
            async move {
                let body = match request.uri().path() {
                    "/never" => pending().await,
                    "/trickles" => {
                        let (mut frames, body) = Channel::<Bytes, BoxError>::new(1);
                        tokio::spawn(async move {
                            let _held = held;
                            while frames.send_data(Bytes::from("x")).await.is_ok() {
                                sleep(Duration::from_millis(20)).await;
                            }
                        });
                        Either::Left(body)
                    }
                    _ => Either::Right(App::from("answered")),
                };
                Ok::<_, BoxError>(Response::new(any(body)))
            }
        });
        let limit = |http: Http<_>| http.request_timeout(IDLE).unwrap();
        let address = serving(slow, limit).await;

        // HTTP/1.1.
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            // Each request has a time of its own.
            sleep(IDLE / 2).await;
            let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            exchange(&mut client, request, b"answered").await;
        }
        for (path, starts, ends) in [
            ("/never", "HTTP/1.1 504 Gateway Timeout\r\n", "\r\n\r\n"),
            ("/trickles", "HTTP/1.1 200 OK\r\n", "x\r\n"),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut got = Vec::new();
            let closed = timeout(LATE, client.read_to_end(&mut got)).await;
            // A reset is as good an end.
            let _ = closed.unwrap_or_else(|_| panic!("{path} must end"));
            let got = String::from_utf8(got).unwrap();
            assert!(
                got.starts_with(starts) && got.ends_with(ends),
                "{path}: {got}"
            );
        }

        // HTTP/2.
        let io = TcpStream::connect(address).await.unwrap();
        let (mut sender, conn) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(conn);
        let mut get = async |path: &str| {
            poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
            let request = Request::get(format!("http://a{path}")).body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            timeout(LATE, response).await.expect("an answer").unwrap()
        };
        assert_eq!(get("/").await.status(), 200);
        assert_eq!(get("/never").await.status(), 504);
        let mut trickles = get("/trickles").await.into_body();
        let cut = async {
            loop {
                if let Err(error) = trickles.data().await.expect("no whole body") {
                    return error;
                }
            }
        };
        let cut = timeout(LATE, cut).await.expect("it is cut");
        assert!(cut.is_reset(), "{cut}");
        assert_eq!(get("/").await.status(), 200, "and the connection goes on");
        until("nothing is left behind", || alive.load(SeqCst) == 0).await;
    });
}
