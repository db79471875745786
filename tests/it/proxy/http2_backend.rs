//! What HTTP/2 backends may do to a request, a body and a connection.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use evenkeel::{Backend, Error, ErrorKind, Pool, context::Selected, pool::Protocol, proxy::Proxy};
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full, channel::Channel};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    time::{Instant, timeout},
};
use tower::ServiceExt;

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend whose requests the test answers itself.
struct Stage {
    backend: Backend,
    requests: mpsc::UnboundedReceiver<Asked>,
    connections: Arc<AtomicUsize>,
    /// How many connections have ended.
    ended: mpsc::UnboundedReceiver<()>,
}

impl Stage {
    async fn new() -> Self {
        Self::with(h2::server::Builder::new()).await
    }

    async fn with(builder: h2::server::Builder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (seen, requests) = mpsc::unbounded_channel();
        let (over, ended) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                let (seen, over, builder) = (seen.clone(), over.clone(), builder.clone());
                tokio::spawn(async move {
                    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                    while let Some(Ok(asked)) = connection.accept().await {
                        let _ = seen.send(asked);
                    }
                    let _ = over.send(());
                });
            }
        });
        Self {
            backend: Backend::new("a", &url).unwrap().protocol(Protocol::Http2),
            requests,
            connections,
            ended,
        }
    }

    async fn next(&mut self) -> Asked {
        let next = timeout(PATIENCE, self.requests.recv()).await;
        next.expect("a request must come").unwrap()
    }

    fn request<B>(&self, method: Method, body: B) -> Request<B> {
        let mut request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "a")
            .body(body)
            .unwrap();
        request
            .extensions_mut()
            .insert(Selected(self.backend.clone()));
        request
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

type Answer = tokio::task::JoinHandle<Result<Response<evenkeel::proxy::Body>, Error>>;

fn send<B>(proxy: &Proxy, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    tokio::spawn(timeout(PATIENCE, proxy.clone().oneshot(request)).map_late())
}

/// A time-out that fails the test.
trait MapLate<T> {
    fn map_late(self) -> impl Future<Output = T> + Send;
}

impl<T, F: Future<Output = T> + Send> MapLate<T> for tokio::time::Timeout<F> {
    async fn map_late(self) -> T {
        self.await.expect("it must end")
    }
}

/// Reads a request's body; returns its trailers, too.
async fn read(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut read = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        read.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    (read, body.trailers().await.unwrap())
}

/// A body that says how much of it was taken.
struct Watched {
    left: usize,
    taken: Arc<AtomicUsize>,
    polled: Arc<AtomicBool>,
    dropped: Arc<Notify>,
}

impl Watched {
    fn new(left: usize) -> Self {
        Self {
            left,
            taken: Arc::default(),
            polled: Arc::default(),
            dropped: Arc::default(),
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.polled.store(true, SeqCst);
        let piece = this.left.min(16 << 10);
        this.left -= piece;
        this.taken.fetch_add(piece, SeqCst);
        Poll::Ready((piece > 0).then(|| Ok(Frame::data(Bytes::from(vec![b'x'; piece])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropped.notify_one();
    }
}

fn expecting<B>(mut request: Request<B>) -> Request<B> {
    let yes = HeaderValue::from_static("100-continue");
    request.headers_mut().insert("expect", yes);
    request
}

#[tokio::test]
async fn a_body_that_waits_for_100_is_asked_for_with_it() {
    for version in [http::Version::HTTP_11, http::Version::HTTP_2] {
        let mut stage = Stage::new().await;
        let body = Watched::new(5);
        let polled = body.polled.clone();
        let mut request = expecting(stage.request(Method::POST, body));
        *request.version_mut() = version;
        let answer = send(&Proxy::new(), request);
        let (request, mut respond) = stage.next().await;
        assert_eq!(request.headers()["expect"], "100-continue");
        assert!(!polled.load(SeqCst), "the backend has not said yet");
        let go_on = Response::builder().status(StatusCode::CONTINUE);
        respond.send_informational(go_on.body(()).unwrap()).unwrap();
        assert_eq!(read(request.into_body()).await.0, b"xxxxx");
        respond.send_response(Response::new(()), true).unwrap();
        assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_body_waits_a_second_for_100_and_no_longer() {
    let mut stage = Stage::new().await;
    let answer = send(
        &Proxy::new(),
        expecting(stage.request(Method::POST, Full::from("hello"))),
    );
    let (request, mut respond) = stage.next().await;
    let began = Instant::now();
    // An early hint is no 100.
    let hint = Response::builder().status(StatusCode::EARLY_HINTS);
    respond.send_informational(hint.body(()).unwrap()).unwrap();
    assert_eq!(read(request.into_body()).await.0, b"hello");
    let held = began.elapsed();
    assert!(held > Duration::from_millis(800), "{held:?}");
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_waits_for_100_stays_here_when_the_answer_is_no() {
    for whole in [true, false] {
        let mut stage = Stage::new().await;
        let body = Watched::new(5);
        let (polled, dropped) = (body.polled.clone(), body.dropped.clone());
        let proxy = Proxy::new();
        let answer = send(&proxy, expecting(stage.request(Method::POST, body)));
        let (_request, mut respond) = stage.next().await;
        let no = Response::builder().status(StatusCode::EXPECTATION_FAILED);
        let mut why = respond.send_response(no.body(()).unwrap(), whole).unwrap();
        let response = answer.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::EXPECTATION_FAILED);
        timeout(PATIENCE, dropped.notified()).await.unwrap();
        assert!(!polled.load(SeqCst), "the body must not be asked for");
        if !whole {
            why.send_data(Bytes::from_static(b"no"), true).unwrap();
        }
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, if whole { "" } else { "no" });
        let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::CANCEL, "the request is not left open");
    }
}

#[tokio::test]
async fn a_success_without_100_has_the_body_all_the_same() {
    let mut stage = Stage::new().await;
    let request = expecting(stage.request(Method::POST, Full::from("hello")));
    let answer = send(&Proxy::new(), request);
    let (request, mut respond) = stage.next().await;
    let mut echo = respond.send_response(Response::new(()), false).unwrap();
    let (body, _) = read(request.into_body()).await;
    echo.send_data(body.into(), true).unwrap();
    let response = answer.await.unwrap().unwrap();
    let echoed = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(echoed, "hello");
}

#[tokio::test]
async fn both_directions_go_on_side_by_side() {
    let mut stage = Stage::new().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let answer = send(&Proxy::new(), stage.request(Method::POST, body));
    let (request, mut respond) = stage.next().await;
    let mut echo = respond.send_response(Response::new(()), false).unwrap();
    tokio::spawn(async move {
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            echo.send_data(data.unwrap(), false).unwrap();
        }
        echo.send_trailers(HeaderMap::new()).unwrap();
    });
    let mut body = answer.await.unwrap().unwrap().into_body();
    for word in ["one", "two", "three"] {
        sender.send_data(Bytes::from(word)).await.unwrap();
        let frame = timeout(PATIENCE, body.frame()).await.unwrap();
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(sender);
    let end = timeout(PATIENCE, body.frame()).await.unwrap();
    assert!(end.is_none(), "a section without trailers is no frame");
}

#[tokio::test]
async fn a_response_that_is_not_read_does_not_stop_the_upload() {
    const SIZE: usize = 3 << 20;
    let mut stage = Stage::new().await;
    let answer = send(
        &Proxy::new(),
        stage.request(Method::POST, Watched::new(SIZE)),
    );
    let (request, mut respond) = stage.next().await;
    let _more = respond.send_response(Response::new(()), false).unwrap();
    let _unread = answer.await.unwrap().unwrap();
    let (read, _) = timeout(PATIENCE, read(request.into_body())).await.unwrap();
    assert_eq!(read.len(), SIZE);
}

#[tokio::test]
async fn responses_that_are_not_read_stop_no_other() {
    const LARGE: usize = 2 << 20;
    let mut stage = Stage::new().await;
    let proxy = Proxy::new();
    let mut responses = Vec::new();
    for _ in 0..6 {
        let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
        let (_, mut respond) = stage.next().await;
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(vec![b'x'; LARGE].into(), true).unwrap();
        responses.push(answer.await.unwrap().unwrap());
    }
    let last = responses.pop().unwrap().into_body().collect();
    let last = timeout(PATIENCE, last).await.expect("it must not wait");
    assert_eq!(last.unwrap().to_bytes().len(), LARGE);
    assert_eq!(stage.connections(), 1);
}

#[tokio::test]
async fn a_whole_answer_ends_the_upload() {
    let mut stage = Stage::new().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    let proxy = Proxy::new();
    let answer = send(&proxy, stage.request(Method::POST, body));
    let (_request, mut respond) = stage.next().await;
    let no = Response::builder().status(StatusCode::PAYLOAD_TOO_LARGE);
    respond.send_response(no.body(()).unwrap(), true).unwrap();
    let response = answer.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    drop(response);
    let refused = async { while sender.send_data(Bytes::from("x")).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("it takes no more");
    // The connection is not the stream.
    let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
    stage
        .next()
        .await
        .1
        .send_response(Response::new(()), true)
        .unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(stage.connections(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_breaks_its_body_only() {
    // RFC 9113 §8.1: NO_ERROR comes after a whole response; before its end it cuts it off.
    for reason in [Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let mut stage = Stage::new().await;
        let proxy = Proxy::new();
        let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
        let (_, mut respond) = stage.next().await;
        let mut half = respond.send_response(Response::new(()), false).unwrap();
        half.send_data(Bytes::from_static(b"half"), false).unwrap();
        let mut body = answer.await.unwrap().unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "half");
        half.send_reset(reason);
        let broken = timeout(PATIENCE, body.frame()).await.unwrap().unwrap();
        let error = broken.map(Frame::into_data).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResponseBody, "{reason:?}");
        let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
        stage
            .next()
            .await
            .1
            .send_response(Response::new(()), true)
            .unwrap();
        assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
        assert_eq!(stage.connections(), 1);
    }
}

#[tokio::test]
async fn a_whole_response_counts_though_the_stream_is_reset_after_it() {
    let mut stage = Stage::new().await;
    let (_sender, body) = Channel::<Bytes, Infallible>::new(1);
    let answer = send(&Proxy::new(), stage.request(Method::POST, body));
    let (request, mut respond) = stage.next().await;
    let mut whole = respond.send_response(Response::new(()), false).unwrap();
    whole.send_data(Bytes::from_static(b"whole"), true).unwrap();
    // Dropped, the server resets the stream with NO_ERROR: it reads no more of the request.
    drop((request, respond, whole));
    let response = answer.await.unwrap().unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "whole");
}

#[tokio::test]
async fn a_response_that_is_dropped_resets_its_stream_only() {
    let mut stage = Stage::new().await;
    let proxy = Proxy::new();
    for before_the_head in [true, false] {
        let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
        let (_, mut respond) = stage.next().await;
        let mut body = None;
        if before_the_head {
            answer.abort();
        } else {
            body = Some(respond.send_response(Response::new(()), false).unwrap());
            drop(answer.await.unwrap().unwrap());
        }
        let reset = match &mut body {
            Some(body) => timeout(PATIENCE, poll_fn(|cx| body.poll_reset(cx))).await,
            None => timeout(PATIENCE, poll_fn(|cx| respond.poll_reset(cx))).await,
        };
        assert_eq!(reset.unwrap().unwrap(), Reason::CANCEL);
    }
    let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
    stage
        .next()
        .await
        .1
        .send_response(Response::new(()), true)
        .unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(stage.connections(), 1);
}

#[tokio::test]
async fn only_what_may_be_a_trailer_passes_as_one() {
    let trailers = || {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0"),
            ("set-cookie", "a=b"),
            ("content-length", "7"),
            ("authorization", "x"),
        ] {
            fields.insert(name, HeaderValue::from_static(value));
        }
        fields
    };
    let mut stage = Stage::new().await;
    let body = Full::from("hello").with_trailers(async move { Some(Ok(trailers())) });
    let answer = send(&Proxy::new(), stage.request(Method::POST, body));
    let (request, mut respond) = stage.next().await;
    let (_, came) = read(request.into_body()).await;
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    body.send_trailers(trailers()).unwrap();
    let response = answer.await.unwrap().unwrap();
    let went = response.into_body().collect().await.unwrap();
    for fields in [came.as_ref(), went.trailers()] {
        let names: Vec<_> = fields.unwrap().keys().map(|n| n.as_str()).collect();
        assert_eq!(names, ["grpc-status"]);
    }
}

#[tokio::test]
async fn fields_that_connection_names_are_not_trailers_and_204_has_no_length() {
    let mut stage = Stage::new().await;
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
    let trailers = HeaderMap::from_iter(["x-hop", "x-there"].map(|name| {
        let name = http::HeaderName::from_static(name);
        (name, HeaderValue::from_static("1"))
    }));
    sender.send_data(Bytes::from_static(b"hi")).await.unwrap();
    sender.send_trailers(trailers).await.unwrap();
    drop(sender);
    let mut request = stage.request(Method::POST, body);
    let nominates = HeaderValue::from_static("x-hop");
    request.headers_mut().insert("connection", nominates);
    let answer = send(&Proxy::new(), request);
    let (request, mut respond) = stage.next().await;
    let (_, trailers) = read(request.into_body()).await;
    let trailers = trailers.unwrap();
    let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-there"]);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let none = HeaderValue::from_static("0");
    response.headers_mut().insert("content-length", none);
    respond.send_response(response, true).unwrap();
    let response = answer.await.unwrap().unwrap();
    assert!(response.headers().is_empty(), "{:?}", response.headers());
}

#[tokio::test]
async fn heads_out_of_bounds_are_refused_and_blanks_are_removed() {
    let many = |count: usize| -> HeaderMap {
        (0..count)
            .map(|i| {
                (
                    format!("x-{i}").parse::<http::HeaderName>().unwrap(),
                    HeaderValue::from(i),
                )
            })
            .collect()
    };
    let large = |size: usize| {
        let value = HeaderValue::try_from("x".repeat(size)).unwrap();
        HeaderMap::from_iter([(http::header::LINK, value)])
    };
    for (fields, passes) in [
        (many(100), true),
        (many(101), false),
        (large(32_000), true),
        (large(40_000), false),
    ] {
        let mut stage = Stage::new().await;
        let answer = send(&Proxy::new(), stage.request(Method::GET, Empty::new()));
        let mut response = Response::new(());
        *response.headers_mut() = fields.clone();
        stage.next().await.1.send_response(response, true).unwrap();
        match answer.await.unwrap() {
            Ok(response) => assert!(passes && *response.headers() == fields),
            Err(error) => {
                assert!(!passes, "{error}");
                assert_eq!(error.kind(), ErrorKind::ResponseHead);
            }
        }
    }
    let mut stage = Stage::new().await;
    let answer = send(&Proxy::new(), stage.request(Method::GET, Empty::new()));
    let response = Response::builder()
        .header("x-padded", " a b \t")
        .header("x-blank", " \t");
    let response = response.header("te", "trailers").body(()).unwrap();
    stage.next().await.1.send_response(response, true).unwrap();
    let response = answer.await.unwrap().unwrap();
    assert_eq!(response.headers()["x-padded"], "a b");
    assert_eq!(response.headers()["x-blank"], "");
    assert!(!response.headers().contains_key("te"));
}

#[tokio::test]
async fn a_length_that_is_not_the_bodys_is_refused() {
    for (declared, kind) in [(3, ErrorKind::ResponseBody), (9, ErrorKind::ResponseBody)] {
        let mut stage = Stage::new().await;
        let answer = send(&Proxy::new(), stage.request(Method::GET, Empty::new()));
        let (_, mut respond) = stage.next().await;
        let response = Response::builder().header("content-length", declared);
        let mut body = respond
            .send_response(response.body(()).unwrap(), false)
            .unwrap();
        let response = answer.await.unwrap().unwrap();
        assert_eq!(response.body().size_hint().exact(), Some(declared));
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let error = response.into_body().collect().await.unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_declared_never_looks_whole() {
    for sent in ["short", "far too long"] {
        let mut stage = Stage::new().await;
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let mut request = stage.request(Method::POST, body);
        request.headers_mut().insert("content-length", 10.into());
        let answer = send(&Proxy::new(), request);
        sender.send_data(Bytes::from(sent)).await.unwrap();
        drop(sender);
        let error = answer.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ClientBody, "{error}");
        let (_, mut respond) = stage.next().await;
        let reason = timeout(PATIENCE, poll_fn(|cx| respond.poll_reset(cx))).await;
        assert_eq!(reason.unwrap().unwrap(), Reason::CANCEL);
    }
}

#[tokio::test]
async fn an_upload_is_taken_no_faster_than_the_backend_reads() {
    const SIZE: usize = 4 << 20;
    const WINDOW: usize = 64 << 10;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW as u32);
    let mut stage = Stage::with(builder).await;
    let body = Watched::new(SIZE);
    let taken = body.taken.clone();
    let answer = send(&Proxy::new(), stage.request(Method::POST, body));
    let (request, mut respond) = stage.next().await;
    let mut body = request.into_body();
    let mut came = 0;
    while came < SIZE {
        let data = timeout(PATIENCE, body.data())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        came += data.len();
        // What the window, the stream's buffer and one frame hold.
        let ahead = taken.load(SeqCst) - came;
        assert!(
            ahead <= WINDOW + (256 << 10) + (16 << 10),
            "{ahead} bytes ahead"
        );
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    respond.send_response(Response::new(()), true).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_post_on_a_connection_that_was_closed_goes_out_on_a_new_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let backend = Backend::new("a", &url).unwrap().protocol(Protocol::Http2);
    let (closed, was_closed) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // SETTINGS, and 200 to the first stream.
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let answer = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
        stream.write_all(&settings).await.unwrap();
        let mut head = [0; 24 + 9];
        stream.read_exact(&mut head).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.shutdown().await.unwrap();
        // The other end has noticed once it closes, too.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        closed.send(()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (body, _) = read(request.into_body()).await;
                let mut echo = respond.send_response(Response::new(()), false).unwrap();
                echo.send_data(body.into(), true).unwrap();
            });
        }
    });
    let request = |method, body: &'static str| {
        let mut request = Request::builder().method(method).header("host", "a");
        request
            .extensions_mut()
            .unwrap()
            .insert(Selected(backend.clone()));
        request.body(Full::from(body)).unwrap()
    };
    let proxy = Proxy::new();
    let first = send(&proxy, request(Method::GET, ""))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.status(), StatusCode::OK);
    timeout(PATIENCE, was_closed).await.unwrap().unwrap();
    let second = send(&proxy, request(Method::POST, "once")).await.unwrap();
    let body = second.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "once");
}

#[tokio::test]
async fn a_post_that_waits_for_its_turn_goes_to_the_next_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let backend = Backend::new("a", &url).unwrap().protocol(Protocol::Http2);
    let proxy = Proxy::new();
    let ask = |path: &'static str| {
        let mut request = Request::post(path).header("host", "a");
        let extensions = request.extensions_mut().unwrap();
        extensions.insert(Selected(backend.clone()));
        send(&proxy, request.body(Full::from("hello")).unwrap())
    };
    let begin = async || {
        let (stream, _) = listener.accept().await.unwrap();
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        builder.handshake::<_, Bytes>(stream).await.unwrap()
    };
    let first = ask("/first");
    let mut connection = begin().await;
    let _held = connection.accept().await.unwrap().unwrap();
    // One has its turn and waits for a stream; the other waits for its turn.
    let (_second, third) = (ask("/second"), ask("/third"));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop((connection, _held));
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResponseClosed);
    let mut connection = begin().await;
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!(request.uri().path(), "/third");
    respond.send_response(Response::new(()), true).unwrap();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    assert_eq!(third.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_drain_ends_the_connection_with_its_last_stream() {
    let mut stage = Stage::new().await;
    let pool = Pool::new([stage.backend.clone()]).unwrap();
    stage.backend = pool.snapshot().backends()[0].clone();
    let proxy = Proxy::new();
    let answer = send(&proxy, stage.request(Method::GET, Empty::new()));
    let (_, mut respond) = stage.next().await;
    pool.drain("a", Duration::from_secs(30)).unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    let response = answer.await.unwrap().unwrap();
    body.send_data(Bytes::from_static(b"ok"), true).unwrap();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(text, "ok");
    timeout(PATIENCE, stage.ended.recv())
        .await
        .expect("it is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_share_a_connection_and_its_few_streams() {
    const REQUESTS: usize = 400;
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(7);
    let mut stage = Stage::with(builder).await;
    let proxy = Proxy::new();
    let answers: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let body = Full::from(number.to_string());
            send(&proxy, stage.request(Method::POST, body))
        })
        .collect();
    for _ in 0..REQUESTS {
        let (request, mut respond) = stage.next().await;
        tokio::spawn(async move {
            let (body, _) = read(request.into_body()).await;
            let mut echo = respond.send_response(Response::new(()), false).unwrap();
            echo.send_data(body.into(), true).unwrap();
        });
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let body = answer.await.unwrap().unwrap().into_body().collect().await;
        assert_eq!(body.unwrap().to_bytes(), number.to_string());
    }
    assert_eq!(stage.connections(), 1);
}

const PATIENCE: Duration = Duration::from_secs(30);
