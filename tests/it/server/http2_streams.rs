//! The streams of one HTTP/2 connection: within its task on a `current_thread` runtime, on tasks of
//! their own on a `multi_thread` one. A client sees no difference.

use std::{
    future::{pending, poll_fn},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::Poll,
};

use evenkeel::BoxError;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Frame;
use http_body_util::{Empty, StreamBody, channel::Channel, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::SendRequest;

use super::*;

type Any = UnsyncBoxBody<Bytes, BoxError>;

/// Runs the scenario where streams have no task of their own, and where they have one.
pub(super) fn both<F: Future<Output = ()>>(scenario: impl Fn() -> F) {
    let mut one = tokio::runtime::Builder::new_current_thread();
    let mut more = tokio::runtime::Builder::new_multi_thread();
    for builder in [&mut one, more.worker_threads(2)] {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            // The server's connections are tasks of a worker, as the client's are.
            let ran = tokio::time::timeout(Duration::from_secs(60), scenario()).await;
            ran.expect("nothing may hang");
        });
    }
}

async fn open<S, F>(app: S) -> SendRequest<Any>
where
    S: FnMut(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Any>, BoxError>> + Send + 'static,
{
    let (listener, _) = listener().await;
    connect(
        listener,
        app,
        &hyper::client::conn::http2::Builder::new(TokioExecutor::new()),
    )
    .await
}

async fn connect<S, F>(
    listener: TcpListener,
    app: S,
    client: &hyper::client::conn::http2::Builder<TokioExecutor>,
) -> SendRequest<Any>
where
    S: FnMut(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Any>, BoxError>> + Send + 'static,
{
    let address = listener.local_addr().unwrap();
    tokio::spawn(evenkeel::serve(listener, service_fn(app)).into_future());
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, conn) = client.handshake(io).await.unwrap();
    tokio::spawn(conn);
    sender
}

fn any<B>(body: B) -> Any
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

fn get(path: &str) -> Request<Any> {
    let request = Request::get(format!("http://a{path}"));
    request.body(any(Empty::new())).unwrap()
}

fn text(text: &'static str) -> Response<Any> {
    Response::new(any(App::from(text)))
}

async fn whole<B>(response: Response<B>) -> Bytes
where
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    response.into_body().collect().await.unwrap().to_bytes()
}

/// Tells when it is dropped.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[test]
fn of_many_streams_at_once_each_has_its_own_answer() {
    both(async || {
        let sender = open(|request: Request<Body>| async {
            // Some wait, so that they end in another order than they came.
            if request.uri().path().ends_with('7') {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(Response::new(any(request.into_body())))
        })
        .await;
        let mut asked = tokio::task::JoinSet::new();
        // More than may be open at once.
        for i in 0..600_usize {
            let mut sender = sender.clone();
            asked.spawn(async move {
                let sent = Bytes::from(vec![i as u8; [0, 1, 1_000, 20_000, 200_000][i % 5]]);
                let mut request = get(&format!("/{i}"));
                *request.body_mut() = any(App::from(sent.clone()));
                let response = sender.send_request(request).await.unwrap();
                assert!(whole(response).await == sent, "of request {i}");
            });
        }
        while let Some(ended) = asked.join_next().await {
            ended.unwrap();
        }
    });
}

#[test]
fn a_client_that_resets_a_stream_takes_its_request_along() {
    both(async || {
        let (arrived, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (has_arrived, guarded) = (arrived.clone(), dropped.clone());
        let mut sender = open(move |request: Request<Body>| {
            let (has_arrived, guard) = (has_arrived.clone(), Guard(guarded.clone()));
            async move {
                if request.uri().path() == "/body" {
                    // A part of a body, and no more for ever.
                    let first = Ok::<_, BoxError>(Frame::data(Bytes::from("a")));
                    let mut first = Some(first);
                    let stream = poll_stream(move || {
                        let _held = &guard;
                        first.take()
                    });
                    return Ok(Response::new(any(StreamBody::new(stream))));
                }
                let _held = guard;
                has_arrived.notify_one();
                pending().await
            }
        })
        .await;
        let asked = tokio::spawn(sender.send_request(get("/")));
        arrived.notified().await;
        asked.abort();
        dropped.notified().await;

        let response = sender.send_request(get("/body")).await.unwrap();
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        dropped.notified().await;
    });
}

/// What `next` gives, then nothing, and no end.
fn poll_stream<T>(next: impl FnMut() -> Option<T>) -> impl futures_core::Stream<Item = T> {
    struct Fn<F>(F);
    impl<T, F: FnMut() -> Option<T> + Unpin> futures_core::Stream for Fn<F> {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<T>> {
            (self.0)().map_or(Poll::Pending, |item| Poll::Ready(Some(item)))
        }
    }
    Fn(Box::new(next))
}

#[test]
fn what_goes_wrong_on_a_stream_ends_no_other() {
    both(async || {
        let release = Arc::new(Notify::new());
        let held = release.clone();
        let mut sender = open(move |request: Request<Body>| {
            let held = held.clone();
            async move {
                match request.uri().path() {
                    "/panics" => {
                        tokio::task::yield_now().await;
                        panic!("on purpose")
                    }
                    "/fails" => Err("on purpose".into()),
                    "/is-cut" => {
                        let frames = [Ok(Frame::data(Bytes::from("a"))), Err("on purpose")];
                        let mut frames = frames.into_iter();
                        let stream = poll_stream(move || frames.next());
                        Ok(Response::new(any(StreamBody::new(stream))))
                    }
                    _ => {
                        held.notified().await;
                        Ok(text("fine"))
                    }
                }
            }
        })
        .await;
        let waiting = sender.send_request(get("/"));
        for path in ["/panics", "/fails"] {
            let failed = sender.send_request(get(path)).await;
            assert!(failed.is_err(), "{path} has no answer");
        }
        // The reset may overtake the head.
        if let Ok(cut) = sender.send_request(get("/is-cut")).await {
            let read = cut.into_body().collect().await;
            assert!(read.is_err(), "a body that fails must not seem whole");
        }
        release.notify_one();
        assert_eq!(whole(waiting.await.unwrap()).await, "fine");
    });
}

#[test]
fn a_stream_that_never_rests_leaves_the_others_their_turn() {
    both(async || {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let mut sender = open(move |request: Request<Body>| {
            let counted = counted.clone();
            async move {
                if request.uri().path() == "/restless" {
                    poll_fn(|cx| {
                        counted.fetch_add(1, SeqCst);
                        cx.waker().wake_by_ref();
                        Poll::<()>::Pending
                    })
                    .await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(text("its turn"))
            }
        })
        .await;
        let restless = tokio::spawn(sender.send_request(get("/restless")));
        for _ in 0..3 {
            let answered = sender.send_request(get("/")).await.unwrap();
            assert_eq!(whole(answered).await, "its turn");
        }
        assert!(polls.load(SeqCst) > 100, "it goes on meanwhile");
        restless.abort();
    });
}

#[test]
fn what_the_socket_has_no_room_for_goes_out_beside_a_stream_that_never_rests() {
    both(async || {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4 * 1_024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let app = |request: Request<Body>| async move {
            if request.uri().path() == "/restless" {
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::<()>::Pending
                })
                .await;
            }
            let (mut frames, body) = Channel::<Bytes, BoxError>::new(1);
            tokio::spawn(async move {
                for _ in 0..FRAMES {
                    frames.send_data(Bytes::from(vec![b'x'; FRAME])).await?;
                }
                Ok::<_, http_body_util::channel::SendError>(())
            });
            Ok(Response::new(any(body)))
        };
        // No word of the client's own wakes the codec: its window has room for all.
        let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        client
            .initial_stream_window_size(1 << 30)
            .initial_connection_window_size(1 << 30);
        let mut sender = connect(socket.listen(8).unwrap(), app, &client).await;
        let restless = tokio::spawn(sender.send_request(get("/restless")));
        for _ in 0..3 {
            let response = sender.send_request(get("/")).await.unwrap();
            assert_eq!(whole(response).await.len(), FRAMES * FRAME);
        }
        restless.abort();
    });
}

#[test]
fn trailers_pass_and_an_early_answer_does_not_wait_for_the_upload() {
    both(async || {
        let mut sender = open(|request: Request<Body>| async move {
            if request.uri().path() == "/early" {
                return Ok(text("early"));
            }
            Ok(Response::new(any(request.into_body())))
        })
        .await;
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", HeaderValue::from_static("42"));
        let (mut upload, body) = Channel::<Bytes, BoxError>::new(1);
        let request = Request::post("http://a/").body(any(body)).unwrap();
        let asked = tokio::spawn(sender.send_request(request));
        upload.send_data(Bytes::from("some")).await.unwrap();
        upload.send_trailers(trailers.clone()).await.unwrap();
        drop(upload);
        let response = asked.await.unwrap().unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers(), Some(&trailers));
        assert_eq!(collected.to_bytes(), "some");

        let (mut upload, body) = Channel::<Bytes, BoxError>::new(1);
        // Before the request is: its answer may end the body.
        upload.send_data(Bytes::from("some")).await.unwrap();
        let request = Request::post("http://a/early").body(any(body)).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(whole(answer).await, "early");
        let next = sender.send_request(get("/early")).await.unwrap();
        assert_eq!(whole(next).await, "early", "and the connection goes on");
    });
}

#[test]
fn a_tunnel_is_two_bodies() {
    both(async || {
        let mut sender = open(|request: Request<Body>| async move {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.uri(), "b.test:443");
            Ok(Response::new(any(request.into_body())))
        })
        .await;
        let request = Request::connect("b.test:443").body(any(Empty::new()));
        let response = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("content-length"));
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for said in [&b"one"[..], b"two"] {
            io.write_all(said).await.unwrap();
            let mut echo = [0; 3];
            io.read_exact(&mut echo).await.unwrap();
            assert_eq!(echo, said);
        }
        io.shutdown().await.unwrap();
        assert_eq!(
            io.read(&mut [0; 1]).await.unwrap(),
            0,
            "its end passes, too"
        );
    });
}

#[test]
fn an_answer_is_as_http2_has_it() {
    both(async || {
        let mut sender = open(|_| async {
            let mut response = text("hello");
            let fields = response.headers_mut();
            fields.insert("connection", HeaderValue::from_static("close, x-hop"));
            fields.insert("x-hop", HeaderValue::from_static("1"));
            fields.insert("keep-alive", HeaderValue::from_static("timeout=5"));
            fields.insert("x-own", HeaderValue::from_static("1"));
            Ok(response)
        })
        .await;
        for method in [Method::GET, Method::HEAD] {
            let mut request = get("/");
            *request.method_mut() = method.clone();
            let response = sender.send_request(request).await.unwrap();
            let mut names: Vec<_> = response.headers().keys().map(|n| n.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["content-length", "date", "x-own"], "{method}");
            assert_eq!(response.headers()["content-length"], "5");
            let sent = if method == Method::HEAD { "" } else { "hello" };
            assert_eq!(whole(response).await, sent, "{method}");
        }
        let mut giant = get("/");
        let value = HeaderValue::from_str(&"a".repeat(40 * 1_024)).unwrap();
        giant.headers_mut().insert("giant", value);
        let refused = sender.send_request(giant).await.unwrap();
        assert_eq!(refused.status(), 431);
    });
}

/// Together far more than the sockets' buffers.
const FRAMES: usize = 64;
const FRAME: usize = 64 * 1_024;
